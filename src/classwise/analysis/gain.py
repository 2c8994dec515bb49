"""A10: which classes a stronger attack breaks more of (H4)."""

from __future__ import annotations

from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, Kind, Verdict, decide, headline, points, table
from classwise.errors import InputError
from classwise.metrics.intervals import Interval
from classwise.metrics.outcomes import Floats, Ints, Outcomes, divide
from classwise.metrics.resampling import generator, half_counts, percentiles

_SPLITS = 2000
_LEAST = 30
"""Fewer newly broken images than this decide nothing [ours]."""
_COLUMNS: dict[str, Kind] = {
    "weak → strong": "words",
    "newly broken": "count",
    "on vulnerable half": "share",
    "equal share": "share",
    "opportunity": "share",
    "over equal": "words",
    "over opportunity": "words",
    "relative slope": "number",
    "variance change": "fine",
    "H4": "words",
}
_SPARE = ("equal share", "relative slope", "variance change")


class Gain(NamedTuple):
    """What attack b breaks beyond attack a, by class, and where.

    Attributes:
        still: images robust under a, (C,).
        newly: those of them that b breaks, (C,).
        share: of the newly broken images, those in the vulnerable half of the classes.
        equal: share of classes in that half.
        opportunity: share of the images still robust under a that are in that half: only these can be broken.
        over_equal: interval of share − equal.
        over_opportunity: interval of share − opportunity.
        slope: of the relative gain newly/still on the accuracy under a, across halves; below 0: weak classes lose more.
        variance_before: class variance under a.
        variance_after: class variance under a and b.
        verdict: on H4.
    """

    still: Ints
    newly: Ints
    share: float
    equal: float
    opportunity: float
    over_equal: Interval
    over_opportunity: Interval
    slope: float
    variance_before: float
    variance_after: float
    verdict: Verdict

    @property
    def enough(self) -> bool:
        """Whether there are enough newly broken images to decide anything."""
        return int(self.newly.sum()) >= _LEAST


def gain(subject: Subject) -> Finding:
    """Take the gain of each attack over the weaker PGD (else over the weakest attack) apart by class.

    The intervals of all pairs hold at once (Bonferroni). H4 is supported if a pair supports it and none refutes it,
    refuted the other way round.

    Raises:
        InputError: fewer than two attacks met every image.
    """
    outcomes = subject.result.outcomes
    pairs = _pairs(subject)
    if not pairs:
        raise InputError(f"{subject.label} has fewer than two attacks on every image, so that none gains on another.")
    seed = int(subject.result.header["seed"])
    confidence = 1 - 0.05 / len(pairs)
    found = {f"{weak} → {strong}": decompose(outcomes, weak, strong, seed, confidence) for weak, strong in pairs}
    number = {kind: sum(each.verdict == kind for each in found.values()) for kind in get_args(Verdict)}
    verdict = decide(number["supported"] > 0 == number["refuted"], number["refuted"] > 0 == number["supported"])
    relative = sum(each.over_opportunity.low > 0 and each.enough for each in found.values())
    sentence = (
        f"{headline('H4', verdict)}: of {len(found)} pairs of attacks, {number['supported']} support that the stronger "
        f"one gains mainly on the vulnerable half of the classes, {number['refuted']} refute it, {number['undecided']} "
        f"decide nothing; relative to what was left to break, {relative} gain more there."
    )
    caption = "Where stronger attacks gain; shares of the newly broken images in per cent, intervals in points"
    sheet = table("gain", caption, _COLUMNS, [_row(name, each) for name, each in found.items()], spare=_SPARE)
    return Finding("gain", "H4", subject.label, verdict, sentence, (sheet,), {"pairs": found})


def decompose(outcomes: Outcomes, weak: str, strong: str, seed: int = 0, confidence: float = 0.95) -> Gain:
    """Take the gain of one attack over another apart by class, the two combined point by point.

    The vulnerable half, the ⌊C/2⌋ classes that are the least robust under the weak attack, is chosen on one half of the
    images and the gain counted on the other, over 2,000 splits: noise in the first ranking would stand on both sides
    otherwise. Intervals: in each split the counted half is drawn again within class, so they hold the noise of the
    ranking too, and are wider than those of all images.

    Args:
        outcomes: verdicts under both attacks.
        weak: name of attack a.
        strong: name of attack b.
        seed: of splits and draws.
        confidence: of each interval.
    """
    before = outcomes.correct(weak)
    n, still, kept = (
        _count(outcomes, which) for which in (np.ones_like(before), before, before & outcomes.correct(strong))
    )
    counts = _by_split(np.stack([still - kept, kept, n - still], axis=1), seed)
    share, equal, opportunity = _shares(counts)
    again, _, chance = _shares(_drawn_again(counts, seed))
    over_equal, over_opportunity = (percentiles(_known(again - other), confidence) for other in (equal, chance))
    enough = int((still - kept).sum()) >= _LEAST
    return Gain(
        still=still,
        newly=still - kept,
        share=_mean(share),
        equal=equal,
        opportunity=_mean(opportunity),
        over_equal=over_equal,
        over_opportunity=over_opportunity,
        slope=_slope(counts),
        variance_before=float(np.nanvar(divide(still, n))),
        variance_after=float(np.nanvar(divide(kept, n))),
        verdict=decide(
            enough and min(over_equal.low, over_opportunity.low) > 0,
            enough and min(over_equal.high, over_opportunity.high) < 0,
        ),
    )


def _row(name: str, found: Gain) -> list[object]:
    intervals = points(found.over_equal), points(found.over_opportunity)
    shares = found.share, found.equal, found.opportunity
    change = found.variance_after - found.variance_before
    return [name, int(found.newly.sum()), *shares, *intervals, found.slope, change, found.verdict]


class _Split(NamedTuple):
    """Counts of the classes with images: robust under a on the ranking half, and three counts on the other, (S, C)."""

    ranking: Floats
    size: Ints
    still: Ints
    newly: Ints


def _pairs(subject: Subject) -> list[tuple[str, str]]:
    outcomes = subject.result.outcomes
    robust = {name: int(outcomes.correct(name).sum()) for name in subject.alone}
    base = "pgd" if "pgd" in robust else max(robust, key=lambda name: robust[name], default="")
    first = [("fgsm", base)] if "fgsm" in robust and base != "fgsm" else []
    return first + [(base, name) for name in robust if name not in {base, "fgsm"}]


def _by_split(counts: Ints, seed: int) -> _Split:
    """Split the counts (C, 3) of newly broken, kept and others into halves, each half once in either part."""
    first = half_counts(counts[counts.sum(1) > 0], _SPLITS // 2, seed)
    second = counts[counts.sum(1) > 0] - first
    ranking, counted = np.concatenate([first, second]), np.concatenate([second, first])
    size, still = counted.sum(2), counted[..., :2].sum(2)
    return _Split(divide(ranking[..., :2].sum(2), ranking.sum(2)), size, still, counted[..., 0])


def _drawn_again(counts: _Split, seed: int) -> _Split:
    size = np.maximum(counts.size, 1)
    shares = np.stack([counts.newly, counts.still - counts.newly, counts.size - counts.still], -1) / size[..., None]
    shares[counts.size == 0] = [0.0, 0.0, 1.0]
    drawn = generator(seed).multinomial(counts.size, shares)
    return counts._replace(still=drawn[..., 0] + drawn[..., 1], newly=drawn[..., 0])


def _shares(counts: _Split) -> tuple[Floats, float, Floats]:
    classes = counts.ranking.shape[1]
    order = np.argsort(np.nan_to_num(counts.ranking, nan=np.inf), axis=1, kind="stable")[:, : classes // 2]
    newly, still = (np.take_along_axis(values, order, axis=1).sum(1) for values in (counts.newly, counts.still))
    return divide(newly, counts.newly.sum(1)), (classes // 2) / classes, divide(still, counts.still.sum(1))


def _slope(counts: _Split) -> float:
    """Return the mean over splits of the regression slope of newly/still on the accuracy in the other half."""
    relative = divide(counts.newly, counts.still)
    x, y = (_centred(np.where(np.isnan(relative), np.nan, values)) for values in (counts.ranking, relative))
    return _mean(divide(np.nansum(x * y, axis=1), np.nansum(x * x, axis=1)))


def _centred(values: Floats) -> Floats:
    return values - divide(np.nansum(values, axis=1), (~np.isnan(values)).sum(1))[:, None]


def _count(outcomes: Outcomes, which: NDArray[np.bool_]) -> Ints:
    return np.bincount(outcomes.y[which], minlength=outcomes.num_classes)


def _known(values: Floats) -> Floats:
    known = values[~np.isnan(values)]
    return known if known.size else np.array([np.nan])


def _mean(values: Floats) -> float:
    return float(_known(values).mean())
