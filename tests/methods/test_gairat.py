"""GAIRAT: the weights in closed form, the count they rest on, and adversarial training as the limit."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods.strategies import attack, batch, network

from classwise.attacks.base import predict
from classwise.errors import InputError
from classwise.methods import AT, GAIRAT, Epoch, Pass, Step
from classwise.methods.base import normalised
from classwise.methods.gairat import geometry_weight
from classwise.metrics.stats import ClassStats
from classwise.runtime.inference import attacking

Y = torch.arange(24) % 3


def trained(method: GAIRAT, epochs: int) -> GAIRAT:
    """Return the method after so many epochs."""
    nothing = Pass(ClassStats.zeros(3), ClassStats.zeros(3))
    for number in range(epochs):
        method.end_epoch(Epoch(number, nothing, None))
    return method


def made(method: AT | GAIRAT) -> Step:
    x, noise = batch(Y)
    step: Step = method(network(3), x, Y, noise)
    return step


def counted(steps: int) -> torch.Tensor:
    """Count right iterates one attack length at a time: the k-th iterate is what an attack of k steps returns."""
    model = network(3)
    x, noise = batch(Y)
    one = attack(steps=steps)
    with attacking(model):
        iterates = [one.starts(x, noise), *(attack(steps=k)(model, x, Y, noise=noise) for k in range(1, steps))]
        return torch.stack([predict(model(x_adv), Y) == Y for x_adv in iterates]).sum(0)


def test_the_weights_are_those_of_the_paper_for_ten_steps() -> None:
    weight = geometry_weight(torch.arange(11), 10, -1.0)
    wanted = [1.00, 1.00, 0.98, 0.88, 0.50, 0.12, 0.02, 0.002, 0, 0, 0]
    assert weight.tolist() == pytest.approx(wanted, abs=5e-3)
    by_hand = [0.5 * (1 + math.tanh(-1 + 5 * (1 - 2 * k / 10))) for k in range(11)]
    assert weight.tolist() == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 40])
@pytest.mark.parametrize("shift", [-99.0, -1.0, 0.0, 3.0, math.inf])
def test_the_weights_never_rise_with_the_count_and_have_mean_1(steps: int, shift: float) -> None:
    weight = geometry_weight(torch.arange(steps + 1), steps, shift)
    assert (weight.diff() <= 0).all()
    scaled = normalised(weight)
    assert scaled.dtype == torch.float32
    assert float(scaled.mean()) == pytest.approx(1)


def test_images_that_all_hold_out_weigh_alike_however_strict_the_shift() -> None:
    assert normalised(geometry_weight(torch.full((5,), 10), 10, -99.0)).tolist() == pytest.approx([1.0] * 5)


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_the_loss_weighs_each_image_by_its_count_of_right_iterates_before_every_step(steps: int) -> None:
    x, noise = batch(Y)
    step = GAIRAT(3, attack(steps=steps), begin=1)(network(3), x, Y, noise)
    right = counted(steps)
    assert right.unique().numel() > 1, "the test is empty if all images count alike"
    weight = torch.tensor([0.5 * (1 + math.tanh(-1 + 5 * (1 - 2 * int(k) / steps))) for k in right])
    wanted = (weight / weight.mean() * F.cross_entropy(step.logits_adv, Y, reduction="none")).mean()
    torch.testing.assert_close(step.loss, wanted)


def test_the_attacked_images_are_those_of_adversarial_training() -> None:
    assert torch.equal(made(GAIRAT(3, attack(), begin=1)).logits_adv, made(AT(3, attack())).logits_adv)


def test_with_a_shift_of_infinity_it_is_adversarial_training() -> None:
    assert torch.equal(made(GAIRAT(3, attack(), shift=math.inf, begin=1)).loss, made(AT(3, attack())).loss)


def test_it_is_adversarial_training_until_the_epoch_that_it_begins_in() -> None:
    plain = made(AT(3, attack())).loss
    losses = [made(trained(GAIRAT(3, attack(), begin=3), epochs)).loss for epochs in range(4)]
    assert [torch.equal(loss, plain) for loss in losses] == [True, True, False, False]


def test_a_method_restored_from_its_state_goes_on_with_the_same_weights() -> None:
    first, second = trained(GAIRAT(3, attack(), begin=3), 2), GAIRAT(3, attack(), begin=3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(made(first).loss, made(second).loss)
    assert not torch.equal(made(first).loss, made(AT(3, attack())).loss)


@pytest.mark.parametrize(
    ("name", "value"),
    [("shift", -100), ("shift", math.nan), ("shift", "a"), ("begin", 0), ("begin", 1.5), ("begin", True)],
)
def test_a_setting_outside_its_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"setting {name}"):
        GAIRAT(3, attack(), **{name: value})
