"""Modifications for the most vulnerable class: which class that is, and what is done for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.methods.strategies import Watched, attack, batch, network, pass_of

from classwise import registry
from classwise.errors import InputError
from classwise.losses import cross_entropy, kl
from classwise.methods import AT, TRADES, Epoch, Step
from classwise.methods.tv import VulnerableClass, most_vulnerable, one_class_up

Y = torch.tensor([0] * 14 + [1] * 7 + [2] * 3)
NAMES = ["tv-weight", "tv-margin", "tv-radius", "tv-beta"]


def build(text: str, num_classes: int = 3, **settings: Any) -> VulnerableClass:
    method: VulnerableClass = registry.build("method", text, num_classes, attack(**settings))
    return method


def knowing(text: str, **settings: Any) -> VulnerableClass:
    """Return the method once it has found that class 1 is the most vulnerable."""
    method = build(text, **settings)
    method.chosen.copy_(torch.tensor([0.0, 1.0, 0.0]))
    return method


def made(method: Any, model: torch.nn.Module | None = None) -> Step:
    x, noise = batch(Y)
    step: Step = method(model or network(3), x, Y, noise)
    return step


def chosen_after(method: VulnerableClass, *accuracies: list[float], n: int = 100) -> list[int | None]:
    """Return the vulnerable class after each of these epochs, None where there is none yet."""
    found: list[int | None] = []
    for number, robust in enumerate(accuracies):
        method.end_epoch(Epoch(number, pass_of(robust=[0.5] * 3), pass_of(robust=robust, n=n)))
        found.append(int(method.chosen.argmax()) if method.chosen.any() else None)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_in_the_warm_up_every_method_is_its_base(name: str) -> None:
    base = TRADES(3, attack()) if name == "tv-beta" else AT(3, attack())
    method = build(f"{name}(warmup=3)")
    for _ in range(2):
        torch.testing.assert_close(made(method).loss, made(base).loss)
        assert chosen_after(method, [0.1, 0.9, 0.9]) == [None]


def test_the_class_with_the_lowest_held_out_accuracy_is_chosen_once_the_warm_up_is_over() -> None:
    assert chosen_after(build("tv-weight(warmup=2)"), [0.1, 0.9, 0.9], [0.1, 0.9, 0.9]) == [None, 0]
    assert chosen_after(build("tv-weight(warmup=1)"), [0.4, 0.9, 0.2]) == [2]


def test_accuracies_are_a_moving_average_over_epochs_that_starts_with_the_first() -> None:
    method = build("tv-weight(warmup=1)")
    chosen_after(method, [0.4, 0.6, 0.8], [0.9, 0.6, 0.3])
    assert method.accuracy.tolist() == pytest.approx([0.45, 0.6, 0.75])


def test_a_worse_class_within_a_standard_error_does_not_take_the_place() -> None:
    """With 100 images of each, 0.30 and 0.24 differ by 0.06, less than √(0.21/100 + 0.1824/100) = 0.0626."""
    accuracy, n = torch.tensor([0.30, 0.24, 0.9]), torch.tensor([100.0] * 3)
    before = torch.tensor([1.0, 0.0, 0.0])
    assert most_vulnerable(accuracy, n, before).tolist() == [1, 0, 0]
    assert most_vulnerable(accuracy, n * 1.1, before).tolist() == [0, 1, 0], "of more images the error is smaller"
    assert most_vulnerable(accuracy, n, torch.zeros(3)).tolist() == [0, 1, 0], "if none was chosen"
    assert most_vulnerable(torch.tensor([0.4, 0.2, 0.9]), n, before).tolist() == [0, 1, 0]


def test_a_class_without_held_out_images_is_never_chosen() -> None:
    assert chosen_after(build("tv-weight(warmup=1)"), [0.4, math.nan, 0.5]) == [0]


@pytest.mark.parametrize(("gain", "wanted"), [(0.5, [0.75, 1.5, 0.75]), (2.0, [0.0, 3.0, 0.0]), (0.0, [1.0] * 3)])
def test_the_weights_have_mean_1(gain: float, wanted: list[float]) -> None:
    assert one_class_up(torch.tensor([0.0, 1.0, 0.0]), gain).tolist() == pytest.approx(wanted)


def test_tv_weight_weighs_both_terms() -> None:
    step, weight = made(knowing("tv-weight(base='trades', beta=2)")), torch.tensor([0.75, 1.5, 0.75])[Y]
    wanted = weight * (cross_entropy(step.logits, Y) + 2 * kl(step.logits_adv, step.logits))  # type: ignore[arg-type]
    torch.testing.assert_close(step.loss, wanted.mean())


def test_tv_margin_lowers_the_true_logit_of_that_class_by_m_mean_deviations() -> None:
    step = made(knowing("tv-margin(margin=2)"))
    logits = step.logits_adv
    assert logits is not None
    lowered = logits.clone()
    lowered[c_is_1 := Y == 1, 1] -= 2 * logits.detach().std(1, correction=0).mean()
    torch.testing.assert_close(step.loss, cross_entropy(lowered, Y).mean())
    assert c_is_1.sum() == 7


@pytest.mark.parametrize("change", [-0.25, 0.25, 0.5])
def test_tv_radius_attacks_that_class_alone_within_another_radius(change: float) -> None:
    method = knowing(f"tv-radius(change={change})", eps=0.05, steps=10)
    x, _ = batch(Y)
    model = Watched(network(3))
    made(method, model)
    moved = (model.seen[-1][1] - x).abs().amax((1, 2, 3)) / 0.05
    assert [float(moved[c == Y].max()) for c in range(3)] == pytest.approx([1, 1 + change, 1], abs=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_tv_beta_changes_the_beta_of_that_class_alone(normalise: bool) -> None:
    step = made(knowing(f"tv-beta(beta=2, change=0.5, normalise={normalise})"))
    beta = torch.tensor([2.0, 3.0, 2.0])[Y]
    loss = cross_entropy(step.logits, Y) + beta * kl(step.logits_adv, step.logits)  # type: ignore[arg-type]
    torch.testing.assert_close(step.loss, (loss * 3 / (1 + beta) if normalise else loss).mean())


@pytest.mark.parametrize(
    "text",
    [
        "tv-weight(gain=-1)",
        "tv-weight(gain=2.5)",
        "tv-margin(margin=-1)",
        "tv-radius(change=-1.5)",
        "tv-beta(change=-2)",
        "tv-beta(normalise=1)",
        "tv-beta(warmup=0)",
    ],
)
def test_a_setting_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="setting " + text.partition("(")[2].partition("=")[0]):
        build(text)


@pytest.mark.parametrize("name", NAMES)
def test_its_one_line_says_that_it_is_the_projects_design(name: str) -> None:
    entry = registry.entry("method", name)
    assert "our design" in entry.source
