"""FAAL: the worst weights in closed form and against a generic optimiser, and the loss that they make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.methods.strategies import attack, batch, network
from torch import Tensor

from classwise.errors import InputError
from classwise.methods import AT, FAAL, TRADES
from classwise.methods.faal import worst_case

Y = torch.arange(24) % 3

scores = st.lists(st.floats(-1, 1), min_size=2, max_size=12).filter(lambda s: max(s) - min(s) > 1e-6)
divergences = st.floats(0.001, 3)


def weights(values: list[float], divergence: float) -> Tensor:
    return worst_case(torch.tensor(values, dtype=torch.float64), torch.ones(len(values), dtype=torch.bool), divergence)


def from_uniform(q: Tensor) -> float:
    return float(-(len(q) * q).log().mean())


@settings(max_examples=50, deadline=None)
@given(scores, divergences)
def test_the_weights_are_a_distribution_on_the_border_of_the_set(values: list[float], divergence: float) -> None:
    q = weights(values, divergence)
    assert float(q.sum()) == pytest.approx(1)
    assert from_uniform(q) == pytest.approx(divergence, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(scores, divergences, st.floats(-5, 5), st.floats(0.1, 10))
def test_neither_shift_nor_scale_of_the_scores_matters(values: list[float], r: float, shift: float, by: float) -> None:
    moved = [shift + by * value for value in values]
    torch.testing.assert_close(weights(moved, r), weights(values, r), atol=1e-6, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(scores, divergences)
def test_a_class_that_is_worse_off_never_weighs_less(values: list[float], divergence: float) -> None:
    order = np.argsort(values)
    assert (weights(values, divergence)[order.tolist()].diff() >= -1e-12).all()


@settings(max_examples=50, deadline=None)
@given(scores, divergences, st.randoms())
def test_relabelling_the_classes_relabels_the_weights(values: list[float], r: float, random: Any) -> None:
    order = random.sample(range(len(values)), len(values))
    relabelled = weights([values[c] for c in order], r)
    torch.testing.assert_close(relabelled, weights(values, r)[order], atol=1e-9, rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(scores)
def test_without_divergence_all_classes_weigh_the_same(values: list[float]) -> None:
    assert weights(values, 0.0).tolist() == pytest.approx([1 / len(values)] * len(values), abs=1e-7)
    assert weights(values, 1e-8).tolist() == pytest.approx([1 / len(values)] * len(values), abs=1e-3)


@pytest.mark.parametrize("divergence", [0.01, 0.5, 3.0])
def test_two_classes_have_a_closed_form(divergence: float) -> None:
    """KL(U ‖ (q, 1 − q)) = −½·log(4·q·(1 − q)) = r gives q = ½·(1 + √(1 − e^(−2r)))."""
    wanted = (1 + math.sqrt(1 - math.exp(-2 * divergence))) / 2
    assert weights([0.3, -0.2], divergence).tolist() == pytest.approx([wanted, 1 - wanted], rel=1e-9)


@pytest.mark.parametrize(("divergence", "ratio"), [(0.05, 2.7), (0.1, 4.0), (0.2, 7.1), (0.5, 20), (1.0, 55)])
def test_ten_evenly_spaced_margins_are_weighted_as_published(divergence: float, ratio: float) -> None:
    q = weights(np.linspace(-0.45, 0.10, 10).tolist(), divergence)
    assert float(q.max() / q.min()) == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("divergence", [0.05, 0.5, 1.5])
def test_the_weights_are_those_that_a_generic_optimiser_finds(divergence: float) -> None:
    values = np.array([-0.4, -0.1, 0.05, 0.0, 0.3])
    found = minimize(
        lambda q: -(q @ values),
        np.full(5, 0.2),
        jac=lambda q: -values,
        bounds=[(1e-9, 1)] * 5,
        constraints=[
            {"type": "eq", "fun": lambda q: q.sum() - 1, "jac": lambda q: np.ones(5)},
            {"type": "ineq", "fun": lambda q: divergence + np.log(5 * q).mean(), "jac": lambda q: 1 / (5 * q)},
        ],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    assert weights(values.tolist(), divergence).numpy() == pytest.approx(found.x, abs=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1e-13])
def test_margins_that_do_not_differ_leave_the_weights_uniform(spread: float) -> None:
    assert weights([0.2, 0.2 + spread, 0.2], 1.0).tolist() == pytest.approx([1 / 3] * 3)


def test_classes_that_do_not_count_have_no_weight_and_change_nothing() -> None:
    values, known = torch.tensor([0.1, 9.0, -0.2, 0.0]), torch.tensor([True, False, True, True])
    q = worst_case(values, known, 0.5)
    assert q[1] == 0
    assert torch.equal(q[known], worst_case(values[known], torch.ones(3, dtype=torch.bool), 0.5))
    assert worst_case(values, torch.tensor([False, True, False, False]), 0.5).tolist() == [0, 1, 0, 0]


def margins(logits_adv: Tensor, y: Tensor) -> Tensor:
    """Return max_{j≠y} p_j − p_y of each image, one at a time."""
    p = logits_adv.detach().double().softmax(1)
    rivals = [max(float(p[i, j]) for j in range(p.shape[1]) if j != y[i]) for i in range(len(y))]
    return torch.tensor(rivals, dtype=torch.float64) - p[torch.arange(len(y)), y]


@pytest.mark.parametrize("base", ["at", "trades"])
def test_the_loss_is_that_of_the_base_with_the_weights_of_the_batch(base: Any) -> None:
    y = torch.tensor([0] * 12 + [1] * 8 + [3] * 4)  # class 2 is absent
    x, noise = batch(y)
    made = FAAL(4, attack(), base=base)(network(4), x, y, noise)
    means = torch.stack([margins(made.logits_adv, y)[y == c].mean() for c in (0, 1, 3)])
    q = 3 * worst_case(means, torch.ones(3, dtype=torch.bool), 0.5)
    errors = F.cross_entropy(made.logits_adv if base == "at" else made.logits, y, reduction="none")
    if base == "trades":
        p, log_p_adv = made.logits.softmax(1), made.logits_adv.log_softmax(1)
        errors = errors + 6 * (p * (p.log() - log_p_adv)).sum(1)
    place = torch.tensor([0, 1, 2, 2])  # of a class among those that are present
    torch.testing.assert_close(made.loss, (q.float()[place[y]] * errors).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("base", "plain"), [("at", AT), ("trades", TRADES)])
def test_without_divergence_it_is_its_base(base: Any, plain: type) -> None:
    x, noise = batch(Y)
    made = FAAL(3, attack(), base=base, divergence=0)(network(3), x, Y, noise)
    torch.testing.assert_close(made.loss, plain(3, attack())(network(3), x, Y, noise).loss)


def test_the_release_punishes_a_class_for_its_frequency_and_we_do_not() -> None:
    """Scores −0.2 and −0.1, 20 and 2 images: the release compares −4 with −0.2, and 0 for the class that is absent."""
    logits = torch.tensor([[1.2, 1.0, -9.0]]).repeat(22, 1)
    y = torch.tensor([0] * 20 + [1] * 2)
    ours, release = FAAL(3, attack()), FAAL(3, attack(), official=True)
    weight, official = ours._weight(logits, y), release._weight(logits, y)
    assert weight[1] > weight[0], "class 1 loses to class 0"
    assert weight[2] == 0
    score = (20 * torch.tensor([-1.0, 0, 0]) + 2 * torch.tensor([0, 1.0, 0])) * margins(logits[:1], y[-1:])
    assert official.tolist() == pytest.approx((3 * weights(score.tolist(), 0.5)).tolist())


def test_scores_with_a_memory_keep_absent_classes() -> None:
    method = FAAL(3, attack(), decay=0.5)
    first = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    method._weight(first, torch.arange(3))
    before = method.scores.clone()
    weight = method._weight(-first[:1], torch.tensor([0]))
    wanted = 0.5 * before[0] + 0.5 * margins(-first[:1], torch.tensor([0]))[0]
    assert float(method.scores[0]) == pytest.approx(float(wanted))
    assert torch.equal(method.scores[1:], before[1:])
    assert (weight > 0).all(), "all three classes have been seen"
    fresh = FAAL(3, attack(), decay=0.5)
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(fresh._weight(first, torch.arange(3)), method._weight(first, torch.arange(3)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"divergence": -1},
        {"divergence": math.inf},
        {"decay": 1.1},
        {"decay": -0.1},
        {"official": "False"},
        {"beta": 2.0},
        {"base": "mart"},
    ],
)
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        FAAL(3, attack(), **wrong)
