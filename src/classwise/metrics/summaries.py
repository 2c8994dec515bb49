"""Class accuracies (C,) summed up in one number, each formula of docs/metrics.md, one function.

An absent class has accuracy NaN. Every summary skips it, so that it can neither be the worst class nor pull an
average down, and C counts the classes that are left; when none is left the summary is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from classwise.errors import InputError
from classwise.metrics.intervals import tail_size
from classwise.metrics.outcomes import Floats, divide


def average(correct: ArrayLike, n: ArrayLike) -> float:
    """Return Σ_c k_c / Σ_c n_c, the share of all images: the micro average.

    Example:
        >>> average([90, 1], [100, 10])
        0.8272727272727273
    """
    return float(divide(np.sum(correct), np.sum(n)))


def macro_average(accuracy: ArrayLike) -> float:
    """Return v̄ = (1/C) Σ_c v_c, which gives every class the same weight; on balanced data it is `average`."""
    return _summary(_mean, accuracy)


def worst(accuracy: ArrayLike) -> float:
    """Return min_c v_c.

    It lies below the true minimum on average when classes are close: read it with its interval.

    Example:
        >>> worst([0.5, float("nan"), 0.2])
        0.2
    """
    return _summary(np.min, accuracy)


def worst_classes(accuracy: ArrayLike) -> list[int]:
    """Return every class that has the lowest accuracy, in order; several if they tie, none if all are absent."""
    return [int(c) for c in np.flatnonzero(np.asarray(accuracy, dtype=np.float64) == worst(accuracy))]


def worst_fixed(accuracy: ArrayLike, valid_accuracy: ArrayLike) -> float:
    """Return the accuracy on test data of the class that is worst on validation data: no selection bias.

    NaN if that class has no test images. The first class wins a tie on validation data.
    """
    chosen = worst_classes(valid_accuracy)
    return float(np.asarray(accuracy, dtype=np.float64)[chosen[0]]) if chosen else math.nan


def worst_q(accuracy: ArrayLike, q: float = 0.1) -> float:
    """Return the mean of the m = max(1, ⌈qC⌉) lowest class accuracies.

    q = 0.1 is the W10 of the literature, 0.2 the tail of CFOL, 0.3 RA-Tail-30 of DR-AT; 0 is `worst`, 1 is
    `macro_average`.

    Raises:
        InputError: q is not a share.

    Example:
        >>> worst_q([0.25, 0.75, 0.5, 0.875], q=0.5)
        0.375
    """
    return _summary(lambda v: np.mean(np.sort(v)[: tail_size(v.size, q)]), accuracy)


def gap(accuracy: ArrayLike) -> float:
    """Return max_c v_c − min_c v_c, the seed paper's maximum class-wise discrepancy (MCD)."""
    return _summary(np.ptp, accuracy)


def ratio(accuracy: ArrayLike) -> float:
    """Return min_c v_c / max_c v_c; NaN if every class is at 0."""
    return _summary(lambda v: divide(v.min(), v.max()), accuracy)


def std(accuracy: ArrayLike) -> float:
    """Return σ = √((1/C) Σ_c (v_c − v̄)²), the population form; it includes sampling noise."""
    return _summary(_std, accuracy)


def class_variance(accuracy: ArrayLike) -> float:
    """Return σ², the seed paper's class-wise variance; not a coefficient of variation, for which see `nsd`."""
    return _summary(_variance, accuracy)


def nsd(accuracy: ArrayLike) -> float:
    """Return σ/v̄, the normalised standard deviation of ABSLD (a coefficient of variation); NaN at v̄ = 0."""
    return _summary(_nsd, accuracy)


def gini(accuracy: ArrayLike) -> float:
    """Return Σ_i Σ_j |v_i − v_j| / (2 C² v̄), 0 for equal classes; NaN at v̄ = 0."""
    return _summary(_gini, accuracy)


def by_row(summary: Callable[[Floats], float], accuracy: Floats) -> Floats:
    """Return a summary of every row, (R, C) -> (R,).

    Args:
        summary: class accuracies (C,) to a number; `macro_average`, `std`, `class_variance`, `nsd` and `gini` are fast.
        accuracy: (R, C); a class that is absent in one row is absent in all.

    Example:
        >>> by_row(std, np.array([[0.5, 0.5], [0.25, 0.75]])).tolist()
        [0.0, 0.25]
    """
    formula = _FORMULAS.get(summary)
    present = accuracy[:, ~np.isnan(accuracy).all(0)]
    if formula is None or not present.size:
        return np.array([summary(row) for row in accuracy])
    return formula(present)


def variance_corrected(correct: ArrayLike, n: ArrayLike) -> float:
    """Estimate the variance of the true class accuracies without bias; it can come out negative.

    σ² − ((C − 1)/C)·(1/C) Σ_c v_c(1 − v_c)/(n_c − 1): each sampled v_c adds its own sampling variance, which
    v_c(1 − v_c)/(n_c − 1) estimates without bias, times the share (C − 1)/C that the mean does not absorb. NaN if
    a class has a single image, as that shows no sampling variance.

    Args:
        correct: right images of each class, (C,).
        n: images of each class, (C,).
    """
    return float(corrected_variances(np.asarray(correct)[None], n)[0])


def corrected_variances(correct: ArrayLike, n: ArrayLike) -> Floats:
    """Return `variance_corrected` of every row of right images, (R, C) and images (C,) -> (R,)."""
    right, total = np.asarray(correct, dtype=np.float64), np.asarray(n, dtype=np.float64)
    right, total = right[:, total > 0], total[total > 0]
    if not total.size:
        return np.full(len(right), np.nan)
    rate = right / total
    noise = divide(rate * (1 - rate), total - 1)
    return np.asarray(_variance(rate) - (total.size - 1) / total.size * _mean(noise))


def std_corrected(correct: ArrayLike, n: ArrayLike) -> float:
    """Return √max(0, `variance_corrected`): the spread between classes that sampling noise does not explain.

    With 100 images a class, as in CIFAR-100, noise alone makes σ about 0.04.

    Example:
        >>> std_corrected([50, 50, 50], [100, 100, 100])
        0.0
    """
    return float(corrected_stds(np.asarray(correct)[None], n)[0])


def corrected_stds(correct: ArrayLike, n: ArrayLike) -> Floats:
    """Return `std_corrected` of every row of right images, (R, C) and images (C,) -> (R,)."""
    return np.asarray(np.sqrt(np.maximum(0.0, corrected_variances(correct, n))))


def rho_wat(worst: float, average: float, worst_base: float, average_base: float) -> float:
    """Return (worst − worst₀)/worst₀ − (average₀ − average)/average₀ against a baseline, which must be named.

    Relative gain of the worst class minus relative loss of the average (WAT, arXiv 2302.04025). NaN for a
    baseline at 0.

    Example:
        >>> round(rho_wat(30.53, 49.05, worst_base=21.31, average_base=49.80), 3)  # DAFA's CIFAR-10 table
        0.418
    """
    gain = divide(worst - worst_base, worst_base)
    loss = divide(average_base - average, average_base)
    return float(gain - loss)


class Delta(NamedTuple):
    """Changes against a named baseline: `worst`, `average`, and `ratio` = worst/average (NaN if that is 0)."""

    worst: float
    average: float
    ratio: float


def delta(worst: float, average: float, worst_base: float, average_base: float) -> Delta:
    """Return the changes of worst and average against a baseline and their ratio, in place of CODAT's coefficient.

    Example:
        >>> delta(0.5, 0.5, worst_base=0.25, average_base=0.625)
        Delta(worst=0.25, average=-0.125, ratio=-2.0)
    """
    up, mean = worst - worst_base, average - average_base
    return Delta(up, mean, float(divide(up, mean)))


def disparity_shift(clean: ArrayLike, robust: ArrayLike, measure: Callable[[ArrayLike], float] = gap) -> float:
    """Return measure(robust) − measure(clean): how much disparity the attack adds.

    For two classes the default is AD(robust) − AD(standard) with AD = |v₁ − v₂| (Accuracy-Disparity/AT-on-AD);
    for more classes take `gap`, `std` or `nsd`.
    """
    return measure(robust) - measure(clean)


def boundary_error(clean: ArrayLike, robust: ArrayLike) -> Floats:
    """Return A_c − R_c of each class, (C,): right when clean, wrong under attack.

    Robust error = (1 − A_c) + (A_c − R_c) (Zhang et al. 2019; by class in FRL).
    """
    return np.asarray(clean, dtype=np.float64) - np.asarray(robust, dtype=np.float64)


def attack_success_rate(clean_correct: ArrayLike, robust_correct: ArrayLike) -> Floats:
    """Return the share of the clean-right images of each class that are broken, (C,); NaN where none is right."""
    right = np.asarray(clean_correct, dtype=np.float64)
    return divide(right - np.asarray(robust_correct), right)


def cfps(confusion: ArrayLike) -> Floats:
    """Return each class's share of all false positives, FP_c / Σ_k FP_k with FP_c = #{pred = c, y ≠ c}, (C,).

    The shares sum to 1: a class can be recalled well and still be the favourite wrong answer. All are NaN,
    undefined, if there is no false positive. An absent class has a share like any other, as it can be predicted.

    Args:
        confusion: images of class i predicted as j, (C, C); clean, adversarial or corrupted.

    Example:
        >>> cfps([[5, 3, 0], [1, 6, 0], [0, 0, 4]]).tolist()
        [0.25, 0.75, 0.0]
    """
    positives = _false_positives(confusion)
    return divide(positives, positives.sum())


def false_positive_rate(confusion: ArrayLike, n: ArrayLike) -> Floats:
    """Return FP_c/(N − n_c), (C,), to be read beside `cfps` where classes differ in size.

    Args:
        confusion: images of class i predicted as j, (C, C).
        n: images of each class, (C,), invalid predictions included; NaN where no image is of another class.
    """
    total = np.asarray(n, dtype=np.float64)
    return divide(_false_positives(confusion), total.sum() - total)


def fairlearn_names(correct: ArrayLike, n: ArrayLike) -> dict[str, Any]:
    """Return the accuracies in the vocabulary of fairlearn's MetricFrame, classes being its groups; None for undefined.

    Args:
        correct: right images of each class, (C,).
        n: images of each class, (C,).

    Returns:
        overall (`average`), by_group (C,), group_min (`worst`), group_max, difference (`gap`) and ratio (`ratio`),
        the last two between groups.

    Example:
        >>> fairlearn_names([4, 2, 0], [4, 4, 0])["by_group"]
        [1.0, 0.5, None]
    """
    accuracy = divide(correct, n)
    numbers = {
        "overall": average(correct, n),
        "group_min": worst(accuracy),
        "group_max": _summary(np.max, accuracy),
        "difference": gap(accuracy),
        "ratio": ratio(accuracy),
    }
    by_group = [_number(value) for value in accuracy]
    return {**{name: _number(value) for name, value in numbers.items()}, "by_group": by_group}


def literature_names(correct: ArrayLike, n: ArrayLike) -> dict[str, Any]:
    """Return `fairlearn_names` and two of this field's: WCA (`worst`) and W10CR (`worst_q` at 10 %).

    Args:
        correct: right images of each class, (C,).
        n: images of each class, (C,).
    """
    accuracy = divide(correct, n)
    return {
        **fairlearn_names(correct, n),
        "WCA": _number(worst(accuracy)),
        "W10CR": _number(worst_q(accuracy, 0.1)),
    }


def _mean(v: Floats) -> Floats:
    return np.asarray(v.mean(-1))


def _std(v: Floats) -> Floats:
    return np.asarray(v.std(-1))


def _variance(v: Floats) -> Floats:
    return np.asarray(v.var(-1))


def _nsd(v: Floats) -> Floats:
    return divide(_std(v), _mean(v))


def _gini(v: Floats) -> Floats:
    # Σ_i Σ_j |v_i − v_j| = 2 Σ_i (2i − C − 1) v_(i), with v_(1) ≤ … ≤ v_(C): no C² differences of each of many rows.
    size = v.shape[-1]
    return divide(np.sort(v) @ (2 * np.arange(1, size + 1) - size - 1.0), size**2 * _mean(v))


# Of classes that are present, along the last axis.
_FORMULAS: dict[Callable[[Floats], float], Callable[[Floats], Floats]] = {
    macro_average: _mean,
    std: _std,
    class_variance: _variance,
    nsd: _nsd,
    gini: _gini,
}


def _summary(function: Callable[[Floats], Any], accuracy: ArrayLike) -> float:
    values = np.asarray(accuracy, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"Class accuracies have shape {values.shape}; give one number a class, shape (C,).")
    present = values[~np.isnan(values)]
    return float(function(present)) if present.size else math.nan


def _false_positives(confusion: ArrayLike) -> Floats:
    counts = np.asarray(confusion, dtype=np.float64)
    return np.asarray(counts.sum(0) - np.diagonal(counts))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
