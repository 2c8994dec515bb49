from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from classwise.analysis.fooling import survives
from classwise.analysis.worst_class import until_worst, worst_class
from classwise.attacks.pgd import PGD
from classwise.data import Images
from classwise.metrics import Race
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.1)
CHEAP, STRONG = PGD(THREAT, steps=1, start="clean"), PGD(THREAT, steps=10, start="clean")


class Edge(nn.Module):
    """Right where a pixel lies to the right of 0.5, for both classes: the label is the other pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, label = x[:, 0, 0, 0] - 0.5, x[:, 0, 0, 1]
        sign = torch.where(label > 0.5, 1.0, -1.0)
        return torch.stack([-sign * value, sign * value], 1)


def data(margins: list[list[int]]) -> Images:
    """Return images of two classes, each so many pixel values to the right of the edge at 127.5."""
    rows = [[[[128 + m, 255 * c]]] for c, each in enumerate(margins) for m in each]
    y = [c for c, each in enumerate(margins) for _ in each]
    return Images(torch.tensor(rows, dtype=torch.uint8), torch.tensor(y), ("far", "near"), torch.arange(len(y)))


# A step of the cheap attack has length 0.25 and is cut at the radius, so both attacks reach 25 values.
IMAGES = data([[60] * 90 + [5] * 10, [60] * 40 + [5] * 60])


def test_survivors_are_those_out_of_reach() -> None:
    assert survives(Edge(), IMAGES, STRONG).tolist() == (IMAGES.x[:, 0, 0, 0] > 128 + 25).tolist()


def test_images_that_are_wrong_when_clean_do_not_survive_and_are_not_attacked() -> None:
    wrong = data([[-5, 60], [60, -60]])
    assert survives(Edge(), wrong, STRONG).tolist() == [False, True, True, False]
    assert survives(Edge(), data([[-5], [-6]]), STRONG).tolist() == [False, False]


def test_a_candidate_outside_the_set_is_none() -> None:
    class Leap:
        threat = THREAT

        def __call__(self, model, x, y, *, noise):
            return x - 0.4

    assert survives(Edge(), IMAGES, Leap()).tolist() == [True] * len(IMAGES)


def test_the_race_names_the_class_near_the_edge_and_counts_what_it_took() -> None:
    seen: list[Race] = []
    race, _ = until_worst(Edge(), IMAGES, CHEAP, STRONG, watch=seen.append)
    assert race.worst == [1]
    assert race.survivors.tolist() == [90, 40]
    assert race.broken.sum() == 0
    assert 0 < race.sampled.sum() < 40
    assert [each.sampled.sum() for each in seen] == sorted(each.sampled.sum() for each in seen)


@pytest.mark.parametrize("batch", [1, 50])
def test_the_seed_decides_and_not_the_batch(batch: int) -> None:
    assert until_worst(Edge(), IMAGES, CHEAP, STRONG, batch=batch)[0].worst == [1]


def test_a_tie_is_settled_by_all_survivors() -> None:
    race, _ = until_worst(Edge(), data([[60] * 5 + [5] * 5] * 2), CHEAP, STRONG)
    assert race.worst == [0, 1]
    found = worst_class(race, ("far", "near"), "model")
    assert "far, near tie for the worst class" in found.sentence
    assert "10 of 20 images" in found.sentence


def test_the_finding_names_class_bounds_and_cost() -> None:
    race = Race.start([100, 100], [60, 20]).after([30, 8], [0, 1])
    found = worst_class(race, ("a\x1b", "b"), "model")
    assert "b is the worst class" in found.sentence
    assert "38 of 200 images, 19.00 %" in found.sentence
    assert [row[0].text for row in found.sheets[0].rows] == ["b", "a\\x1b"]
    assert found.values["worst"] == ["b"]
    assert np.all(found.values["sampled"] == [30, 8])


# Signs that the answer may be wrong, as an evaluation of the same model raises them.


class Among(nn.Module):
    """Its logits depend on the images beside."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = Edge()(x - x.mean() + 0.5)
        return logits


class Moody(nn.Module):
    """Another function with gradients than without."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = Edge()(x)
        return -logits if torch.is_grad_enabled() else logits


class Wordy(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": Edge()(x)}


class Tired(nn.Module):
    """Changes with its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        logits: torch.Tensor = Edge()(x)
        return logits if self.calls < 40 else 2 * logits


def raised(model: nn.Module, images: Images = IMAGES, strong: PGD = STRONG) -> set[str]:
    return {flag.flag for flag in until_worst(model, images, CHEAP, strong)[1]}


@pytest.mark.parametrize(
    ("model", "flag"),
    [
        (Among().eval(), "batch_dependent"),
        (Moody().eval(), "gradient_dependent"),
        (Wordy().eval(), "logits_taken"),
        (Tired().eval(), "non_deterministic"),
        (Edge().train(), "train_mode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_race_raises_the_flags_that_an_evaluation_raises_of_the_model(model: nn.Module, flag: str) -> None:
    assert flag in raised(model)
    assert raised(Edge().eval()) == set()


def test_a_race_raises_the_flags_of_its_attack_and_of_classes_without_images() -> None:
    assert raised(Edge().eval(), strong=PGD(THREAT, steps=2, step_size=0.01)) >= {"short_steps"}
    gap = Images(IMAGES.x, IMAGES.y, ("far", "near", "nowhere"), IMAGES.index)
    three = lambda x: torch.cat([Edge()(x), torch.full((len(x), 1), -9.0)], 1)  # noqa: E731
    found = until_worst(three, gap, CHEAP, STRONG)[1]
    assert [(flag.flag, flag.classes) for flag in found] == [("unmeasured_classes", ("nowhere",))]
