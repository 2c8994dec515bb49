"""Fair-ARD: the weights by hand, the counts that they rest on, and the base where they are all 1."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods import strategies
from tests.methods.strategies import attack, batch, network
from torch import Tensor

from classwise import registry
from classwise.attacks.base import predict
from classwise.errors import InputError
from classwise.losses import kl
from classwise.methods import Epoch, FairARD, Pass, Step
from classwise.methods.fair_ard import class_weight
from classwise.metrics.stats import ClassStats
from classwise.models import Teacher
from classwise.runtime.inference import attacking

Y = torch.tensor([0] * 12 + [1] * 8 + [3] * 4)  # class 2 is absent
TEACHER = strategies.teacher(4)
BASES = ["ard", "ard(temperature=1.0, share=0.5, scale=0.2)", "iad(begin=1)", "rslad"]

counts = st.lists(st.floats(0, 10), min_size=2, max_size=12)


def every(values: list[float], power: float = 2.0) -> Tensor:
    return class_weight(torch.tensor(values), torch.ones(len(values), dtype=torch.bool), power)


def made(method: Any, model: torch.nn.Module | None = None) -> Step:
    x, noise = batch(Y)
    step: Step = method(model or network(4), x, Y, noise)
    return step


def end(method: FairARD, number: int = 0) -> None:
    method.end_epoch(Epoch(number, Pass(ClassStats.zeros(4), ClassStats.zeros(4)), None))


def test_the_weights_of_ten_classes_are_those_of_the_release() -> None:
    weight = every([6.2, 7.4, 4.3, 3.0, 3.9, 4.6, 5.9, 6.5, 6.8, 6.6])
    wanted = [0.83, 0.83, 1.29, 2.5, 1.57, 1.13, 0.83, 0.83, 0.83, 0.83]
    assert weight.tolist() == pytest.approx(wanted, abs=0.005)


def test_before_they_are_kept_within_bounds_they_are_inverse_powers_of_mean_1() -> None:
    """κ = 2 and 1.8 with b = 1: 0.5 and 0.5556 have the mean 0.5278, so 0.9474 and 1.0526."""
    assert every([2.0, 1.8], 1.0).tolist() == pytest.approx([0.9474, 1.0526], abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(counts, st.floats(0, 3))
def test_weights_stay_within_bounds_and_never_rise_with_the_count(values: list[float], power: float) -> None:
    weight = every(values, power)
    assert ((weight >= 5 / 6 - 1e-12) & (weight <= 2.5)).all()
    assert (weight[torch.tensor(values).argsort()].diff() <= 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 10), st.integers(2, 100))
def test_classes_that_hold_out_alike_weigh_1(value: float, num_classes: int) -> None:
    assert every([value] * num_classes).tolist() == pytest.approx([1.0] * num_classes)


def test_a_class_that_is_not_known_counts_in_no_mean() -> None:
    known = torch.tensor([True, False, True])
    weight = class_weight(torch.tensor([2.0, 0.0, 1.8]), known, 1.0)
    assert weight[known].tolist() == pytest.approx(every([2.0, 1.8], 1.0).tolist())


@pytest.mark.parametrize("base", BASES)
def test_the_first_epoch_is_the_base_and_so_is_a_power_of_0(base: str) -> None:
    plain = made(registry.build("method", base, 4, attack(), teacher=TEACHER))
    method = FairARD(4, attack(), TEACHER, base=base, power=0.0)
    for _ in range(2):
        step = made(method)
        torch.testing.assert_close(step.loss, plain.loss)
        assert torch.equal(step.logits_adv, plain.logits_adv)
        end(method)


@pytest.mark.parametrize("base", ["ard", "rslad"])
def test_the_weights_of_the_second_epoch_come_from_the_right_iterates_of_the_first(base: str) -> None:
    steps, model = 4, copy.deepcopy(TEACHER.network).requires_grad_(True)
    method = FairARD(4, attack(0.4, steps), TEACHER, base=base)
    x, noise = batch(Y)
    one = method.attack
    taught = TEACHER(x)
    bound = (lambda logits, y: kl(logits, taught)) if base == "rslad" else None
    shorter = [replace(method.attack, steps=k) for k in range(1, steps)]
    iterates = [one.starts(x, noise), *(each(model, x, Y, noise=noise, loss=bound) for each in shorter)]
    with attacking(model):
        right = torch.stack([predict(model(x_adv), Y) == Y for x_adv in iterates]).sum(0).double()
    for _ in range(2):
        made(method, copy.deepcopy(model).train())  # the same batch twice: sums double, means do not
    means = torch.stack([right[:12].mean(), right[12:20].mean(), right.new_zeros(()), right[20:].mean()])
    assert (method.sums[1] / method.sums[0].clamp(min=1)).tolist() == pytest.approx(means.tolist())
    assert means.unique().numel() == 4, "classes must hold out differently for this test to say anything"
    end(method)
    wanted = class_weight(means, torch.tensor([True, True, False, True]), 2.0)
    wanted[2] = 1.0
    assert method.weight.tolist() == pytest.approx(wanted.tolist())
    assert method.sums.sum() == 0
    end(method, 1)
    assert method.weight.tolist() == pytest.approx(wanted.tolist()), "an epoch without images changes nothing"


@pytest.mark.parametrize("base", ["ard", "rslad", "iad"])
def test_each_image_is_weighted_by_its_true_class(base: str) -> None:
    method, plain = (
        FairARD(4, attack(), TEACHER, base=base),
        registry.build("method", base, 4, attack(), teacher=TEACHER),
    )
    method.weight.copy_(torch.tensor([1.0, 0.9, 2.0, 2.5]))
    x, noise = batch(Y)
    taught = TEACHER(x)
    x_adv = plain.attack(network(4), x, Y, noise=noise, loss=plain.objective(taught))
    errors = plain.errors(network(4), x, x_adv, Y, taught).loss
    torch.testing.assert_close(made(method).loss, (torch.tensor([1.0, 0.9, 2.0, 2.5])[Y] * errors).mean())


def test_a_restored_method_goes_on_with_its_weights_and_its_bases_epochs() -> None:
    method, fresh = (FairARD(4, attack(), TEACHER, base="iad(begin=2)") for _ in range(2))
    made(method)
    end(method)
    fresh.load_state_dict(method.state_dict())
    assert int(fresh.base.finished) == 1
    assert torch.equal(made(fresh).loss, made(method).loss)


def test_the_teacher_on_record_is_that_of_the_base() -> None:
    teacher = Teacher(network(4), "t")
    assert FairARD(4, attack(), teacher).teacher is teacher


@pytest.mark.parametrize("wrong", [{"base": "at"}, {"base": 3}, {"power": -1}, {"base": "absld"}])
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        FairARD(4, attack(), TEACHER, **wrong)
