"""Every flag fires on a model built to fire it, and on no plain model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from classwise.attacks import PGD, build
from classwise.data import Images
from classwise.evaluation import evaluate
from classwise.metrics.result import Result
from classwise.noise import Noise
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.05)


class Plain(nn.Module):
    """A linear model on images of C rows: row c votes for class c."""

    scale = 10.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x[:, 0].mean(2)


class Rounded(Plain):
    """Hides its gradient behind a step function."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 16).round() / 16)


class Randomised(Plain):
    """Adds fresh noise at every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.01 * torch.randn(len(x), x.shape[2], generator=self.generator)


class Saturated(Plain):
    """Multiplies its logits until the softmax is exactly 0 or 1, where the cross-entropy has no gradient."""

    scale = 1e5


def images(num_classes: int = 3, each: int = 30) -> Images:
    """Return images whose margin is evenly spread over 0 … 0.2."""
    y = torch.arange(num_classes).repeat_interleave(each)
    x = torch.full((len(y), 1, num_classes, 2), 100, dtype=torch.uint8)
    x[torch.arange(len(y)), 0, y] += (torch.linspace(1, 51, each).to(torch.uint8))[:, None].repeat(num_classes, 1)
    return Images(x, y, tuple(f"class {c}" for c in range(num_classes)), torch.arange(len(y)))


def fired(result: Result) -> set[str]:
    return {flag["flag"] for flag in result.header["flags"]}


def test_no_flag_fires_on_a_plain_model() -> None:
    result = evaluate(Plain().eval(), images(), build("pgd,margin-pgd,dlr-pgd,temperature-pgd", THREAT))
    assert fired(result) == set()


def test_masked_gradients_are_flagged_with_their_classes() -> None:
    result = evaluate(Rounded().eval(), images(), build("pgd", THREAT))
    flags = {flag["flag"]: flag for flag in result.header["flags"]}
    assert flags["zero_gradient"]["value"] > 0.9
    assert flags["zero_gradient"]["classes"] == ["class 0", "class 1", "class 2"]


def test_a_randomised_model_is_flagged() -> None:
    assert "non_deterministic" in fired(evaluate(Randomised().eval(), images(), build("pgd", THREAT)))


def test_saturated_logits_are_flagged_and_margin_attacks_see_through_them() -> None:
    result = evaluate(Saturated().eval(), images(), build("pgd,margin-pgd", THREAT))
    assert {"zero_gradient", "logit_scale"} <= fired(result)
    outcomes = result.outcomes
    assert outcomes.correct("margin-pgd").sum() < outcomes.correct("pgd").sum()


def test_the_scale_flag_names_the_attack_that_is_too_weak() -> None:
    result = evaluate(Saturated().eval(), images(), build("pgd,margin-pgd", THREAT))
    assert [f["attack"] for f in result.header["flags"] if f["flag"] == "logit_scale"] == ["pgd"]


@pytest.mark.parametrize(("step_size", "expected"), [(0.01, set()), (0.0099, {"short_steps"})])
def test_steps_too_short_to_cross_the_ball_are_flagged(step_size: float, expected: set[str]) -> None:
    attack = PGD(THREAT, steps=10, step_size=step_size, keep="success")
    assert fired(evaluate(Plain().eval(), images(), {"mine": attack})) == expected


@pytest.mark.parametrize(("num_classes", "expected"), [(2, {"few_classes"}), (3, set())])
@pytest.mark.parametrize("name", ["dlr-pgd", "apgd-dlr(steps=3)"])
def test_dlr_on_too_few_classes_is_flagged(name: str, num_classes: int, expected: set[str]) -> None:
    assert fired(evaluate(Plain().eval(), images(num_classes), build(name, THREAT))) == expected


@pytest.mark.parametrize(("num_classes", "expected"), [(3, {"few_classes"}), (4, set())])
def test_targeted_dlr_on_too_few_classes_is_flagged(num_classes: int, expected: set[str]) -> None:
    assert fired(evaluate(Plain().eval(), images(num_classes), build("apgd-t(steps=3)", THREAT))) == expected


def test_a_model_in_train_mode_is_flagged() -> None:
    assert fired(evaluate(Plain().train(), images(), build("pgd", THREAT))) == {"train_mode"}


def test_an_attack_that_leaves_the_ball_is_flagged_by_name() -> None:
    class Cheat:
        threat = THREAT

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
            return 1 - x

    result = evaluate(Plain().eval(), images(), {"cheat": Cheat()})
    assert [(f["flag"], f["attack"]) for f in result.header["flags"]] == [("outside_threat", "cheat")]
