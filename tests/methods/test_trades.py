"""TRADES against its formula, and against standard training where the divergence has no weight."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods.strategies import Watched, attack, batch, network
from torch import Tensor

from classwise.errors import InputError
from classwise.methods import TRADES, Standard
from classwise.methods.trades import trades_loss

Y = torch.arange(24) % 3


def random_logits(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.randn(2, 24, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return 3 * draw[0], 3 * draw[1]


def test_the_loss_is_the_formula_of_the_paper() -> None:
    logits, logits_adv = random_logits()
    p, p_adv = logits.softmax(1), logits_adv.softmax(1)
    divergence = sum(float(p[i, j] * (p[i, j] / p_adv[i, j]).log()) for i in range(24) for j in range(3)) / 24
    wanted = float(F.cross_entropy(logits, Y)) + 6 * divergence
    assert float(trades_loss(logits_adv, logits, Y, 6.0).mean()) == pytest.approx(wanted, rel=1e-5)


def test_the_loss_of_a_batch_is_that_of_one_clean_and_one_attacked_pass() -> None:
    model = network(3)
    x, noise = batch(Y)
    method, twin = TRADES(3, attack(), beta=2.0), copy.deepcopy(model)
    x_adv = method.attack(copy.deepcopy(model), x, Y, noise=noise)
    made = method(model, x, Y, noise)
    logits, logits_adv = twin(x), twin(x_adv)
    assert torch.equal(made.logits, logits)
    assert torch.equal(made.logits_adv, logits_adv)
    divergence = F.kl_div(logits_adv.log_softmax(1), logits.softmax(1), reduction="batchmean")
    torch.testing.assert_close(made.loss, F.cross_entropy(logits, Y) + 2 * divergence)


def test_without_beta_its_weights_move_as_in_standard_training() -> None:
    robust, plain = network(3), network(3)
    x, noise = batch(Y)
    for model, method in ((robust, TRADES(3, attack(), beta=0)), (plain, Standard(3, attack()))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for number in range(5):
            optimizer.zero_grad()
            method(model, x, Y, noise.fold(number)).loss.backward()
            optimizer.step()
    for one, other in zip(robust.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_divergence_is_never_negative_and_zero_where_nothing_was_moved() -> None:
    for seed in range(20):
        logits, logits_adv = random_logits(seed)
        divergence = trades_loss(logits_adv, logits, Y, 1.0) - trades_loss(logits, logits, Y, 1.0)
        assert (divergence > 0).all()
        torch.testing.assert_close(trades_loss(logits, logits, Y, 6.0), F.cross_entropy(logits, Y, reduction="none"))


def test_at_a_radius_of_zero_the_loss_is_the_clean_cross_entropy() -> None:
    x, noise = batch(Y)
    made = TRADES(3, attack(eps=0))(network(3), x, Y, noise)
    torch.testing.assert_close(made.loss, F.cross_entropy(network(3)(x), Y))


def test_the_gradient_reaches_both_arguments_of_the_divergence() -> None:
    logits, logits_adv = (z.requires_grad_(True) for z in random_logits(dtype=torch.float64))
    (trades_loss(logits_adv, logits, Y, 1.0).sum() - F.cross_entropy(logits, Y, reduction="sum")).backward()
    for z in (logits, logits_adv):
        assert z.grad is not None
        assert (z.grad.abs().sum(1) > 1e-3).all()
    # The numerical gradient knows of no detached term.
    assert torch.autograd.gradcheck(lambda a, b: trades_loss(a, b, Y, 6.0), (logits_adv, logits))


def test_the_attack_climbs_the_divergence_from_a_jittered_start() -> None:
    assert TRADES(3, attack(steps=5)).attack == replace(attack(steps=5), loss="kl", start="jitter")


def test_the_attack_is_in_eval_mode_and_one_pass_each_is_in_train_mode() -> None:
    model = Watched(network(3))
    x, noise = batch(Y)
    method = TRADES(3, attack(steps=4))
    method(model, x, Y, noise)
    assert [mode for mode, _ in model.seen] == [False] * (1 + 4) + [True, True]
    assert torch.equal(model.seen[-2][1], x)
    assert method.attack.threat.contains(model.seen[-1][1], x).all()
    assert not torch.equal(model.seen[-1][1], x)


@pytest.mark.parametrize("beta", [-1, float("nan"), float("inf"), "6", None, True])
def test_a_beta_outside_its_range_is_refused(beta: Any) -> None:
    with pytest.raises(InputError, match="setting beta"):
        TRADES(3, attack(), beta=beta)
