"""A release gate: does the lower bound of what was measured reach what is asked for, and can the number be trusted?

The bound is tested and not the estimate, so luck with few images does not open the gate. Each bound is the exact
one-sided one (Clopper & Pearson 1934). It is not corrected for the number of classes: the smallest bound of all classes
is above the lowest true accuracy only if the bound of that very class is, which happens in at most 5 % (an
intersection-union test, Berger 1982). For the same reason several conditions, which must all hold, need no correction.
What the audit of a plan could not exclude as breakable counts as broken.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from classwise.errors import InputError
from classwise.files.texts import plain, portable
from classwise.metrics.intervals import lower_bounds, tail_size
from classwise.metrics.outcomes import CLEAN, Ints
from classwise.metrics.result import Result
from classwise.metrics.summaries import average, worst, worst_q
from classwise.registry import unknown
from classwise.report.conditions import Condition, conditions
from classwise.report.contents import Contents, read
from classwise.report.stages import audits, misses
from classwise.report.tables import number_label, percent

__all__ = [
    "FLAGS",
    "HARMLESS",
    "Check",
    "Condition",
    "Gate",
    "RaisedFlag",
    "conditions",
    "gate",
    "unreachable",
    "waived",
]

HARMLESS = frozenset(
    {
        "few_classes",
        "fitted_elsewhere",
        "logits_taken",
        "near_chance",
        "non_finite",
        "plain_search",
        "train_mode",
        "unmeasured_classes",
    }
)
"""Flags that do not say that a number is too high, so the gate lets them pass.

Conditions on all classes fail by themselves where a class has no images.
"""

FLAGS = HARMLESS | {
    "batch_dependent",
    "black_box_gain",
    "fitted_on_test",
    "gradient_dependent",
    "in_forward_optimisation",
    "input_range",
    "logit_scale",
    "loss_rising",
    "misleading_gradient",
    "non_deterministic",
    "off_border",
    "outside_threat",
    "probe_breaks",
    "restart_gain",
    "short_steps",
    "zero_gradient",
}
"""Every flag that an evaluation may raise (docs/evaluation.md); a name that is not here closes the gate too."""

_TAILS = {"worst": 0.0, "worst_q10": 0.1}
_SHOWN = 5  # names of classes in a sentence


@dataclass(frozen=True)
class Check:
    """A condition and what was found.

    Attributes:
        name: the condition, such as "clean.worst".
        least: share of images that the lower bound must reach.
        value: the estimate, None where nothing was measured.
        bound: its lower bound, 0 where a class that it depends on was not measured.
        confidence: of the bound, less `audit_error`.
        audit_error: the chance that an audit behind it errs; 0 without one.
        passed: whether the bound reaches what is asked for.
        reason: why no model could pass with these images; "" where one could.
    """

    name: str
    least: float
    value: float | None
    bound: float
    confidence: float
    audit_error: float
    passed: bool
    reason: str = ""

    @property
    def sentence(self) -> str:
        """The check in words, in per cent."""
        if self.value is None:
            return f"{self.name}: not measured. {self.reason}"
        verdict = "reaches" if self.passed else "is below"
        sentence = (
            f"{self.name}: {percent(self.value)} % measured; its lower bound {percent(self.bound)} % {verdict} "
            f"{percent(self.least)} %."
        )
        return f"{sentence} {self.reason}".rstrip()


@dataclass(frozen=True)
class RaisedFlag:
    """A flag of the evaluation.

    Attributes:
        flag: its name.
        message: what was seen and what to do.
        attack: the attack it concerns, or None.
        serious: whether it says that a number may be too high.
        waived: whether it was allowed by name.
    """

    flag: str
    message: str
    attack: str | None
    serious: bool
    waived: bool

    @property
    def closes(self) -> bool:
        """Whether it fails the gate."""
        return self.serious and not self.waived

    @property
    def sentence(self) -> str:
        """The flag in words."""
        remedy = f" To pass all the same: --allow-flag {self.flag}." if self.closes else ""
        return f"{self.flag} ({'waived' if self.waived else 'not waived'}): {self.message}{remedy}"


@dataclass(frozen=True)
class Gate:
    """The checks of one result.

    Attributes:
        model: name, as printed.
        label: which robust accuracy was tested.
        confidence: the lowest of the bounds'.
        checks: one a condition, in their order.
        flags: every flag of the evaluation.
    """

    model: str
    label: str
    confidence: float
    checks: tuple[Check, ...]
    flags: tuple[RaisedFlag, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every condition holds and no serious flag is left."""
        return all(check.passed for check in self.checks) and not any(flag.closes for flag in self.flags)

    @property
    def certainty(self) -> str:
        """How sure the bounds are."""
        sure = " and ".join(f"{100 * level:g} %" for level in sorted({check.confidence for check in self.checks}))
        audit = max(check.audit_error for check in self.checks)
        why = f" (the audit may err in another {100 * audit:g} %, which are taken off)" if audit else ""
        return f"Each bound is one-sided and holds with {sure} confidence{why}."

    def as_dict(self) -> dict[str, Any]:
        """Return the same in plain types for JSON."""
        flags = [{**asdict(flag), "closes": flag.closes} for flag in self.flags]
        return {**asdict(self), "flags": flags, "passed": self.passed}

    def junit(self) -> str:
        """Return JUnit-XML, which most CI systems show: a test case for each condition and each serious flag."""
        serious = [flag for flag in self.flags if flag.serious]
        failed = sum(not check.passed for check in self.checks) + sum(flag.closes for flag in serious)
        numbers = {"tests": len(self.checks) + len(serious), "failures": failed, "errors": 0}
        counts = {key: str(number) for key, number in numbers.items()}
        suites = ET.Element("testsuites", counts)
        suite = ET.SubElement(suites, "testsuite", {"name": "classwise", **counts, "skipped": str(self._waived)})
        properties = ET.SubElement(suite, "properties")
        harmless = {f"flag {flag.flag}": flag.message for flag in self.flags if not flag.serious}
        for key, value in {"label": self.label, "confidence": f"{self.confidence:g}", **harmless}.items():
            ET.SubElement(properties, "property", {"name": key, "value": value})
        for check in self.checks:
            case = _case(suite, self.model, f"{check.name} >= {check.least:g}")
            if not check.passed:
                ET.SubElement(case, "failure", {"message": check.sentence, "type": "bound"}).text = self.label
        for flag in serious:
            case = _case(suite, self.model, f"flag {flag.flag}{f' ({flag.attack})' if flag.attack else ''}")
            kind = {"message": flag.sentence, "type": "flag"} if flag.closes else {"message": flag.sentence}
            ET.SubElement(case, "failure" if flag.closes else "skipped", kind)
        ET.indent(suites)
        return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"

    @property
    def _waived(self) -> int:
        return sum(flag.serious and flag.waived for flag in self.flags)


def gate(result: Result, asked: Sequence[Condition], *, allow: Iterable[str] = ()) -> Gate:
    """Test conditions on a result, and look at its flags.

    Args:
        result: an evaluation.
        asked: at least one condition, all of which must hold.
        allow: names of flags that do not fail the gate.

    Raises:
        InputError: no condition; robust accuracy is asked for, but no attack was run; a class or a flag that does not
            exist.
    """
    contents = read(result)
    if not asked:
        raise InputError("The gate has no condition to test; name one, such as worst=0.2.")
    if not contents.attacks and any(condition.view != CLEAN for condition in asked):
        raise InputError("The gate asks for robust accuracy, but no attack was run; name some, or ask for clean.worst.")
    foreign = {condition.label for condition in asked} - {"", *result.outcomes.classes}
    if foreign:
        raise InputError(f"The result has no class {min(foreign)!r} to test a condition on.")
    flags = result.header["flags"]
    allowed = waived(allow, also=[str(flag["flag"]) for flag in flags])
    checks = tuple(_check(result, contents, condition) for condition in asked)
    return Gate(
        model=plain(portable(str(result.header["model"]["name"]))),
        label=number_label(contents),
        confidence=min(check.confidence for check in checks),
        checks=checks,
        flags=tuple(_raised(flag, allowed) for flag in flags),
    )


def waived(names: Iterable[str], *, also: Iterable[str] = ()) -> frozenset[str]:
    """Return the names of flags to allow, once they are known to exist; one that did not come up is no fault.

    Args:
        names: of flags; one string may hold several, separated by commas.
        also: further names that exist.

    Raises:
        InputError: no flag has such a name, or the name is empty.

    Example:
        >>> sorted(waived(["loss_rising, zero_gradient"]))
        ['loss_rising', 'zero_gradient']
    """
    listed = [names] if isinstance(names, str) else names
    asked = [part.strip() for name in listed for part in name.split(",")]
    known = FLAGS | set(also)
    for name in asked:
        if name not in known:
            raise InputError(unknown("flag", name, list(known)))
        if name == "unmeasured_classes":
            raise InputError(
                "unmeasured_classes cannot be allowed, as nothing is known of such a class; set conditions on the "
                "others by name, as in class[NAME]=0.2."
            )
    return frozenset(asked)


def unreachable(condition: Condition, classes: Sequence[str], n: Ints, confidence: float = 0.95) -> str:
    """Say why no model could meet a condition with these images, and how many are needed; "" where one could.

    Args:
        condition: what is asked for.
        classes: names of the classes, (C,).
        n: images of each class, (C,).
        confidence: of the bound.

    Example:
        >>> three = conditions("worst=0.95", ["cat", "dog"])[0]
        >>> unreachable(three, ["cat", "dog"], np.array([3, 400]))
        'No model can reach 95.00 % with 3 images: every class needs at least 59.'
    """
    sizes = np.asarray(n)
    concerned = [list(classes).index(condition.label)] if condition.label else list(range(len(classes)))
    missing = [classes[c] for c in concerned if not sizes[c]]
    if missing:
        return _unmeasured(missing, len(classes))
    if _bound(condition, sizes, int(sizes.sum()), sizes, classes, confidence) >= condition.least:
        return ""
    asked = f"{percent(condition.least)} %"
    needed = _needed(condition, len(classes), confidence)
    if needed is None:
        return f"No number of images shows {asked}; ask for less."
    if condition.metric == "average":
        return f"No model can reach {asked} with {int(sizes.sum()):,} images: at least {needed:,} are needed."
    who = "the class" if condition.label else "every class"
    return f"No model can reach {asked} with {int(sizes[concerned].min()):,} images: {who} needs at least {needed:,}."


def _check(result: Result, contents: Contents, condition: Condition) -> Check:
    outcomes, n, classes = result.outcomes, result.outcomes.n, result.outcomes.classes
    correct, clean = outcomes.counts(condition.view), condition.view == CLEAN
    sure, total = (correct, int(correct.sum())) if clean else _audited(contents, correct)
    accuracy, c = outcomes.accuracy(condition.view), _position(classes, condition.label)
    value = {
        "worst": worst(accuracy),
        "worst_q10": worst_q(accuracy),
        "average": average(correct, n),
        "class": float(accuracy[c]),
    }[condition.metric]
    reason = plain(unreachable(condition, classes, n, result.confidence))
    measured = bool(n[c] if condition.label else (n > 0).all())
    bound = _bound(condition, sure, total, n, classes, result.confidence) if measured else 0.0
    doubt = 0.0 if clean else max((_doubt(audit) for audit in audits(contents)), default=0.0)
    return Check(
        name=plain(condition.name),
        least=condition.least,
        value=None if math.isnan(value) else value,
        bound=bound,
        confidence=round(result.confidence - doubt, 9),
        audit_error=round(doubt, 9),
        passed=measured and bool(bound >= condition.least),
        reason=reason,
    )


def _bound(condition: Condition, sure: Ints, total: int, n: Ints, classes: Sequence[str], confidence: float) -> float:
    """Return the lower bound that a condition is about, where every class that it depends on has images.

    `sure` counts the right images of each class that no audit leaves a doubt of, (C,), and `total` those of all.
    """
    if condition.metric == "average":
        # Also for images drawn class by class, whose sum varies less than a binomial of the same mean (Hoeffding 1956).
        return float(lower_bounds([total], [n.sum()], confidence)[0])
    if condition.metric == "class":
        return float(lower_bounds(sure, n, confidence)[_position(classes, condition.label)])
    m = tail_size(len(n), _TAILS[condition.metric])
    return float(np.sort(lower_bounds(sure, n, _each(confidence, m)))[:m].mean())


def _each(confidence: float, m: int) -> float:
    """Return the confidence of each of m bounds whose mean is to hold: those of the m truly weakest must be right."""
    return 1 - (1 - confidence) / m


def _needed(condition: Condition, num_classes: int, confidence: float) -> int | None:
    """Return the fewest images, of each class or in all, with which a condition holds if all are right; None: never."""
    if condition.least >= 1:
        return None
    m = tail_size(num_classes, _TAILS.get(condition.metric, 0.0))
    level = _each(confidence, m)
    fewest = max(1, math.ceil(math.log1p(-level) / math.log(condition.least)) - 1)
    while lower_bounds([fewest], [fewest], level)[0] < condition.least:
        fewest += 1
    return fewest


def _unmeasured(missing: Sequence[str], num_classes: int) -> str:
    names = ", ".join(repr(name) for name in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return (
        f"{len(missing)} of {num_classes} classes {'has' if len(missing) == 1 else 'have'} no images: {names}{more}. "
        "Evaluate images of every class, or set conditions on the others by name, as in class[NAME]=0.2."
    )


def _audited(contents: Contents, correct: Ints) -> tuple[Ints, int]:
    """Return the robust images of each class, and of all, that an audit leaves no doubt of."""
    by_class = misses(contents)
    if by_class is None:
        return correct, int(correct.sum())
    in_all = max(int(audit["at_most"]) for audit in audits(contents))
    return np.maximum(0, correct - np.array(by_class)), max(0, int(correct.sum()) - in_all)


def _doubt(audit: Mapping[str, Any]) -> float:
    """Return the chance that an audit errs: none once every survivor has met the full suite."""
    last = audit["rounds"][-1]
    return 0.0 if last["sampled"] == last["survivors"] else 1 - float(audit["confidence"])


def _raised(flag: Mapping[str, Any], allowed: frozenset[str]) -> RaisedFlag:
    name, attack = str(flag["flag"]), flag.get("attack")
    return RaisedFlag(
        flag=plain(name),
        message=plain(str(flag["message"])),
        attack=None if attack is None else plain(str(attack)),
        serious=name not in HARMLESS,
        waived=name in allowed,
    )


def _case(suite: ET.Element, model: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", {"classname": model, "name": name, "time": "0"})


def _position(classes: Sequence[str], label: str) -> int:
    return list(classes).index(label) if label else 0
