"""KL instance DRO: the weights in closed form, the running mean in the log domain, and its limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.strategies import attack, batch, network

from classwise.errors import InputError
from classwise.methods import AT, KLInstanceDRO, Step
from classwise.methods.kl_instance_dro import log_mean_exp, running

Y = torch.arange(24) % 3

losses = st.lists(st.floats(0, 50), min_size=1, max_size=20)


def made(method: Any, seed: int = 0) -> Step:
    x, noise = batch(Y)
    step: Step = method(network(3, seed), x, Y, noise)
    return step


def errors(step: Step) -> torch.Tensor:
    return F.cross_entropy(step.logits_adv, Y, reduction="none")


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_the_weights_of_a_batch_are_its_softmax_and_sum_to_its_size(temperature: float) -> None:
    step = made(KLInstanceDRO(3, attack(), temperature=temperature, rate=1))
    weight = 24 * (errors(step).detach() / temperature).softmax(0)
    assert float(weight.sum()) == pytest.approx(24)
    torch.testing.assert_close(step.loss, (weight * errors(step)).mean())


def test_the_weights_are_the_gradient_of_the_divergence_bounded_worst_case() -> None:
    """∂/∂ℓ_i of r·log(mean exp(ℓ/r)) is exp(ℓ_i/r)/Σ exp(ℓ/r), so the step is that of the worst case itself."""
    model, other = network(3).eval(), network(3).eval()
    x, noise = batch(Y)
    method = KLInstanceDRO(3, attack(), temperature=0.3, rate=1)
    method(model, x, Y, noise).loss.backward()
    z = F.cross_entropy(other(attack()(other, x, Y, noise=noise)), Y, reduction="none")
    (0.3 * (z / 0.3).exp().mean().log()).backward()
    for mine, wanted in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad)


def test_the_weights_are_those_of_a_generic_search() -> None:
    """Two losses, 1 and 3, at r = 2: max over w of w·1 + (1 − w)·3 − 2·KL has w/(1 − w) = exp(−1)."""
    exponent = torch.tensor([1.0, 3.0], dtype=torch.float64) / 2
    weight = (exponent - log_mean_exp(exponent)).exp() / 2
    grid = torch.linspace(1e-6, 1 - 1e-6, 200_001, dtype=torch.float64)
    value = grid * 1 + (1 - grid) * 3 - 2 * (grid * (2 * grid).log() + (1 - grid) * (2 * (1 - grid)).log())
    assert float(weight[0]) == pytest.approx(float(grid[value.argmax()]), abs=1e-5)
    assert float(weight[0] / weight[1]) == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_a_large_temperature_gives_adversarial_training(rate: float) -> None:
    step, plain = made(KLInstanceDRO(3, attack(), temperature=1e7, rate=rate)), made(AT(3, attack()))
    torch.testing.assert_close(step.loss, plain.loss)


def test_a_small_temperature_gives_the_worst_image_all_weight_without_overflow() -> None:
    step = made(KLInstanceDRO(3, attack(), temperature=1e-4, rate=1))
    torch.testing.assert_close(step.loss, errors(step).amax())
    assert float(log_mean_exp(torch.tensor([1e5, 0.0], dtype=torch.float64))) == pytest.approx(1e5 - math.log(2))


@settings(max_examples=50, deadline=None)
@given(losses, losses, st.floats(0.01, 1))
def test_the_running_mean_in_logarithms_is_the_direct_one(first: list[float], second: list[float], rate: float) -> None:
    means = [torch.tensor(values, dtype=torch.float64).exp().mean() for values in (first, second)]
    logs = [log_mean_exp(torch.tensor(values, dtype=torch.float64)) for values in (first, second)]
    torch.testing.assert_close(logs[0].exp(), means[0])
    torch.testing.assert_close(running(*logs, rate).exp(), (1 - rate) * means[0] + rate * means[1])


def test_weights_rest_on_the_mean_of_all_batches_so_far() -> None:
    method = KLInstanceDRO(3, attack(), rate=0.25)
    first, second = made(method, seed=0), made(method, seed=1)
    means = [errors(step).double().exp().mean().detach() for step in (first, second)]
    torch.testing.assert_close(first.loss, (errors(first) * errors(first).detach().exp()).mean() / means[0].float())
    mean = (0.75 * means[0] + 0.25 * means[1]).float()
    torch.testing.assert_close(second.loss, (errors(second) * errors(second).detach().exp()).mean() / mean)
    fresh = KLInstanceDRO(3, attack(), rate=0.25)
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(made(fresh).loss, made(method).loss)


def test_by_default_a_batch_stands_for_itself() -> None:
    method = KLInstanceDRO(3, attack())
    made(method, seed=1)
    torch.testing.assert_close(made(method).loss, made(KLInstanceDRO(3, attack())).loss)


def test_the_order_of_the_batch_does_not_matter() -> None:
    x, noise = batch(Y)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    straight = KLInstanceDRO(3, attack())(network(3).eval(), x, Y, noise)
    shuffled = KLInstanceDRO(3, attack())(network(3).eval(), x[order], Y[order], noise.select(order))
    torch.testing.assert_close(shuffled.loss, straight.loss)
    torch.testing.assert_close(shuffled.logits_adv, straight.logits_adv[order])


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"temperature": math.inf}, {"rate": 0}, {"rate": 1.5}])
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"setting {next(iter(wrong))}"):
        KLInstanceDRO(3, attack(), **wrong)
