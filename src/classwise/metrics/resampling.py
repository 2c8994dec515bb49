"""Resampling within classes: bootstrap of smooth summaries, and stratified halves (docs/metrics.md).

Every draw comes from a generator seeded by the caller, so that the same outcomes always give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classwise.errors import InputError
from classwise.metrics.intervals import Interval, checked_counts, one_tail
from classwise.metrics.outcomes import Floats, divide
from classwise.metrics.summaries import by_row, gap, ratio, worst, worst_q

RESAMPLES = 10_000
"""Draws of a bootstrap unless others are asked for."""

# Functions of the extreme classes: resampling around the estimates repeats their bias (docs/evaluation.md, Intervals).
_EXTREMES = {worst, worst_q, gap, ratio}


def generator(seed: int) -> np.random.Generator:
    """Return a generator for any integer seed; NumPy takes no negative ones, and a run may have one."""
    return np.random.default_rng(seed % 2**64)


def bootstrap_interval(
    correct: ArrayLike,
    n: ArrayLike,
    summary: Callable[[Floats], float],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of a smooth summary of class accuracies, resampled within class.

    Args:
        correct: right images of each class, (C,) integers.
        n: images of each class, (C,) integers.
        summary: class accuracies (C,) to a number: `macro_average`, `std`, `nsd`, `gini`, `class_variance`.
        confidence: of the interval.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        InputError: impossible counts, or a summary of the extreme classes, for which the bootstrap is wrong.

    Example:
        >>> bootstrap_interval([50], [100], lambda v: float(v.mean()))
        Interval(low=0.4, high=0.6)
    """
    if summary in _EXTREMES:
        raise InputError("A bootstrap of the extreme classes is wrong; use worst_interval, gap_interval and their kin.")
    right, total = checked_counts(correct, n)
    drawn = resample(np.stack([right, total - right], axis=1), resamples, seed)[:, :, 0]
    return percentiles(by_row(summary, divide(drawn, total)), confidence)


def percentiles(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the interval between the (1 − confidence)/2 quantiles of bootstrapped values; NaN if a value is."""
    cut = one_tail(confidence)
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [cut, 1 - cut])
    return Interval(float(low), float(high))


def centred(values: ArrayLike, estimate: float, confidence: float | tuple[float, float] = 0.95) -> Interval:
    """Return `percentiles` of bootstrapped values, moved so that their mean is the estimate.

    For an estimate that corrects for the noise of its images: drawn images have that noise twice, and a correction that
    expects it once leaves the values too low. Undefined values count as low at the low end and as high at the high one.

    Args:
        values: of the draws.
        estimate: of the data.
        confidence: of the interval, or of each of its ends as if it were two-sided.

    Returns:
        the interval; NaN where the estimate, or every value, is.
    """
    drawn = np.asarray(values, dtype=np.float64)
    defined = drawn[~np.isnan(drawn)]
    if math.isnan(estimate) or not defined.size:
        return Interval(math.nan, math.nan)
    below, above = (np.nan_to_num(drawn, nan=end, posinf=np.inf, neginf=-np.inf) for end in (-np.inf, np.inf))
    ends = confidence if isinstance(confidence, tuple) else (confidence, confidence)
    low = np.quantile(below, one_tail(ends[0]), method="inverted_cdf")
    high = np.quantile(above, 1 - one_tail(ends[1]), method="inverted_cdf")
    shift = estimate - float(defined.mean())
    return Interval(float(low) + shift, float(high) + shift)


def resample(counts: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """Draw the images of each class again with replacement, given how many fall into each of K categories.

    Args:
        counts: images by class and category, (C, K) integers, each image in one category.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        (resamples, C, K); every draw has as many images of each class as there were.
    """
    table = np.asarray(counts, dtype=np.int64)
    total = table.sum(1)
    shares = table / np.maximum(total, 1)[:, None]
    shares[total == 0, 0] = 1.0
    return generator(seed).multinomial(total, shares, size=(resamples, len(table)))


def halves(y: ArrayLike, splits: int, seed: int = 0) -> NDArray[np.bool_]:
    """Split the images of each class at random into halves, (splits, N): True in the first half.

    In a class of odd size the first half is larger or smaller at random.

    Example:
        >>> halves([0, 0, 1, 1, 1, 1], splits=3).sum(1).tolist()
        [3, 3, 3]
    """
    random, labels = generator(seed), _labels(y)
    first = np.zeros((splits, labels.size), dtype=np.bool_)
    for c in np.unique(labels):
        which = np.flatnonzero(labels == c)
        order = random.permuted(np.tile(np.arange(which.size), (splits, 1)), axis=1)
        first[:, which] = order < which.size / 2 - random.integers(0, 2, (splits, 1)) / 2
    return first


def half_counts(counts: ArrayLike, splits: int, seed: int = 0) -> NDArray[np.int64]:
    """Count by class and category what falls into one of two random halves, (splits, C, K), without splitting images.

    Args:
        counts: images by class and category, (C, K) integers, each image in one category.
        splits: number of splits.
        seed: of the splits.

    Returns:
        the half with ⌊n_c/2⌋ images of each class; what is left of ``counts`` is the other.

    Example:
        >>> half_counts([[4, 6], [1, 0]], splits=3).sum(2).tolist()
        [[5, 0], [5, 0], [5, 0]]
    """
    random, table = generator(seed), np.asarray(counts, dtype=np.int64)
    drawn = [random.multivariate_hypergeometric(row, int(row.sum()) // 2, splits) for row in table]
    return np.stack(drawn, axis=1) if len(table) else np.zeros((splits, *table.shape), dtype=np.int64)


def _labels(y: ArrayLike) -> NDArray[np.int64]:
    labels = np.asarray(y)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise InputError(f"Labels are integers of shape (N,), not {labels.dtype} of shape {labels.shape}.")
    return labels.astype(np.int64)
