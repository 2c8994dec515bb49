"""A release gate: does the lower bound of what was measured reach what is asked for?

The bound is tested and not the estimate, so that luck with few images does not open the gate: the worst class by the
simultaneous interval, the average by Wilson's over all images (conservative where classes are stratified). Images that
the audit of a plan could not exclude as breakable count as broken.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from classwise.errors import InputError
from classwise.metrics.intervals import simultaneous, wilson, worst_interval, worst_q_interval
from classwise.metrics.outcomes import CLEAN, WORST_CASE, Ints
from classwise.metrics.result import Result
from classwise.metrics.summaries import average, worst, worst_q
from classwise.report.contents import Contents, plain, read
from classwise.report.stages import audits, misses
from classwise.report.tables import number_label, percent

_SYNTAX = "write them as in worst=0.2,average=0.4,clean.average=0.8,class[cat]=0.1"
_ONE = r"(clean\.)?(worst_q10|worst|average|class\[(.+)\])\s*=\s*(.+)"
_NEXT = r",(?=\s*(?:clean\.)?(?:worst_q10|worst|average|class\[))"


@dataclass(frozen=True)
class Condition:
    """What is asked for.

    Attributes:
        name: as written, such as "clean.worst".
        view: "clean" or "worst_case".
        metric: "worst", "worst_q10", "average" or "class".
        label: name of the class, "" for other metrics.
        least: share of images that the lower bound must reach.
    """

    name: str
    view: str
    metric: str
    label: str
    least: float


@dataclass(frozen=True)
class Check:
    """A condition and what was found: the estimate, its lower bound, and whether that reaches what is asked for."""

    name: str
    least: float
    value: float
    bound: float
    passed: bool

    @property
    def sentence(self) -> str:
        """The check in words, in per cent."""
        verdict = "reaches" if self.passed else "is below"
        return (
            f"{self.name}: {percent(self.value)} % measured; its lower bound {percent(self.bound)} % {verdict} "
            f"{percent(self.least)} %."
        )


@dataclass(frozen=True)
class Gate:
    """The checks of one result.

    Attributes:
        model: name, as printed.
        label: which robust accuracy was tested.
        confidence: of each bound, less the chance that an audit behind it errs.
        checks: one a condition, in their order.
    """

    model: str
    label: str
    confidence: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return the same in plain types for JSON."""
        return {**asdict(self), "passed": self.passed}

    def junit(self) -> str:
        """Return the checks as JUnit-XML, one test case a condition, which most CI systems show."""
        failed = sum(not check.passed for check in self.checks)
        numbers = {"tests": str(len(self.checks)), "failures": str(failed), "errors": "0"}
        suites = ET.Element("testsuites", numbers)
        suite = ET.SubElement(suites, "testsuite", {"name": "classwise", **numbers})
        properties = ET.SubElement(suite, "properties")
        for key, value in (("label", self.label), ("confidence", f"{self.confidence:g}")):
            ET.SubElement(properties, "property", {"name": key, "value": value})
        for check in self.checks:
            case = ET.SubElement(
                suite, "testcase", {"classname": self.model, "name": f"{check.name} >= {check.least:g}", "time": "0"}
            )
            if not check.passed:
                ET.SubElement(case, "failure", {"message": check.sentence, "type": "bound"}).text = self.label
        ET.indent(suites)
        return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def conditions(text: str, classes: Sequence[str]) -> tuple[Condition, ...]:
    """Read conditions such as "worst=0.2,average=0.4,clean.average=0.8,class[cat]=0.1".

    Args:
        text: conditions separated by commas: worst, worst_q10, average or class[NAME], after "clean." on clean images,
            otherwise in the worst case of all attacks; each with a share between 0 and 1.
        classes: names of the classes.

    Raises:
        InputError: it is something else, or names an unknown class.

    Example:
        >>> [condition.least for condition in conditions("worst=0.2, class[cat]=0.1", ["cat", "dog"])]
        [0.2, 0.1]
    """
    return tuple(_condition(part.strip(), classes) for part in re.split(_NEXT, text))


def gate(result: Result, asked: Sequence[Condition]) -> Gate:
    """Test conditions on a result.

    Raises:
        InputError: robust accuracy is asked for, but no attack was run.
    """
    contents = read(result)
    if not contents.attacks and any(condition.view != CLEAN for condition in asked):
        raise InputError("The gate asks for robust accuracy, but no attack was run; name some, or ask for clean.worst.")
    checks = tuple(_check(result, contents, condition) for condition in asked)
    name = plain(str(result.header["model"]["name"]))
    return Gate(name, number_label(contents), _confidence(result, contents, asked), checks)


def _condition(part: str, classes: Sequence[str]) -> Condition:
    match = re.fullmatch(_ONE, part)
    try:
        least = float(match[4]) if match else -1.0
    except ValueError:
        least = -1.0
    if match is None or not 0 <= least <= 1:
        raise InputError(f"{part!r} is no condition with a share between 0 and 1; {_SYNTAX}.")
    label = match[3] or ""
    if label and label not in classes:
        raise InputError(f"There is no class {label!r} to set a condition for; the classes are {', '.join(classes)}.")
    view = CLEAN if match[1] else WORST_CASE
    metric = "class" if label else match[2]
    return Condition(f"{match[1] or ''}{match[2]}", view, metric, label, least)


def _check(result: Result, contents: Contents, condition: Condition) -> Check:
    outcomes, confidence = result.outcomes, result.confidence
    found, n = outcomes.counts(condition.view), outcomes.n
    sure, total = (found, int(found.sum())) if condition.view == CLEAN else _audited(contents, found)
    intervals = simultaneous(sure, n, confidence)
    accuracy, c = outcomes.accuracy(condition.view), _position(outcomes.classes, condition.label)
    value, bound = {
        "worst": (worst(accuracy), worst_interval(intervals).low),
        "worst_q10": (worst_q(accuracy), worst_q_interval(intervals).low),
        "average": (average(found, n), float(wilson([total], [n.sum()], confidence).low[0])),
        "class": (float(accuracy[c]), float(intervals.low[c])),
    }[condition.metric]
    return Check(plain(condition.name), condition.least, value, bound, bool(bound >= condition.least))


def _audited(contents: Contents, found: Ints) -> tuple[Ints, int]:
    """Return the robust images of each class, and of all, that an audit leaves no doubt of."""
    by_class = misses(contents)
    if by_class is None:
        return found, int(found.sum())
    in_all = max(int(audit["at_most"]) for audit in audits(contents))
    return np.maximum(0, found - np.array(by_class)), max(0, int(found.sum()) - in_all)


def _confidence(result: Result, contents: Contents, asked: Sequence[Condition]) -> float:
    """Return the confidence of each bound; where an audit stands behind one, both may be wrong."""
    robust = any(condition.view != CLEAN for condition in asked)
    doubts = [1 - audit["confidence"] for audit in audits(contents)] if robust else []
    return round(result.confidence - max(doubts, default=0.0), 9)


def _position(classes: Sequence[str], label: str) -> int:
    return list(classes).index(label) if label else 0
