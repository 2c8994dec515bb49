"""The pool as it grows: who is attacked, in which order, when it stops, and what an interrupted fit finds again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models_for_tests import Tallest, planted
from torch import Tensor, nn

from classwise.attacks import build
from classwise.corrections import Offset, Pool
from classwise.corrections.fit import repair
from classwise.corrections.pooling import PARTIAL, Field, Journal
from classwise.data import Images
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.05)
ALL = torch.arange(6)


class Spy:
    """An attack that remembers whom it attacked, and breaks down where it is told to."""

    threat = THREAT

    def __init__(self, calls: int = 10**9) -> None:
        self.attacked: list[list[int]] = []
        self.left = calls

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.attacked.append(noise.index.tolist())
        (attack,) = build("margin-pgd(steps=3)", THREAT).values()
        candidates: Tensor = attack(model, x, y, noise=noise)
        return candidates


def tallest() -> Images:
    """Return images of which 0 and 1, of class 0, break at the radius; the others lead by far more."""
    x, y = planted([[0.06, 0.07], [0.3, 0.32], [0.34, 0.36]])
    return Images.from_arrays((255 * x).round() / 255, y, classes=["a", "b", "c"], split="train")


def field(spy: Spy, folder: Path | None = None) -> Field:
    return Field(Tallest(), tallest(), {"spy": spy}, 0, 64, torch.device("cpu"), Journal.of(folder, {"seed": 0}))


def last(parts: Any) -> Pool:
    *_, pool = parts
    assert isinstance(pool, Pool)
    return pool


def test_every_image_that_is_right_is_attacked_from_the_smallest_lead_up() -> None:
    spy = Spy()
    where = field(spy)
    pool = last(where.everywhere(where.begin(), Offset(torch.zeros(3)), "plain", ALL))
    assert [index for part in spy.attacked for index in part] == [0, 1, 2, 3, 4, 5]
    assert pool.right(Offset(torch.zeros(3))).tolist() == [False, False, True, True, True, True]


def test_images_that_a_correction_saves_are_attacked_again() -> None:
    spy = Spy()
    where = field(spy)
    pool = last(where.everywhere(where.begin(), Offset(torch.zeros(3)), "plain", ALL))
    spy.attacked.clear()
    last(where.everywhere(pool, Offset(torch.tensor([0.5, 0, 0])), "raised", ALL))
    assert sorted(index for part in spy.attacked for index in part) == [0, 1, 2, 3, 4, 5]


def test_nearest_first_stops_after_a_part_of_which_no_image_breaks() -> None:
    spy = Spy()
    where = field(spy)
    last(where.nearest_first(where.begin(), Offset(torch.zeros(3)), "plain", ALL))
    assert spy.attacked == [[0], [1], [2]], "0 and 1 break, 2 does not"


def test_the_pool_of_part_of_the_images_is_attacked_as_these() -> None:
    spy = Spy()
    where = field(spy)
    part = torch.tensor([1, 4])
    last(where.everywhere(where.begin().of(part), Offset(torch.zeros(3)), "part", part))
    assert spy.attacked == [[1], [4]]


def test_an_interrupted_fit_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rule": "iv-offsets(rounds=2)", "max_loss": 0.0}
    whole = Spy()
    straight = repair(Tallest(), tallest(), attacks={"spy": whole}, folder=tmp_path / "straight", **settings)
    stopped, resumed = Spy(calls=len(whole.attacked) // 2), Spy()
    with pytest.raises(KeyboardInterrupt):
        repair(Tallest(), tallest(), attacks={"spy": stopped}, folder=tmp_path / "resumed", **settings)
    again = repair(Tallest(), tallest(), attacks={"spy": resumed}, folder=tmp_path / "resumed", **settings)
    assert stopped.attacked + resumed.attacked == whole.attacked, "nothing is attacked twice"
    assert again.points[-1].as_dict() == straight.points[-1].as_dict()
    assert again.promise is not None
    assert straight.promise is not None
    assert again.promise.as_dict() == straight.promise.as_dict()
    again.write(tmp_path / "resumed", "x.py:y")
    assert not (tmp_path / "resumed" / PARTIAL).exists()


def test_an_unfinished_fit_of_something_else_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"attacks": {"spy": Spy()}, "folder": tmp_path, "folds": 0, "max_loss": 0.0}
    repair(Tallest(), tallest(), "iv-offsets(rounds=1)", **settings)
    with pytest.raises(InputError, match="unfinished fit with other settings, data or weights; choose another --out"):
        repair(Tallest(), tallest(), "iv-offsets(rounds=2)", **settings)

    class Other(Tallest):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2

    with pytest.raises(InputError, match="computes other logits than when"):
        repair(Other(), tallest(), "iv-offsets(rounds=1)", **settings)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"attacks": {"spy": Spy()}, "folder": tmp_path, "folds": 0, "max_loss": 0.0}
    repair(Tallest(), tallest(), "iv-offsets(rounds=1)", **settings)
    (tmp_path / PARTIAL / "uncorrected-0.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"uncorrected-0.npz is damaged; delete it"):
        repair(Tallest(), tallest(), "iv-offsets(rounds=1)", **settings)
