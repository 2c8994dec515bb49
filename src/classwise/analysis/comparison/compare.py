"""Several models on the same images, class by class: who gains, who pays, and what is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from classwise.analysis.evidence import Subject, check_same
from classwise.analysis.finding import Finding, Kind, points, table
from classwise.analysis.leaderboard import METRICS, leaderboard, sha
from classwise.errors import InputError
from classwise.files.texts import plain
from classwise.metrics import paired, summaries
from classwise.metrics.hypotheses import holm
from classwise.metrics.intervals import Interval, Intervals
from classwise.metrics.outcomes import WORST_CASE, Floats
from classwise.metrics.training import weakest_held_out
from classwise.metrics.views import ByClass
from classwise.registry import unknown
from classwise.report.sheet import Sheet
from classwise.report.tables import SIGNIFICANCE, percent


def compare(subjects: Sequence[Subject], view: str = WORST_CASE, sort: str = "worst") -> list[Finding]:
    """Compare models with the first one, the baseline, on the same images under the same attacks.

    Args:
        subjects: evaluations; the first is the baseline.
        view: an attack that all met, "clean", or the worst case, for which all attacks must be the same.
        sort: metric of the leaderboard, a key of `METRICS`.

    Returns:
        the leaderboard, then a finding for each other model: the paired change of each class with simultaneous
        intervals and exact McNemar tests with Holm's correction, and a warning of levelling down.

    Raises:
        InputError: fewer than two models, no such view or metric, or evaluations that cannot be compared: the first
            difference is named.
    """
    if sort not in METRICS:
        raise InputError(unknown("metric", sort, METRICS))
    check_same(subjects, view)
    labels = [plain(subject.label) for subject in subjects]
    changes = [
        Change(subjects[0], other, (labels[0], label), view, number)
        for number, (other, label) in enumerate(zip(subjects[1:], labels[1:], strict=True), 1)
    ]
    return [leaderboard(subjects, labels, view, sort), *(change.finding() for change in changes)]


@dataclass(frozen=True)
class ClassChange:
    """How one class fares in a model against the baseline, on the same images.

    Attributes:
        name: of the class.
        index: its number, 0 … C − 1.
        images: of the class.
        before: accuracy of the baseline; NaN for a class without images, as all shares below.
        after: accuracy of the other model.
        change: after − before.
        interval: of the change, simultaneous over classes.
        gained: images that only the other model gets right.
        lost: images that only the baseline gets right.
        p_holm: of McNemar's exact test, adjusted for all classes (Holm).
    """

    name: str
    index: int
    images: int
    before: float
    after: float
    change: float
    interval: Interval
    gained: int
    lost: int
    p_holm: float


@dataclass(frozen=True)
class FixedClass:
    """A class that was chosen on other images: its name, its change and the interval of this class alone."""

    name: str
    change: float
    interval: Interval

    def as_dict(self) -> dict[str, Any]:
        """Return the same for JSON, with the name as "class"."""
        return {"class": self.name, "change": self.change, "interval": self.interval}


@dataclass(frozen=True, eq=False)
class Change:
    """One model against the baseline.

    Attributes:
        base: the baseline's evaluation.
        other: the evaluation that is compared with it.
        labels: what the two are called.
        view: under which attack, or the worst case.
        number: of the other model among those compared with the baseline, from 1.
    """

    base: Subject
    other: Subject
    labels: tuple[str, str]
    view: str
    number: int = 1

    @property
    def confidence(self) -> float:
        """Level of the simultaneous intervals."""
        return self.base.result.confidence

    @cached_property
    def accuracy(self) -> tuple[Floats, Floats]:
        """Class accuracies of both, (C,) each."""
        return self.base.result.outcomes.accuracy(self.view), self.other.result.outcomes.accuracy(self.view)

    @cached_property
    def counts(self) -> paired.Pairs:
        """Images of each class on which the two disagree."""
        one, two = self.base.result.outcomes, self.other.result.outcomes
        return paired.pairs(one.correct(self.view), two.correct(self.view), one.y, one.num_classes)

    @cached_property
    def p_holm(self) -> Floats:
        """McNemar's p-value of each class, adjusted for all, (C,)."""
        return holm(paired.mcnemar(self.counts))

    @cached_property
    def intervals(self) -> Intervals:
        """Simultaneous intervals of the changes, (C,)."""
        return paired.change_intervals(self.counts, self.confidence)

    @cached_property
    def fixed(self) -> FixedClass | None:
        """Name and change, with its interval, of the class that was weakest on the images that the baseline held out.

        None where that class is not known. The interval is of this class alone, as no search chose it.
        """
        c = weakest_held_out(str(self.base.result.header["model"]["name"]))
        if c is None or c >= self.base.result.outcomes.num_classes:
            return None
        low, high = paired.change_intervals(self.counts, self.confidence, simultaneous=False)
        change, interval = float(self.counts.change[c]), Interval(float(low[c]), float(high[c]))
        return FixedClass(plain(self.base.result.outcomes.classes[c]), change, interval)

    @cached_property
    def by_class(self) -> ByClass[ClassChange]:
        """Every class, by number or by name."""
        columns = (
            self.counts.n.tolist(),
            self.accuracy[0].tolist(),
            self.accuracy[1].tolist(),
            self.counts.change.tolist(),
            [Interval(*ends) for ends in zip(*(side.tolist() for side in self.intervals), strict=True)],
            self.counts.gained.tolist(),
            self.counts.lost.tolist(),
            self.p_holm.tolist(),
        )
        names = enumerate(self.base.result.outcomes.classes)
        return ByClass(tuple(ClassChange(name, c, *row) for (c, name), *row in zip(names, *columns, strict=True)))

    def beyond_chance(self, sign: int) -> list[int]:
        """Return the classes that gain (sign 1) or pay (sign −1) by more than chance, Holm at 5 %."""
        return np.flatnonzero((self.p_holm < SIGNIFICANCE) & (sign * self.counts.change > 0)).tolist()

    def finding(self) -> Finding:
        """Return the change as a sentence, a table and values."""
        level = paired.levelling(*self.accuracy)
        average, around = paired.average_change(self.counts, confidence=self.confidence)
        lowest = [summaries.worst(accuracy) for accuracy in self.accuracy]
        means = [summaries.average(s.result.outcomes.counts(self.view), self.counts.n) for s in (self.other, self.base)]
        values = {
            "view": self.view,
            "baseline": {"name": self.labels[0], "sha256": sha(self.base)},
            **self.counts._asdict(),
            "change": self.counts.change,
            "intervals": self.intervals,
            "p_values": paired.mcnemar(self.counts),
            "p_holm": self.p_holm,
            "average_change": {"value": average, "interval": around},
            "largest_gain": paired.largest_gain(self.intervals),
            "largest_loss": paired.largest_loss(self.intervals),
            "fixed": self.fixed,
            "delta": summaries.delta(lowest[1], means[0], lowest[0], means[1]),
            "levelling": level,
            "gains": self.beyond_chance(1),
            "pays": self.beyond_chance(-1),
        }
        sentence = (
            f"{self.labels[1]} against {self.labels[0]} (weights {sha(self.base)[:12]}): average {100 * average:+.2f} "
            f"points ({points(around)}), worst class {percent(lowest[0])} % to {percent(lowest[1])} %; beyond chance "
            f"(McNemar, Holm {100 * SIGNIFICANCE:g} %) {self._said(1, 'gain')} and {self._said(-1, 'pay')}."
            f"{self._said_of_fixed()}{_warning(level)}"
        )
        return Finding("compare", "", self.labels[1], "described", sentence, (self._sheet(),), values)

    def _said_of_fixed(self) -> str:
        if self.fixed is None:
            return ""
        change = f"{100 * self.fixed.change:+.2f} points ({points(self.fixed.interval)})"
        return f" On {self.fixed.name}, the weakest class of the images that the baseline held out: {change}."

    def _said(self, sign: int, verb: str) -> str:
        """Say which classes change beyond chance, as in "no class gains" and "horse, ship pay"."""
        names = [plain(self.base.result.outcomes.classes[c]) for c in self.beyond_chance(sign)]
        return f"{', '.join(names) or 'no class'} {verb}{'' if len(names) > 1 else 's'}"

    def _sheet(self) -> Sheet:
        columns: dict[str, Kind] = {
            "class": "words",
            "n": "count",
            self.labels[0]: "share",
            self.labels[1]: "share",
            "change": "points",
            f"{100 * self.confidence:g} % interval": "words",
            "gained": "count",
            "lost": "count",
            "p Holm": "p",
            "beyond chance": "words",
        }
        caption = f"{self.labels[1]} against {self.labels[0]} ({self.view}), in per cent; all intervals hold at once"
        order = np.argsort(np.nan_to_num(self.counts.change, nan=np.inf), kind="stable")
        rows = [self._row(self.by_class[int(c)]) for c in order if self.counts.n[c]]
        return table(f"changes-{self.number}", caption, columns, rows, spare=("n", "gained", "lost"))

    def _row(self, entry: ClassChange) -> list[Any]:
        gains, pays = (entry.index in self.beyond_chance(sign) for sign in (1, -1))
        return [
            plain(entry.name),
            entry.images,
            entry.before,
            entry.after,
            entry.change,
            points(entry.interval),
            entry.gained,
            entry.lost,
            entry.p_holm,
            "gains" if gains else "pays" if pays else "",
        ]


def _warning(level: paired.Levelling) -> str:
    if not level.down:
        return ""
    who = "1 class loses" if level.losing == 1 else f"{level.losing} classes lose"
    return (
        " Levelling down: the classes became more equal by loss, as neither the worst class nor the mean rose; "
        f"{who} {-100 * level.mean_loss:.1f} points on average."
    )
