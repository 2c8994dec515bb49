"""Examples: the candidates that are shown are those that broke the images, found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluation.test_run import blurry
from torch import Tensor, nn

from classwise.attacks import PGD, Plan, Stage
from classwise.attacks.named import build_attacks, members_of
from classwise.attacks.plan import AttackOrPlan
from classwise.data import Images
from classwise.errors import InputError
from classwise.evaluation.examples import recraft
from classwise.evaluation.run import evaluate
from classwise.metrics.examples import Examples
from classwise.metrics.result import Result
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.02)
PLAN = Plan(
    (Stage("pgd(steps=2)", PGD(THREAT, steps=2)), Stage("again", PGD(THREAT, steps=3, step_size=0.01), closest=0.5)),
    members_of("autoattack", THREAT),
)


def attack(names: str) -> dict[str, AttackOrPlan]:
    return {"mine": PLAN} if names == "mine" else dict(build_attacks(names, THREAT))


def stored(folder: Path, result: Result) -> Examples:
    found = Examples.load(folder, result.header["identity"])
    assert found is not None
    return found


def rows(result: Result, found: Examples) -> np.ndarray:
    return np.array([int(np.flatnonzero(result.outcomes.index == i)[0]) for i in found.index])


@pytest.mark.parametrize("names", ["pgd", "fgsm,pgd(restarts=2),square(queries=50)", "autoattack", "mine", "fast"])
def test_the_model_takes_a_stored_candidate_for_what_the_outcomes_say(names: str, tmp_path: Path) -> None:
    model, data = blurry()
    result = evaluate(model, data, attack(names), directory=tmp_path)
    found = stored(tmp_path, result)
    which = rows(result, found)
    outcomes = result.outcomes
    assert len(found) == min(
        6, int(((outcomes.clean == outcomes.y) & ~outcomes.correct())[outcomes.y == outcomes.y[which[0]]].sum())
    )
    x, x_adv = torch.from_numpy(found.x) / 255, torch.from_numpy(found.x_adv)
    assert THREAT.contains(x_adv, x).all()
    assert (found.x == data.x[which].numpy()).all()
    with torch.no_grad():
        assert model(x).argmax(1).tolist() == outcomes.y[which].tolist()
        assert model(x_adv).argmax(1).tolist() == outcomes.adversarial_prediction()[which].tolist()


def test_attacks_added_later_bring_examples_of_their_own(tmp_path: Path) -> None:
    model, data = blurry()
    weak = "pgd(steps=1, step_size=0.004, start='clean')"
    first = evaluate(model, data, attack(weak), directory=tmp_path)
    assert Examples.load(tmp_path, first.header["identity"]) is not None
    both = evaluate(model, data, attack(f"{weak}, pgd"), directory=tmp_path)
    assert Examples.load(tmp_path, first.header["identity"]) is None
    assert "pgd" in both.outcomes.broken_by()[rows(both, stored(tmp_path, both))]


@pytest.mark.parametrize("examples", [0, 2])
def test_as_many_are_stored_as_asked_for(tmp_path: Path, examples: int) -> None:
    model, data = blurry()
    result = evaluate(model, data, attack("pgd"), examples=examples, directory=tmp_path)
    found = Examples.load(tmp_path, result.header["identity"])
    assert (0 if found is None else len(found)) == examples


def test_a_number_below_zero_is_refused() -> None:
    model, data = blurry()
    with pytest.raises(InputError, match="0 stores none"):
        evaluate(model, data, attack("pgd"), examples=-1)


class Coin(nn.Module):
    """Adds noise of its own to the logits, so that no candidate is sure to break an image again."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.drawn = model, torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + torch.randn(logits.shape, generator=self.drawn)


def test_a_candidate_that_does_not_break_its_image_again_is_not_shown(tmp_path: Path) -> None:
    model, data = blurry()
    result = evaluate(Coin(model).eval(), data, attack("pgd"), directory=tmp_path)
    found = Examples.load(tmp_path, result.header["identity"])
    assert int((result.outcomes.clean == result.outcomes.y).sum() - result.outcomes.correct().sum()) > 6
    assert found is None or len(found) < 6


def test_images_larger_than_a_batch_of_one_need_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is attacked alone, whatever the number of examples."""
    model, data = blurry(12)
    sizes, made = list[int](), list[int]()

    def spy(*given: Any) -> Any:
        before = len(sizes)
        found = recraft(*given)
        made.extend(sizes[before:])
        return found

    monkeypatch.setattr("classwise.evaluation.run.recraft", spy)
    model.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    evaluate(model, Images(data.x, data.y, data.classes, data.index), attack("fgsm"), batch_size=1, directory=tmp_path)
    assert max(made) == 1
