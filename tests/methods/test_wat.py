"""WAT: Hedge by hand, and the loss that its weights make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.strategies import attack, batch, network, pass_of
from torch import Tensor, nn

from classwise import registry
from classwise.errors import InputError
from classwise.losses import cross_entropy, kl
from classwise.methods import TRADES, WAT, Epoch, Pass
from classwise.methods.wat import hedge, image_weight
from classwise.metrics.stats import ClassStats
from classwise.noise import Noise

Y = torch.arange(24) % 3
costs = st.lists(st.floats(-50, 50), min_size=3, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))


def build(text: str = "wat") -> WAT:
    method: WAT = registry.build("method", text, 3, attack())
    return method


def losses(values: list[float], n: list[int]) -> Pass:
    """Return sums with these mean losses of these numbers of images."""
    found = pass_of(robust=[0.5] * len(values), n=n)
    found.robust.loss += torch.tensor(values, dtype=torch.float64) * torch.tensor(n)
    return found


def after(method: WAT, values: list[float], n: list[int]) -> WAT:
    nothing = Pass(ClassStats.zeros(3), ClassStats.zeros(3))
    method.end_epoch(Epoch(0, nothing, None, losses(values, n)))
    return method


@settings(deadline=None)
@given(costs, st.floats(0, 1))
def test_the_weights_of_all_experts_sum_to_the_number_of_classes(total: Tensor, eta: float) -> None:
    assert float(hedge(total, eta).sum()) == pytest.approx(len(total) - 1)


@settings(deadline=None)
@given(costs, st.floats(-100, 100))
def test_a_constant_added_to_all_costs_changes_nothing(total: Tensor, constant: float) -> None:
    torch.testing.assert_close(hedge(total + constant, 0.1), hedge(total, 0.1))


def test_a_rate_of_zero_keeps_all_weights_equal() -> None:
    assert hedge(torch.tensor([1.0, 5.0, 2.0, 3.0]), 0.0).tolist() == pytest.approx([3 / 4] * 4)
    assert after(build("wat(eta=0)"), [1.0, 5.0, 2.0], [4, 4, 4]).weight.tolist() == pytest.approx([1] * 3)


def test_sums_of_ten_thousand_do_not_overflow() -> None:
    weight = hedge(torch.tensor([1e4, 0.0, 1e4]), 1.0)
    assert weight.tolist() == pytest.approx([1, 0, 1])


def test_two_epochs_by_hand() -> None:
    """Mean losses 1, 2, 4 of 1, 1, 2 images cost 1, 2, 4 and, over all images, 11/4; twice that with a rate of ln 2/2.

    Two epochs give weights 3·2^V/Σ2^V with V = 1, 2, 4, 2.75: 2^V = 2, 4, 16, 6.727, Σ = 28.727. An image has the
    weight of its class plus that of the mean, (8.727, 10.727, 22.727)·3/28.727, scaled to mean 1: divided by 14.06.
    """
    method = build(f"wat(eta={0.5 * 0.6931471805599453})")
    for _ in range(2):
        after(method, [1, 2, 4], [1, 1, 2])
    assert method.total.tolist() == pytest.approx([2, 4, 8, 5.5])
    assert method.weight.tolist() == pytest.approx([0.6207, 0.7629, 1.6164], abs=1e-4)


def test_in_the_first_epoch_it_is_trades_and_without_normalisation_twice_that() -> None:
    x, noise = batch(Y)
    plain = TRADES(3, attack())(network(3), x, Y, noise).loss
    torch.testing.assert_close(build()(network(3), x, Y, noise).loss, plain)
    torch.testing.assert_close(build("wat(normalise_loss=False)")(network(3), x, Y, noise).loss, 2 * plain)


def test_after_an_update_with_equal_weights_the_released_loss_is_2c_over_c_plus_1_times_trades() -> None:
    method = after(build("wat(normalise_loss=False, eta=0)"), [1, 2, 3], [4, 4, 4])
    assert method.weight.tolist() == pytest.approx([2 * 3 / 4] * 3)


def test_both_terms_of_an_image_have_the_weight_of_its_class() -> None:
    method = after(build("wat(beta=2, eta=1)"), [1.0, 2.0, 0.5], [4, 4, 4])
    x, noise = batch(Y)
    step = method(network(3), x, Y, noise)
    weight = method.weight.float()[Y]
    wanted = weight * (cross_entropy(step.logits, Y) + 2 * kl(step.logits_adv, step.logits))
    torch.testing.assert_close(step.loss, wanted.mean())
    assert len(weight.unique()) == 3


def test_it_measures_the_loss_of_trades_under_its_own_attack() -> None:
    method, model, noise = build("wat(beta=2)"), network(3).eval(), Noise(0, torch.arange(24))
    x, _ = batch(Y)
    found = method.measure(model, x, Y, noise)
    x_adv = TRADES(3, attack()).attack(model, x, Y, noise=noise)
    with torch.no_grad():
        wanted = cross_entropy(model(x), Y) + 2 * kl(model(x_adv), model(x))
    torch.testing.assert_close(found.loss, wanted)


def test_it_measures_in_eval_mode_whatever_the_mode_of_the_training_attack() -> None:
    model, noise = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), network(3)).eval(), Noise(0, torch.arange(24))
    x, _ = batch(Y)
    model[1].running_mean += 0.3
    measured = [WAT(3, attack(mode=mode)).measure(model, x, Y, noise).loss for mode in ("eval", "train")]
    assert torch.equal(*measured)


def test_a_decay_forgets_earlier_epochs() -> None:
    method = build("wat(decay=0.5)")
    for _ in range(2):
        after(method, [1, 2, 4], [1, 1, 2])
    assert method.total.tolist() == pytest.approx([1.5, 3, 6, 1.5 * 11 / 4])


def test_a_class_without_held_out_images_costs_what_all_images_do() -> None:
    method = after(build(), [1, 0, 4], [1, 0, 2])
    assert method.total.tolist() == pytest.approx([1, 3, 4, 3])


def test_weights_are_kept_by_the_state() -> None:
    first, second = after(build(), [1, 2, 4], [1, 1, 2]), build()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weight, second.weight)
    assert image_weight(hedge(second.total, 0.1), normalise=True).tolist() == pytest.approx(second.weight.tolist())


@pytest.mark.parametrize(("name", "value"), [("eta", -1), ("decay", 1.5), ("normalise_loss", "'no'"), ("beta", -1)])
def test_a_setting_outside_its_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"setting {name}"):
        build(f"wat({name}={value})")
