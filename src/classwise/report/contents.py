"""What a report says, read once from a result: the only file of the package that knows how results are laid out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classwise.files.texts import plain, portable_record
from classwise.metrics.outcomes import CLEAN, WORST_CASE
from classwise.metrics.result import Result

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_ABOUT = ("attack", "settings", "stages", "full", "reasons", "audit", "after")


@dataclass(frozen=True, eq=False)
class View:
    """Accuracy under one view of the outcomes: clean, one attack alone, or the worst case of all.

    Attributes:
        name: as printed, for example "margin-pgd".
        average: share of all images that are right.
        by_class: accuracy of each class (C,), NaN where a class has no images.
        intervals: simultaneous interval of each class (C, 2), NaN likewise.
        worst: position of the weakest class; ties go to the first.
        tied: positions of all classes that weak.
        worst_interval: interval of the lowest class accuracy, whichever class it is.
        spread: the other summaries by their key, None where undefined.
        cfps: share of all wrong answers that name the class (C,), NaN if there are none.
        seconds: time of the attack, None where it does not apply.
        settings: the attack as code, "" where it does not apply.
        about: what else result.json says of the attack, as it is there (`_ABOUT`), where it applies.
    """

    name: str
    correct: Counts
    average: float
    by_class: Floats
    intervals: Floats
    worst: int
    tied: tuple[int, ...]
    worst_interval: tuple[float, float]
    spread: Mapping[str, float | None]
    cfps: Floats
    seconds: float | None
    settings: str
    about: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Contents:
    """Everything a report shows, as values; names are free of control characters but not escaped.

    Attributes:
        header: result.json, whose fields say model, data, threat and settings.
        classes: names (C,).
        n: images of each class (C,).
        worst_case: accuracy under the point-wise worst of the clean image and all attacks.
        flow: images of class i, right when clean, that the attacks send to class j (C, C); diagonal: survivors.
        confusion: images of class i taken for class j in the worst case (C, C), wrong when clean or not.
        broken_by: how many images were wrong when clean, were first broken by each attack, or survive, by view.
        p_value: of the permutation test of equal classes; None with fewer than two classes.
        permutations: how many that test drew.
        confidence: of the simultaneous intervals, in per cent, as printed.
        order: classes that have images, weakest first.
        groups: superclass of each class (C,), "" where none.
        flow_order: all classes, in superclass order where there are groups.
    """

    header: Mapping[str, Any]
    classes: tuple[str, ...]
    n: Counts
    clean: View
    attacks: tuple[View, ...]
    worst_case: View
    flow: Counts
    confusion: Counts
    broken_by: Mapping[str, int]
    p_value: float | None
    permutations: int
    confidence: str
    order: Counts
    groups: tuple[str, ...]
    flow_order: Counts

    @property
    def views(self) -> tuple[View, ...]:
        """Clean, each attack in order, worst case."""
        return (self.clean, *self.attacks, self.worst_case)

    @property
    def weakest(self) -> str:
        """Name of the weakest class, with those tied with it."""
        first, *others = (self.classes[c] for c in self.worst_case.tied)
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        return f"{first} (tied with {', '.join(others[:2])}{more})" if others else first

    @property
    def precision(self) -> str:
        """What the attacks searched in; older evaluations knew float32 alone."""
        return str(self.header.get("search_precision", "float32"))

    @property
    def lost(self) -> Counts:
        """Images of each class that were right when clean and are not after the attacks (C,)."""
        return self.clean.correct - self.worst_case.correct

    @property
    def flow_count(self) -> int:
        """Images that the attacks move from one class to another."""
        return int(self.flow.sum() - np.trace(self.flow))

    @property
    def decimals(self) -> int:
        """Decimals of a per-cent value of one class: a class of a large set has few images."""
        return 1 if len(self.classes) >= 100 else 2


def read(result: Result) -> Contents:
    """Collect what the report says."""
    outcomes, document = result.outcomes, result.document
    worst = _view(result, WORST_CASE)
    n = outcomes.n
    groups = _groups(outcomes.classes, document["groups"])
    test = result.equal_classes
    return Contents(
        header=portable_record(document),
        classes=tuple(plain(name) for name in outcomes.classes),
        n=n,
        clean=_view(result, CLEAN),
        attacks=tuple(_view(result, name) for name in outcomes.attacks),
        worst_case=worst,
        flow=outcomes.flow(),
        confusion=outcomes.confusion(),
        broken_by=_broken_by(result),
        p_value=test.permuted_chi_square.p_value if (n > 0).sum() > 1 else None,
        permutations=test.permutations,
        confidence=f"{100 * result.confidence:g}",
        order=weakest_first(worst.by_class),
        groups=groups,
        flow_order=_by_group(groups),
    )


def _view(result: Result, name: str) -> View:
    summary, outcomes = result.view(name), result.outcomes
    spread = ("macro_average", "std", "std_corrected", "nsd", "class_variance")
    return View(
        name="worst case" if name == WORST_CASE else plain(name),
        correct=outcomes.counts(name),
        average=summary.average.accuracy,
        by_class=outcomes.accuracy(name),
        intervals=np.array([entry.interval for entry in summary.by_class]),
        worst=summary.worst.index,
        tied=summary.worst.tied,
        worst_interval=summary.worst.interval,
        spread={
            "worst_q10": _defined(summary.worst_q10.accuracy),
            "gap": _defined(summary.gap.value),
            **{key: _defined(getattr(summary, key)) for key in spread},
        },
        cfps=np.array([entry.cfps for entry in summary.by_class]),
        seconds=summary.header.get("seconds"),
        settings=plain(summary.header.get("settings", "")),
        about={key: summary.header[key] for key in _ABOUT if key in summary.header},
    )


def _broken_by(result: Result) -> dict[str, int]:
    names, counts = np.unique(result.outcomes.broken_by(), return_counts=True)
    number = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return {plain(name): number.get(name, 0) for name in (CLEAN, *result.outcomes.attacks)}


def weakest_first(accuracy: Floats) -> Counts:
    """Return the classes by accuracy (C,), the lowest first, without those that have no images and so NaN."""
    order = np.argsort(accuracy, kind="stable")
    return np.asarray(order[~np.isnan(accuracy[order])])


def _groups(classes: tuple[str, ...], groups: Mapping[str, Any]) -> tuple[str, ...]:
    group = {member: plain(name) for name, members in groups.items() for member in members}
    return tuple(group.get(name, "") for name in classes)


def _by_group(groups: tuple[str, ...]) -> Counts:
    """Return all classes with those of a group side by side, groups in the order of their first class."""
    first = {group: groups.index(group) for group in set(groups)}
    return np.array(sorted(range(len(groups)), key=lambda c: (first[groups[c]], c)), dtype=np.int64)


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
