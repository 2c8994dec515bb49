"""χ² class DRO: the closed form against the constraint, a generic optimiser and autograd; the loss it makes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.methods.strategies import attack, batch, network
from torch import Tensor

from classwise import registry
from classwise.errors import InputError
from classwise.losses import cross_entropy, kl
from classwise.methods import ChiSquareClassDRO, Step
from classwise.methods.chi_square import chi_square_weights

Y = torch.tensor([0] * 14 + [1] * 7 + [2] * 3)
vectors = st.lists(st.integers(0, 40).map(lambda v: v / 8), min_size=2, max_size=9)
losses = vectors.map(lambda v: torch.tensor(v, dtype=torch.float64))


def build(text: str, num_classes: int = 3) -> ChiSquareClassDRO:
    method: ChiSquareClassDRO = registry.build("method", text, num_classes, attack())
    return method


def made(method: ChiSquareClassDRO, y: Tensor = Y) -> Step:
    x, noise = batch(y)
    step: Step = method(network(method.num_classes), x, y, noise)
    return step


def divergence(p: Tensor) -> float:
    return float(len(p) * ((p - 1 / len(p)) ** 2).sum())


@settings(deadline=None)
@given(losses, st.floats(0.001, 12))
def test_the_whole_divergence_is_spent_unless_the_worst_classes_have_it_all(loss: Tensor, rho: float) -> None:
    p = chi_square_weights(loss, rho)
    assert float(p.sum()) == pytest.approx(1)
    assert (p >= 0).all()
    worst = int((loss == loss.max()).sum())
    limit = len(loss) / worst - 1  # of equal weights on the worst classes alone
    assert divergence(p) == pytest.approx(0 if worst == len(loss) else min(rho, limit), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(losses, st.floats(0.05, 4))
@example(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), 0.5)
@example(torch.tensor([2.0, 1.0, 0.9, 0.0], dtype=torch.float64), 1.5)
def test_no_generic_optimiser_finds_more(loss: Tensor, rho: float) -> None:
    value = float(chi_square_weights(loss, rho) @ loss)
    size, target = len(loss), loss.numpy()
    constraints = [
        {"type": "eq", "fun": lambda p: p.sum() - 1},
        {"type": "ineq", "fun": lambda p: rho - size * ((p - 1 / size) ** 2).sum()},
    ]
    start = np.full(size, 1 / size) + 1e-3 * (target - target.mean())
    found = minimize(lambda p: -p @ target, start, bounds=[(0, 1)] * size, constraints=constraints, tol=1e-10)
    assert value >= -found.fun - 1e-5
    if found.success:
        assert value == pytest.approx(-found.fun, abs=1e-4)


def test_a_solution_inside_the_simplex_by_hand() -> None:
    """Losses 0, 1, 2: mean 1, deviation √(2/3). With ρ 0.24 p = (1 ± √0.24/√(2/3))/3 = (1 ± 0.6)/3."""
    p = chi_square_weights(torch.tensor([0.0, 1.0, 2.0]), 0.24)
    assert p.tolist() == pytest.approx([0.4 / 3, 1 / 3, 1.6 / 3])


def test_a_solution_on_the_border_by_hand() -> None:
    """Losses 0, 1, 2 and ρ 0.875: with all three √0.875·√1.5 > 1 would be negative, so the first has none.

    On the two others p = (1 ± t)/2 and 3·(p₁² + p₂²) − 1 = 1.5·(1 + t²) − 1 = 0.875 for t = 0.5.
    """
    p = chi_square_weights(torch.tensor([0.0, 1.0, 2.0]), 0.875)
    assert p.tolist() == pytest.approx([0, 0.25, 0.75])


@settings(deadline=None)
@given(losses, st.floats(0, 20), st.floats(-9, 9), st.floats(0.1, 9))
def test_neither_shift_nor_scale_of_the_losses_matters(loss: Tensor, rho: float, shift: float, scale: float) -> None:
    torch.testing.assert_close(chi_square_weights(loss * scale + shift, rho), chi_square_weights(loss, rho))


@settings(deadline=None)
@given(losses)
def test_without_a_radius_all_weigh_alike(loss: Tensor) -> None:
    assert chi_square_weights(loss, 0.0).tolist() == pytest.approx([1 / len(loss)] * len(loss), abs=1e-7)


@pytest.mark.parametrize("rho", [3.0, 3.5, 100.0])
def test_with_a_radius_of_c_minus_1_the_worst_class_has_all(rho: float) -> None:
    assert chi_square_weights(torch.tensor([0.1, 2.0, 0.3, 1.9]), rho).tolist() == pytest.approx([0, 1, 0, 0], abs=1e-6)


def test_classes_of_equal_loss_share_alike() -> None:
    assert chi_square_weights(torch.tensor([0.7, 0.7, 0.7]), 5.0).tolist() == pytest.approx([1 / 3] * 3)
    assert chi_square_weights(torch.tensor([1.0, 0.0, 1.0]), 9.0).tolist() == pytest.approx([0.5, 0, 0.5])


def test_its_gradient_with_constant_weights_is_that_of_mean_plus_root_rho_times_deviation() -> None:
    loss = torch.tensor([0.5, 1.0, 1.2, 0.8], dtype=torch.float64, requires_grad=True)
    p = chi_square_weights(loss.detach(), 0.3)
    assert (p > 0).all(), "inside the simplex"
    value = loss.mean() + math.sqrt(0.3) * loss.std(correction=0)
    assert float((p * loss).sum().detach()) == pytest.approx(float(value.detach()))
    value.backward()
    torch.testing.assert_close(loss.grad, p)


def test_the_loss_is_the_sum_of_class_means_with_these_weights() -> None:
    step = made(build("chi2-class-dro(rho=0.3)"))
    each = cross_entropy(step.logits_adv, Y)  # type: ignore[arg-type]
    mean = torch.stack([each[c == Y].mean() for c in range(3)])
    torch.testing.assert_close(step.loss, (chi_square_weights(mean.detach(), 0.3).float() * mean).sum())


def test_on_trades_the_class_losses_are_those_of_trades() -> None:
    step = made(build("chi2-class-dro(base='trades', beta=2, rho=0.3)"))
    each = cross_entropy(step.logits, Y) + 2 * kl(step.logits_adv, step.logits)  # type: ignore[arg-type]
    mean = torch.stack([each[c == Y].mean() for c in range(3)])
    torch.testing.assert_close(step.loss, (chi_square_weights(mean.detach(), 0.3).float() * mean).sum())


def test_with_a_memory_the_weights_follow_the_moving_average_and_the_gradient_the_batch() -> None:
    method = build("chi2-class-dro(rho=0.3, memory=True, decay=0.5)")
    method.loss.copy_(torch.tensor([9.0, 1.0, 5.0]))
    step = made(method)
    each = cross_entropy(step.logits_adv, Y)  # type: ignore[arg-type]
    mean = torch.stack([each[c == Y].mean() for c in range(3)])
    remembered = (torch.tensor([9.0, 1.0, 5.0]) + mean.detach()) / 2
    assert method.loss.tolist() == pytest.approx(remembered.tolist(), rel=1e-5)
    torch.testing.assert_close(step.loss, (chi_square_weights(remembered, 0.3).float() * mean).sum())


def test_classes_absent_from_a_batch_are_left_out_and_keep_their_average() -> None:
    method = build("chi2-class-dro(rho=5, memory=True)", num_classes=4)
    method.loss.copy_(torch.tensor([1.0, 2.0, 3.0, 99.0]))  # the worst class is in no image
    step = made(method)
    assert method.loss[3] == 99
    assert step.loss > 0


@pytest.mark.parametrize(("classes", "memory"), [(20, False), (21, True)])
def test_it_remembers_where_a_batch_holds_too_few_images_of_a_class(classes: int, memory: bool) -> None:
    assert build("chi2-class-dro", classes).memory == memory


@pytest.mark.parametrize(("name", "value"), [("rho", -1), ("decay", 2), ("memory", "'a'")])
def test_a_setting_outside_its_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"setting {name}"):
        build(f"chi2-class-dro({name}={value})")
