"""What a fit came to: every correction that was tried, the one that was chosen, and what it promises on new images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from classwise import files
from classwise.corrections.pooling import forget
from classwise.errors import InputError
from classwise.metrics.intervals import Interval
from classwise.metrics.outcomes import CLEAN, Floats, Outcomes
from classwise.metrics.paired import change_intervals, pairs
from classwise.metrics.trade_off import CURVE_FILE
from classwise.metrics.views import ViewSummary, summarize
from classwise.models.corrected import FITTED_ON_TEST, RECORD, Corrected, save_corrected

ADAPTIVE, NON_ADAPTIVE = "adaptive", "non_adaptive"
"""Views of a round: everything that was found against any correction, and what was found against none."""
UNCORRECTED, CORRECTED = "uncorrected", "corrected"
"""What a promise compares, each in a file of outcomes of this name behind "promise-"."""
FINAL_NUMBER = (
    "The rule was chosen on these very images; the final number comes from `classwise evaluate corrected:DIR`, which "
    "attacks the corrected model afresh on test images."
)
_DRAWS = 4000
_Z = 1.96  # 95 % of a normal distribution lie within so many standard errors
ILLUSTRATION = "illustration only: candidates that were made against the uncorrected model"


class PairedChange(NamedTuple):
    """A change of a share, with an interval."""

    value: float
    low: float
    high: float


class Expected(NamedTuple):
    """An accuracy to expect, with a 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class Round:
    """A correction that was tried.

    Attributes:
        max_loss: points of average that it was allowed to cost.
        correction: the decision rule; that of round 0 changes nothing.
        outcomes: on the held-out images. View "adaptive" is the worst case over everything that was found against
            any correction, "non_adaptive" that over what was found against the uncorrected model.
    """

    max_loss: float
    correction: nn.Module
    outcomes: Outcomes

    @property
    def average(self) -> float:
        """Share of images right under adaptive attack."""
        return float(self.outcomes.correct(ADAPTIVE).mean())


@dataclass(frozen=True, eq=False)
class RoundSummary:
    """A round in numbers, on the held-out images.

    Attributes:
        number: of the round; 0 changes nothing.
        max_loss: points of average that it was allowed to cost.
        chosen: whether its correction is in the model.
        clean, adaptive, non_adaptive: accuracies in these views.
        change: of the adaptive average against round 0, as a share.
        paying: points that each class loses against round 0, by name, below 0; the others are left out.
        parameters: of the correction, by name, in plain types.
    """

    number: int
    max_loss: float
    chosen: bool
    clean: ViewSummary
    adaptive: ViewSummary
    non_adaptive: ViewSummary
    change: PairedChange
    paying: Mapping[str, float]
    parameters: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as in curve.json; changes in points."""
        return {
            "round": self.number,
            "max_loss": self.max_loss,
            "average_change": 100 * self.change.value,
            "average_change_interval": [100 * self.change.low, 100 * self.change.high],
            "paying": dict(self.paying),
            CLEAN: _with_interval(self.clean),
            ADAPTIVE: _with_interval(self.adaptive),
            NON_ADAPTIVE: {**_with_interval(self.non_adaptive), "label": ILLUSTRATION},
            "chosen": self.chosen,
            "parameters": dict(self.parameters),
        }


@dataclass(frozen=True, eq=False)
class Promise:
    """What the correction is worth on images that it has not seen, by cross-fitting over the held-out ones.

    Each fifth of them is judged by a correction that was fitted, from the start, on the other four, and attacked
    behind it. So no image takes part in the choice of what it is judged by.

    Attributes:
        uncorrected: outcomes of every image on the model as it was, view "adaptive".
        corrected: on the corrected ones, the same images.
        by_fold: class accuracies under attack of each fold's correction on all held-out images (folds, C).
    """

    uncorrected: Outcomes
    corrected: Outcomes
    by_fold: Floats

    @property
    def folds(self) -> int:
        """Number of parts."""
        return len(self.by_fold)

    @cached_property
    def before(self) -> ViewSummary:
        """Accuracies under attack of the model as it was."""
        return summarize(self.uncorrected, ADAPTIVE)

    @cached_property
    def after(self) -> ViewSummary:
        """Accuracies under attack of the corrected model, which are what to expect on new images."""
        return summarize(self.corrected, ADAPTIVE)

    @cached_property
    def weakest(self) -> Expected:
        """Lowest class accuracy to expect of the correction in the model, with a 95 % interval.

        The interval is that of the folds put together, but reaches lower: the folds have unlike weakest classes, and
        what one takes from a class the others give back. How far class accuracies a_k (C,) move with the images of the
        fit is known from the K folds (delete-a-group jackknife, Kott 2001): their covariance is
        (K − 1)/K Σ_k (a_k − ā)(a_k − ā)ᵀ. The lower end goes down by what normal deviations of this covariance cost
        the minimum on average. Simulated in benchmarks/promise.py.
        """
        accuracy, deviation = self.corrected.accuracy(ADAPTIVE), self.by_fold - self.by_fold.mean(0)
        factors = np.random.default_rng(0).standard_normal((_DRAWS, self.folds))
        drawn = accuracy + factors @ deviation * (1 - 1 / self.folds) ** 0.5
        cost = float(np.nanmin(accuracy) - np.nanmin(drawn, axis=1).mean())
        low, high = self.after.worst.interval
        return Expected(self.after.worst.accuracy, Interval(max(0.0, low - max(0.0, cost)), high))

    @property
    def change(self) -> PairedChange:
        """Of the average; its interval counts in that another choice of images would have made another rule."""
        change = paired_change(self.uncorrected.correct(ADAPTIVE), self.corrected.correct(ADAPTIVE))
        n = self.uncorrected.n
        return _widened(change, np.nansum(self.by_fold * n, 1) / n.sum())

    @property
    def change_of_weakest(self) -> PairedChange:
        """Of the class that was the weakest before; likewise."""
        label = self.before.worst.index
        of_class = self.uncorrected.y == label
        views = (view.correct(ADAPTIVE)[of_class] for view in (self.uncorrected, self.corrected))
        return _widened(paired_change(*views), self.by_fold[:, label])

    def as_dict(self) -> dict[str, Any]:
        """Return the same for JSON; changes in points."""
        changes = {"average_change": self.change, "weakest_change": self.change_of_weakest}
        return {
            "folds": self.folds,
            "weakest": {"accuracy": self.weakest.value, "interval": list(self.weakest.interval)},
            UNCORRECTED: _with_interval(self.before),
            CORRECTED: _with_interval(self.after),
            CLEAN: _with_interval(summarize(self.corrected, CLEAN)),
            **{name: 100 * change.value for name, change in changes.items()},
            **{f"{name}_interval": [100 * change.low, 100 * change.high] for name, change in changes.items()},
        }


@dataclass(frozen=True, eq=False)
class Repair:
    """What a fit came to.

    Attributes:
        model: the corrected model.
        rounds: every correction that was tried, in order.
        chosen: which of them is in the model; 0 where none was better than nothing.
        record: how it was fitted.
        promise: what to expect on new images; None where a class has a single image.
        warnings: sentences on what is too little, or missed.
    """

    model: Corrected
    rounds: tuple[Round, ...]
    chosen: int
    record: Mapping[str, Any]
    promise: Promise | None = None
    warnings: tuple[str, ...] = field(default=())

    @cached_property
    def points(self) -> tuple[RoundSummary, ...]:
        """Worst against average, a point a round."""
        first = self.rounds[0].outcomes
        return tuple(_point(k, tried, first, k == self.chosen) for k, tried in enumerate(self.rounds))

    @property
    def warning(self) -> str | None:
        """What makes every number of the fit too high; None where nothing does."""
        return FITTED_ON_TEST if self.record["fitted_on_test"] else None

    def curve(self) -> dict[str, Any]:
        """Return what curve.json holds: the record, the promise, and `points` as dicts."""
        first = self.rounds[0].outcomes
        return {
            **self.record,
            "warning": self.warning,
            "warnings": list(self.warnings),
            "final_number": FINAL_NUMBER,
            "promise": None if self.promise is None else self.promise.as_dict(),
            "classes": list(first.classes),
            "n": first.n.tolist(),
            "chosen": self.chosen,
            "rounds": [point.as_dict() for point in self.points],
        }

    def write(self, folder: Path, text: str, images: str = "") -> None:
        """Write the corrected model, the curve and the outcomes behind the promise; forget the unfinished fit.

        Args:
            folder: one that holds no corrected model yet.
            text: model string of the uncorrected model.
            images: what it was fitted on, in words.

        Raises:
            InputError: the folder holds one, or cannot be written.
        """
        refuse_used(folder)
        files.write_json(folder / CURVE_FILE, {"model": text, "images": images, **self.curve()})
        if self.promise is not None:
            self.promise.uncorrected.save(folder / f"promise-{UNCORRECTED}.npz")
            self.promise.corrected.save(folder / f"promise-{CORRECTED}.npz")
        save_corrected(self.model, text, self.record["rule"], folder, {"images": images, **self.record})
        forget(folder)


def refuse_used(folder: Path) -> None:
    """Refuse a folder that holds a corrected model or cannot be one, before hours are spent on what goes there.

    Raises:
        InputError: it is such a folder.
    """
    files.refuse_unwritable(folder / RECORD)
    if (folder / RECORD).exists():
        raise InputError(f"{folder} holds a corrected model already; choose another --out, or delete it.")


def paired_change(before: ArrayLike, after: ArrayLike) -> PairedChange:
    """Return how much the share of right images changes, with a 95 % interval (`metrics.change_intervals`).

    Args:
        before: which images (N,) are right before, and
        after: afterwards, the same images.

    Example:
        >>> paired_change([True] * 50 + [False] * 50, [True] * 60 + [False] * 40).value
        0.1
    """
    right = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    counts = pairs(*right, np.zeros(len(right[0]), dtype=np.int64), 1)
    low, high = change_intervals(counts, simultaneous=False)
    value = (int(right[1].sum()) - int(right[0].sum())) / len(right[0])
    return PairedChange(value, float(low[0]), float(high[0]))


def _widened(change: PairedChange, by_fold: Floats) -> PairedChange:
    """Add the jackknife's variance of what the folds reach on the same images (K,) to the interval of a change."""
    share = 1 - 1 / len(by_fold)
    more = _Z**2 * share * float(((by_fold - by_fold.mean()) ** 2).sum())
    below, above = (math.hypot(end - change.value, more**0.5) for end in (change.low, change.high))
    return PairedChange(change.value, change.value - below, change.value + above)


def _point(number: int, tried: Round, first: Outcomes, chosen: bool) -> RoundSummary:
    outcomes = tried.outcomes
    change = 100 * (outcomes.accuracy(ADAPTIVE) - first.accuracy(ADAPTIVE))
    return RoundSummary(
        number,
        tried.max_loss,
        chosen,
        summarize(outcomes, CLEAN),
        summarize(outcomes, ADAPTIVE),
        summarize(outcomes, NON_ADAPTIVE),
        paired_change(first.correct(ADAPTIVE), outcomes.correct(ADAPTIVE)),
        {name: float(value) for name, value in zip(first.classes, change, strict=True) if value < 0},
        {name: value.tolist() for name, value in tried.correction.state_dict().items()},
    )


def _with_interval(summary: ViewSummary) -> dict[str, Any]:
    return {**summary.as_dict(), "accuracy_interval": list(summary.average.interval)}
