from __future__ import annotations

import ast
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

import classwise
from classwise.errors import InputError
from classwise.metrics.intervals import lower_bounds
from classwise.metrics.result import Result
from classwise.report.gate import FLAGS, HARMLESS, Condition, Gate, _bound, conditions, gate, unreachable, waived

ZERO = {"flag": "zero_gradient", "message": "Masked.", "attack": None, "classes": [], "value": 0.4}
SHORT = {"flag": "short_steps", "message": "Too short.", "attack": "pgd", "classes": [], "value": 0.1}
MILD = {"flag": "train_mode", "message": "Put back.", "attack": None, "classes": [], "value": None}


def checked(result: Result, text: str, **allow: list[str]) -> Gate:
    return gate(result, conditions(text, result.outcomes.classes), **allow)


def bound(result: Result, text: str) -> float:
    return checked(result, text).checks[0].bound


def test_the_bounds_are_exact_and_one_sided_and_not_corrected_for_the_number_of_classes(result: Result) -> None:
    counts, n = result.outcomes.counts(), result.outcomes.n
    low = lower_bounds(counts, n)
    assert bound(result, "worst=0") == low.min()
    assert bound(result, "worst_q10=0") == low.min()  # one of ten classes
    assert bound(result, "class[dog]=0") == low[5]
    assert bound(result, "average=0") == lower_bounds([counts.sum()], [n.sum()])[0]
    assert bound(result, "clean.worst=0") == lower_bounds(result.outcomes.counts("clean"), n).min()


def test_the_bound_of_a_tail_holds_for_all_its_classes_at_once(make: Callable[..., Result]) -> None:
    made = make(classes=[f"c{c}" for c in range(20)], per_class=50)
    low = np.sort(lower_bounds(made.outcomes.counts(), made.outcomes.n, 0.975))
    assert bound(made, "worst_q10=0") == pytest.approx(low[:2].mean())


def test_the_bound_and_not_the_estimate_opens_the_gate(result: Result) -> None:
    measured, low = result.outcomes.accuracy().min(), bound(result, "worst=0")
    assert low < measured
    for least, passed in ((low, True), (low + 1e-9, False), (measured, False)):
        assert gate(result, [Condition("worst", "worst_case", "worst", "", least)]).passed is passed


def test_every_condition_must_hold(result: Result) -> None:
    found = checked(result, "average=0.1,worst=0.9")
    assert [check.passed for check in found.checks] == [True, False]
    assert not found.passed
    assert "is below 90.00 %" in found.checks[1].sentence
    assert "reaches 10.00 %" in found.checks[0].sentence


def test_without_a_condition_nothing_passes(result: Result) -> None:
    with pytest.raises(InputError, match="no condition to test"):
        gate(result, [])


def test_a_condition_on_a_class_of_another_data_set_is_refused(result: Result) -> None:
    with pytest.raises(InputError, match="no class 'cow'"):
        gate(result, conditions("class[cow]=0.1", ["cow"]))


# ---- size and power of the bounds -------------------------------------------------------------------------------


def planted(rates: np.ndarray, n: np.ndarray, seed: int, draws: int = 4_000) -> np.ndarray:
    """Draw right images of each class, (draws, C)."""
    return np.random.default_rng(seed).binomial(n, rates, (draws, len(n)))


def passes(counts: np.ndarray, n: np.ndarray, least: float, metric: str = "worst") -> float:
    """Return how often the gate opens, by the very function that it calls."""
    asked, classes = Condition(metric, "worst_case", metric, "", least), [str(c) for c in range(len(n))]
    # With as many images in each class, the order of the classes does not matter, nor which of them are right in all.
    alike = counts.sum(1, keepdims=True) if metric == "average" else np.sort(counts, axis=1)
    first, times = np.unique(alike, axis=0, return_index=True, return_counts=True)[1:]
    opened = [_bound(asked, row, int(row.sum()), n, classes, 0.95) >= least for row in counts[first]]
    return float((np.array(opened) * times).sum() / times.sum())


SIZES = [(10, 3), (10, 20), (10, 100), (10, 1000), (100, 20), (100, 100), (2, 50), (1, 30)]


@pytest.mark.parametrize("floor", [0.01, 0.05, 0.2, 0.5, 0.9, 0.99])
def test_at_exactly_the_floor_the_worst_class_passes_in_at_most_one_of_twenty(floor: float) -> None:
    """One class lies just below the floor and the others at 1, the likeliest way to pass falsely; or all lie there."""
    noise = 3 * np.sqrt(0.05 * 0.95 / 4_000)
    for classes, images in SIZES:
        n = np.full(classes, images)
        for others in (1.0, floor):
            rates = np.full(classes, others)
            rates[0] = floor - 1e-9
            draws = 4_000 if classes <= 10 else 1_000
            spread = noise * np.sqrt(4_000 / draws)
            assert passes(planted(rates, n, images, draws), n, floor) <= 0.05 + spread, (classes, images, others)


@pytest.mark.parametrize("images", [1, 3, 20, 100, 1000])
def test_enumerated_the_worst_class_passes_at_exactly_the_floor_in_at_most_one_of_twenty(images: int) -> None:
    """With all others right, the weakest class alone decides, and every outcome of it can be listed."""
    n, right = np.array([images, images]), np.arange(images + 1)
    for floor in (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999):
        asked = Condition("worst", "worst_case", "worst", "", floor)
        bounds = [_bound(asked, np.array([k, images]), images + k, n, ["weak", "right"], 0.95) for k in right]
        assert binom.pmf(right, images, floor)[np.array(bounds) >= floor].sum() <= 0.05 + 1e-12, floor


@pytest.mark.parametrize("floor", [0.02, 0.2, 0.9])
def test_at_exactly_the_floor_average_and_tail_pass_in_at_most_one_of_twenty(floor: float) -> None:
    noise = 3 * np.sqrt(0.05 * 0.95 / 2_000)
    for images in (5, 100):
        for classes in (2, 20, 100):
            n = np.full(classes, images)
            apart = np.where(
                np.arange(classes) < classes // 2, floor - min(floor, 1 - floor), floor + min(floor, 1 - floor)
            )
            equal = np.full(classes, floor)
            for rates in (apart, equal):
                assert passes(planted(rates, n, 1, 2_000), n, floor, "average") <= 0.05 + noise, (images, classes)
            tail = np.where(np.arange(classes) < max(1, classes // 10), floor, 1.0)
            for rates in (tail, equal):
                assert passes(planted(rates, n, 2, 2_000), n, floor, "worst_q10") <= 0.05 + noise, (images, classes)


@pytest.mark.parametrize(("images", "power"), [(100, 0.28), (200, 0.53), (1_000, 0.98)])
def test_a_worst_class_of_25_in_100_passes_a_floor_of_20_as_often_as_is_said(images: int, power: float) -> None:
    """One class at .25 and nine at .5."""
    n, rates = np.full(10, images), np.array([0.25] + [0.5] * 9)
    assert passes(planted(rates, n, 3), n, 0.2) == pytest.approx(power, abs=0.03)


# ---- audits -----------------------------------------------------------------------------------------------------


def audited(make: Callable[..., Result], by_class: list[int], at_most: int, sampled: int = 3) -> Result:
    audit = {"points": 1.0, "confidence": 0.95, "at_most": at_most, "at_most_by_class": by_class}
    rounds = [{"survivors": [9] * 10, "sampled": [sampled] * 10, "broken": [0] * 10, "broken_by": {}}]
    plan = {"settings": "Plan()", "seconds": 1.0, "full": ["square"], "suite": "AutoAttack standard", "reasons": []}
    about = {**plan, "stages": [], "audit": {**audit, "rounds": rounds}}
    made = make(attacks=("fast",))
    return Result({**made.header, "attacks": {"fast": about}}, made.outcomes)


def test_images_that_an_audit_cannot_exclude_count_as_broken(make: Callable[..., Result]) -> None:
    found = audited(make, by_class=[2] * 9 + [500], at_most=15)
    counts, n = found.outcomes.counts(), found.outcomes.n
    assert bound(found, "class[cat]=0") == lower_bounds(counts - 2, n)[3]
    assert bound(found, "average=0") == lower_bounds([counts.sum() - 15], [n.sum()])[0]
    assert bound(found, "clean.class[cat]=0") == lower_bounds(found.outcomes.counts("clean"), n)[3]


def test_of_a_class_no_more_can_break_than_of_all(make: Callable[..., Result]) -> None:
    found = audited(make, by_class=[2] * 9 + [500], at_most=15)
    counts, n = found.outcomes.counts(), found.outcomes.n
    assert bound(found, "class[truck]=0") == lower_bounds(counts - 15, n)[9]
    everything = audited(make, by_class=[2] * 9 + [500], at_most=500)
    assert bound(everything, "class[truck]=0") == 0


def test_of_two_audits_the_larger_bound_counts_and_the_confidence_is_less_by_what_they_may_err(
    make: Callable[..., Result],
) -> None:
    fast = audited(make, by_class=[2] * 10, at_most=15).header["attacks"]["fast"]
    more = audited(make, by_class=[1] * 9 + [5], at_most=20).header["attacks"]["fast"]
    made = make(attacks=("fast", "mine"))
    found = Result({**made.header, "attacks": {"fast": fast, "mine": more}}, made.outcomes)
    counts, n = found.outcomes.counts(), found.outcomes.n
    assert bound(found, "class[cat]=0") == lower_bounds(counts - 2, n)[3]
    assert bound(found, "class[truck]=0") == lower_bounds(counts - 5, n)[9]
    assert bound(found, "average=0") == lower_bounds([counts.sum() - 20], [n.sum()])[0]
    both = checked(found, "worst=0,clean.worst=0")
    assert [check.confidence for check in both.checks] == [0.9, 0.95]
    assert both.confidence == 0.9
    assert checked(found, "clean.worst=0").confidence == 0.95


def test_an_audit_of_every_survivor_leaves_no_doubt(make: Callable[..., Result]) -> None:
    found = audited(make, by_class=[0] * 10, at_most=0, sampled=9)
    assert checked(found, "worst=0").confidence == 0.95


# ---- classes without images -------------------------------------------------------------------------------------


def right_where_measured(make: Callable[..., Result], absent: list[int]) -> Result:
    made = make(classes=tuple("abcdefg"), absent=absent, attacks=())
    outcomes = made.outcomes
    return Result(
        made.header, type(outcomes)(outcomes.classes, outcomes.index, outcomes.y, outcomes.y.copy(), {}, {}, {})
    )


@pytest.mark.parametrize("name", ["clean.worst", "clean.worst_q10", "clean.average", "clean.class[b]"])
def test_no_condition_passes_because_classes_have_no_images(make: Callable[..., Result], name: str) -> None:
    found = checked(right_where_measured(make, absent=[1, 2, 4, 6]), f"{name}=0")
    assert not found.passed
    assert found.checks[0].bound == 0
    number = "1 of 7 classes has" if "class[" in name else "4 of 7 classes have"
    assert f"{number} no images: 'b'" in found.checks[0].sentence
    json.dumps(found.as_dict(), allow_nan=False)
    assert "no images" in ET.fromstring(found.junit()).find(".//failure").get("message")


def test_a_class_that_was_measured_passes_beside_one_that_was_not(make: Callable[..., Result]) -> None:
    assert checked(right_where_measured(make, absent=[1]), "clean.class[a]=0.9").passed


def test_many_classes_without_images_are_counted_and_some_named() -> None:
    classes = [f"c{c}" for c in range(1000)]
    said = unreachable(conditions("worst=0.1", classes)[0], classes, np.array([5] + [0] * 999))
    assert "999 of 1000 classes have no images: 'c1', 'c2', 'c3', 'c4', 'c5' and 994 more." in said


# ---- conditions that the number of images cannot satisfy ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "n", "needed"),
    [
        ("worst=0.95", [3, 400], "every class needs at least 59"),
        ("clean.worst=0.99", [298, 299], "every class needs at least 299"),
        ("class[a]=0.9", [28, 3], "with 28 images: the class needs at least 29"),
        ("average=0.95", [29, 29], "with 58 images: at least 59 are needed"),
        ("worst=1", [10_000, 10_000], "No number of images shows 100.00 %; ask for less."),
    ],
)
def test_what_too_few_images_cannot_show_says_how_many_are_needed(text: str, n: list[int], needed: str) -> None:
    assert needed in unreachable(conditions(text, "ab")[0], "ab", np.array(n))


@pytest.mark.parametrize("text", ["worst", "worst_q10", "class[c0]", "average"])
@pytest.mark.parametrize("least", [0.0001, 0.05, 0.5, 0.9999])
def test_the_number_said_to_be_needed_is_enough_and_one_less_is_not(text: str, least: float) -> None:
    classes = [f"c{c}" for c in range(30)]
    asked = conditions(f"{text}={least:.4f}", classes)[0]
    share = 30 if text == "average" else 1
    for images in (1, 40):
        said = unreachable(asked, classes, np.full(30, images))
        if said:
            needed = int("".join(filter(str.isdigit, said.rpartition("at least")[2])))
            assert not unreachable(asked, classes, np.full(30, -(-needed // share)))
            assert unreachable(asked, classes, np.full(30, (needed - 1) // share))


def test_a_gate_with_too_few_images_says_how_many_are_needed(make: Callable[..., Result]) -> None:
    found = checked(make(per_class=3), "worst=0.95")
    assert not found.passed
    assert "No model can reach 95.00 % with 3 images: every class needs at least 59." in found.checks[0].sentence


# ---- flags --------------------------------------------------------------------------------------------------------


def test_a_serious_flag_closes_the_gate_unless_it_is_waived_by_name(make: Callable[..., Result]) -> None:
    made = make(flags=[ZERO, SHORT, MILD])
    assert not checked(made, "worst=0").passed
    assert not checked(made, "worst=0", allow=["zero_gradient"]).passed
    assert checked(made, "worst=0", allow=["zero_gradient,short_steps"]).passed
    assert not checked(made, "worst=0.9", allow=["zero_gradient", "short_steps"]).passed
    assert checked(make(flags=[MILD]), "worst=0").passed


def test_a_flag_that_this_version_does_not_know_closes_the_gate_too(make: Callable[..., Result]) -> None:
    made = make(flags=[{**ZERO, "flag": "from_the_future"}])
    assert not checked(made, "worst=0").passed
    assert checked(made, "worst=0", allow=["from_the_future"]).passed


def test_json_and_junit_hold_every_flag_waived_or_not(make: Callable[..., Result]) -> None:
    found = checked(make(flags=[ZERO, SHORT, MILD]), "worst=0", allow=["short_steps"])
    flags = json.loads(json.dumps(found.as_dict()))["flags"]
    assert [(flag["flag"], flag["waived"], flag["closes"]) for flag in flags] == [
        ("zero_gradient", False, True),
        ("short_steps", True, False),
        ("train_mode", False, False),
    ]
    suite = ET.fromstring(found.junit())[0]
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
    }
    masked, short = suite.findall("testcase")[1:]
    assert (masked.get("name"), short.get("name")) == ("flag zero_gradient", "flag short_steps (pgd)")
    assert "Masked." in masked.find("failure").get("message")
    assert "Too short." in short.find("skipped").get("message")
    assert "Put back." in suite.find("properties/property[@name='flag train_mode']").get("value")


def test_a_misspelt_flag_is_refused_with_a_suggestion_and_one_that_did_not_come_up_is_not() -> None:
    with pytest.raises(InputError, match="Unknown flag 'zero_gradent': did you mean 'zero_gradient'"):
        waived(["zero_gradent"])
    with pytest.raises(InputError, match="Unknown flag ''"):
        waived(["zero_gradient,"])
    assert waived([]) == frozenset()
    assert waived("zero_gradient, loss_rising") == {"zero_gradient", "loss_rising"}


def test_classes_without_images_cannot_be_waived() -> None:
    with pytest.raises(InputError, match="cannot be allowed"):
        waived(["unmeasured_classes"])


def test_every_flag_in_the_code_is_known_and_those_that_overstate_are_serious() -> None:
    from classwise.evaluation import flags

    source = Path(classwise.__file__).parent
    calls = [node for path in source.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    named = {
        node.args[0].value
        for node in calls
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) == "Flag"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(named) > 15
    assert named <= FLAGS
    assert flags.SERIOUS <= FLAGS - HARMLESS
    assert {"black_box_gain", "logit_scale", "batch_dependent", "gradient_dependent"} <= FLAGS - HARMLESS


# ---- files --------------------------------------------------------------------------------------------------------


def test_the_junit_file_has_a_case_for_each_condition_and_escapes_names(make: Callable[..., Result]) -> None:
    made = make(classes=("<cat>", "\x1bdog", "c", "d"), weak=0)
    text = "class[<cat>]=0.9,clean.average=0.1,class[\x1bdog]=0"
    suite = ET.fromstring(checked(made, text).junit())[0]
    cases = suite.findall("testcase")
    names = ["class[<cat>] >= 0.9", "clean.average >= 0.1", "class[\\x1bdog] >= 0"]
    assert [case.get("name") for case in cases] == names
    assert [case.find("failure") is not None for case in cases] == [True, False, False]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    assert "PGD only" in suite.find("properties/property").get("value")


def test_the_json_form_says_what_was_tested(result: Result) -> None:
    document = json.loads(json.dumps(checked(result, "worst=0.01").as_dict()))
    assert document["passed"] is True
    assert document["checks"][0]["least"] == 0.01
    assert document["checks"][0]["confidence"] == 0.95
    assert document["label"].startswith("PGD only")


def test_robust_accuracy_without_an_attack_is_no_number_to_test(make: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="no attack was run"):
        gate(make(attacks=()), conditions("worst=0.1", ["cat"]))
    assert checked(make(attacks=()), "clean.worst=0.1").passed
