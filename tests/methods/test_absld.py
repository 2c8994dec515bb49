"""ABSLD: temperatures by hand, their limits, and RSLAD where they are all 1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods import strategies
from tests.methods.strategies import attack, batch, network
from torch import Tensor

from classwise.errors import InputError
from classwise.losses import kl
from classwise.methods import ABSLD, RSLAD, Epoch, Pass, Step
from classwise.methods.absld import moved
from classwise.metrics.stats import ClassStats

Y = torch.arange(24) % 3
TEACHER = strategies.teacher(3)

losses = st.lists(st.floats(0, 20) | st.just(math.nan), min_size=2, max_size=12)


def made(method: Any) -> Step:
    x, noise = batch(Y)
    step: Step = method(network(3), x, Y, noise)
    return step


def epoch(adv: list[float], nat: list[float], number: int = 0) -> Epoch:
    """Return the sums of an epoch with these mean losses of classes, NaN for an absent one."""
    sums = []
    for means in (nat, adv):
        stats = ClassStats.zeros(len(means))
        stats.n = torch.tensor([0.0 if math.isnan(mean) else 4.0 for mean in means], dtype=torch.float64)
        stats.loss = torch.tensor(means, dtype=torch.float64).nan_to_num() * 4
        sums.append(stats)
    return Epoch(number, Pass(*sums), None)


def test_a_harder_class_gets_a_lower_temperature() -> None:
    """Losses 1, 2 and 6 have the mean 3 and gaps −2, −1 and 3: steps of −2/3, −1/3 and 1 times the rate."""
    temperature = moved(torch.ones(3), torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64), 0.1)
    assert temperature.tolist() == pytest.approx([1 + 0.2 / 3, 1 + 0.1 / 3, 0.9])


def test_equal_losses_leave_the_temperatures_alone() -> None:
    before = torch.tensor([0.7, 1.0, 4.0])
    assert torch.equal(moved(before, torch.full((3,), 1.7, dtype=torch.float64), 0.1).float(), before)


def test_an_absent_class_keeps_its_temperature_and_is_left_out_of_the_mean() -> None:
    loss = torch.tensor([1.0, math.nan, 3.0], dtype=torch.float64)
    assert moved(torch.ones(3), loss, 0.1).tolist() == pytest.approx([1.1, 1.0, 0.9])


@settings(max_examples=50, deadline=None)
@given(losses, st.floats(0, 3), st.floats(0.5, 5))
def test_temperatures_move_by_at_most_the_rate_and_stay_within_bounds(
    means: list[float], rate: float, start: float
) -> None:
    before = torch.full((len(means),), start, dtype=torch.float64)
    after = moved(before, torch.tensor(means, dtype=torch.float64), rate)
    assert ((after - before).abs() <= rate + 1e-12).all()
    assert ((after >= 0.5) & (after <= 5)).all()


def test_temperatures_of_both_terms_move_by_their_own_losses_at_a_rate_that_falls() -> None:
    method = ABSLD(2, attack(), strategies.teacher(2), milestones=(2, 3))
    for number, wanted in enumerate((0.1, 0.11, 0.111)):
        method.end_epoch(epoch([5.0, 1.0], [1.0, 2.0], number))
        assert method.adv.tolist() == pytest.approx([1 - wanted, 1 + wanted])
        assert method.nat.tolist() == pytest.approx([1 + wanted, 1 - wanted])


def test_with_all_temperatures_at_1_it_is_rslad_to_the_bit() -> None:
    ours, plain = made(ABSLD(3, attack(), TEACHER)), made(RSLAD(3, attack(), TEACHER))
    assert torch.equal(ours.loss, plain.loss)
    assert torch.equal(ours.logits_adv, plain.logits_adv)


def tempered(official: bool = False) -> ABSLD:
    method = ABSLD(3, attack(), TEACHER, official=official)
    method.adv.copy_(torch.tensor([0.5, 1.0, 4.0]))
    method.nat.copy_(torch.tensor([3.0, 2.0, 0.6]))
    return method


def divergence(logits: Tensor, taught: Tensor) -> Tensor:
    t = taught.softmax(1)
    return (t * (t.log() - logits.log_softmax(1))).sum(1).mean()


@pytest.mark.parametrize("official", [False, True])
def test_each_term_has_the_temperature_of_the_true_class_and_the_release_their_product(official: bool) -> None:
    method = tempered(official)
    step = made(method)
    adv, nat = torch.tensor([0.5, 1.0, 4.0])[Y, None], torch.tensor([3.0, 2.0, 0.6])[Y, None]
    if official:
        adv = nat = adv * nat
    taught = TEACHER(batch(Y)[0])
    wanted = 5 / 6 * divergence(step.logits_adv, taught / adv) + divergence(step.logits, taught / nat) / 6
    torch.testing.assert_close(step.loss, wanted)


def test_the_attack_climbs_the_divergence_from_the_tempered_teacher() -> None:
    method, (x, noise) = tempered(), batch(Y)
    labels = TEACHER(x) / method.adv[Y, None]
    x_adv = method.attack(network(3), x, Y, noise=noise, loss=lambda logits, y: kl(logits, labels))
    torch.testing.assert_close(made(method).logits_adv, network(3)(x_adv))


def test_a_restored_method_goes_on_with_its_temperatures() -> None:
    fresh = ABSLD(3, attack(), TEACHER)
    fresh.load_state_dict(tempered().state_dict())
    assert torch.equal(made(fresh).loss, made(tempered()).loss)


@pytest.mark.parametrize(
    "wrong", [{"rate": -1}, {"share": 1.5}, {"milestones": (1.5,)}, {"milestones": "a"}, {"official": 1}]
)
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"setting {next(iter(wrong))}"):
        ABSLD(3, attack(), TEACHER, **wrong)
