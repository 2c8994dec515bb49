"""One view of the outcomes in numbers, as typed values; the form in result.json is made here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, overload

import numpy as np

from classwise.errors import InputError
from classwise.metrics.extremes import gap_interval, gap_method, worst_interval, worst_q_interval
from classwise.metrics.intervals import Interval, clopper_pearson, simultaneous, tail_size
from classwise.metrics.outcomes import CLEAN, INVALID, WORST_CASE, Outcomes
from classwise.metrics.summaries import (
    average,
    cfps,
    class_variance,
    gap,
    gini,
    macro_average,
    nsd,
    ratio,
    std,
    std_corrected,
    worst,
    worst_classes,
    worst_q,
)

_Q = 0.1
_SPREAD = ("ratio", "std", "std_corrected", "nsd", "class_variance", "gini")


class OfAClass(Protocol):
    """A value that belongs to a class and knows the name of that class."""

    @property
    def name(self) -> str:
        """Name of the class."""
        ...


Entry = TypeVar("Entry", bound=OfAClass)


@dataclass(frozen=True)
class ByClass(Sequence[Entry], Generic[Entry]):
    """One value a class, in the order of the classes, found by position or by name.

    Attributes:
        entries: the values, (C,).

    Raises:
        InputError: on access, no class or several classes have the name.

    Example:
        >>> from classwise.metrics import Outcomes, summarize
        >>> outcomes = Outcomes(("cat", "dog"), index=[0, 1, 2], y=[0, 0, 1], clean=[0, 1, 1],
        ...                     predictions={}, margins={}, distances={})
        >>> by_class = summarize(outcomes).by_class
        >>> by_class["cat"].accuracy, by_class[-1].name, "bird" in by_class
        (0.5, 'dog', False)
    """

    entries: tuple[Entry, ...]

    @overload
    def __getitem__(self, key: int | str) -> Entry: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, key: int | str | slice) -> Entry | tuple[Entry, ...]:
        return self._named(key) if isinstance(key, str) else self.entries[key]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __contains__(self, item: object) -> bool:
        return any(entry.name == item or entry == item for entry in self.entries)

    def _named(self, name: str) -> Entry:
        matches = [entry for entry in self.entries if entry.name == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InputError(f"{len(matches)} classes are called {name!r}; take the class by its number.")
        raise InputError(f"There is no class {name!r}; the classes are {', '.join(e.name for e in self.entries)}.")


@dataclass(frozen=True)
class ClassAccuracy:
    """How one class fares in a view.

    Attributes:
        name: of the class.
        index: its number, 0 … C − 1.
        images: images of the class.
        correct: how many of them are right in the view; under attack, how many are robust.
        accuracy: their share; NaN for a class without images.
        interval: of the accuracy, simultaneous over the classes (exact, Bonferroni); NaN likewise.
        clean_accuracy: share that is right when clean.
        cfps: share of all wrong answers that name this class; NaN if there are none.
    """

    name: str
    index: int
    images: int
    correct: int
    accuracy: float
    interval: Interval
    clean_accuracy: float
    cfps: float


@dataclass(frozen=True)
class WorstClass:
    """The class with the lowest accuracy in a view.

    Attributes:
        name: of the class, the first of those that tie; "" if no class has images.
        index: its number; −1 likewise.
        tied: numbers of all classes with this accuracy, in order.
        images: images of the class.
        correct: how many of them are right in the view.
        accuracy: the lowest class accuracy; NaN if no class has images.
        interval: of the lowest true accuracy, whichever class has it (`metrics.worst_interval`): the interval of the
            class itself ignores that it was searched for.
        clean_accuracy: share of the images of the class that is right when clean.
    """

    name: str
    index: int
    tied: tuple[int, ...]
    images: int
    correct: int
    accuracy: float
    interval: Interval
    clean_accuracy: float


@dataclass(frozen=True)
class AverageAccuracy:
    """The share of all images that are right in a view: the micro average.

    Attributes:
        images: all images.
        correct: how many are right.
        accuracy: their share; NaN without images.
        interval: exact (Clopper & Pearson 1934), of this number alone; also for images drawn class by class, whose sum
            varies less than a binomial of the same mean (Hoeffding 1956).
    """

    images: int
    correct: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class Tail:
    """The mean of the ``size`` lowest class accuracies, a share ``q`` of the classes; NaN if none has images."""

    q: float
    size: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class Gap:
    """Highest minus lowest class accuracy, its interval, and by which method (`metrics.gap_method`)."""

    value: float
    interval: Interval
    method: str


@dataclass(frozen=True)
class ViewSummary:
    """A view of the outcomes in numbers: "clean", one attack, or the worst case of all. Undefined numbers are NaN.

    Attributes:
        view: its name.
        average: over all images.
        worst: the weakest class.
        by_class: every class, by number or name.
        macro_average: mean over classes.
        worst_q10: mean of the weakest tenth of the classes.
        gap: highest minus lowest class accuracy.
        ratio, std, std_corrected, nsd, class_variance, gini: spread over classes (docs/metrics.md).
        confidence: of the intervals.
        header: what result.json says of the attack besides, such as settings and seconds; empty for other views.
    """

    view: str
    average: AverageAccuracy
    worst: WorstClass
    by_class: ByClass[ClassAccuracy]
    macro_average: float
    worst_q10: Tail
    gap: Gap
    ratio: float
    std: float
    std_corrected: float
    nsd: float
    class_variance: float
    gini: float
    confidence: float
    header: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the same as in result.json: the header, and plain types with None for undefined.

        Returns:
            correct (C,) counts; accuracy (all images); macro_average; by_class (C,); intervals (C,) [low, high],
            and intervals_method; worst {class, index, tied, accuracy, interval}; worst_q10 {q, size, accuracy,
            interval}; gap {value, interval, method}; ratio, std, std_corrected, nsd, class_variance, gini; cfps (C,),
            or None as a whole if there is no false positive.
        """
        shares = [entry.cfps for entry in self.by_class]
        return {
            **self.header,
            "correct": [entry.correct for entry in self.by_class],
            "accuracy": _number(self.average.accuracy),
            "macro_average": _number(self.macro_average),
            "by_class": [_number(entry.accuracy) for entry in self.by_class],
            "intervals": [_ends(entry.interval) for entry in self.by_class],
            "intervals_method": "clopper-pearson",
            "worst": self._worst(),
            "worst_q10": {
                "q": self.worst_q10.q,
                "size": self.worst_q10.size,
                "accuracy": _number(self.worst_q10.accuracy),
                "interval": _ends(self.worst_q10.interval),
            },
            "gap": {
                "value": _number(self.gap.value),
                "interval": _ends(self.gap.interval),
                "method": self.gap.method,
            },
            **{name: _number(getattr(self, name)) for name in _SPREAD},
            "cfps": None if all(map(math.isnan, shares)) else shares,
        }

    def _worst(self) -> dict[str, Any]:
        known = bool(self.worst.tied)
        return {
            "class": self.worst.name if known else None,
            "index": self.worst.index if known else None,
            "tied": list(self.worst.tied),
            "accuracy": _number(self.worst.accuracy),
            "interval": _ends(self.worst.interval),
        }


def summarize(
    outcomes: Outcomes,
    view: str = WORST_CASE,
    confidence: float = 0.95,
    header: Mapping[str, Any] | None = None,
) -> ViewSummary:
    """Sum up one view of outcomes.

    Args:
        outcomes: of every image.
        view: "clean", an attack or "worst_case".
        confidence: of the intervals, in (0, 1).
        header: what else result.json says of the attack.

    Raises:
        InputError: no such view, or a confidence outside (0, 1).

    Example:
        >>> outcomes = Outcomes(("cat", "dog"), index=[0, 1, 2, 3], y=[0, 0, 1, 1], clean=[0, 0, 1, 1],
        ...                     predictions={"pgd": [0, 1, 1, 1]}, margins={}, distances={})
        >>> summary = summarize(outcomes)
        >>> summary.worst.name, summary.worst.accuracy, summary.average.accuracy, summary.gap.value
        ('cat', 0.5, 0.75, 0.5)
    """
    counts, n, accuracy = outcomes.counts(view), outcomes.n, outcomes.accuracy(view)
    by_class = _by_class(outcomes, view, confidence)
    tail = Tail(
        _Q, tail_size(int((n > 0).sum()), _Q), worst_q(accuracy, _Q), worst_q_interval(counts, n, _Q, confidence)
    )
    return ViewSummary(
        view=view,
        average=_average(int(counts.sum()), int(n.sum()), confidence),
        worst=_worst_class(by_class, worst_interval(counts, n, confidence)),
        by_class=by_class,
        macro_average=macro_average(accuracy),
        worst_q10=tail,
        gap=Gap(gap(accuracy), gap_interval(counts, n, confidence), gap_method(counts, n)),
        ratio=ratio(accuracy),
        std=std(accuracy),
        std_corrected=std_corrected(counts, n),
        nsd=nsd(accuracy),
        class_variance=class_variance(accuracy),
        gini=gini(accuracy),
        confidence=confidence,
        header=dict(header or {}),
    )


def table(outcomes: Outcomes, view: str = WORST_CASE, confidence: float = 0.95) -> dict[str, Any]:
    """Return `summarize` in the form of result.json (`ViewSummary.as_dict`)."""
    return summarize(outcomes, view, confidence).as_dict()


def _by_class(outcomes: Outcomes, view: str, confidence: float) -> ByClass[ClassAccuracy]:
    counts, n = outcomes.counts(view), outcomes.n
    low, high = simultaneous(counts, n, confidence)
    columns = (
        n.tolist(),
        counts.tolist(),
        outcomes.accuracy(view).tolist(),
        [Interval(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True)],
        outcomes.accuracy(CLEAN).tolist(),
        cfps(outcomes.confusion(view)).tolist(),
    )
    names = enumerate(outcomes.classes)
    return ByClass(tuple(ClassAccuracy(name, c, *row) for (c, name), *row in zip(names, *columns, strict=True)))


def _worst_class(by_class: ByClass[ClassAccuracy], interval: Interval) -> WorstClass:
    accuracy = np.array([entry.accuracy for entry in by_class])
    tied = tuple(worst_classes(accuracy))
    if not tied:
        return WorstClass("", INVALID, (), 0, 0, math.nan, interval, math.nan)
    first = by_class[tied[0]]
    return WorstClass(
        first.name, first.index, tied, first.images, first.correct, worst(accuracy), interval, first.clean_accuracy
    )


def _average(correct: int, images: int, confidence: float) -> AverageAccuracy:
    low, high = clopper_pearson([correct], [images], confidence)
    return AverageAccuracy(images, correct, average(correct, images), Interval(float(low[0]), float(high[0])))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _ends(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else [float(interval.low), float(interval.high)]
