"""Do two vectors over classes agree: rank correlations, concordance, and what ten classes can show (docs/metrics.md).

All functions take values of C classes without NaN; leave absent classes out first. A correlation over ten classes is a
correlation of ten points: read it with its interval and its permutation test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classwise.errors import InputError
from classwise.metrics.intervals import Interval, one_tail, tail_size
from classwise.metrics.outcomes import Floats, divide
from classwise.metrics.resampling import generator

_ROUNDING = 1e-12  # permuted sums differ from the observed one in the order of rounding
Alternative = Literal["two-sided", "less", "greater"]


def ranks(values: ArrayLike) -> Floats:
    """Return ranks from 1 along the last axis, the mean rank for ties.

    Example:
        >>> ranks([0.5, 0.1, 0.5]).tolist()
        [2.5, 1.0, 2.5]
    """
    array = np.asarray(values, dtype=np.float64)
    order = np.argsort(array, axis=-1, kind="stable")
    ordered, places = np.take_along_axis(array, order, axis=-1), np.arange(array.shape[-1])
    new = np.diff(ordered, axis=-1, prepend=np.nan) != 0
    last = np.flip(np.diff(np.flip(ordered, -1), axis=-1, prepend=np.nan) != 0, -1)
    first_place = np.maximum.accumulate(np.where(new, places, 0), axis=-1)
    last_place = np.flip(np.minimum.accumulate(np.flip(np.where(last, places, places.size), -1), axis=-1), -1)
    averaged = np.empty(array.shape)
    np.put_along_axis(averaged, order, (first_place + last_place) / 2 + 1, axis=-1)
    return averaged


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Return Pearson's r; NaN where a vector is constant or has fewer than two values."""
    return float(_correlations(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's ρ, Pearson's r of the ranks.

    Example:
        >>> spearman([1, 2, 3], [10, 100, 1000])
        1.0
    """
    return pearson(ranks(first), ranks(second))


def standardised_ranks(values: ArrayLike) -> Floats:
    """Return ranks along the last axis less their mean, of length 1: products are Spearman's ρ; NaN if constant.

    Example:
        >>> standardised_ranks([3.0, 1.0]).round(3).tolist()
        [0.707, -0.707]
    """
    centred = ranks(values)
    centred -= centred.mean(-1, keepdims=True)
    return divide(centred, np.sqrt((centred**2).sum(-1, keepdims=True)))


def kendall(first: ArrayLike, second: ArrayLike) -> float:
    """Return Kendall's τ_b, which allows for ties; NaN where a vector is constant."""
    one, two = (_signs(np.asarray(values, dtype=np.float64)) for values in (first, second))
    return float(divide((one * two).sum(), math.sqrt((one**2).sum() * (two**2).sum())))


def kendall_w(values: ArrayLike) -> float:
    """Return Kendall's coefficient of concordance of m rankings of C classes, from 0 to 1, corrected for ties.

    W = 12·Σ_c (S_c − S̄)²/(m²(C³ − C) − m·Σ_a T_a), S_c the rank sums, T_a = Σ(t³ − t) over ties of ranking a.

    Args:
        values: one row a ranking, (m, C).

    Example:
        >>> kendall_w([[1, 2, 3], [10, 20, 30]])
        1.0
    """
    table = ranks(values)
    return float(_concordance(table.sum(0), table))


def kendall_w_test(values: ArrayLike, *, permutations: int = 10_000, seed: int = 0) -> float:
    """Return the p-value of `kendall_w` if the m rankings had nothing to do with each other.

    Each ranking is permuted on its own; p = (1 + #{W at least as large})/(1 + permutations).
    """
    table, random = ranks(values), generator(seed)
    observed = _concordance(table.sum(0), table)
    sums = np.zeros((permutations, table.shape[1]))
    for row in table:
        sums += random.permuted(np.tile(row, (permutations, 1)), axis=1)
    return float((1 + (_concordance(sums, table) >= observed - _ROUNDING).sum()) / (1 + permutations))


def correlation_test(
    first: ArrayLike,
    second: ArrayLike,
    *,
    rank: bool = True,
    alternative: Alternative = "two-sided",
    permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """Return the permutation p-value of a correlation; 1 where it is undefined.

    Args:
        first: values of C classes.
        second: values of the same classes.
        rank: test Spearman's ρ; otherwise Pearson's r.
        alternative: "less" for a negative correlation, "greater" for a positive one.
        permutations: number of draws.
        seed: of the draws.

    Example:
        >>> correlation_test(range(8), range(8), permutations=999) < 0.01
        True
    """
    one, two = (ranks(v) if rank else np.asarray(v, dtype=np.float64) for v in (first, second))
    observed = pearson(one, two)
    if math.isnan(observed):
        return 1.0
    drawn = _correlations(one, generator(seed).permuted(np.tile(two, (permutations, 1)), axis=1))
    measures: dict[str, Callable[[Any], Any]] = {"two-sided": np.abs, "less": np.negative, "greater": np.positive}
    measure = measures[alternative]
    return float((1 + (measure(drawn) >= measure(observed) - _ROUNDING).sum()) / (1 + permutations))


def fisher_interval(r: float, size: int, confidence: float = 0.95) -> Interval:
    """Return tanh(atanh r ± z/√(C − 3)), the interval of a Pearson correlation over C classes.

    NaN for fewer than four classes. It takes classes for a random sample, which ten classes of a data set are not.

    Example:
        >>> low, high = fisher_interval(0.6, 10)
        >>> round(low, 2), round(high, 2)
        (-0.05, 0.89)
    """
    if size < 4 or math.isnan(r):
        return Interval(math.nan, math.nan)
    z = -NormalDist().inv_cdf(one_tail(confidence))
    centre, half = math.atanh(max(-1 + 1e-15, min(1 - 1e-15, r))), z / math.sqrt(size - 3)
    return Interval(math.tanh(centre - half), math.tanh(centre + half))


def partial_correlation(first: ArrayLike, second: ArrayLike, given: ArrayLike) -> float:
    """Return Pearson's r of two vectors given a third, (r_ab − r_ac r_bc)/√((1 − r_ac²)(1 − r_bc²)).

    NaN where one of the two is a linear function of the third.
    """
    ab, ac, bc = pearson(first, second), pearson(first, given), pearson(second, given)
    left = (1 - ac**2) * (1 - bc**2)
    return math.nan if math.isnan(left) or left < _ROUNDING else (ab - ac * bc) / math.sqrt(left)


def spearman_brown(r: float) -> float:
    """Return the reliability of the whole from the correlation of its halves, 2r/(1 + r); NaN at r ≤ −1."""
    return 2 * r / (1 + r) if r > -1 else math.nan


def weakest(values: ArrayLike, share: float = 0.2) -> list[int]:
    """Return the classes with the max(1, ⌈share·C⌉) lowest values, the first in a tie.

    Raises:
        InputError: the share is none.
    """
    array = np.asarray(values, dtype=np.float64)
    return [int(c) for c in np.argsort(array, kind="stable")[: tail_size(array.size, share)]]


def overlap(first: ArrayLike, second: ArrayLike, share: float = 0.2) -> float:
    """Return the Jaccard overlap |A ∩ B|/|A ∪ B| of the weakest classes of two vectors.

    Raises:
        InputError: the vectors have different length.

    Example:
        >>> overlap([0.1, 0.2, 0.8, 0.9], [0.2, 0.7, 0.1, 0.9], share=0.5)
        0.3333333333333333
    """
    if np.shape(first) != np.shape(second):
        raise InputError("The overlap of the weakest classes needs two vectors over the same classes.")
    one, two = set(weakest(first, share)), set(weakest(second, share))
    return len(one & two) / len(one | two)


def _signs(values: Floats) -> NDArray[np.float64]:
    return np.sign(values[:, None] - values)


def _correlations(first: Floats, second: Floats) -> Floats:
    one, two = (values - values.mean(-1, keepdims=True) for values in (first, second))
    # Rounding would make a constant vector vary a little, and its correlation any number.
    flat = np.ptp(first, axis=-1) * np.ptp(second, axis=-1) == 0
    length = np.sqrt((one**2).sum(-1) * (two**2).sum(-1))
    return np.clip(divide((one * two).sum(-1), np.where(flat, 0.0, length)), -1.0, 1.0)


def _concordance(sums: Floats, table: Floats) -> Floats:
    m, size = table.shape
    ties = sum(float((counts**3 - counts).sum()) for counts in (np.unique(row, return_counts=True)[1] for row in table))
    spread = ((sums - m * (size + 1) / 2) ** 2).sum(-1)
    return divide(12 * spread, m**2 * (size**3 - size) - m * ties)
