"""Margins between confused classes: errors and margins by hand, their symmetries, and the loss that has them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.methods.strategies import attack, batch, network, pass_of, stats_of
from torch import Tensor

from classwise import registry
from classwise.errors import InputError
from classwise.losses import cross_entropy, kl
from classwise.methods import AT, TRADES, ConfusionMargin, Epoch, Step
from classwise.methods.confusion_margin import margins, shrunk

Y = torch.arange(24) % 3
KNOWN = torch.tensor([[0.0, 2.0, 0.5], [-2.0, 0.0, -1.0], [-0.5, 1.0, 0.0]], dtype=torch.float64)


@st.composite
def classes(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw the errors of some classes, and a matrix of positive numbers whose rows sum to 1."""
    size = draw(st.integers(2, 8))
    error = draw(st.lists(st.floats(0, 1), min_size=size, max_size=size))
    numbers = draw(st.lists(st.floats(0.01, 1), min_size=size * size, max_size=size * size))
    matrix = torch.tensor(numbers, dtype=torch.float64).view(size, size)
    return torch.tensor(error, dtype=torch.float64), matrix / matrix.sum(1, keepdim=True)


def build(text: str = "confusion-margin") -> ConfusionMargin:
    method: ConfusionMargin = registry.build("method", text, 3, attack())
    return method


def made(method: torch.nn.Module) -> Step:
    x, noise = batch(Y)
    step: Step = method(network(3), x, Y, noise)
    return step


def after(method: ConfusionMargin, valid: list[float], train: list[float], number: int = 0) -> ConfusionMargin:
    method.end_epoch(Epoch(number, pass_of(robust=train), pass_of(robust=valid)))
    return method


def test_the_shrunk_errors_of_three_classes_by_hand() -> None:
    """Held-out errors 0.5, 0.3, 0.1 of 100 images; training errors 0.4, 0.3, 0.2 of the same mean: deviations ±0.1.

    Errors for the variance 51/102, 31/102, 11/102: σ² 0.0025, 0.0021155, 0.0009621, mean 0.0018592. τ² is 0.02/3 less
    that, 0.0048075. Kept: 0.65788 of 0.1 and 0.83323 of −0.1.
    """
    found = shrunk(stats_of([0.5, 0.7, 0.9]), stats_of([0.6, 0.7, 0.8]))
    assert found.tolist() == pytest.approx([0.465788, 0.3, 0.116677], abs=1e-5)


def test_deviations_within_noise_leave_the_pattern_of_the_training_images_at_the_held_out_level() -> None:
    """Twelve held-out images a class say nothing against the training errors: only their mean 0.5 counts, not 0.3."""
    found = shrunk(stats_of([0.5, 0.5, 0.5], n=12), stats_of([0.6, 0.7, 0.8], n=1000))
    assert found.tolist() == pytest.approx([0.6, 0.5, 0.4])


def test_with_many_held_out_images_the_training_errors_do_not_matter() -> None:
    found = shrunk(stats_of([0.3, 0.6, 0.9], n=10**7), stats_of([0.9, 0.5, 0.7]))
    assert found.tolist() == pytest.approx([0.7, 0.4, 0.1], abs=1e-5)


def test_the_margins_of_three_classes_by_hand() -> None:
    """Differences 0.3, 0.6, 0.3 of the errors, times 0.6, 0.2, 0.3 for both directions, times 2."""
    similarity = torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.1, 0.1, 0.8]])
    found = margins(torch.tensor([0.8, 0.5, 0.2]), similarity, strength=2.0)
    torch.testing.assert_close(found, torch.tensor([[0, 0.36, 0.24], [-0.36, 0, 0.18], [-0.24, -0.18, 0]]))


@given(classes(), st.floats(0, 3))
def test_what_one_class_is_given_another_gives_and_the_hardest_never_gives(
    drawn: tuple[Tensor, Tensor], strength: float
) -> None:
    error, similarity = drawn
    found = margins(error, similarity, strength)
    torch.testing.assert_close(found, -found.T)
    assert (found[error.argmax()] >= 0).all()
    assert (found[error.argmin()] <= 0).all()
    assert float(found.abs().max()) <= 2 * strength + 1e-9


@given(classes(), st.randoms())
def test_relabelling_the_classes_permutes_the_margins(drawn: tuple[Tensor, Tensor], random: Any) -> None:
    error, similarity = drawn
    order = torch.tensor(random.sample(range(len(error)), len(error)))
    found = margins(error[order], similarity[order][:, order], 1.0)
    torch.testing.assert_close(found, margins(error, similarity, 1.0)[order][:, order])


def test_equally_hard_classes_have_no_margins() -> None:
    assert not after(build(), [0.4] * 3, [0.5] * 3).margin.any()


def test_a_class_without_images_has_no_margins() -> None:
    method = after(build(), [0.2, math.nan, 0.8], [0.2, math.nan, 0.8])
    assert not method.margin[1].any()
    assert not method.margin[:, 1].any()
    assert float(method.margin[0, 2]) > 0


def test_a_class_that_is_seen_no_more_keeps_its_error() -> None:
    method = after(build(), [0.2, 0.4, 0.8], [0.2, 0.4, 0.8])
    before = method.error.clone()
    after(method, [0.2, math.nan, 0.8], [0.2, math.nan, 0.8], number=1)
    assert method.error[1] == before[1]
    assert method.margin[1].any()


def test_errors_are_a_moving_average_that_starts_at_one_half() -> None:
    method = after(build("confusion-margin(decay=0.75)"), [0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    assert method.error.tolist() == pytest.approx([0.6, 0.5, 0.4])
    after(method, [0.0, 0.5, 1.0], [0.0, 0.5, 1.0], number=1)
    assert method.error.tolist() == pytest.approx([0.7, 0.5, 0.3])


@pytest.mark.parametrize("base", ["at", "trades"])
def test_the_margins_are_added_to_the_wrong_logits_of_the_cross_entropy_alone(base: str) -> None:
    method = build(f"confusion-margin(base='{base}')")
    method.margin.copy_(KNOWN)
    step = made(method)
    logits = step.logits_adv if base == "at" else step.logits
    assert logits is not None
    wanted = cross_entropy(logits + KNOWN[Y].float(), Y)
    if base == "trades":
        wanted = wanted + 6 * kl(step.logits_adv, logits)  # type: ignore[arg-type]
    torch.testing.assert_close(step.loss, wanted.mean())


@pytest.mark.parametrize(("base", "plain"), [("at", AT), ("trades", TRADES)])
def test_without_strength_it_is_its_base(base: str, plain: type[AT] | type[TRADES]) -> None:
    method = after(build(f"confusion-margin(base='{base}', strength=0.0)"), [0.2, 0.5, 0.8], [0.2, 0.5, 0.8])
    assert torch.equal(made(method).loss, made(plain(3, attack())).loss)


@pytest.mark.parametrize("text", ["strength=-1", "decay=1.5", "base='mart'", "beta=-1"])
def test_a_setting_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"setting (strength|decay|beta)|no base 'mart'"):
        build(f"confusion-margin({text})")
