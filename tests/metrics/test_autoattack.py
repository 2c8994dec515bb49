"""AutoAttack is said of settings alone, and only if every one of them is the released version's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from classwise.attacks import APGD, Ensemble, EoT, build
from classwise.attacks.pgd import PGD
from classwise.metrics.autoattack import version
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 8 / 255)
STANDARD: Ensemble = build("autoattack", THREAT)["autoattack"]  # type: ignore[assignment]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("kind", ["standard", "plus", "rand"])
def test_each_registered_version_is_recognised_in_every_norm(norm: Any, kind: str) -> None:
    name = "autoattack" if kind == "standard" else f"autoattack-{kind}"
    assert version(repr(build(name, ThreatModel(norm, 0.5))[name])) == kind


def with_member(place: int, **changes: Any) -> Ensemble:
    members = list(STANDARD.attacks)
    members[place] = dataclasses.replace(members[place], **changes)  # type: ignore[type-var]
    return Ensemble(tuple(members))


NEAR = {
    "99 steps of APGD-CE": lambda: with_member(0, steps=99),
    "two restarts of APGD-CE": lambda: with_member(0, restarts=2),
    "another loss": lambda: with_member(0, loss="margin"),
    "another decay of steps": lambda: with_member(0, rho=0.7),
    "99 steps of APGD-T": lambda: with_member(1, steps=99),
    "8 targets of APGD-T": lambda: with_member(1, targets=8),
    "APGD-T on the cross-entropy": lambda: with_member(1, loss="cross_entropy"),
    "8 targets of FAB": lambda: with_member(2, targets=8),
    "99 steps of FAB": lambda: with_member(2, steps=99),
    "another step of FAB": lambda: with_member(2, eta=1.0),
    "4,999 queries": lambda: with_member(3, queries=4999),
    "smaller squares": lambda: with_member(3, p_init=0.3),
    "another loss of Square": lambda: with_member(3, loss="cross_entropy"),
    "a member missing": lambda: Ensemble(STANDARD.attacks[:3]),
    "a member twice": lambda: Ensemble((*STANDARD.attacks, STANDARD.attacks[3])),
    "another order": lambda: Ensemble(STANDARD.attacks[::-1]),
    "PGD in the place of APGD": lambda: Ensemble((PGD(THREAT, steps=100), *STANDARD.attacks[1:])),
    "a mean over passes": lambda: EoT(STANDARD),
    "its first member alone": lambda: APGD(THREAT, steps=100),
    "4 of the 5 restarts in L1": lambda: replaced_in_l1(0, restarts=4),
    "the 9 targets of other norms in L1": lambda: replaced_in_l1(1, targets=9),
    "4 restarts of version plus": lambda: in_version("autoattack-plus", 0, restarts=4),
    "19 passes of version rand": lambda: build("autoattack-rand(samples=19)", THREAT)["autoattack-rand(samples=19)"],
}


def replaced_in_l1(place: int, **changes: Any) -> Ensemble:
    return in_version("autoattack", place, ThreatModel("L1", 12.0), **changes)


def in_version(name: str, place: int, threat: ThreatModel = THREAT, **changes: Any) -> Ensemble:
    members = list(build(name, threat)[name].attacks)  # type: ignore[attr-defined]
    members[place] = dataclasses.replace(members[place], **changes)
    return Ensemble(tuple(members))


@pytest.mark.parametrize("change", NEAR.values(), ids=NEAR)
def test_one_setting_off_is_no_version(change: Callable[[], Any]) -> None:
    assert version(repr(change())) is None


def test_a_setting_that_is_not_known_or_members_of_several_threats_are_no_version() -> None:
    settings = repr(STANDARD)
    assert version(settings) == "standard"
    assert version(settings.replace("queries=5000", "queries=5000, shortcut=True")) is None
    assert version(settings.replace(repr(8 / 255), "0.01", 1)) is None
    assert version(settings.replace("restarts=1", "restarts=True", 1)) is None
    assert version(settings, precision="bfloat16") is None


def test_settings_that_an_older_record_lacks_do_no_harm_unless_the_version_needs_them() -> None:
    settings = repr(STANDARD)
    assert version(settings.replace(", rho=0.75, large_eps=None", "")) == "standard"
    assert version(settings.replace("steps=100, ", "", 1)) is None


@pytest.mark.parametrize(
    "text", ["", "7", "Ensemble()", "Ensemble(attacks=PGD())", "a b", "Other(attacks=(1, 2))", "None"]
)
def test_text_that_is_no_ensemble_is_no_version(text: str) -> None:
    assert version(text) is None
    assert version(f"Ensemble(attacks=({text},))") is None
