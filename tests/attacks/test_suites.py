"""Suites: which attacks a name stands for."""

from __future__ import annotations

import pytest
from tests.strategies import NORMS

from classwise import registry
from classwise.attacks import PGD, TemperaturePGD, build
from classwise.attacks.temperature import GRID
from classwise.errors import InputError
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 8 / 255)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", registry.names("suite"))
def test_every_attack_of_a_suite_is_built_again_by_its_own_name(name: str, norm: str) -> None:
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    attacks = build(name, threat)
    assert attacks
    assert {key: build(key, threat)[key] for key in attacks} == dict(attacks)


def test_quick_is_three_attacks_of_one_restart() -> None:
    attacks = build("quick", THREAT)
    assert list(attacks) == ["fgsm", "pgd", "margin-pgd"]
    assert all(isinstance(attack, PGD) and attack.restarts == 1 for attack in attacks.values())


def test_pgd_family_holds_the_temperature_grid() -> None:
    attacks = build("pgd-family", THREAT)
    assert list(attacks) == ["pgd", "margin-pgd", "temperature-pgd"]
    assert attacks["temperature-pgd"].inverse_temperatures == GRID  # type: ignore[attr-defined]


def test_temperature_curve_is_one_attack_a_temperature() -> None:
    attacks = list(build("temperature-curve", THREAT).values())
    assert all(isinstance(attack, TemperaturePGD) for attack in attacks)
    assert [attack.inverse_temperatures for attack in attacks] == [(v,) for v in GRID]  # type: ignore[attr-defined]


def test_settings_of_temperature_curve_are_in_the_names_of_its_attacks() -> None:
    attacks = build("temperature-curve(steps=5, form='plain')", THREAT)
    assert next(iter(attacks)) == "temperature-pgd(inverse_temperatures=[0.1], steps=5, form='plain')"
    assert {key: build(key, THREAT)[key] for key in attacks} == dict(attacks)
    assert {(a.pgd.steps, a.form) for a in attacks.values()} == {(5, "plain")}  # type: ignore[attr-defined]


def test_a_suite_refuses_settings_that_it_does_not_take() -> None:
    with pytest.raises(InputError, match="The suite quick has no setting 'steps'"):
        build("quick(steps=5)", THREAT)
