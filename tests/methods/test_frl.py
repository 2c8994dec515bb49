"""FRL: multipliers, weights and radii by hand, and the loss they make."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from tests.methods.strategies import Watched, attack, batch, network, pass_of
from torch import Tensor

from classwise import registry
from classwise.errors import InputError
from classwise.losses import cross_entropy, kl
from classwise.methods import FRL, TRADES, Epoch, Pass
from classwise.methods.frl import capped, frl_radius, frl_weight, violation
from classwise.metrics.stats import ClassStats
from classwise.noise import Noise

Y = torch.arange(24) % 3
NOTHING = Pass(ClassStats.zeros(3), ClassStats.zeros(3))
NAMES = ["frl-rw", "frl-rm", "frl-rwrm"]
multipliers = st.lists(st.floats(-2, 2), min_size=2, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))


def build(text: str, num_classes: int = 3, **settings: Any) -> FRL:
    method: FRL = registry.build("method", text, num_classes, attack(**settings))
    return method


@settings(deadline=None)
@given(multipliers, st.floats(0.01, 0.99))
def test_weights_sum_to_1_and_no_class_falls_below_its_floor(values: Tensor, cap: float) -> None:
    phi = capped(values, cap)
    weight = frl_weight(phi)
    assert float(phi.sum()) <= cap + 1e-9
    assert (phi >= 0).all()
    assert float(weight.sum()) == pytest.approx(1)
    assert float(weight.min()) >= (1 - cap) / len(values) - 1e-9


@settings(deadline=None)
@given(multipliers)
def test_a_radius_never_shrinks_by_more_than_two_per_cent_nor_grows_beyond_its_limit(values: Tensor) -> None:
    radius = frl_radius(values, 3.0)
    assert ((radius >= 0.98) & (radius <= 3)).all()


@settings(deadline=None)
@given(multipliers, st.randoms())
def test_relabelling_the_classes_permutes_the_weights(values: Tensor, random: Any) -> None:
    order = torch.tensor(random.sample(range(len(values)), len(values)))
    torch.testing.assert_close(frl_weight(capped(values[order], 0.5)), frl_weight(capped(values, 0.5))[order])


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("frl-rw", {"beta": 1.5, "tau_clean": 0.1, "cap": 0.5, "radius_rate": 0.0, "largest": 1.0, "stretches": False}),
        ("frl-rm", {"beta": 1.0, "tau_clean": 0.1, "cap": 0.3, "radius_rate": 0.1, "largest": 2.5, "stretches": False}),
        (
            "frl-rwrm",
            {"beta": 1.5, "tau_clean": 0.07, "cap": 0.5, "radius_rate": 0.2, "largest": 3.0, "stretches": True},
        ),
    ],
)
def test_the_defaults_are_those_of_the_released_scripts(name: str, published: dict[str, Any]) -> None:
    method = build(name)
    assert {key: getattr(method, key) for key in published} == published
    assert (method.tau_boundary, method.rate, method.halving) == (published["tau_clean"], 0.05, 40)
    assert method.reweights == (name != "frl-rm")


def test_one_update_of_reweighting_by_hand() -> None:
    """Clean error 0.1, 0.1, 0.4 (mean 0.2), boundary 0.2, 0.2, 0.5 (mean 0.3), both tau 0.1.

    Violations: −0.2, −0.2, 0.1 and −0.2, −0.2, 0.1. With rate 0.05 the third class gets 0.005 and, twice as far, 0.01.
    Weights: 1/3 + φ − mean φ, with means 0.005/3 and 0.01/3.
    """
    method = build("frl-rw")
    method.start_from(pass_of(clean=[0.9, 0.9, 0.6], robust=[0.7, 0.7, 0.1]))
    assert method.clean.tolist() == pytest.approx([0, 0, 0.005])
    assert method.boundary.tolist() == pytest.approx([0, 0, 0.01])
    assert frl_weight(method.clean).tolist() == pytest.approx([(1 - 0.005) / 3] * 2 + [1 / 3 + 0.01 / 3])
    assert method.psi.tolist() == [0, 0, 0]


def test_one_update_of_remargin_by_hand() -> None:
    """The same errors as above: ψ moves by 0.1·violation and may fall, the boundary multipliers rest.

    ψ = −0.02, −0.02, 0.01; radii exp(−0.04) = 0.961, cut to 0.98, and exp(0.02) = 1.0202.
    """
    method = build("frl-rm")
    method.start_from(pass_of(clean=[0.9, 0.9, 0.6], robust=[0.7, 0.7, 0.1]))
    assert method.clean.tolist() == pytest.approx([0, 0, 0.005])
    assert method.boundary.tolist() == [0, 0, 0]
    assert method.psi.tolist() == pytest.approx([-0.02, -0.02, 0.01])
    assert frl_radius(method.psi, 2.5).tolist() == pytest.approx([0.98, 0.98, math.exp(0.02)])


def test_multipliers_beyond_the_cap_are_scaled_down_to_it() -> None:
    assert capped(torch.tensor([-1.0, 0.6, 0.9]), 0.5).tolist() == pytest.approx([0, 0.2, 0.3])


def test_the_rate_halves_before_every_fortieth_epoch() -> None:
    """What is learnt after epoch number + 1 serves epoch number + 2; the one before the first counts for epoch 1."""
    moved = []
    for number in (-1, 37, 38, 77, 78):
        method, errors = build("frl-rw"), pass_of(clean=[0.9, 0.9, 0.6], robust=[0.7, 0.7, 0.1])
        if number < 0:
            method.start_from(errors)
        else:
            method.end_epoch(Epoch(number, NOTHING, None, errors))
        moved.append(float(method.clean[2]))
    assert moved == pytest.approx([0.005, 0.005, 0.0025, 0.0025, 0.00125])


@pytest.mark.parametrize("name", NAMES)
def test_multipliers_decay_to_nothing_and_weights_to_equal_ones_once_all_constraints_are_met(name: str) -> None:
    method = build(name)
    method.start_from(pass_of(clean=[0.9, 0.9, 0.4], robust=[0.7, 0.7, 0.0]))
    assert float(method.clean.sum()) > 0
    for number in range(30):
        method.end_epoch(Epoch(number, NOTHING, None, pass_of(clean=[0.8] * 3, robust=[0.5] * 3)))
    for state in (method.clean, method.boundary):
        assert state.tolist() == [0, 0, 0]
        assert frl_weight(state).tolist() == pytest.approx([1 / 3] * 3)


def test_a_class_without_held_out_images_violates_nothing() -> None:
    assert violation(torch.tensor([0.2, math.nan, 0.6]), 0.1).tolist() == pytest.approx([-0.3, 0, 0.1])


@pytest.mark.parametrize("name", NAMES)
def test_with_multipliers_of_zero_it_is_trades(name: str) -> None:
    x, noise = batch(Y)
    found = build(f"{name}(beta=2)")(network(3), x, Y, noise)
    torch.testing.assert_close(found.loss, TRADES(3, attack(), beta=2)(network(3), x, Y, noise).loss)


def test_each_term_is_the_mean_weighted_by_its_own_multipliers() -> None:
    method, y = build("frl-rw(beta=2)"), torch.tensor([0] * 14 + [1] * 7 + [2] * 3)
    method.clean.copy_(torch.tensor([0.0, 0.1, 0.3]))
    method.boundary.copy_(torch.tensor([0.2, 0.0, 0.1]))
    x, noise = batch(y)
    step = method(network(3), x, y, noise)
    logits, logits_adv = step.logits.detach(), step.logits_adv.detach()
    errors = cross_entropy(logits, y), kl(logits_adv, logits)
    weights = [(1 / 3 + phi - phi.mean())[y] for phi in (method.clean, method.boundary)]
    wanted = [float((w * e).sum() / w.sum()) for w, e in zip(weights, errors, strict=True)]
    assert float(step.loss.detach()) == pytest.approx(wanted[0] + 2 * wanted[1], rel=1e-5)


@pytest.mark.parametrize(("name", "factor"), [("frl-rm", 2.5), ("frl-rwrm", 3.0)])
def test_a_class_is_attacked_within_its_own_radius_as_far_as_its_limit(name: str, factor: float) -> None:
    """In ten steps of ε/4 and with steps stretched to the radius, both limits are reached to within a pixel or so."""
    method = build(name, eps=0.02, steps=10)
    method.psi.copy_(torch.tensor([0.0, 5.0, -5.0]))
    model = Watched(network(3))
    x, noise = batch(Y)
    method(model, x, Y, noise)
    moved = (model.seen[-1][1] - x).abs().amax((1, 2, 3)) / 0.02
    assert [float(moved[c == Y].max()) for c in range(3)] == pytest.approx([1, factor, 0.98], rel=0.02)


def test_steps_are_stretched_to_the_largest_radius_in_the_batch_alone() -> None:
    method = build("frl-rwrm")
    radius = torch.tensor([1.0, 3.0, 2.0])
    assert method._step(radius, torch.tensor([0, 2, 2])).tolist() == [2, 2, 2]  # type: ignore[union-attr]
    assert build("frl-rm")._step(radius, Y) is None


def test_it_measures_with_twenty_steps_and_no_wrong_image_becomes_right() -> None:
    method, model = build("frl-rw"), network(3).eval()
    x, _ = batch(Y)
    found = method.measure(model, x, Y, Noise(0, torch.arange(24)))
    assert method.examiner.steps == 20
    wrong = found.logits.argmax(1) != Y
    assert wrong.any()
    assert (found.logits_adv.argmax(1) != Y)[wrong].all()


@pytest.mark.parametrize(
    "text",
    [
        "frl-rw(beta=-1)",
        "frl-rw(rate='a')",
        "frl-rw(halving=0)",
        "frl-rw(largest=0.9)",
        "frl-rm(cap=0)",
        "frl-rm(cap=1)",
        "frl-rm(reweights=1)",
    ],
)
def test_a_setting_outside_its_range_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="setting " + text.partition("(")[2].partition("=")[0]):
        build(text)
