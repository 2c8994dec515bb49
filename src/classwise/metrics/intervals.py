"""Confidence intervals of class accuracies: of each alone, and of all at once (docs/evaluation.md#intervals).

Exact unless named otherwise. Those of the worst class, the tail and the gap are in `extremes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from classwise.errors import InputError
from classwise.metrics.outcomes import Floats, divide


class Intervals(NamedTuple):
    """One interval a class: `low` and `high`, (C,) each, NaN for a class without images."""

    low: Floats
    high: Floats


class Interval(NamedTuple):
    """The interval of one number; both ends are NaN when it is undefined."""

    low: float
    high: float


def wilson(correct: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Intervals:
    """Return the Wilson score interval of each class, approximate: it covers `confidence` on average over rates.

    For a class fixed before looking at the data. Near 0 and 1 it promises nothing: of 100 images at a true rate of
    .999 its 99.5 % interval is right in 90 % of samples. `clopper_pearson` is right in 99.5 % or more everywhere.

    Centre (p̂ + z²/2n)/(1 + z²/n), half width z·√(p̂(1 − p̂)/n + z²/4n²)/(1 + z²/n), z = Φ⁻¹(1 − a/2)
    (Wilson 1927).

    Args:
        correct: right images of each class, (C,) integers.
        n: images of each class, (C,) integers.
        confidence: 1 − a, of each interval alone.

    Raises:
        InputError: counts that are not 0 ≤ correct ≤ n, or a confidence outside (0, 1).

    Example:
        >>> wilson([50], [100])[0].round(4).tolist()
        [0.4038]
    """
    right, total = checked_counts(correct, n)
    z = -NormalDist().inv_cdf(one_tail(confidence))
    rate = divide(right, total)
    step = z * z * divide(1, total)
    centre = (rate + step / 2) / (1 + step)
    half = z * np.sqrt(rate * (1 - rate) * divide(1, total) + (step / (2 * z)) ** 2) / (1 + step)
    # The ends that are exactly 0 and 1 in algebra miss them by rounding.
    low = np.where((right == 0) & (total > 0), 0.0, centre - half)
    high = np.where((right == total) & (total > 0), 1.0, centre + half)
    return Intervals(low, high)


def clopper_pearson(correct: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Intervals:
    """Return the exact interval of each class, which covers at least `confidence` for every n and true rate.

    Both ends are one-sided bounds at error a/2 (Clopper & Pearson 1934). Arguments and errors as in `wilson`.

    Example:
        >>> clopper_pearson([0], [10])[1].round(4).tolist()
        [0.3085]
    """
    one_sided = 1 - one_tail(confidence)
    return Intervals(lower_bounds(correct, n, one_sided), upper_bounds(correct, n, one_sided))


def lower_bounds(correct: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Floats:
    """Return the exact one-sided lower bound of each class, (C,): each alone is at most the true rate.

    The rate at which `correct` or more right images have probability a = 1 − confidence, which is the a-quantile of
    Beta(k, n − k + 1) (Clopper & Pearson 1934); 0 where no image is right, NaN without images. No correction for
    several classes.

    Args:
        correct: right images of each class, (C,) integers.
        n: images of each class, (C,) integers.
        confidence: 1 − a, of each bound alone, in (0, 1).

    Raises:
        InputError: counts that are not 0 ≤ correct ≤ n, or a confidence outside (0, 1).

    Example:
        >>> lower_bounds([59, 0], [59, 59]).round(4).tolist()
        [0.9505, 0.0]
    """
    from scipy.special import betaincinv

    right, total = checked_counts(correct, n)
    error = 2 * one_tail(confidence)
    low = betaincinv(np.maximum(right, 1), total - right + 1, error)
    return np.where(total > 0, np.where(right > 0, low, 0.0), np.nan)


def upper_bounds(correct: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Floats:
    """Return the exact one-sided upper bound of each class, (C,), as `lower_bounds` with right and wrong swapped.

    Example:
        >>> upper_bounds([0], [10]).round(4).tolist()
        [0.2589]
    """
    right, total = checked_counts(correct, n)
    return 1 - lower_bounds(total - right, total, confidence)


_INTERVALS: dict[str, Callable[[ArrayLike, ArrayLike, float], Intervals]] = {
    "clopper_pearson": clopper_pearson,
    "wilson": wilson,
}


def simultaneous(
    correct: ArrayLike,
    n: ArrayLike,
    confidence: float = 0.95,
    *,
    correction: Literal["bonferroni", "sidak"] = "bonferroni",
    base: Literal["clopper_pearson", "wilson"] = "clopper_pearson",
) -> Intervals:
    """Return intervals that hold for all classes at once with probability at least `confidence`.

    Exact by default (Clopper & Pearson 1934): the promise holds for every n and every true rate. Each class gets error
    a/C (Bonferroni) or 1 − (1 − a)^{1/C} (Šidák; classes are independent samples). C counts the classes with images:
    the others make no statement, so they cost no confidence.

    Args:
        correct: right images of each class, (C,) integers.
        n: images of each class, (C,) integers.
        confidence: 1 − a, of all intervals together.
        correction: how the error is shared among classes.
        base: the interval of one class. "wilson" is narrower and promises no coverage: ten classes of 100 images at
            a true rate of .999 lie inside all at once in 37 % of data sets instead of 95 % (docs/evaluation.md).

    Raises:
        InputError: as `wilson`; unknown correction or base.
    """
    error = 2 * one_tail(confidence)
    present = max(1, int(np.count_nonzero(np.asarray(n))))
    shares = {"bonferroni": error / present, "sidak": sidak_share(error, present)}
    if correction not in shares or base not in _INTERVALS:
        raise InputError(
            f"There is no {correction!r} correction of {base!r} intervals; "
            f"use {' or '.join(shares)} with {' or '.join(_INTERVALS)}."
        )
    return _INTERVALS[base](correct, n, 1 - shares[correction])


def sidak_share(error: float, tests: int) -> float:
    """Return 1 − (1 − a)^{1/m}, the error of each of m independent statements that fail with probability a in all."""
    return -math.expm1(math.log1p(-error) / tests)


def tail_size(num_classes: int, q: float) -> int:
    """Return m = max(1, ⌈qC⌉), the number of classes in the tail.

    Raises:
        InputError: q is not a share.

    Example:
        >>> tail_size(100, 0.07), tail_size(10, 0.01)
        (7, 1)
    """
    if not 0 <= q <= 1:
        raise InputError(f"The share of classes q is {q}; it must lie between 0 and 1, as in 0.1.")
    # 0.07 * 100 is 7.000000000000001 in floating point, and the ceiling of that is 8.
    return max(1, math.ceil(q * num_classes - 1e-9))


def one_tail(confidence: float) -> float:
    """Return half the error of a two-sided interval, (1 − confidence)/2.

    Raises:
        InputError: a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InputError(f"The confidence is {confidence}; it must lie between 0 and 1, as in 0.95.")
    return (1 - confidence) / 2


def checked_counts(correct: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Return counts of right images and of images as floats, (C,) each.

    Raises:
        InputError: they are not integers with 0 ≤ correct ≤ n.
    """
    right, total = np.asarray(correct, dtype=np.float64), np.asarray(n, dtype=np.float64)
    whole = right.shape == total.shape and (right % 1 == 0).all() and (total % 1 == 0).all()
    if not whole or (right < 0).any() or (right > total).any():
        raise InputError("The counts of right images must be integers between 0 and the images of their class.")
    return right, total
