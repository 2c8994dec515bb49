"""Adversarial logit pairing against its formula and its limits."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.methods.strategies import Watched, attack, batch, network

from classwise.errors import InputError
from classwise.methods import ALP
from classwise.methods.alp import alp_loss

Y = torch.arange(24) % 3


def test_the_loss_of_a_batch_is_the_formula_on_one_clean_and_one_attacked_pass() -> None:
    model = network(3)
    x, noise = batch(Y)
    method, twin = ALP(3, attack(), beta=0.7), copy.deepcopy(model)
    x_adv = attack()(copy.deepcopy(model), x, Y, noise=noise)
    made = method(model, x, Y, noise)
    logits, logits_adv = twin(x), twin(x_adv)
    assert torch.equal(made.logits, logits)
    assert torch.equal(made.logits_adv, logits_adv)
    errors = (F.cross_entropy(logits, Y) + F.cross_entropy(logits_adv, Y)) / 2
    torch.testing.assert_close(made.loss, errors + 0.7 * F.mse_loss(logits, logits_adv))


def test_the_square_error_is_a_mean_over_classes() -> None:
    logits, y = torch.zeros(2, 100), torch.tensor([0, 5])
    moved = logits.clone()
    moved[:, 7] = 10.0
    pairing = alp_loss(moved, logits, y, 1.0) - alp_loss(moved, logits, y, 0.0)
    torch.testing.assert_close(pairing, torch.tensor([1.0, 1.0]))


def test_at_a_radius_of_zero_the_loss_is_the_cross_entropy() -> None:
    x, noise = batch(Y)
    made = ALP(3, attack(eps=0))(network(3), x, Y, noise)
    torch.testing.assert_close(made.loss, F.cross_entropy(network(3)(x), Y))


def test_without_beta_the_loss_is_half_clean_and_half_attacked() -> None:
    x, noise = batch(Y)
    made = ALP(3, attack(), beta=0)(network(3), x, Y, noise)
    halves = F.cross_entropy(made.logits, Y) / 2 + F.cross_entropy(made.logits_adv, Y) / 2
    torch.testing.assert_close(made.loss, halves)


def test_the_gradient_of_the_pairing_flows_through_both_passes() -> None:
    generator = torch.Generator().manual_seed(0)
    both = [torch.randn(24, 3, generator=generator, dtype=torch.float64).requires_grad_(True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: alp_loss(a, b, Y, 0.5), both)


def test_the_attack_is_that_of_adversarial_training_in_eval_mode() -> None:
    model = Watched(network(3))
    x, noise = batch(Y)
    method = ALP(3, attack(steps=4))
    method(model, x, Y, noise)
    assert method.attack == attack(steps=4)
    assert [mode for mode, _ in model.seen] == [False] * 4 + [True, True]
    assert torch.equal(model.seen[-2][1], x)


def test_a_beta_below_zero_is_refused() -> None:
    with pytest.raises(InputError, match="setting beta"):
        ALP(3, attack(), beta=-0.5)
