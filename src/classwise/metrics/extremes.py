"""Confidence intervals of the extremes over classes: the worst, the best, the tail, the gap; and which class is worst.

There is no bootstrap of a minimum here, on purpose: resampling repeats the downward bias of the plug-in minimum,
and a nominal 95 % percentile interval covers the true worst of ten equal classes about once in a hundred.

All but the formula of the gap are exact: they cover at least what they promise for every n, C and true rate, if the
images of different classes are independent draws. Classes without images are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from classwise.metrics.intervals import (
    Interval,
    checked_counts,
    lower_bounds,
    one_tail,
    sidak_share,
    tail_size,
    upper_bounds,
)
from classwise.metrics.outcomes import Floats

_NOTHING = Interval(math.nan, math.nan)
# A class says something about a rate t as the minimum only if its lower tail at t is at most this.
_KEPT = 0.9
_RIVALS = 16
# The formula of the gap is an approximation; simulation finds it right from here on (docs/evaluation.md).
FORMULA_IMAGES, FORMULA_EACH = 100, 10


def worst_interval(correct: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Interval:
    """Bound the lowest true class accuracy, whichever class has it; a/2 of the error a for each end.

    **Lower**: the smallest of the classes' one-sided lower bounds, each at a/2 without correction. It is at most the
    bound of the class that is truly worst, which alone has to hold (an intersection-union argument).

    **Upper**: the largest rate t at which "every class has at least t" is not rejected at a/2. Let P_c(t) be the
    chance of at most k_c right images of n_c at rate t. Classes that clearly are not the minimum should cost nothing,
    so only those with P_c(t) ≤ 0.9 are looked at, and their selection is paid by conditioning on it: among them,
    P_c'(t) = P_t(X ≤ k_c | P_c(t) ≤ 0.9) is a valid p-value at rate t, and at higher ones as the truncated binomial has
    a monotone likelihood ratio. The hypothesis is rejected if the least P_c' of the m selected is at most
    1 − (1 − a/2)^{1/m} (Šidák); given the selection, and so in all, that happens with probability at most a/2.
    Conditioning on p-values below a threshold is due to Zhao, Small & Su (2019) and Ellis, Pecanka & Goeman (2020);
    the exact form for binomials and its inversion are our derivation.

    Args:
        correct: right images of each class, (C,) integers.
        n: images of each class, (C,) integers.
        confidence: 1 − a, in (0, 1).

    Returns:
        Both ends in [0, 1]; NaN if no class has images.

    Raises:
        InputError: counts that are not 0 ≤ correct ≤ n, or a confidence outside (0, 1).

    Example:
        >>> [round(end, 3) for end in worst_interval([30, 60, 90], [100, 100, 100])]
        [0.212, 0.402]
    """
    error = one_tail(confidence)
    right, total = _present(correct, n)
    if not right.size:
        return _NOTHING
    return Interval(float(lower_bounds(right, total, 1 - error).min()), _upper_of_minimum(right, total, error))


def best_interval(correct: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Interval:
    """Bound the highest true class accuracy: `worst_interval` with right and wrong swapped."""
    right, total = checked_counts(correct, n)
    low, high = worst_interval(total - right, total, confidence)
    return Interval(1 - high, 1 - low)


def worst_q_interval(correct: ArrayLike, n: ArrayLike, q: float = 0.1, confidence: float = 0.95) -> Interval:
    """Bound the mean of the m lowest true class accuracies, m as of `tail_size`; a/2 of the error a for each end.

    **Lower**: the mean of the m smallest lower bounds, each at error a/(2m). It is at most the mean over the m classes
    that are truly lowest, and only their bounds have to hold. **Upper**: the mean of the m smallest upper bounds, which
    all have to hold, each at 1 − (1 − a/2)^{1/C} (Šidák): the mean of any m true rates is at least that of the tail.
    A tail of one class is `worst_interval`. Arguments and errors as there; q is a share in [0, 1].
    """
    error = one_tail(confidence)
    right, total = _present(correct, n)
    m = tail_size(right.size, q)
    if not right.size or m == 1:
        return worst_interval(right, total, confidence)
    low = lower_bounds(right, total, 1 - error / m)
    high = upper_bounds(right, total, 1 - sidak_share(error, right.size))
    return Interval(float(np.sort(low)[:m].mean()), float(np.sort(high)[:m].mean()))


def gap_interval(correct: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Interval:
    """Bound the highest less the lowest true class accuracy; a/2 of the error a for each end.

    **By formula**, if each class has at least 100 images, of them at least 10 right and 10 wrong. Of every pair of
    classes take the difference with one right and one wrong image added to each, d, and its standard error, s (Agresti
    & Caffo 2000). The upper end is the largest d + z·s with z = Φ⁻¹(1 − a/2), for two classes alone: it is at least the
    bound of the pair that is truly farthest apart. The lower end is the largest d − q·s, for all pairs at once, q·√2
    being the (1 − a/2)-quantile of the range of C standard normal variables (Tukey 1953; Kramer 1956 for unequal n).

    **The box** otherwise: `best_interval` less `worst_interval`, each at error a/2, which is exact. The formula fails
    near 0 and 1 and for small n: one-sided bounds meant to hold in 97.5 % of samples hold in 93 to 95 %.

    Returns:
        Both ends in [0, 1]; exactly 0 for a single class, NaN if no class has images. Arguments and errors as of
        `worst_interval`.
    """
    error = one_tail(confidence)
    right, total = _present(correct, n)
    if not right.size:
        return _NOTHING
    if right.size == 1:
        return Interval(0.0, 0.0)
    if gap_method(right, total) == "agresti-caffo":
        return _gap_by_formula(right, total, error)
    return _gap_by_box(right, total, confidence)


def gap_method(correct: ArrayLike, n: ArrayLike) -> Literal["agresti-caffo", "clopper-pearson"]:
    """Return which of its two ways `gap_interval` takes: the formula, or the exact box."""
    right, total = _present(correct, n)
    enough = right.size and total.min() >= FORMULA_IMAGES and np.minimum(right, total - right).min() >= FORMULA_EACH
    return "agresti-caffo" if enough else "clopper-pearson"


def could_be_worst(
    correct: ArrayLike, n: ArrayLike, confidence: float = 0.95, *, most: ArrayLike | None = None
) -> list[int]:
    """Return the classes that could have the lowest true accuracy; the one that has it is among them.

    A class is left out if, for some other class, Fisher's exact one-sided test rejects "not better than that one" at
    error a/(C − 1) (Bonferroni; subset selection of Gupta 1965). The truly worst class is better than none, so at
    most C − 1 true hypotheses are tested on it. If several classes tie for the lowest, each is named with `confidence`.

    Args:
        correct: right images of each class, (C,) integers.
        n: images of each class, (C,) integers.
        confidence: 1 − a, in (0, 1).
        most: with it, right images are only known to lie between `correct` and `most`, (C,); a class is then left out
            only if it would be for all such counts.

    Returns:
        Class indices in order; all classes with images if nothing is known, none if there are no images.

    Raises:
        InputError: as of `worst_interval`.

    Example:
        >>> could_be_worst([250, 260, 600], [1000, 1000, 1000])
        [0, 1]
    """
    from scipy.stats import hypergeom

    error = 2 * one_tail(confidence)
    (least, total), (up_to, _) = checked_counts(correct, n), checked_counts(correct if most is None else most, n)
    there = np.flatnonzero(total > 0)
    least, up_to, total = least[there], up_to[there], total[there]
    # To compare with the likeliest rivals alone errs on the safe side, and 1,000 classes take no million tests.
    rivals = np.argsort(upper_bounds(up_to, total), kind="stable")[:_RIVALS]
    p = hypergeom.sf(least - 1, total + total[rivals, None], least + up_to[rivals, None], total)
    left = (p > error / max(1, there.size - 1)).all(0)
    return [int(c) for c in there[left]]


def _present(correct: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    right, total = checked_counts(correct, n)
    return right[total > 0], total[total > 0]


def _upper_of_minimum(right: Floats, total: Floats, error: float) -> float:
    """Return the largest rate that the test of `worst_interval` does not reject, (C,) counts.

    P_c' falls as t rises: within a truncation by its likelihood ratio, and where the truncation moves up as the same
    tail is then divided by more. So the test of a fixed number of selected classes rejects from some rate on; the
    number changes only where a class enters, at its own upper bound for error 0.9.
    """
    entry = upper_bounds(right, total, 1 - _KEPT)
    order = np.argsort(entry, kind="stable")
    right, total, entry = right[order], total[order], entry[order]

    def rejected(rate: float, selected: int) -> bool:
        return _rejected(rate, right[:selected], total[:selected], error)

    # From here on even the strictest share, of all classes, rejects.
    top = _first(lambda rate: rejected(rate, right.size), float(entry[0]), 1.0, 1e-4)
    for selected in range(int(np.searchsorted(entry, top)), 0, -1):
        start = float(entry[selected - 1])
        end = min(top, float(entry[selected])) if selected < right.size else top
        if start < end and not rejected(start, selected):
            return _first(lambda rate, m=selected: rejected(rate, m), start, end)  # type: ignore[misc]
    return float(entry[0])


def _rejected(rate: float, right: Floats, total: Floats, error: float) -> bool:
    from scipy.special import bdtr, bdtrik

    share = sidak_share(error, right.size)
    size = total.astype(np.int64)  # SciPy wants whole numbers by type too
    tail = bdtr(right, size, rate)
    few = tail <= share
    if not few.any():
        return False
    accepted = np.maximum(np.floor(bdtrik(_KEPT, total[few], rate)), right[few])
    return bool((tail[few] <= share * bdtr(accepted, size[few], rate)).any())


def _first(holds: Callable[[float], bool], low: float, high: float, within: float = 1e-9) -> float:
    """Return where something begins to hold between `low` and `high`, `high` if it does not; at most `within` later."""
    while high - low > within:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _gap_by_formula(right: Floats, total: Floats, error: float) -> Interval:
    rate = (right + 1) / (total + 2)
    variance = rate * (1 - rate) / (total + 2)
    difference, spread = rate[:, None] - rate, np.sqrt(variance[:, None] + variance)
    low = (difference - _range_quantile(right.size, error) * spread).max()
    high = (difference - NormalDist().inv_cdf(error) * spread).max()
    return Interval(max(0.0, float(low)), min(1.0, float(high)))


def _gap_by_box(right: Floats, total: Floats, confidence: float) -> Interval:
    half = 1 - one_tail(confidence)
    worst, best = worst_interval(right, total, half), best_interval(right, total, half)
    return Interval(max(0.0, best.low - worst.high), best.high - worst.low)


@lru_cache(maxsize=256)
def _range_quantile(classes: int, error: float) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - error, classes, math.inf)) / math.sqrt(2)
