"""Two evaluations of the same images: who gains, who pays, and whether that is more than chance (docs/metrics.md).

Paired verdicts are sharper than two intervals side by side, as the difficulty of an image cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from classwise.errors import InputError
from classwise.metrics.hypotheses import binomial_test
from classwise.metrics.intervals import Interval, Intervals, lower_bounds, one_tail, upper_bounds
from classwise.metrics.outcomes import Floats, Ints, divide
from classwise.metrics.resampling import RESAMPLES, percentiles, resample
from classwise.metrics.summaries import gap, macro_average, nsd, worst

# From so many images on, and while so large a share of them agrees, the formula of `change_intervals` holds.
FORMULA_IMAGES, FORMULA_AGREES = 20, 0.5


class Pairs(NamedTuple):
    """Images of each class that only the second evaluation gets right, only the first, and all, (C,) each."""

    gained: Ints
    lost: Ints
    n: Ints

    @property
    def change(self) -> Floats:
        """Accuracy of the second less that of the first, (C,); NaN for a class without images."""
        return divide(self.gained - self.lost, self.n)


def pairs(first: ArrayLike, second: ArrayLike, y: ArrayLike, num_classes: int) -> Pairs:
    """Count by class on which images two evaluations disagree.

    Args:
        first: verdicts of the baseline, (N,) bool.
        second: verdicts on the same images in the same order, (N,) bool.
        y: labels, (N,) in 0 … C − 1.
        num_classes: C.

    Raises:
        InputError: the three differ in length.

    Example:
        >>> pairs([True, True, False], [True, False, True], [0, 0, 1], num_classes=2).change.tolist()
        [-0.5, 1.0]
    """
    before, after, labels = np.asarray(first, bool), np.asarray(second, bool), np.asarray(y, np.int64)
    if not before.shape == after.shape == labels.shape:
        raise InputError("Two evaluations can be paired only on the same images; give one verdict an image to each.")
    n, gained, lost = (
        np.bincount(labels[which], minlength=num_classes).astype(np.int64)
        for which in (np.ones(labels.shape, bool), after & ~before, before & ~after)
    )
    return Pairs(gained, lost, n)


def mcnemar(counts: Pairs) -> Floats:
    """Return the exact two-sided p-value of each class, (C,): discordant images split like a fair coin.

    NaN for a class without images, which is no test; 1 where the two never disagree. Adjust with `holm`.

    Example:
        >>> mcnemar(Pairs(np.array([0, 3]), np.array([5, 3]), np.array([9, 9]))).round(4).tolist()
        [0.0625, 1.0]
    """
    p_values = [binomial_test(int(up), int(up + down)) for up, down in zip(counts.gained, counts.lost, strict=True)]
    return np.where(counts.n > 0, np.array(p_values, dtype=np.float64), np.nan)


def change_intervals(counts: Pairs, confidence: float = 0.95, *, simultaneous: bool = True) -> Intervals:
    """Return an interval of the change of each class, (C,), within [−1, 1]; by default all hold at once.

    With exact limits [l_g, u_g] of the share gained, ĝ, and [l_l, u_l] of the share lost, l̂, each end at error a/2
    (Clopper & Pearson 1934), the change lies in

        ĝ − l̂ − √(A² + B² − 2rAB)  with A = ĝ − l_g, B = u_l − l̂,
        ĝ − l̂ + √(A² + B² − 2rAB)  with A = u_g − ĝ, B = l̂ − l_l,

    where r = −√(ĝl̂/((1 − ĝ)(1 − l̂))) is the correlation of the two shares of a multinomial. This is the square-and-add
    interval of Newcombe (1998) in the general form of Zou & Donner (2008), with exact in place of Wilson's limits. If
    nothing is lost (or gained) it is the exact interval of the one share, so it holds where discordance is one-sided.
    Where more than half of the images change, or a class has fewer than 20, the limits are the box
    [l_g − u_l, u_g − l_l], each of the four at error a/4, which is exact. By enumeration at rates from 1e-4 to 1 and 20
    to 300 images, an end errs with at most 1.04 times a/2 for a = 5 and 0.5 % (tests/metrics/test_paired.py).
    Simultaneous means Bonferroni over the classes with images.

    Raises:
        InputError: a confidence outside (0, 1).

    Example:
        >>> low, high = change_intervals(Pairs(np.array([20]), np.array([0]), np.array([1000])))
        >>> low.round(4).tolist(), high.round(4).tolist()
        ([0.0114], [0.0307])
    """
    tail = one_tail(confidence) / (max(1, int(np.count_nonzero(counts.n))) if simultaneous else 1)
    formula, box = _square_and_add(counts, tail), _box(counts, tail / 2)
    trusted = (counts.n >= FORMULA_IMAGES) & (counts.gained + counts.lost <= (1 - FORMULA_AGREES) * counts.n)
    return Intervals(*(np.where(trusted, *ends) for ends in zip(formula, box, strict=True)))


def largest_gain(intervals: Intervals) -> Interval:
    """Bound the largest true change by [max_c L_c, max_c U_c], given simultaneous intervals."""
    return _extreme(intervals, np.max)


def largest_loss(intervals: Intervals) -> Interval:
    """Bound the smallest true change by [min_c L_c, min_c U_c], given simultaneous intervals."""
    return _extreme(intervals, np.min)


def average_change(
    counts: Pairs, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, Interval]:
    """Return the change of the average over all images, with the stratified paired bootstrap interval.

    Images are drawn with replacement within each class, and with an image both its verdicts: so the counts of a class
    are multinomial over gained, lost and equal.

    Args:
        counts: as of `pairs`.
        confidence: of the interval.
        resamples: number of draws.
        seed: of the draws.
    """
    total = counts.n.sum()
    if not total:
        return math.nan, Interval(math.nan, math.nan)
    drawn = resample(np.stack([counts.gained, counts.lost, counts.n - counts.gained - counts.lost], 1), resamples, seed)
    net = (drawn[:, :, 0] - drawn[:, :, 1]).sum(1)
    return float((counts.gained - counts.lost).sum() / total), percentiles(net / total, confidence)


def detectable(rate: float, n: int) -> float:
    """Return the smallest difference of two unpaired class accuracies that would be noticed, 2.8·√(2p(1 − p)/n).

    With 80 % power at 5 % two-sided: 2.8 = z(0.975) + z(0.8).

    Args:
        rate: accuracy of the class, p.
        n: images of the class, in each of the two evaluations.

    Example:
        >>> round(detectable(0.25, 1000), 3), round(detectable(0.25, 100), 2)
        (0.054, 0.17)
    """
    return 2.8 * math.sqrt(2 * rate * (1 - rate) / n) if n else math.nan


class Levelling(NamedTuple):
    """How a change is spread over classes; `down` warns that classes became equal by losing.

    `losing` and `gaining` count classes, `mean_loss` ≤ 0 and `mean_gain` ≥ 0 are the means over them, 0 if there are
    none. Estimates without intervals: a class counts as losing however little it loses.
    """

    losing: int
    mean_loss: float
    gaining: int
    mean_gain: float
    down: bool


def levelling(before: ArrayLike, after: ArrayLike) -> Levelling:
    """Count who gains and who pays, and tell whether disparity fell by loss alone.

    Levelling down: the gap or the NSD falls, while neither the worst class nor the mean over classes rises.

    Args:
        before: class accuracies of the baseline, (C,), NaN for absent classes.
        after: those of the other, (C,).

    Example:
        >>> levelling([0.2, 0.8], [0.2, 0.5])
        Levelling(losing=1, mean_loss=-0.3, gaining=0, mean_gain=0.0, down=True)
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    change = (new - old).round(12)
    losers, winners = change[change < 0], change[change > 0]
    more_equal = gap(new) < gap(old) or nsd(new) < nsd(old)
    return Levelling(
        losing=losers.size,
        mean_loss=float(losers.mean()) if losers.size else 0.0,
        gaining=winners.size,
        mean_gain=float(winners.mean()) if winners.size else 0.0,
        down=bool(more_equal and worst(new) <= worst(old) and macro_average(new) < macro_average(old)),
    )


def _square_and_add(counts: Pairs, tail: float) -> Intervals:
    """Return the formula of `change_intervals`, (C,), each end at error `tail`; NaN where all images change alike."""
    (low_gained, high_gained), (low_lost, high_lost) = _limits(counts, tail)
    gained, lost, n = counts
    up, down = divide(gained, n), divide(lost, n)
    twice_r = -2 * np.sqrt(divide(gained * lost, (n - gained) * (n - lost)))

    def add(one: Floats, other: Floats) -> Floats:
        return np.asarray(np.sqrt(one**2 + other**2 - twice_r * one * other))

    return Intervals(
        np.maximum(up - down - add(up - low_gained, high_lost - down), -1.0),
        np.minimum(up - down + add(high_gained - up, down - low_lost), 1.0),
    )


def _box(counts: Pairs, tail: float) -> Intervals:
    (low_gained, high_gained), (low_lost, high_lost) = _limits(counts, tail)
    return Intervals(low_gained - high_lost, high_gained - low_lost)


def _limits(counts: Pairs, tail: float) -> tuple[Intervals, Intervals]:
    """Return exact limits of the shares gained and lost, (C,) each, every end at error `tail`."""
    gained, lost = (
        Intervals(lower_bounds(some, counts.n, 1 - tail), upper_bounds(some, counts.n, 1 - tail))
        for some in (counts.gained, counts.lost)
    )
    return gained, lost


def _extreme(intervals: Intervals, pick: Callable[[Floats], float]) -> Interval:
    low, high = (ends[~np.isnan(ends)] for ends in intervals)
    if not low.size:
        return Interval(math.nan, math.nan)
    return Interval(float(pick(low)), float(pick(high)))
