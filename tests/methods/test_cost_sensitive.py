"""Class costs: weights by hand, where the accuracies come from, and the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.strategies import attack, batch, network, pass_of
from torch import Tensor

from classwise import registry
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods import AT, CostSensitive, Epoch
from classwise.methods.cost_sensitive import cost

Y = torch.arange(24) % 3
FORMS = ["inverse", "error"]
shares = st.lists(st.floats(0, 1), min_size=2, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))


def build(text: str = "cost-sensitive", num_classes: int = 3) -> CostSensitive:
    method: CostSensitive = registry.build("method", text, num_classes, attack())
    return method


@settings(deadline=None)
@given(shares, st.floats(0, 3), st.sampled_from(FORMS))
def test_weights_have_mean_1_and_never_rise_with_the_accuracy(accuracy: Tensor, power: float, form: str) -> None:
    weight = cost(accuracy, power, form)
    assert float(weight.mean()) == pytest.approx(1)
    assert (weight[accuracy.argsort()].diff() <= 1e-9).all()


@settings(deadline=None)
@given(shares, st.sampled_from(FORMS), st.randoms())
def test_relabelling_the_classes_permutes_the_weights(accuracy: Tensor, form: str, random: Any) -> None:
    order = torch.tensor(random.sample(range(len(accuracy)), len(accuracy)))
    torch.testing.assert_close(cost(accuracy[order], 1.0, form), cost(accuracy, 1.0, form)[order])


def test_the_weights_of_three_classes_by_hand() -> None:
    """1/S = 5, 2.5, 1.25, mean 35/12; 1 − S = 0.8, 0.6, 0.2, mean 8/15; with k = 2 its squares, mean 26/75."""
    accuracy = torch.tensor([0.2, 0.4, 0.8])
    assert cost(accuracy, 1.0, "inverse").tolist() == pytest.approx([12 / 7, 6 / 7, 3 / 7])
    assert cost(accuracy, 1.0, "error").tolist() == pytest.approx([1.5, 1.125, 0.375])
    assert cost(accuracy, 2.0, "error").tolist() == pytest.approx([0.64 * 75 / 26, 0.36 * 75 / 26, 0.04 * 75 / 26])


@pytest.mark.parametrize("form", FORMS)
def test_a_class_that_is_never_or_always_right_has_a_finite_weight_above_0(form: str) -> None:
    weight = cost(torch.tensor([0.0, 1.0]), 1.0, form)
    assert weight.tolist() == pytest.approx([1.98, 0.02])


@pytest.mark.parametrize("form", FORMS)
def test_equal_accuracies_and_a_power_of_zero_weigh_alike(form: str) -> None:
    assert cost(torch.full((4,), 0.3), 1.0, form).tolist() == pytest.approx([1] * 4)
    assert cost(torch.tensor([0.1, 0.9]), 0.0, form).tolist() == pytest.approx([1, 1])


def test_in_the_first_epoch_it_is_adversarial_training() -> None:
    x, noise = batch(Y)
    torch.testing.assert_close(build()(network(3), x, Y, noise).loss, AT(3, attack())(network(3), x, Y, noise).loss)


def test_the_loss_on_each_attacked_image_has_the_weight_of_its_class() -> None:
    x, noise = batch(Y)
    step = build("cost-sensitive(accuracy=(0.2, 0.4, 0.8))")(network(3), x, Y, noise)
    weight = torch.tensor([12 / 7, 6 / 7, 3 / 7])[Y]
    torch.testing.assert_close(step.loss, (weight * cross_entropy(step.logits_adv, Y)).mean())


@pytest.mark.parametrize(("source", "seen"), [("train", [0.2, 0.4, math.nan]), ("valid", [0.9, 0.6, 0.3])])
def test_accuracies_are_a_moving_average_from_one_over_c_on(source: str, seen: list[float]) -> None:
    method = build(f"cost-sensitive(source={source!r})")
    method.end_epoch(Epoch(0, pass_of(robust=[0.2, 0.4, math.nan]), pass_of(robust=[0.9, 0.6, 0.3])))
    wanted = [1 / 3 if math.isnan(share) else 0.9 / 3 + 0.1 * share for share in seen]
    assert method.accuracy.tolist() == pytest.approx(wanted)
    assert method.validates == (source == "valid")


def test_accuracies_that_were_given_stay() -> None:
    method = build("cost-sensitive(accuracy=[0.2, 0.4, 0.8], source='valid')")
    method.end_epoch(Epoch(0, pass_of(robust=[0.5] * 3), None))
    assert method.accuracy.tolist() == [0.2, 0.4, 0.8]


@pytest.mark.parametrize("accuracy", [(0.5, 0.5), (0.5, 0.5, 1.5), ("a", 0.1, 0.1), 0.5])
def test_accuracies_of_other_classes_are_refused(accuracy: Any) -> None:
    with pytest.raises(InputError, match="must be 3 numbers from 0 to 1, one for each class"):
        build(f"cost-sensitive(accuracy={accuracy!r})")


@pytest.mark.parametrize(("name", "value"), [("power", -1), ("form", "'other'"), ("source", "'test'")])
def test_a_setting_outside_its_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"setting {name}"):
        build(f"cost-sensitive({name}={value})")
