from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from classwise.errors import InputError
from classwise.metrics import simultaneous, wilson
from classwise.metrics.result import Result
from classwise.report.gate import Condition, conditions, gate

CLASSES = ("cat", "a,b=0.3", "dog]")


def test_conditions_are_read_in_every_form() -> None:
    text = "worst=0.2, worst_q10 = .3,average=1,clean.worst=0, class[cat]=0.1,clean.class[a,b=0.3]=0.5,class[dog]]=0.4"
    assert [(c.view, c.metric, c.label, c.least) for c in conditions(text, CLASSES)] == [
        ("worst_case", "worst", "", 0.2),
        ("worst_case", "worst_q10", "", 0.3),
        ("worst_case", "average", "", 1.0),
        ("clean", "worst", "", 0.0),
        ("worst_case", "class", "cat", 0.1),
        ("clean", "class", "a,b=0.3", 0.5),
        ("worst_case", "class", "dog]", 0.4),
    ]


NO_CONDITIONS = [
    "",
    "worst",
    "worst=",
    "worst=a",
    "worst=20",
    "worst=-0.1",
    "worst=nan",
    "wrost=1",
    "gap=1",
    "worst=1,",
]


@pytest.mark.parametrize("text", NO_CONDITIONS)
def test_what_is_no_condition_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"no condition with a share between 0 and 1; write them as in worst=0\.2"):
        conditions(text, CLASSES)


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(InputError, match="no class 'cow'"):
        conditions("class[cow]=0.1", CLASSES)


def bound(result: Result, text: str) -> float:
    return gate(result, conditions(text, result.outcomes.classes)).checks[0].bound


def test_the_bounds_are_the_lower_ends_of_the_intervals(result: Result) -> None:
    counts, n = result.outcomes.counts(), result.outcomes.n
    low = simultaneous(counts, n).low
    assert bound(result, "worst=0") == low.min()
    assert bound(result, "worst_q10=0") == low.min()  # one of ten classes
    assert bound(result, "class[dog]=0") == low[5]
    assert bound(result, "average=0") == wilson([counts.sum()], [n.sum()]).low[0]
    assert bound(result, "clean.worst=0") == simultaneous(result.outcomes.counts("clean"), n).low.min()


def test_the_bound_and_not_the_estimate_opens_the_gate(result: Result) -> None:
    measured, low = result.outcomes.accuracy().min(), bound(result, "worst=0")
    assert low < measured
    for least, passed in ((low, True), (low + 1e-9, False), (measured, False)):
        assert gate(result, [Condition("worst", "worst_case", "worst", "", least)]).passed is passed


def test_every_condition_must_hold(result: Result) -> None:
    found = gate(result, conditions("average=0.1,worst=0.9", result.outcomes.classes))
    assert [check.passed for check in found.checks] == [True, False]
    assert not found.passed
    assert "is below 90.00 %" in found.checks[1].sentence
    assert "reaches 10.00 %" in found.checks[0].sentence


def audited(make: Callable[..., Result], by_class: list[int], at_most: int) -> Result:
    audit = {"points": 1.0, "confidence": 0.95, "at_most": at_most, "at_most_by_class": by_class}
    rounds = [{"survivors": [9] * 10, "sampled": [3] * 10, "broken": [0] * 10, "broken_by": {}}]
    plan = {"settings": "Plan()", "seconds": 1.0, "full": ["square"], "suite": "AutoAttack standard", "reasons": []}
    about = {**plan, "stages": [], "audit": {**audit, "rounds": rounds}}
    made = make(attacks=("fast",))
    return Result({**made.header, "attacks": {"fast": about}}, made.outcomes)


def test_images_that_an_audit_cannot_exclude_count_as_broken(make: Callable[..., Result]) -> None:
    found = audited(make, by_class=[2] * 9 + [500], at_most=15)
    counts, n = found.outcomes.counts(), found.outcomes.n
    assert bound(found, "class[cat]=0") == simultaneous(counts - 2, n).low[3]
    assert bound(found, "class[truck]=0") == 0
    assert bound(found, "average=0") == wilson([counts.sum() - 15], [n.sum()]).low[0]
    assert bound(found, "clean.class[cat]=0") == simultaneous(found.outcomes.counts("clean"), n).low[3]


def test_of_two_audits_the_larger_bound_counts_and_the_confidence_is_less_by_what_they_may_err(
    make: Callable[..., Result],
) -> None:
    fast = audited(make, by_class=[2] * 10, at_most=15).header["attacks"]["fast"]
    more = audited(make, by_class=[1] * 9 + [5], at_most=20).header["attacks"]["fast"]
    made = make(attacks=("fast", "mine"))
    found = Result({**made.header, "attacks": {"fast": fast, "mine": more}}, made.outcomes)
    counts, n = found.outcomes.counts(), found.outcomes.n
    assert bound(found, "class[cat]=0") == simultaneous(counts - 2, n).low[3]
    assert bound(found, "class[truck]=0") == simultaneous(counts - 5, n).low[9]
    assert bound(found, "average=0") == wilson([counts.sum() - 20], [n.sum()]).low[0]
    for text, confidence in (("worst=0", 0.9), ("clean.worst=0", 0.95)):
        assert gate(found, conditions(text, found.outcomes.classes)).confidence == pytest.approx(confidence)


def test_the_junit_file_has_a_case_for_each_condition_and_escapes_names(make: Callable[..., Result]) -> None:
    made = make(classes=("<cat>", "\x1bdog", "c", "d"), weak=0)
    text = "class[<cat>]=0.9,clean.average=0.1,class[\x1bdog]=0"
    suite = ET.fromstring(gate(made, conditions(text, made.outcomes.classes)).junit())[0]
    cases = suite.findall("testcase")
    names = ["class[<cat>] >= 0.9", "clean.average >= 0.1", "class[ dog] >= 0"]
    assert [case.get("name") for case in cases] == names
    assert [case.find("failure") is not None for case in cases] == [True, False, False]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    assert "PGD only" in suite.find("properties/property").get("value")


def test_the_json_form_says_what_was_tested(result: Result) -> None:
    document = json.loads(json.dumps(gate(result, conditions("worst=0.01", result.outcomes.classes)).as_dict()))
    assert document["passed"] is True
    assert document["checks"][0]["least"] == 0.01
    assert document["label"].startswith("PGD only")


def test_robust_accuracy_without_an_attack_is_no_number_to_test(make: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="no attack was run"):
        gate(make(attacks=()), conditions("worst=0.1", ["cat"]))
    assert gate(make(attacks=()), conditions("clean.worst=0.1", ["cat"])).passed
