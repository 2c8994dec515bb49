"""MART against its formula, term by term."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods.strategies import Watched, attack, batch, network
from torch import Tensor, nn

from classwise.errors import InputError
from classwise.methods import MART
from classwise.methods.mart import boosted_cross_entropy, weighted_kl

Y = torch.arange(24) % 3


def random_logits(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.randn(2, 24, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return 3 * draw[0], 3 * draw[1]


def formula(logits_adv: Tensor, logits: Tensor, y: Tensor, beta: float) -> float:
    """Return the loss of spec/methods.md B3, an image and a class at a time, in Python's floats."""
    total = 0.0
    for z_adv, z, label in zip(logits_adv.tolist(), logits.tolist(), y.tolist(), strict=True):
        p_adv, p = ([math.exp(v) / sum(map(math.exp, values)) for v in values] for values in (z_adv, z))
        runner_up = max(share for k, share in enumerate(p_adv) if k != label)
        divergence = sum(a * math.log(a / (b + 1e-12)) for a, b in zip(p, p_adv, strict=True))
        total += -math.log(p_adv[label]) - math.log(1.0001 - runner_up + 1e-12)
        total += beta * divergence * (1.0000001 - p[label])
    return total / len(y)


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_the_loss_of_a_batch_is_the_formula_on_one_clean_and_one_attacked_pass(beta: float) -> None:
    model = network(3)
    x, noise = batch(Y)
    method, twin = MART(3, attack(), beta), copy.deepcopy(model)
    x_adv = method.attack(copy.deepcopy(model), x, Y, noise=noise)
    made = method(model, x, Y, noise)
    logits, logits_adv = twin(x), twin(x_adv)
    assert torch.equal(made.logits, logits)
    assert torch.equal(made.logits_adv, logits_adv)
    assert float(made.loss.detach()) == pytest.approx(formula(logits_adv, logits, Y, beta), rel=1e-5)


def test_both_terms_are_the_formula_on_random_logits() -> None:
    logits, logits_adv = random_logits()
    loss = boosted_cross_entropy(logits_adv, Y) + 5 * weighted_kl(logits_adv, logits, Y)
    assert float(loss.mean()) == pytest.approx(formula(logits_adv, logits, Y, 5.0), rel=1e-5)


def test_without_beta_only_the_boosted_cross_entropy_on_attacked_images_is_left() -> None:
    x, noise = batch(Y)
    made = MART(3, attack(), beta=0)(network(3), x, Y, noise)
    torch.testing.assert_close(made.loss, boosted_cross_entropy(made.logits_adv, Y).mean())


def test_the_boosted_cross_entropy_is_at_least_the_plain_one_less_a_constant() -> None:
    for seed in range(20):
        logits = 5 * random_logits(seed)[0]
        floor = F.cross_entropy(logits, Y, reduction="none") - math.log(1.0001)
        assert (boosted_cross_entropy(logits, Y) >= floor - 1e-6).all()


@pytest.mark.parametrize(
    ("logits", "runner_up"), [([4.0, 1.0, 0.0], 1), ([1.0, 4.0, 0.0], 1), ([0.0, 1.0, 4.0], 2), ([9.0, 0.0, 1.0], 2)]
)
def test_the_runner_up_is_the_likeliest_class_other_than_the_true_one(logits: list[float], runner_up: int) -> None:
    z = torch.tensor([logits])
    p = z.softmax(1)[0]
    wanted = -p[0].log() - (1.0001 - p[runner_up] + 1e-12).log()
    torch.testing.assert_close(boosted_cross_entropy(z, torch.tensor([0]))[0], wanted)


def test_the_weight_of_the_divergence_is_between_0_and_1_and_falls_with_confidence() -> None:
    confidence = torch.tensor([-20.0, -1.0, 0.0, 1.0, 20.0])
    logits = torch.stack([confidence, torch.zeros(5), torch.zeros(5)], 1)
    y = torch.zeros(5, dtype=torch.long)
    logits_adv = logits.roll(1, dims=1)
    divergence = F.kl_div(logits_adv.log_softmax(1), logits.softmax(1), reduction="none").sum(1)
    keep = divergence > 1e-3
    weight = (weighted_kl(logits_adv, logits, y) / divergence)[keep]
    assert ((weight >= 0) & (weight <= 1 + 1e-3)).all()
    assert (weight.diff() < 0).all()
    assert len(weight) >= 3


def test_the_gradient_flows_through_the_clean_probabilities_and_the_weight() -> None:
    logits, logits_adv = (z.requires_grad_(True) for z in random_logits(dtype=torch.float64))
    # A detached factor would not change the value, only the gradient, which is compared with differences of values.
    assert torch.autograd.gradcheck(lambda a, b: weighted_kl(a, b, Y), (logits_adv, logits))
    assert torch.autograd.gradcheck(lambda a: boosted_cross_entropy(a, Y), (logits_adv,))


class Sure(nn.Module):
    """Gives the wrong class all of the probability, in bfloat16 as under mixed precision."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 3) + 0 * x.flatten(1).sum(1, keepdim=True)
        return (logits + torch.tensor([0.0, 20.0, 0.0])).bfloat16()


def test_a_sure_mistake_costs_in_bfloat16_what_it_costs_in_float32() -> None:
    x, noise = batch(torch.zeros(24, dtype=torch.long))
    made = MART(3, attack())(Sure(), x, torch.zeros(24, dtype=torch.long), noise)
    assert float(made.loss) == pytest.approx(20 - math.log(1.0001 - 1), abs=0.01)


def test_the_attack_climbs_the_cross_entropy_from_a_jittered_start() -> None:
    assert MART(3, attack(steps=5)).attack == replace(attack(steps=5), start="jitter")
    assert MART(3, attack()).attack.loss == "cross_entropy"


def test_the_attack_is_in_eval_mode_and_one_pass_each_is_in_train_mode() -> None:
    model = Watched(network(3))
    x, noise = batch(Y)
    MART(3, attack(steps=4))(model, x, Y, noise)
    assert [mode for mode, _ in model.seen] == [False] * 4 + [True, True]
    assert torch.equal(model.seen[-2][1], x)


@pytest.mark.parametrize("beta", [-1, float("nan"), "5"])
def test_a_beta_outside_its_range_is_refused(beta: Any) -> None:
    with pytest.raises(InputError, match="setting beta"):
        MART(3, attack(), beta=beta)
