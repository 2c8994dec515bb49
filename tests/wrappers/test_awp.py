"""AWP: the perturbation has the length it should, the images are attacked once at w, and w itself never moves."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from tests.methods import strategies
from torch import Tensor, nn

from classwise import models, registry
from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods import AT, Method, Step
from classwise.noise import Noise
from classwise.threat import ThreatModel
from classwise.wrappers import AWP
from classwise.wrappers.awp import perturbed, scaled

ATTACK = PGD(ThreatModel("Linf", 0.1), steps=3, step_size=0.05)
METHODS = registry.names("method")
N = 12


def network(method: Method | None = None) -> nn.Module:
    """Return a network with BatchNorm, which ends in the head that a method asks for, if it asks for one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).train()
        head = getattr(method, "head", None)
        if head is not None:
            models.put_head(model, head)
    return model


def batch() -> tuple[Tensor, Tensor, Noise]:
    noise = Noise(3, torch.arange(N))
    return noise.fold("x").uniform((1, 4, 4)), torch.arange(N) % 3, noise


def gradients(wrapper: AWP | None, method: Method, model: nn.Module) -> dict[str, Tensor]:
    x, y, noise = batch()
    step = method(model, x, y, noise) if wrapper is None else wrapper.step(method, model, x, y, noise, torch.clone)
    step.loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_every_weight_moves_by_gamma_of_its_own_norm_along_the_gradient() -> None:
    model, (x, y, _) = network(), batch()
    loss = cross_entropy(model(x), y).mean()
    shift = AWP(gamma=0.02).shift(loss, model, torch.clone)
    assert set(shift) == {"0.weight", "4.weight"}
    loss = cross_entropy(model(x), y).mean()
    for name, value in shift.items():
        weight = model.get_parameter(name)
        assert value.norm().item() == pytest.approx(0.02 * weight.norm().item(), rel=1e-5)
        gradient = torch.autograd.grad(loss, weight, retain_graph=True)[0]
        assert float(nn.functional.cosine_similarity(value.flatten(), gradient.flatten(), 0)) > 0.9999


def test_the_scale_of_the_gradient_and_so_the_proxys_rate_does_not_matter() -> None:
    drawn = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(3, 4, generator=drawn), torch.randn(3, 4, generator=drawn)
    torch.testing.assert_close(scaled(weight, gradient, 0.01), scaled(weight, gradient * 1e-6, 0.01))
    assert torch.equal(scaled(weight, torch.zeros(3, 4), 0.01), torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("name", "shape", "moves"),
    [("0.weight", (3, 3), True), ("1.weight", (3,), False), ("0.bias", (3,), False), ("scale", (3, 3), False)],
)
def test_only_weights_of_two_dimensions_and_more_are_moved(name: str, shape: tuple[int, ...], moves: bool) -> None:
    assert perturbed(name, nn.Parameter(torch.ones(shape))) is moves


def test_a_frozen_weight_is_not_moved() -> None:
    assert not perturbed("0.weight", nn.Parameter(torch.ones(3, 3), requires_grad=False))


@pytest.mark.parametrize("method", METHODS)
def test_without_gamma_it_is_the_method_itself(method: str) -> None:
    built = [strategies.method(method, 3, ATTACK) for _ in range(2)]
    one, other = network(built[0]), network(built[1])
    plain, wrapped = gradients(None, built[0], one), gradients(AWP(gamma=0), built[1], other)
    for name, value in plain.items():
        torch.testing.assert_close(wrapped[name], value, rtol=1e-5, atol=1e-7)
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    for name, value in built[0].state_dict().items():
        torch.testing.assert_close(built[1].state_dict()[name], value)


def test_the_gradient_is_that_of_the_loss_at_w_plus_v_on_images_crafted_at_w() -> None:
    model, (x, y, noise) = network(), batch()
    x_adv = ATTACK(model, x, y, noise=noise)
    by_hand = copy.deepcopy(model)
    first = copy.deepcopy(model)
    shift = AWP(gamma=0.05).shift(cross_entropy(first(x_adv), y).mean(), first, torch.clone)
    with torch.no_grad():
        for name, value in shift.items():
            by_hand.get_parameter(name).add_(value)
    cross_entropy(by_hand(x_adv), y).mean().backward()
    found = gradients(AWP(gamma=0.05), AT(3, ATTACK), model)
    plain = gradients(None, AT(3, ATTACK), network())
    for name, value in found.items():
        torch.testing.assert_close(value, by_hand.get_parameter(name).grad)
    assert not torch.allclose(found["4.weight"], plain["4.weight"], rtol=1e-3)
    for name, value in by_hand.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), value)


@pytest.mark.parametrize("method", METHODS)
def test_the_weights_stay_where_they_are_and_batchnorm_counts_one_pass(method: str) -> None:
    built = [strategies.method(method, 3, ATTACK) for _ in range(2)]
    model, plain = network(built[0]), network(built[1])
    before = copy.deepcopy(dict(model.named_parameters()))
    gradients(AWP(gamma=0.1), built[0], model)
    gradients(None, built[1], plain)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert model[1].num_batches_tracked == plain[1].num_batches_tracked


def test_images_are_attacked_once_and_at_the_weights_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    attack = PGD.__call__

    def counted(self: PGD, model: nn.Module, *args: Any, **settings: Any) -> Tensor:
        seen.append(attack(self, model, *args, **settings))
        return seen[-1]

    monkeypatch.setattr(PGD, "__call__", counted)
    method = AT(3, ATTACK)
    gradients(AWP(gamma=0.1), method, network())
    assert len(seen) == 1
    gradients(None, AT(3, ATTACK), network())
    assert torch.equal(seen[0], seen[1])
    assert method.attack == ATTACK, "put back"


class Own(Method):
    """Attacks on its own, past its ``attack``, as a method with an unusual attack may; keeps what it made."""

    def __init__(self) -> None:
        super().__init__(3, ATTACK)
        self.made: list[Tensor] = []

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        own = PGD(self.attack.threat, steps=self.attack.steps, step_size=self.attack.length)
        self.made.append(own(model, x, y, noise=noise))
        logits = model(self.made[-1])
        return Step(cross_entropy(logits, y).mean(), logits)


def test_an_attack_of_the_methods_own_still_sees_the_weights_themselves() -> None:
    own = Own()
    found = gradients(AWP(gamma=0.1), own, network())
    assert torch.equal(*own.made)
    for name, value in gradients(AWP(gamma=0.1), AT(3, ATTACK), network()).items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", METHODS)
def test_both_passes_train_on_the_same_images(name: str, mode: Literal["eval", "train"]) -> None:
    """An attack that a method repeats in the second pass must not see w + v, whatever BatchNorm's mode."""
    method = strategies.method(name, 3, replace(ATTACK, mode=mode))
    model, passes = network(method), list[list[Tensor]]()
    method.register_forward_pre_hook(lambda *_: passes.append([]))
    model.register_forward_pre_hook(lambda _, given: passes[-1].append(given[0].clone()))
    gradients(AWP(gamma=0.5), method, model)
    first, second = ([x for x in shown if not x.requires_grad] for shown in passes)
    assert second
    assert all(torch.equal(*pair) for pair in zip(first[-len(second) :], second, strict=True))


class Tracing(Method):
    """Weighs images by how often its attack saw them right, as GAIRAT does, and moves what came out in place."""

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        right = torch.zeros(len(y))

        def counting(logits: Tensor, y: Tensor) -> Tensor:
            right.add_((logits.argmax(1) == y).float())
            return cross_entropy(logits, y)

        traced = self.attack(model, x, y, noise=noise, loss=counting)
        x_adv = self.attack(model, x, y, noise=noise.fold("again"))
        x_adv += 0.5 * (traced - x_adv)
        logits = model(x_adv)
        return Step(((1 + right) * cross_entropy(logits, y)).mean(), logits)


def test_a_method_that_watches_its_attack_sees_the_same_in_both_passes() -> None:
    plain = gradients(None, Tracing(3, ATTACK), network())
    for name, value in gradients(AWP(gamma=0), Tracing(3, ATTACK), network()).items():
        torch.testing.assert_close(value, plain[name], rtol=1e-5, atol=1e-7)


class Counting(AT):
    """Counts the batches it has seen."""

    def __init__(self) -> None:
        super().__init__(3, ATTACK)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        self.seen += 1
        return super().forward(model, x, y, noise)


def test_class_state_counts_one_pass() -> None:
    method = Counting()
    gradients(AWP(gamma=0.1), method, network())
    assert method.seen == 1


@pytest.mark.parametrize("settings", [{"gamma": -0.1}, {"gamma": float("nan")}, {"gamma": True}, {"start": -1}])
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"The {next(iter(settings))} of awp is"):
        AWP(**settings)
