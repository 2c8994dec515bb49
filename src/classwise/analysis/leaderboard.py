"""Which of several models is the best by a metric, with the interval of every number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, Kind, table
from classwise.files.texts import plain
from classwise.metrics import summaries
from classwise.metrics.extremes import gap_interval, worst_interval, worst_q_interval
from classwise.metrics.intervals import Interval
from classwise.metrics.outcomes import Floats, Ints, divide
from classwise.metrics.resampling import RESAMPLES, bootstrap_interval, generator, percentiles, resample
from classwise.report.sheet import Sheet
from classwise.report.tables import percent


class Estimate(NamedTuple):
    """A number and its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Metric:
    """What a leaderboard can be sorted by.

    Attributes:
        value: takes right images (C,) and images (C,).
        interval: takes the same and the confidence.
        higher_is_better: whether the best has the most.
    """

    value: Callable[[Ints, Ints], float]
    interval: Callable[[Ints, Ints, float], Interval]
    higher_is_better: bool

    def estimate(self, right: Ints, n: Ints, confidence: float) -> Estimate:
        """Return the value with its interval."""
        return Estimate(self.value(right, n), self.interval(right, n, confidence))


def _extreme(summary: Callable[[Floats], float], bound: Callable[..., Interval], higher_is_better: bool) -> Metric:
    def interval(right: Ints, n: Ints, confidence: float) -> Interval:
        return bound(right, n, confidence=confidence)

    return Metric(lambda right, n: summary(divide(right, n)), interval, higher_is_better)


def _smooth(summary: Callable[[Floats], float]) -> Metric:
    def interval(right: Ints, n: Ints, confidence: float) -> Interval:
        return bootstrap_interval(right, n, summary, confidence=confidence)

    return Metric(lambda right, n: summary(divide(right, n)), interval, higher_is_better=False)


def _average_interval(right: Ints, n: Ints, confidence: float) -> Interval:
    """Bootstrap within class; the average is a sum, so that no draw is looked at alone."""
    drawn = resample(np.stack([right, n - right], axis=1))[:, :, 0]
    return percentiles(drawn.sum(1) / n.sum(), confidence)


def _corrected_interval(right: Ints, n: Ints, confidence: float) -> Interval:
    """Bootstrap from rates shrunk to the spread that noise does not explain, which would be counted twice otherwise."""
    right, n = right[n > 0], n[n > 0]
    rate, value = right / n, summaries.std_corrected(right, n)
    shrunk = rate.mean() + (rate - rate.mean()) * float(np.nan_to_num(divide(value, rate.std())))
    drawn = generator(0).binomial(n, shrunk.clip(0, 1), size=(RESAMPLES, n.size))
    return percentiles(summaries.corrected_stds(drawn, n), confidence)


METRICS: dict[str, Metric] = {
    "average": Metric(summaries.average, _average_interval, higher_is_better=True),
    "worst": _extreme(summaries.worst, worst_interval, higher_is_better=True),
    "worst_q10": _extreme(summaries.worst_q, worst_q_interval, higher_is_better=True),
    "gap": _extreme(summaries.gap, gap_interval, higher_is_better=False),
    "std": _smooth(summaries.std),
    "std_corrected": Metric(summaries.std_corrected, _corrected_interval, higher_is_better=False),
    "nsd": _smooth(summaries.nsd),
    "gini": _smooth(summaries.gini),
}
"""Extremes with simultaneous intervals, smooth summaries with the bootstrap within class."""


def leaderboard(subjects: Sequence[Subject], labels: Sequence[str], view: str, sort: str) -> Finding:
    """Sort models, of which the first is the baseline, by a key of `METRICS`; they must have been measured alike."""
    confidence = subjects[0].result.confidence
    measured = [_measured(subject, view, confidence) for subject in subjects]
    sign = -1 if METRICS[sort].higher_is_better else 1
    order = sorted(range(len(labels)), key=lambda i: sign * measured[i][sort].value)
    rho = [_rho(row, measured[0]) for row in measured]
    weakest = [_weakest(subject, view) for subject in subjects]
    hashes = [sha(subject)[:12] for subject in subjects]
    rows = [[labels[i], weakest[i], *measured[i].values(), rho[i], hashes[i]] for i in order]
    caption = (
        f"Leaderboard by {sort} ({view}), in per cent with {100 * confidence:g} % intervals: simultaneous for worst, "
        f"worst_q10 and gap, bootstrapped within class for the others; rho_wat against {labels[0]}"
    )
    values = {
        "view": view,
        "sort": sort,
        "order": [labels[i] for i in order],
        "baseline": {"name": labels[0], "sha256": sha(subjects[0])},
        "metrics": dict(zip(labels, measured, strict=True)),
        "rho_wat": dict(zip(labels, rho, strict=True)),
    }
    ranked = [(labels[i], measured[i][sort]) for i in order]
    return Finding(
        "compare", "", f"{len(labels)} models", "described", _sentence(ranked, sort), (_sheet(caption, rows),), values
    )


def sha(subject: Subject) -> str:
    """Return the SHA-256 of the model's weights."""
    return str(subject.result.header["model"]["sha256"])


def _measured(subject: Subject, view: str, confidence: float) -> dict[str, Estimate]:
    outcomes = subject.result.outcomes
    counts = outcomes.counts(view), outcomes.n, confidence
    return {key: metric.estimate(*counts) for key, metric in METRICS.items()}


def _rho(row: dict[str, Estimate], base: dict[str, Estimate]) -> float:
    return summaries.rho_wat(row["worst"].value, row["average"].value, base["worst"].value, base["average"].value)


def _weakest(subject: Subject, view: str) -> str:
    outcomes = subject.result.outcomes
    return plain(outcomes.classes[summaries.worst_classes(outcomes.accuracy(view))[0]])


def _sentence(ranked: list[tuple[str, Estimate]], sort: str) -> str:
    name, best = ranked[0]
    low, high = best.interval
    equal = [other for other, (value, _) in ranked[1:] if value == best.value]
    rivals = [other for other, (_, ends) in ranked[1:] if ends.low <= high and low <= ends.high and other not in equal]
    doubt = f"; its interval meets that of {', '.join(rivals)}" if rivals else ""
    names = f"{name}, with {', '.join(equal)}," if equal else name
    return f"By {sort} the best is {names} at {percent(best.value)} % ({percent(low)} to {percent(high)} %){doubt}."


def _sheet(caption: str, rows: list[list[Any]]) -> Sheet:
    metrics: dict[str, Kind] = dict.fromkeys(METRICS, "estimate")
    return table(
        "leaderboard",
        caption,
        {"model": "words", "weakest": "words", **metrics, "rho_wat": "number", "weights": "words"},
        rows,
        marked=0,
        spare=("worst_q10", "gap", "std", "nsd", "gini", "rho_wat", "weights"),
    )
