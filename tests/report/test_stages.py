"""What the report says a plan's number is worth, and never says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from classwise.attacks import build, build_attacks
from classwise.attacks.base import described as record_of
from classwise.metrics.result import Result
from classwise.report import markdown_tables, rich_stage_table, which_number
from classwise.threat import ThreatModel

CLASSES = 10
THREAT = ThreatModel("Linf", 8 / 255)
FAST: Any = build_attacks("fast", THREAT)["fast"]
MAKE = Callable[..., Result]


def stage(name: str, attacked: int, broken: int) -> dict[str, Any]:
    rest = [0] * (CLASSES - 1)
    return {"name": name, "attacked": [attacked, *rest], "broken": [broken, *rest], "seconds": 1.0}


def turn(survivors: int, sampled: int, broken: int = 0, by: str = "square") -> dict[str, Any]:
    rest = [0] * (CLASSES - 1)
    counts = {"survivors": survivors, "sampled": sampled, "broken": broken}
    return {**{key: [count, *rest] for key, count in counts.items()}, "broken_by": {by: broken} if broken else {}}


def audit(*rounds: dict[str, Any], at_most: int = 7) -> dict[str, Any]:
    each = {"at_most": at_most, "at_most_by_class": [at_most] * CLASSES}
    return {"points": 1.0, "confidence": 0.95, "rounds": list(rounds), **each}


@pytest.fixture
def make_plan(make: MAKE) -> MAKE:
    """Return a maker of results of a plan, after other attacks."""

    def made(name: str = "fast", attacks: tuple[str, ...] = (), **about: Any) -> Result:
        header = {
            "settings": repr(FAST),
            "seconds": 2.0,
            "stages": [stage("nearest-pgd", 900, 300)],
            "full": [each.name for each in FAST.full],
            "reasons": [],
            "audit": None,
            **about,
        }
        others = {other: {"settings": repr(build(other, THREAT)[other]), "seconds": 1.0} for other in attacks}
        return described(make(attacks=(*attacks, name)), {**others, name: header})

    return made


def described(result: Result, attacks: dict[str, Any]) -> Result:
    """Return a result whose header describes its attacks in another way."""
    return Result({**result.header, "attacks": attacks}, result.outcomes)


def test_a_plan_without_an_audit_says_so(make_plan: MAKE) -> None:
    assert which_number(make_plan()) == "Not AutoAttack: fast, not audited."


def test_an_audit_says_how_far_the_number_can_be_off(make_plan: MAKE) -> None:
    result = make_plan(audit=audit(turn(500, 40)))
    robust, size = int(result.outcomes.correct().sum()), len(result.outcomes)
    said = which_number(result)
    assert said.startswith("Not AutoAttack's number: fast, audited on 40 of 500 survivors")
    assert "AutoAttack standard broke none" in said
    assert f"{100 * (robust - 7) / size:.2f}–{100 * robust / size:.2f} %" in said


def test_an_audit_that_broke_something_says_what_followed(make_plan: MAKE) -> None:
    stages = [stage("audit: square", 40, 2), stage("full: square", 458, 3)]
    said = which_number(make_plan(stages=stages, audit=audit(turn(500, 40, 2), turn(455, 50))))
    assert "audited on 90 of 500 survivors, of which AutoAttack standard broke 2" in said
    assert "run on every survivor and broke 3 more" in said


def test_where_every_survivor_met_autoattack_the_reason_is_named(make_plan: MAKE) -> None:
    said = which_number(make_plan(reasons=["the flag zero_gradient"]))
    assert said.startswith("At least as strong as AutoAttack standard")
    assert "zero_gradient" in said


def test_another_suite_is_never_called_autoattack(make_plan: MAKE) -> None:
    plan = record_of(dataclasses.replace(FAST, full=FAST.full[:2]))
    others = {"attack": plan, "full": ["fgsm", "square(queries=2)"], "suite": "AutoAttack standard"}
    for about in ({"reasons": ["it was time"]}, {"audit": audit(turn(500, 40))}):
        said = which_number(make_plan(**others, **about))
        assert "fgsm, square(queries=2)" in said
        assert "AutoAttack standard" not in said


def test_a_plan_without_a_suite_is_an_upper_bound(make_plan: MAKE) -> None:
    said = which_number(make_plan(name="upper-bound", full=[]))
    assert said.startswith("Upper bound only: upper-bound")


def test_beside_autoattack_on_every_image_a_plan_takes_nothing_from_it(make_plan: MAKE) -> None:
    assert which_number(make_plan(attacks=("autoattack",))).startswith("AutoAttack as implemented here")


def test_only_an_ensemble_may_be_called_autoattack(make: MAKE) -> None:
    result = make(attacks=("autoattack",))
    fake = described(result, {"autoattack": {"settings": "Noop()", "seconds": 1.0}})
    assert which_number(result).startswith("AutoAttack as implemented here")
    assert which_number(fake).startswith("Not AutoAttack")


def test_the_table_of_stages_stands_in_markdown_and_the_terminal(make_plan: MAKE) -> None:
    assert "| fast | nearest-pgd | 900 | 300 | 1.0 |" in " ".join(markdown_tables(make_plan()).split())
    assert rich_stage_table(make_plan()) is not None


def test_without_stages_there_is_no_such_table(result: Result) -> None:
    assert rich_stage_table(result) is None


def test_bounds_by_class_stand_in_the_table_of_classes(make_plan: MAKE) -> None:
    assert "≤ 7" in markdown_tables(make_plan(audit=audit(turn(500, 40))))
    assert "≤" not in markdown_tables(make_plan())
