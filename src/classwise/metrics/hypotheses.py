"""Tests: is there disparity at all, and which of many differences hold (docs/metrics.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from classwise.errors import InputError
from classwise.metrics.outcomes import Floats, Ints, divide
from classwise.metrics.resampling import generator

# Statistics of permuted counts are the same fractions in another order of rounding: equal means equal to here.
_ROUNDING = 1e-12
_CHUNK = 1_000_000


@dataclass(frozen=True)
class Statistic:
    """A value observed in the data and the probability of one as extreme if all classes were equal."""

    value: float
    p_value: float


@dataclass(frozen=True)
class ChiSquare:
    """Pearson's χ² of the 2×C table of right and wrong; NaN where all images are right or all wrong."""

    statistic: float
    dof: int
    p_value: float


@dataclass(frozen=True)
class EqualClasses:
    """The permutation test of equal classes, by several statistics of the same permutations.

    Attributes:
        permutations: number of permutations drawn.
        seed: seed of the draws.
        permuted_chi_square: Pearson's χ², the default: it weighs each class by its images, so it keeps its power where
            classes differ in size. With as many images in each it orders the permutations as the variance does.
        variance: class variance; a class with few images drowns the others in its noise.
        gap: highest minus lowest class accuracy.
        minimum: lowest class accuracy; its p-value counts permutations that are at most as high.
        chi_square: Pearson's test without permutations, as a cross-check.
    """

    permutations: int
    seed: int
    permuted_chi_square: Statistic
    variance: Statistic
    gap: Statistic
    minimum: Statistic
    chi_square: ChiSquare

    def as_dict(self) -> dict[str, Any]:
        """Return the same as nested dicts, for JSON."""
        return asdict(self)


def equal_classes(correct: ArrayLike, n: ArrayLike, *, permutations: int = 10_000, seed: int = 0) -> EqualClasses:
    """Test whether all classes have the same accuracy, by permuting class labels over the right and wrong images.

    Such a permutation gives class c as many right images as a draw without replacement of K = Σ_c k_c from an
    urn with n_c balls of colour c, so the counts are drawn at once from the multivariate hypergeometric
    distribution. p = (1 + #{as extreme})/(1 + permutations), which is valid for any number of permutations
    (Phipson & Smyth 2010). Classes without images are left out. Speak of disparity only if this is rejected.

    Args:
        correct: right images of each class, (C,).
        n: images of each class, (C,).
        permutations: number of draws; 10,000 or more for a report.
        seed: seed of the draws.

    Raises:
        InputError: counts that are not 0 ≤ correct ≤ n, or no permutations.

    Example:
        >>> equal_classes([90, 90, 60], [100, 100, 100]).permuted_chi_square.p_value < 0.001
        True
    """
    right, total = np.asarray(correct, dtype=np.int64), np.asarray(n, dtype=np.int64)
    if right.shape != total.shape or right.ndim != 1 or (right < 0).any() or (right > total).any():
        raise InputError("The counts of right images must be integers between 0 and the images of their class.")
    if permutations < 1:
        raise InputError(f"The test needs permutations, not {permutations}; 10000 is the usual number.")
    right, total = right[total > 0], total[total > 0]
    observed = {name: float(function(right / total, total)) for name, function in _STATISTICS.items()}
    as_extreme = _count_as_extreme(right, total, permutations, seed, observed) if right.size else {}
    p_value = {name: (1 + as_extreme.get(name, permutations)) / (1 + permutations) for name in observed}
    pearson = chi_square(right, total)
    return EqualClasses(
        permutations=permutations,
        seed=seed,
        chi_square=pearson,
        permuted_chi_square=Statistic(pearson.statistic, p_value.pop("permuted_chi_square")),
        **{name: Statistic(abs(observed[name]), p) for name, p in p_value.items()},
    )


def _weighted(rates: Floats, total: Ints) -> Floats:
    """Return Σ_c n_c (r_c − r̄)²/Σ_c n_c: χ² but for a factor that permutations keep, and defined where χ² is not."""
    share = divide(total, total.sum())
    mean = (share * rates).sum(-1)[..., None]
    return np.asarray((share * (rates - mean) ** 2).sum(-1))


def _spread(rates: Floats, total: Ints) -> Floats:
    return np.ptp(rates, axis=-1) if rates.size else np.array(math.nan)


def _variance(rates: Floats, total: Ints) -> Floats:
    return np.var(rates, axis=-1) if rates.size else np.array(math.nan)


def _lowness(rates: Floats, total: Ints) -> Floats:
    """Negate the minimum, so that more extreme is larger for every statistic."""
    return -np.min(rates, axis=-1) if rates.size else np.array(math.nan)


_STATISTICS: dict[str, Callable[[Floats, Ints], Floats]] = {
    "permuted_chi_square": _weighted,
    "variance": _variance,
    "gap": _spread,
    "minimum": _lowness,
}


def _count_as_extreme(
    right: Ints, total: Ints, permutations: int, seed: int, observed: dict[str, float]
) -> dict[str, int]:
    random = generator(seed)
    counts = dict.fromkeys(observed, 0)
    step = max(1, _CHUNK // right.size)
    for start in range(0, permutations, step):
        size = min(step, permutations - start)
        rates = random.multivariate_hypergeometric(total, int(right.sum()), size, method="marginals") / total
        for name, function in _STATISTICS.items():
            counts[name] += int((function(rates, total) >= observed[name] - _ROUNDING).sum())
    return counts


def chi_square(correct: ArrayLike, n: ArrayLike) -> ChiSquare:
    """Test the 2×C table of right and wrong for equal rates by Pearson's χ² with C − 1 degrees of freedom.

    An approximation that needs about five expected images in each cell. Classes without images are left out. The
    statistic and its p-value are NaN if all images are right, all are wrong, or fewer than two classes have any.

    Example:
        >>> tested = chi_square([60, 40], [100, 100])
        >>> tested.statistic, tested.dof, round(tested.p_value, 6)
        (8.0, 1, 0.004678)
    """
    right, total = np.asarray(correct, dtype=np.float64), np.asarray(n, dtype=np.float64)
    right, total = right[total > 0], total[total > 0]
    dof = max(0, total.size - 1)
    rate = float(divide(right.sum(), total.sum()))
    if dof == 0 or not 0 < rate < 1:
        return ChiSquare(math.nan, dof, math.nan)
    statistic = float(((right - total * rate) ** 2 / (total * rate * (1 - rate))).sum())
    return ChiSquare(statistic, dof, chi_square_tail(statistic, dof))


def chi_square_tail(statistic: float, dof: int) -> float:
    """Return P(χ²_dof ≥ statistic) by its finite sum for whole degrees of freedom (Abramowitz & Stegun 26.4.4-5).

    With h = statistic/2: Σ_{i < dof/2} e^{−h} hⁱ/i! for even dof, and for odd dof
    erfc(√h) + Σ_{i < (dof − 1)/2} e^{−h} h^{i + 1/2}/Γ(i + 3/2).
    """
    half, odd = statistic / 2, dof % 2
    if half <= 0:
        return 1.0
    powers = [i + odd / 2 for i in range(dof // 2)]
    terms = [math.exp(power * math.log(half) - half - math.lgamma(power + 1)) for power in powers]
    return min(1.0, math.fsum([math.erfc(math.sqrt(half)) * odd, *terms]))


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values so that rejecting those below a keeps the family-wise error at a (Holm 1979).

    Sorted upwards, the i-th of m becomes max_{j ≤ i} min(1, (m − j + 1) p_(j)). NaN stands for a test that was
    not made: it stays NaN and does not count.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    made = np.flatnonzero(~np.isnan(values))
    order = made[np.argsort(values[made], kind="stable")]
    factor = np.arange(len(order), 0, -1)
    result = np.full(values.shape, np.nan)
    result[order] = np.minimum(1.0, np.maximum.accumulate(factor * values[order]))
    return result


def hypergeometric_test(marked: int, drawn: int, all_marked: int, total: int) -> float:
    """Return the exact two-sided p-value of a draw without replacement, twice the smaller tail and at most 1.

    Twice the smaller tail, so that each side errs with half the level (Fisher's exact test in its central form).

    Args:
        marked: drawn items that are marked.
        drawn: drawn items.
        all_marked: marked items among all.
        total: all items.

    Raises:
        InputError: counts that no draw can have.

    Example:
        >>> round(hypergeometric_test(0, 3, 3, 6), 6)
        0.1
    """
    if not max(0, drawn + all_marked - total) <= marked <= min(drawn, all_marked) or max(drawn, all_marked) > total:
        raise InputError(f"No draw of {drawn} out of {total}, {all_marked} of them marked, has {marked} marked.")
    from scipy.stats import hypergeom  # takes a second to import, which few commands need

    law = hypergeom(total, all_marked, drawn)
    return float(min(1.0, 2 * min(law.cdf(marked), law.sf(marked - 1))))


@lru_cache(maxsize=65_536)
def binomial_test(successes: int, trials: int, probability: float = 0.5) -> float:
    """Return the exact two-sided p-value: the probability of all counts that are no likelier than the observed.

    Raises:
        InputError: not 0 ≤ successes ≤ trials, or a probability outside (0, 1).

    Example:
        >>> round(binomial_test(0, 5), 6)
        0.0625
    """
    if not 0 <= successes <= trials or not 0 < probability < 1:
        raise InputError(
            f"A binomial test of {successes} in {trials} at {probability} makes no sense; "
            "give 0 ≤ successes ≤ trials and a probability between 0 and 1."
        )
    log_p, log_q = math.log(probability), math.log1p(-probability)
    log_mass = np.array(
        [k * log_p + (trials - k) * log_q - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in range(trials + 1)]
    )
    mass = np.exp(log_mass - log_mass.max())
    # Counts on the other side that are equally likely may differ by rounding; R and scipy allow the same 1e-7.
    return math.fsum(mass[log_mass <= log_mass[successes] + 1e-7]) / math.fsum(mass)
