"""Adversarial training against formulas by hand."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.methods.strategies import attack, batch, network
from torch import Tensor, nn

from classwise.methods import AT, Standard

Y = torch.arange(24) % 3


def test_the_loss_is_the_mean_cross_entropy_on_the_images_of_its_attack() -> None:
    model = network(3)
    x, noise = batch(Y)
    method = AT(3, attack())
    x_adv = method.attack(copy.deepcopy(model), x, Y, noise=noise)
    twin = copy.deepcopy(model)
    made = method(model, x, Y, noise)
    logits = twin(x_adv)
    assert torch.equal(made.logits_adv, logits)
    torch.testing.assert_close(made.loss, F.cross_entropy(logits, Y))
    assert made.logits is None


def test_the_batchnorm_statistics_are_those_of_one_pass_over_the_attacked_images() -> None:
    model = network(3)
    x, noise = batch(Y)
    x_adv = attack()(copy.deepcopy(model), x, Y, noise=noise)
    twin = copy.deepcopy(model)
    twin(x_adv)
    AT(3, attack())(model, x, Y, noise)
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_attack_sees_batchnorm_in_the_mode_it_is_told(mode: str) -> None:
    seen: list[bool] = []
    model = network(3)
    model[2].register_forward_pre_hook(lambda module, _: seen.append(module.training))
    x, noise = batch(Y)
    AT(3, attack(steps=3, mode=mode))(model, x, Y, noise)
    assert seen == [mode == "train"] * 3 + [True]


def test_the_attacked_images_stay_in_the_threat_set() -> None:
    seen: list[Tensor] = []
    model = network(3)
    x, noise = batch(Y)
    method = AT(3, attack())
    model[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    method(model, x, Y, noise)
    assert method.attack.threat.contains(seen[-1], x).all()
    assert not torch.equal(seen[-1], x)


def test_the_loss_under_attack_is_no_lower_than_the_clean_loss_on_average() -> None:
    worse = []
    for seed in range(20):
        model = network(3, seed)
        x, noise = batch(Y)
        # Without BatchNorm's dependence on the batch, whose statistics move with the attack.
        model[2].eval()
        clean = F.cross_entropy(model(x), Y)
        worse.append(float((AT(3, attack())(model, x, Y, noise).loss - clean).detach()))
    assert sum(worse) / len(worse) > 0.01
    assert sum(gain >= 0 for gain in worse) >= 19


def test_at_a_radius_of_zero_it_is_standard_training_step_for_step() -> None:
    robust, plain = network(3), network(3)
    x, noise = batch(Y)
    for model, method in ((robust, AT(3, attack(eps=0))), (plain, Standard(3, attack(eps=0)))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for number in range(5):
            optimizer.zero_grad()
            method(model, x, Y, noise.fold(number)).loss.backward()
            optimizer.step()
    for name, value in robust.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_another_epoch_starts_the_attack_elsewhere() -> None:
    model: nn.Module = network(3)
    x, noise = batch(Y)
    first, second = (AT(3, attack())(model.eval(), x, Y, noise.fold(epoch)).loss for epoch in (0, 1))
    assert not torch.equal(first, second)
