"""CFA: radius and β by class, by hand, and the losses they make."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests.methods.strategies import Watched, attack, batch, network, pass_of
from torch import Tensor

from classwise import registry
from classwise.errors import InputError
from classwise.losses import cross_entropy, kl
from classwise.methods import AT, CFA, TRADES, Epoch

Y = torch.arange(24) % 3
NAMES = ["cfa-ccm", "cfa-ccm(base='trades')", "cfa-ccr", "cfa"]


def build(text: str, **settings: Any) -> CFA:
    method: CFA = registry.build("method", text, 3, attack(**settings))
    return method


def after(method: CFA, robust: list[float], number: int = 0) -> CFA:
    """Return the method after an epoch with these robust class accuracies on the training images."""
    method.end_epoch(Epoch(number, pass_of(robust=robust), None))
    return method


@pytest.mark.parametrize(
    ("text", "radius", "strength"),
    [
        ("cfa-ccm", [0.6, 0.9, 1.3], [1, 1, 1]),
        ("cfa-ccm(base='trades')", [0.4, 0.7, 1.1], [1, 1, 1]),
        ("cfa-ccm(lambda1=0.7)", [0.8, 1.1, 1.5], [1, 1, 1]),
        ("cfa-ccr", [1, 1, 1], [0.6, 0.9, 1.3]),
        ("cfa", [0.4, 0.7, 1.1], [0.6, 0.9, 1.3]),
    ],
)
def test_radius_and_beta_are_the_robust_accuracy_plus_lambda(
    text: str, radius: list[float], strength: list[float]
) -> None:
    """λ₁ is 0.5 for adversarial training and 0.3 for TRADES, λ₂ is 0.5; the accuracies are 0.1, 0.4 and 0.8."""
    method = after(build(text), [0.1, 0.4, 0.8])
    assert method.radius.tolist() == pytest.approx(radius)
    assert method.strength.tolist() == pytest.approx(strength)


@pytest.mark.parametrize("robust", [[0.0] * 3, [1.0] * 3, [0.0, 0.5, 1.0]])
def test_radii_stay_between_lambda_and_lambda_plus_1(robust: list[float]) -> None:
    radius = after(build("cfa"), robust).radius
    assert ((radius >= 0.3) & (radius <= 1.3)).all()
    assert len(radius.unique()) == len(set(robust)), "equal statistics give equal radii"


@pytest.mark.parametrize("text", NAMES)
def test_a_class_that_was_not_seen_keeps_what_it_had(text: str) -> None:
    first = after(build(text), [0.1, 0.4, 0.8])
    second = after(copy.deepcopy(first), [0.3, math.nan, 0.3], number=1)
    for now, before in ((second.radius, first.radius), (second.strength, first.strength)):
        assert now[1] == before[1]
    assert not torch.equal(second.radius + second.strength, first.radius + first.strength)


def test_before_its_first_epoch_every_class_is_alike() -> None:
    method = build("cfa(begin=4)")
    ones = [torch.equal(after(method, [0.1, 0.4, 0.8], number).radius, torch.ones(3)) for number in range(4)]
    assert ones == [True, True, False, False], "epoch 4 is the one after three are finished"


@pytest.mark.parametrize(
    ("text", "base"), [("cfa-ccm", AT(3, attack())), ("cfa-ccm(base='trades')", TRADES(3, attack()))]
)
def test_in_the_first_epoch_calibrated_margin_is_its_base(text: str, base: AT | TRADES) -> None:
    x, noise = batch(Y)
    assert torch.equal(build(text)(network(3), x, Y, noise).loss, base(network(3), x, Y, noise).loss)


def test_in_the_first_epoch_calibrated_regularisation_is_trades_divided_by_one_plus_beta() -> None:
    x, noise = batch(Y)
    plain = TRADES(3, attack(), beta=3)(network(3), x, Y, noise).loss
    torch.testing.assert_close(build("cfa-ccr(beta=3)")(network(3), x, Y, noise).loss, plain / 4)


@pytest.mark.parametrize("text", ["cfa-ccr(beta=3)", "cfa(beta=3)"])
def test_each_image_mixes_both_terms_by_the_beta_of_its_class(text: str) -> None:
    method = after(build(text), [0.1, 0.4, 0.8])
    x, noise = batch(Y)
    step = method(network(3), x, Y, noise)
    beta = 3 * torch.tensor([0.6, 0.9, 1.3])[Y]
    wanted = (cross_entropy(step.logits, Y) + beta * kl(step.logits_adv, step.logits)) / (1 + beta)
    torch.testing.assert_close(step.loss, wanted.mean())


def furthest(method: CFA) -> list[float]:
    """Return how far the images of each class are moved, in units of ε."""
    x, noise = batch(Y)
    model = Watched(network(3))
    method(model, x, Y, noise)
    moved: Tensor = (model.seen[-1][1] - x).abs().amax((1, 2, 3)) / method.attack.threat.eps
    return [float(moved[c == Y].max()) for c in range(3)]


def test_each_class_is_attacked_within_its_own_radius_with_the_common_step() -> None:
    assert furthest(after(build("cfa", steps=10), [0.1, 0.4, 0.8])) == pytest.approx([0.4, 0.7, 1.1], rel=1e-3)
    # One step of half the radius, from 0.001 or less away from x.
    assert furthest(after(build("cfa", steps=1), [0.4, 0.4, 0.4])) == pytest.approx([0.5] * 3, abs=0.05)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cfa-ccm(base='fat')", "no base 'fat'"),
        ("cfa-ccm(beta=3)", "'at' has one term and no beta"),
        ("cfa-ccm(lambda1=-1)", "setting lambda1"),
        ("cfa-ccr(lambda2=-1)", "setting lambda2"),
        ("cfa(begin=1)", "setting begin"),
        ("cfa(beta=-1)", "setting beta"),
    ],
)
def test_a_setting_outside_its_range_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(text)
