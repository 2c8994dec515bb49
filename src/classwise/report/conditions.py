"""What a release gate asks for: shares of images that lower bounds must reach, such as "worst=0.2,average=0.4"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from classwise.errors import InputError
from classwise.metrics.outcomes import CLEAN, WORST_CASE
from classwise.registry import unknown

METRICS = ("worst", "worst_q10", "average")
_EXAMPLE = "write conditions as in worst=0.2,average=0.4,clean.average=0.8,class[cat]=0.1"
_NAMES = (*METRICS, "class[NAME]", *(f"clean.{metric}" for metric in METRICS), "clean.class[NAME]")
_CLASS = re.compile(r"\s*((?:clean\.)?class\[)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Condition:
    """What is asked for.

    Attributes:
        name: as written, such as "clean.worst".
        view: "clean" or "worst_case".
        metric: "worst", "worst_q10", "average" or "class".
        label: name of the class, "" for other metrics.
        least: share of images that the lower bound must reach, in [0, 1].

    Raises:
        InputError: another view, metric or share, or a label that does not go with the metric.
    """

    name: str
    view: str
    metric: str
    label: str
    least: float

    def __post_init__(self) -> None:
        if self.view not in (CLEAN, WORST_CASE) or self.metric not in (*METRICS, "class"):
            raise InputError(f"There is no condition on {self.metric!r} of {self.view!r}; {_EXAMPLE}.")
        if bool(self.label) != (self.metric == "class"):
            raise InputError(f"The condition {self.name!r} has the class {self.label!r}; only class[NAME] has one.")
        if not 0 <= self.least <= 1:
            raise InputError(f"{self.name} asks for {self.least:g}, but a share lies between 0 and 1; {_EXAMPLE}.")


def conditions(text: str, classes: Sequence[str]) -> tuple[Condition, ...]:
    """Read conditions such as "worst=0.2,average=0.4,clean.average=0.8,class[cat]=0.1".

    Args:
        text: conditions separated by commas: worst, worst_q10, average or class[NAME], after "clean." on clean images,
            otherwise in the worst case of all attacks; each with a share between 0 and 1.
        classes: names of the classes.

    Raises:
        InputError: it is empty or something else, asks for a thing twice, or names an unknown class.

    Example:
        >>> [condition.least for condition in conditions("worst=0.2, class[cat]=0.1", ["cat", "dog"])]
        [0.2, 0.1]
    """
    if not text.strip():
        raise InputError(f"No condition was given; {_EXAMPLE}.")
    asked = tuple(_condition(name, label, value, classes) for name, label, value in _parts(text, classes))
    twice = [name for name, count in Counter(condition.name for condition in asked).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is asked for twice; keep one of them.")
    return asked


def _parts(text: str, classes: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Split into name, class and value, None without "=": class names may hold commas, brackets and equals signs."""
    while True:
        name, label, rest = _named(text, classes)
        value, comma, text = rest.partition(",")
        if not (name or value):
            raise InputError(f"There is a comma with no condition beside it; {_EXAMPLE}.")
        yield name, label, value[1:].strip() if value.startswith("=") else None
        if not comma:
            return


def _named(text: str, classes: Sequence[str]) -> tuple[str, str, str]:
    """Return the name of the first condition, its class ("" without), and the text from its equals sign on."""
    head = _CLASS.match(text)
    label = None if head is None else _label(text[head.end() :], classes)
    if head is None or label is None:
        name = re.split("[=,]", text, maxsplit=1)[0]
        return name.strip(), "", text[len(name) :]
    return f"{head[1]}{label}]", label, text[head.end() + len(label) + 1 :].lstrip()


def _label(text: str, classes: Sequence[str]) -> str | None:
    """Return what stands before the closing bracket: the longest name of a class, else up to the first bracket."""
    known = [name for name in classes if text.startswith(name) and re.match(r"\]\s*(=|,|$)", text[len(name) :])]
    name, bracket, _ = text.partition("]")
    return max(known, key=len) if known else name if bracket else None


def _condition(name: str, label: str, value: str | None, classes: Sequence[str]) -> Condition:
    view = CLEAN if name.startswith("clean.") else WORST_CASE
    metric = name.removeprefix("clean.")
    if metric.startswith("class[") and metric.endswith("]"):
        if label not in classes:
            raise InputError(f"There is no class {label!r} to set a condition for; the classes are {_listed(classes)}.")
        metric = "class"
    elif metric not in METRICS:
        if _NUMBER.fullmatch(name):
            raise InputError(f"There is no condition {name!r}; write a share with a point, as in worst=0.2.")
        raise InputError(unknown("condition", name, list(_NAMES)))
    if not value:
        raise InputError(f"{name!r} asks for no share; write one between 0 and 1, as in {name}=0.2.")
    return Condition(name, view, metric, label, _share(name, value))


def _share(name: str, value: str) -> float:
    """Read a share in [0, 1]; of a percentage, say what it would be."""
    bare = value.removesuffix("%").strip()
    if bare.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise InputError(f"{name}={value} is no share between 0 and 1; {_EXAMPLE}.")
    if not _NUMBER.fullmatch(bare):
        raise InputError(f"{name}={value}: {value!r} is not a number; write a share between 0 and 1, as in {name}=0.2.")
    least = float(bare)
    if (value != bare or least > 1) and 0 <= least <= 100:
        raise InputError(
            f"{name}={value} is in per cent, but a share lies between 0 and 1; write {name}={least / 100:g}."
        )
    if not 0 <= least <= 1:
        raise InputError(f"{name}={value} is no share between 0 and 1; {_EXAMPLE}.")
    return least


def _listed(classes: Sequence[str]) -> str:
    names = ", ".join(classes[:20])
    return f"{names} and {len(classes) - 20} more" if len(classes) > 20 else names
