"""Temperature-PGD: the limits that it lies between, what it must not depend on, and the worst case over its grid."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from tests.models_for_tests import Affine, Smooth, labelled, pair
from tests.strategies import examples, labelled_logits
from torch import Tensor, nn

from classwise import losses
from classwise.attacks import PGD, TemperaturePGD, build, predict
from classwise.attacks.base import input_gradient
from classwise.attacks.temperature import GRID
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.threat import ThreatModel

LINF, L2 = ThreatModel("Linf", 0.1), ThreatModel("L2", 0.4)
THREATS = [LINF, L2]
SHAPE = (1, 3, 3)


def noise(n: int) -> Noise:
    return Noise(0, torch.arange(n))


def tempered(threat: ThreatModel = LINF, steps: int = 20, **settings: Any) -> TemperaturePGD:
    return TemperaturePGD(PGD(threat, steps=steps, step_size=threat.eps / 4, keep="success"), **settings)


def iterates(member: PGD, model: nn.Module, x: Tensor, y: Tensor, steps: int = 10) -> Tensor:
    """Return every iterate of one run (steps, N, ...), all from the same start."""
    runs = (replace(member, steps=s, keep="last")(model, x, y, noise=noise(len(x))) for s in range(1, steps + 1))
    return torch.stack(list(runs))


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(model(x_adv), y) != y


# The limits of the temperature.


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("start", ["clean", "uniform"])
def test_the_plain_form_at_temperature_1_is_pgd_bit_by_bit(threat: ThreatModel, start: Any) -> None:
    model = Smooth(5, 9)
    x, y = labelled(model, 50, SHAPE)
    attack = tempered(threat, form="plain")
    attack = replace(attack, pgd=replace(attack.pgd, start=start))
    expected = iterates(replace(attack.pgd, loss="cross_entropy"), model, x, y)
    assert torch.equal(iterates(attack.member(1.0), model, x, y), expected)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_at_temperature_1_it_is_pgd_iterate_by_iterate(threat: ThreatModel) -> None:
    model = Smooth(5, 9)
    x, y = labelled(model, 50, SHAPE)
    attack = tempered(threat)
    expected = iterates(replace(attack.pgd, loss="cross_entropy"), model, x, y)
    torch.testing.assert_close(iterates(attack.member(1.0), model, x, y), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_at_a_low_temperature_it_is_margin_pgd_iterate_by_iterate(threat: ThreatModel) -> None:
    model = Smooth(5, 9)
    x, y = labelled(model, 50, SHAPE)
    attack = tempered(threat)
    expected = iterates(replace(attack.pgd, loss="margin"), model, x, y)
    torch.testing.assert_close(iterates(attack.member(1e4), model, x, y), expected, rtol=0, atol=1e-4)


def test_in_between_it_is_neither() -> None:
    model = Smooth(5, 9)
    x, y = labelled(model, 50, SHAPE)
    attack = tempered(LINF)
    run = iterates(attack.member(0.1), model, x, y)
    for loss in ("cross_entropy", "margin"):
        assert (run - iterates(replace(attack.pgd, loss=loss), model, x, y)).abs().max() > 0.01


def test_at_a_high_temperature_it_climbs_the_mean_of_the_wrong_logits() -> None:
    model = Smooth(5, 9)
    x, y = labelled(model, 50, SHAPE)
    attack = replace(tempered(LINF).member(1e-5), keep="last")

    def mean_margin(logits: Tensor, y: Tensor) -> Tensor:
        true = logits.gather(1, y[:, None]).squeeze(1)
        return (logits.sum(1) - true) / (logits.shape[1] - 1) - true

    expected = attack(model, x, y, noise=noise(50), loss=mean_margin)
    close = (attack(model, x, y, noise=noise(50)) - expected).abs() < 1e-3
    assert close.float().mean() > 0.99


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("form", ["safe", "plain"])
def test_with_two_classes_the_temperature_has_no_effect(threat: ThreatModel, form: Any) -> None:
    """The logits are scaled down, as the plain form underflows at the margins of 1/T = 100 otherwise."""
    model = Smooth(2, 9, factor=0.02)
    x, y = labelled(model, 50, SHAPE)
    attack = tempered(threat, form=form)
    expected = iterates(replace(attack.pgd, loss="margin"), model, x, y)
    for inverse in GRID:
        torch.testing.assert_close(iterates(attack.member(inverse), model, x, y), expected, rtol=0, atol=1e-3)


# What must not matter.


@pytest.mark.parametrize("inverse", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_a_constant_added_to_all_logits_changes_nothing(threat: ThreatModel, inverse: float) -> None:
    model, shifted = Smooth(5, 9), Smooth(5, 9, shift=8.0)
    x, y = labelled(model, 50, SHAPE)
    member = tempered(threat).member(inverse)
    first, second = iterates(member, model, x, y), iterates(member, shifted, x, y)
    assert ((first - second).abs() < 1e-4).float().mean() > 0.999


@pytest.mark.parametrize("factor", [0.25, 3.0, 64.0])
@pytest.mark.parametrize("inverse", [0.1, 1.0, 10.0])
def test_logits_and_temperature_scale_together(factor: float, inverse: float) -> None:
    model, larger = Smooth(5, 9, factor=4.0), Smooth(5, 9, factor=4.0 * factor)
    x, y = labelled(model, 50, SHAPE)
    first = iterates(tempered().member(inverse), model, x, y)
    second = iterates(tempered(scale=factor).member(inverse), larger, x, y)
    assert ((first - second).abs() < 1e-4).float().mean() > 0.999


def test_the_scale_is_the_unit_of_the_temperature() -> None:
    assert tempered(scale=4.0).member(2.0).loss == "soft_margin(temperature=2.0)"
    assert tempered(scale=4.0).member(2.0) == tempered(scale=2.0).member(1.0) == tempered().member(0.5)


@given(labelled_logits(dtype=torch.float32))
@examples(60)
def test_no_temperature_changes_a_prediction(drawn: tuple[Tensor, Tensor]) -> None:
    """What the attack counts as a success is the model's own prediction, which no temperature changes."""
    logits, y = drawn
    for inverse in GRID:
        assert torch.equal(predict(logits * inverse, y), predict(logits, y))


@pytest.mark.parametrize("inverse", GRID)
def test_success_is_judged_on_the_logits_as_they_are(inverse: float) -> None:
    model = Smooth(5, 9)
    x, y = labelled(model, 60, SHAPE)
    x_adv, success = tempered().member(inverse).search(model, x, y, noise(60))
    assert torch.equal(success, fooled(model, x_adv, y))
    assert 0 < success.sum() < 60


# Numbers.


@pytest.mark.parametrize("inverse", GRID)
def test_safe_and_plain_agree_in_sign_where_the_margin_is_below_ten_temperatures(inverse: float) -> None:
    model = Smooth(10, 64, factor=1.0)
    x = torch.rand(2000, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    z = x.clone().requires_grad_(True)
    logits = model(z)
    y = logits.argmax(1)
    near = losses.margin(logits, y).detach().abs() * inverse < 10
    assert near.sum() > 100
    signs = [
        input_gradient(losses.named(tempered(form=form).member(inverse).loss)(model(z), y), z)[near].sign()  # type: ignore[arg-type]
        for form in ("safe", "plain")
    ]
    assert (signs[0] == signs[1]).float().mean() >= 0.999


def test_the_plain_form_is_stuck_where_it_underflows_and_the_safe_form_is_not() -> None:
    """A margin of 30 at 1/T = 10: e⁻³⁰⁰ is zero in float32, so plain gradients are zero."""
    model = pair(3, 9)
    model = Affine(10 * model.weight.detach(), 10 * model.bias.detach())
    x, _ = labelled(model, 200, SHAPE)
    y = model(x).argmax(1)
    margins = losses.margin(model(x), y)
    x, y = x[margins < -30][:20], y[margins < -30][:20]
    threat = ThreatModel("Linf", 0.5)
    safe, plain = (
        tempered(threat, inverse_temperatures=(10.0,), form=form)(model, x, y, noise=noise(20))  # type: ignore[arg-type]
        for form in ("safe", "plain")
    )
    assert fooled(model, safe, y).all()
    assert fooled(model, plain, y).float().mean() < 0.5


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("form", ["safe", "plain"])
def test_no_number_is_lost_whatever_the_size_of_the_logits(factor: float, form: Any) -> None:
    model = Smooth(5, 9, factor=factor)
    x, y = labelled(model, 20, SHAPE)
    x_adv = tempered(form=form)(model, x, y, noise=noise(20))
    assert LINF.contains(x_adv, x).all()


def test_the_safe_form_finds_the_same_images_whatever_the_size_of_the_logits() -> None:
    """At a temperature in units of the logits; for the plain form and for cross-entropy this fails."""
    found = []
    for factor in (1.0, 100.0, 1e4):
        model = Smooth(5, 9, factor=factor)
        x, y = labelled(model, 100, SHAPE)
        x_adv = tempered(scale=factor, inverse_temperatures=(1.0,))(model, x, y, noise=noise(100))
        found.append(fooled(model, x_adv, y))
    assert 0 < found[0].sum() < 100
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# The worst case over the grid.


def test_an_image_falls_exactly_where_some_temperature_fells_it() -> None:
    model = Smooth(8, 9, factor=10)
    x, y = labelled(model, 150, SHAPE)
    attack = tempered(steps=2)
    stream = noise(150)
    alone = torch.stack(
        [
            fooled(model, replace(attack, inverse_temperatures=(v,))(model, x, y, noise=stream), y)
            for v in attack.inverse_temperatures
        ]
    )
    together = fooled(model, attack(model, x, y, noise=stream), y)
    assert torch.equal(together, alone.any(0))
    assert together.sum() > alone.sum(1).max()


def test_the_first_success_is_kept() -> None:
    model = Smooth(8, 9, factor=10)
    x, y = labelled(model, 80, SHAPE)
    one, more = tempered(inverse_temperatures=(1.0,)), tempered(inverse_temperatures=(1.0, 5.0, 0.1))
    first = one(model, x, y, noise=noise(80))
    broken = fooled(model, first, y)
    assert 0 < broken.sum() < 80
    assert torch.equal(more(model, x, y, noise=noise(80))[broken], first[broken])


def test_each_temperature_starts_elsewhere() -> None:
    """With steps of length 0 only the starts differ."""
    model = pair(2, 9)
    x, y = torch.full((1, 1, 3, 3), 0.5), torch.tensor([0])
    starts = [
        TemperaturePGD(PGD(LINF, steps=1, step_size=0.0, keep="success"), (v,))(model, x, y, noise=noise(1))
        for v in (0.1, 1.0, 10.0)
    ]
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])


def test_the_order_of_the_grid_does_not_change_who_falls() -> None:
    model = Smooth(8, 9, factor=10)
    x, y = labelled(model, 100, SHAPE)
    first, second = (
        fooled(model, tempered(steps=3, inverse_temperatures=grid)(model, x, y, noise=noise(100)), y)
        for grid in (GRID, GRID[::-1])
    )
    assert torch.equal(first, second)


def test_restarts_and_targets_reach_the_members() -> None:
    attack = build("temperature-pgd(restarts=3, targets=2, steps=7, start='clean')", LINF).popitem()[1]  # type: ignore[attr-defined]
    member = attack.member(5.0)
    assert (member.restarts, member.targets, member.steps, member.start) == (3, 2, 7, "clean")


def test_a_targeted_member_goes_towards_its_target() -> None:
    model = Smooth(5, 9)
    x, y = labelled(model, 40, SHAPE)
    target = model(x).topk(2, dim=1).indices[:, 1]
    member = replace(tempered().member(0.5), targets=1, start="clean", steps=1, step_size=0.005)
    x_adv = member.search(model, x, y, noise(40))[0]
    gain = (model(x_adv).softmax(1) - model(x).softmax(1)).gather(1, target[:, None])
    assert (gain > 0).float().mean() > 0.9


# Settings.


def test_the_protocol_has_ten_temperatures() -> None:
    attack = build("temperature-pgd", ThreatModel("Linf", 8 / 255))["temperature-pgd"]
    pgd = PGD(ThreatModel("Linf", 8 / 255), step_size=2 / 255, loss="margin", keep="success")
    assert attack == TemperaturePGD(pgd, (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100), "safe", 1.0)


def test_a_member_climbs_the_loss_of_its_form_at_its_temperature() -> None:
    attack = tempered()
    assert attack.member(4.0) == replace(attack.pgd, loss="soft_margin(temperature=0.25)")
    plain = tempered(form="plain").member(4.0)
    assert plain == replace(attack.pgd, loss="tempered_cross_entropy(temperature=0.25)")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"inverse_temperatures": ()}, "at least one inverse temperature"),
        ({"inverse_temperatures": (1.0, 0.0)}, "above 0"),
        ({"inverse_temperatures": (-1.0,)}, "above 0"),
        ({"inverse_temperatures": (float("nan"),)}, "finite"),
        ({"inverse_temperatures": (1.0, float("inf"))}, "finite"),
        ({"scale": 0.0}, "above 0"),
        ({"scale": float("nan")}, "finite"),
        ({"scale": float("inf")}, "finite"),
        ({"form": "exact"}, "no form 'exact': use safe or plain"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        tempered(**settings)


def test_members_must_keep_successes() -> None:
    with pytest.raises(InputError, match='keep="success"'):
        TemperaturePGD(PGD(LINF))


@pytest.mark.parametrize("text", ["temperature-pgd(inverse_temperatures=5)", "temperature-pgd(keep='last')"])
def test_a_text_that_builds_none_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        build(text, LINF)


def test_settings_are_frozen_and_their_repr_builds_them_again() -> None:
    attack = tempered(inverse_temperatures=[1, 2], scale=3.5, form="plain")
    assert attack.inverse_temperatures == (1.0, 2.0)
    assert eval(repr(attack)) == attack
    assert hash(eval(repr(attack))) == hash(attack)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.scale = 1.0  # type: ignore[misc]
