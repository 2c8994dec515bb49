"""FAIR-TAT: targets and radii by hand, and an attack that reaches for its target."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.strategies import attack, batch, network
from torch import Tensor

from classwise.errors import InputError
from classwise.losses import targeted
from classwise.methods import AT, Epoch, FairTAT, Pass
from classwise.methods.fair_tat import adaptation, drawn, false_positives
from classwise.metrics.stats import ClassStats
from classwise.noise import Noise

Y = torch.arange(24) % 3
CONFUSION = torch.tensor([[6.0, 3.0, 1.0], [0.0, 4.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)

confusions = st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=4, max_size=4)


def epoch(confusion: Tensor, number: int = 0) -> Epoch:
    stats = ClassStats.zeros(len(confusion))
    stats.confusion, stats.n = confusion, confusion.sum(1)
    return Epoch(number, Pass(ClassStats.zeros(len(confusion)), stats), None)


def test_the_shares_in_wrong_predictions_are_counted_by_column() -> None:
    """Of six wrong predictions two are class 0, three class 1 and one class 2."""
    assert false_positives(CONFUSION).tolist() == pytest.approx([2 / 6, 3 / 6, 1 / 6])


@settings(max_examples=50, deadline=None)
@given(confusions)
def test_the_shares_sum_to_1_whatever_was_predicted(counts: list[list[int]]) -> None:
    shares = false_positives(torch.tensor(counts, dtype=torch.float64))
    assert float(shares.sum()) == pytest.approx(1)
    assert (shares >= 0).all()


def test_an_epoch_without_errors_makes_all_targets_as_likely() -> None:
    assert false_positives(torch.diag(torch.tensor([3.0, 0.0, 9.0]))).tolist() == pytest.approx([1 / 3] * 3)


@settings(max_examples=50, deadline=None)
@given(confusions, st.sampled_from(["robust", "positives", "mean", "minimum", "plain"]), st.floats(0, 1))
def test_radii_stay_between_the_floor_and_1_above_it(counts: list[list[int]], radius: Any, floor: float) -> None:
    method = FairTAT(4, attack(), radius=radius, floor=floor)
    method.end_epoch(epoch(torch.tensor(counts, dtype=torch.float64)))
    present = torch.tensor(counts).sum(1) > 0
    assert method.factor.isfinite().all()
    assert (method.factor[~present] == 1).all(), "an absent class keeps its radius"
    if radius != "plain":
        assert (method.factor[present] >= floor - 1e-6).all()
        assert (method.factor[present] <= floor + 1 + 1e-6).all()


@pytest.mark.parametrize(
    ("radius", "wanted"),
    [
        ("robust", [0.6, 1.0, 0.0]),
        ("positives", [2 / 3, 1.0, 1 / 3]),
        ("mean", [(0.6 + 2 / 3) / 2, 1.0, 1 / 6]),
        ("minimum", [0.6, 1.0, 0.0]),
    ],
)
def test_radii_adapt_to_accuracy_and_wrong_predictions(radius: Any, wanted: list[float]) -> None:
    """Accuracies 6/10, 4/4 and 0/2; shares in wrong predictions 2/6, 3/6 and 1/6, of which twice counts."""
    robust, positives = CONFUSION.diagonal() / CONFUSION.sum(1), false_positives(CONFUSION)
    assert adaptation(robust, positives, radius).tolist() == pytest.approx(wanted)
    method = FairTAT(3, attack(), radius=radius)
    method.end_epoch(epoch(CONFUSION))
    assert method.factor.tolist() == pytest.approx([0.5 + each for each in wanted])


def test_targets_follow_the_distribution_without_the_true_class_and_are_never_it() -> None:
    probability, n = torch.tensor([0.5, 0.3, 0.2]), 60_000
    y = torch.arange(n) % 3
    target = drawn(probability, y, Noise(0, torch.arange(n)))
    assert (target != y).all()
    for c in range(3):
        share = torch.bincount(target[y == c], minlength=3) / (n / 3)
        wanted = probability.scatter(0, torch.tensor([c]), 0)
        assert share.tolist() == pytest.approx((wanted / wanted.sum()).tolist(), abs=0.015)  # 4 standard errors


def test_two_classes_leave_one_target() -> None:
    y = torch.arange(20) % 2
    assert torch.equal(drawn(torch.tensor([0.99, 0.01]), y, Noise(0, torch.arange(20))), 1 - y)


def test_a_target_that_is_all_but_certain_is_drawn_unless_it_is_the_true_class() -> None:
    target = drawn(torch.tensor([1.0, 0.0, 1e-30]), Y, Noise(3, torch.arange(24)))
    assert torch.equal(target, torch.where(Y == 0, 2, 0))


def test_the_release_draws_almost_uniformly() -> None:
    """softmax(2·CFPS) of ten classes between 0.03 and 0.22 that sum to 1: 0.086 to 0.126."""
    shares = torch.tensor([0.03, 0.22] + [0.75 / 8] * 8)
    probability = (2 * shares).softmax(0)
    assert float(probability.min()) == pytest.approx(0.086, abs=1e-3)
    assert float(probability.max()) == pytest.approx(0.126, abs=1e-3)


def test_the_attack_lowers_the_cross_entropy_of_the_target_from_step_to_step() -> None:
    model = network(3).eval()
    x, noise = batch(Y)
    target = (Y + 1) % 3
    errors = [F.cross_entropy(model(x), target)]
    for steps in (1, 3, 6):
        x_adv = attack(steps=steps)(model, x, Y, noise=noise, loss=targeted("cross_entropy", target))
        errors.append(F.cross_entropy(model(x_adv), target))
    assert errors[0] > errors[1] > errors[2] > errors[3]


def test_each_image_is_attacked_towards_its_target_within_the_radius_of_its_class() -> None:
    method, model = FairTAT(3, attack()), network(3)
    method.end_epoch(epoch(CONFUSION))
    x, noise = batch(Y)
    target = drawn((2 * method.positives).softmax(0), Y, noise.fold("target"))
    eps = 0.1 * torch.tensor([1.1, 1.5, 0.5])[Y]
    x_adv = method.attack(model, x, Y, noise=noise, eps=eps, loss=targeted("cross_entropy", target))
    made = method(network(3), x, Y, noise)
    torch.testing.assert_close(made.logits_adv, network(3)(x_adv))
    torch.testing.assert_close(made.loss, F.cross_entropy(made.logits_adv, Y))
    moved = (x_adv - x).abs().flatten(1).amax(1)
    assert (moved <= eps + 1e-6).all()
    assert (moved[Y == 1] > 0.1).any()


def test_the_first_epoch_has_the_radius_of_the_run_and_uniform_targets() -> None:
    method, model = FairTAT(3, attack()), network(3)
    x, noise = batch(Y)
    target = drawn(torch.full((3,), 1 / 3), Y, noise.fold("target"))
    assert 0 < int((target == (Y + 1) % 3).sum()) < 24, "both wrong classes are drawn"
    x_adv = method.attack(model, x, Y, noise=noise, loss=targeted("cross_entropy", target))
    torch.testing.assert_close(method(network(3), x, Y, noise).logits_adv, model(x_adv))


def test_targets_differ_from_those_of_adversarial_training_and_from_epoch_to_epoch() -> None:
    x, noise = batch(Y)
    losses = [method(network(3), x, Y, noise).loss for method in (FairTAT(3, attack()), AT(3, attack()))]
    assert losses[0] < losses[1], "a targeted attack hurts less"
    probability = torch.full((3,), 1 / 3)
    draws = [drawn(probability, Y, Noise(0, torch.arange(24)).fold("attack", k)) for k in range(2)]
    assert not torch.equal(*draws)


def test_a_restored_method_goes_on_with_its_targets_and_radii() -> None:
    method, fresh = FairTAT(3, attack(), sharpness=30), FairTAT(3, attack(), sharpness=30)
    method.end_epoch(epoch(CONFUSION))
    x, noise = batch(Y)
    before = fresh(network(3), x, Y, noise).loss
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(fresh(network(3), x, Y, noise).loss, method(network(3), x, Y, noise).loss)
    assert not torch.equal(before, method(network(3), x, Y, noise).loss)


@pytest.mark.parametrize("wrong", [{"sharpness": -1}, {"floor": math.nan}, {"radius": "large"}])
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        FairTAT(3, attack(), **wrong)
