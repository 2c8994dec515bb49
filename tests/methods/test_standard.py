"""Standard training: the cross-entropy on clean images, and no attack at all."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from tests.methods.strategies import attack, batch, network

from classwise.methods import Standard

Y = torch.arange(24) % 3


def test_the_loss_is_the_mean_cross_entropy_on_the_clean_images() -> None:
    model = network(3)
    x, noise = batch(Y)
    logits = copy.deepcopy(model)(x)
    made = Standard(3, attack())(model, x, Y, noise)
    assert torch.equal(made.logits, logits)
    torch.testing.assert_close(made.loss, F.cross_entropy(logits, Y))


def test_nothing_is_attacked() -> None:
    seen = []
    model = network(3)
    model[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x, noise = batch(Y)
    assert Standard(3, attack())(model, x, Y, noise).logits_adv is None
    assert len(seen) == 1
    assert torch.equal(seen[0], x)
