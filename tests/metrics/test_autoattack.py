"""AutoAttack is said of settings alone, and only if every one of them is the released version's."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from classwise.attacks import APGD, Ensemble, EoT, Narrowing, Plan, Square, Stage, build, build_attacks
from classwise.attacks.base import described
from classwise.attacks.pgd import PGD
from classwise.metrics.autoattack import suite, version
from classwise.metrics.recorded import of_older_text
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 8 / 255)
STANDARD: Ensemble = build("autoattack", THREAT)["autoattack"]  # type: ignore[assignment]


def both(attack: Any, precision: str = "float32") -> tuple[str | None, str | None]:
    """Return the version by the fields of a record, and by the text alone that older records have."""
    record = {"attack": json.loads(json.dumps(described(attack))), "settings": "not looked at"}
    return version(record, precision), version({"settings": repr(attack)}, precision)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("kind", ["standard", "plus", "rand"])
def test_each_registered_version_is_recognised_in_every_norm(norm: Any, kind: str) -> None:
    name = "autoattack" if kind == "standard" else f"autoattack-{kind}"
    assert both(build(name, ThreatModel(norm, 0.5))[name]) == (kind, kind)


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
    "a search for the nearest image": lambda: Narrowing(THREAT),
    "a part of the stages of a plan": lambda: Plan((Stage("autoattack", STANDARD),)),
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
    assert both(change()) == (None, None)


@pytest.mark.parametrize("eps", [0.0, 1 / 255, 0.5])
def test_the_radius_does_not_matter(eps: float) -> None:
    assert both(build("autoattack", ThreatModel("L2", eps))["autoattack"]) == ("standard", "standard")


def test_a_search_in_bfloat16_is_no_version() -> None:
    assert both(STANDARD, "bfloat16") == (None, None)


def test_a_class_of_the_same_name_from_elsewhere_is_no_version() -> None:
    weak = dataclasses.make_dataclass("Square", [(each.name, Any) for each in dataclasses.fields(Square)])
    member = weak(**{each.name: getattr(STANDARD.attacks[3], each.name) for each in dataclasses.fields(Square)})
    assert version({"attack": described(Ensemble((*STANDARD.attacks[:3], member)))}) is None


def test_what_is_no_plain_value_is_recorded_by_its_kind_without_an_address() -> None:
    assert described(len) == {"kind": "builtins.builtin_function_or_method"}


def test_a_setting_that_is_not_known_or_members_of_several_threats_are_no_version() -> None:
    settings = repr(STANDARD)
    assert version({"settings": settings}) == "standard"
    for old, new in {
        "queries=5000": "queries=5000, shortcut=True",
        repr(8 / 255): "0.01",
        "restarts=1": "restarts=True",
        "'Linf'": "'L1'",
    }.items():
        assert version({"settings": settings.replace(old, new, 1)}) is None


@pytest.mark.parametrize("field", ["steps", "restarts", "targets", "queries"])
def test_settings_that_an_older_record_lacks_do_no_harm_unless_the_version_needs_them(field: str) -> None:
    settings = repr(STANDARD)
    assert version({"settings": settings.replace(", rho=0.75, large_eps=None", "")}) == "standard"
    assert version({"settings": re.sub(rf", {field}=\d+", "", settings, count=1)}) is None


@pytest.mark.parametrize(
    "text",
    ["", "7", "Ensemble()", "Ensemble(attacks=PGD())", "a b", "Other(attacks=(1, 2))", "None", "Ensemble(attacks=())"],
)
def test_text_that_is_no_ensemble_is_no_version(text: str) -> None:
    assert version({"settings": text}) is None
    assert version({"settings": f"Ensemble(attacks=({text},))"}) is None


@pytest.mark.parametrize("record", [{}, {"attack": []}, {"attack": {"kind": 7}}, {"attack": {"kind": "EoT"}}])
def test_a_record_that_describes_nothing_is_no_version(record: dict[str, Any]) -> None:
    assert version(record) is None
    assert suite(record) == ""


@pytest.mark.parametrize("text", [repr(STANDARD), f"{STANDARD} + 1", "A(x=1, x=2)", "A(1)", "A(kind='B')", "a.B(x=1)"])
def test_text_is_read_whole_or_not_at_all(text: str) -> None:
    assert of_older_text(text) == (described(STANDARD) if text == repr(STANDARD) else {})


def of_plan(plan: Any, precision: str = "float32") -> set[str]:
    """Return what the suite of a plan is called, by the fields of a record and by the text alone."""
    full = [stage.name for stage in plan.full]
    records = {"attack": json.loads(json.dumps(described(plan))), "full": full}, {"settings": repr(plan), "full": full}
    return {suite(record, precision) for record in records}


def test_a_plan_is_audited_by_autoattack_only_if_its_suite_is_a_version_on_every_survivor() -> None:
    fast: Any = build_attacks("fast", THREAT)["fast"]
    names = {", ".join(stage.name for stage in fast.full)}
    first, *others = fast.full
    assert of_plan(fast) == {"AutoAttack standard"}
    assert of_plan(fast, "bfloat16") == names
    for changed in (
        dataclasses.replace(first, closest=0.5),
        dataclasses.replace(first, if_closer=True),
        dataclasses.replace(first, attack=dataclasses.replace(first.attack, steps=99)),
    ):
        assert of_plan(dataclasses.replace(fast, full=(changed, *others))) == names
    assert of_plan(dataclasses.replace(fast, full=())) == {""}


@pytest.mark.parametrize("name", ["autoattack", "autoattack-plus", "fast", "pgd", "narrowing", "temperature-pgd"])
def test_what_a_record_holds_of_an_attack_is_what_its_text_says(name: str) -> None:
    attack = build_attacks(name, THREAT)[name]
    assert described(attack) == of_older_text(repr(attack))
