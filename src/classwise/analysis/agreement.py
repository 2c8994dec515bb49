"""How vectors over classes agree: the measure behind consistency over attacks (A8) and over defences (A9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classwise.analysis.finding import table
from classwise.metrics.intervals import Interval
from classwise.metrics.outcomes import Floats, Ints, divide
from classwise.metrics.ranking import (
    kendall,
    kendall_w,
    kendall_w_test,
    overlap,
    spearman,
    spearman_brown,
    standardised_ranks,
)
from classwise.metrics.resampling import centred, generator, halves
from classwise.report.sheet import Sheet
from classwise.report.tables import ABSENT, p_text

Floats32: TypeAlias = NDArray[np.float32]
Halves: TypeAlias = tuple[Floats, Floats]

AGREEMENT = 0.8
"""Corrected rank correlation of a pair from which on it agrees [ours]."""
ERROR = 0.05
"""Probability that the interval of a pair fails; for the high ends, that one of all pairs fails [ours]."""
_SPLITS = 200
_RESAMPLES, _SPLITS_EACH = 1000, 5
_CHUNK = 2_000_000


class Agreement(NamedTuple):
    """How two vectors over classes agree.

    `spearman`, `kendall` and `overlap` (of the weakest fifth) are of all images. `across` is the mean Spearman
    correlation of the one on half of the images with the other on the other half, `ceiling` the geometric mean of their
    split-half reliabilities, `corrected` = across/ceiling: what the correlation would be without sampling noise, and
    without the images that both share. NaN where a reliability is not above 0. It may exceed 1.
    """

    spearman: float
    kendall: float
    overlap: float
    across: float
    ceiling: float
    corrected: float
    interval: Interval


class Concordance(NamedTuple):
    """Concordance of m vectors over C classes: Kendall's W, its permutation p-value, and every pair by name."""

    names: tuple[str, ...]
    w: float
    p_value: float
    reliability: tuple[float, ...]
    pairs: dict[str, Agreement]

    @property
    def lowest(self) -> Agreement:
        """The pair whose interval reaches lowest, an undefined one first."""
        return min(self.pairs.values(), key=lambda pair: -np.inf if np.isnan(pair.interval.low) else pair.interval.low)

    @property
    def agrees(self) -> bool:
        """Whether every pair agrees, beyond the noise of the images."""
        return self.lowest.interval.low >= AGREEMENT

    @property
    def disagrees(self) -> bool:
        """Whether some pair does not agree, beyond the noise of the images."""
        return any(pair.interval.high < AGREEMENT for pair in self.pairs.values())


def measure(names: Sequence[str], verdicts: ArrayLike, y: Ints, seed: int = 0) -> Concordance:
    """Compare m vectors of class accuracies, given the verdicts (m, N) on the same images with labels (N,).

    Attacks share images, which inflates their agreement: so one on half of the images is compared with the other on the
    other half, over 200 stratified splits, and their reliability is measured in the same way. The intervals: images are
    drawn again within their classes, with all their verdicts, and the corrected correlation is measured anew.

    Args:
        names: of the vectors.
        verdicts: bool, or the share of several models that are right.
        y: labels.
        seed: of splits and draws.
    """
    table = np.asarray(verdicts, dtype=np.float32)
    whole = _accuracies(table, y)
    cross = _cross(*_half_accuracies(table, y, seed))[0]
    corrected, ceiling = _corrected(cross)
    size = len(names)
    both = {f"{names[a]} / {names[b]}": (a, b) for b in range(size) for a in range(b)}
    drawn = _resampled(table, y, seed)
    ends = 1 - ERROR, 1 - ERROR / max(1, len(both))
    pairs = {
        name: Agreement(
            spearman(whole[a], whole[b]),
            kendall(whole[a], whole[b]),
            overlap(whole[a], whole[b]),
            float(cross[a, b]),
            float(ceiling[a, b]),
            float(corrected[a, b]),
            centred(drawn[:, a, b], float(corrected[a, b]), ends),
        )
        for name, (a, b) in both.items()
    }
    reliability = tuple(spearman_brown(r) for r in np.diagonal(cross).tolist())
    return Concordance(tuple(names), kendall_w(whole), kendall_w_test(whole, seed=seed), reliability, pairs)


def agreement_sheet(concordance: Concordance, what: str) -> Sheet:
    """Return the table of all pairs of ``what``, attacks or models."""
    rows = [[name, *pair[:-1], correlations(pair.interval)] for name, pair in concordance.pairs.items()]
    return table(
        f"consistency-{what}",
        f"Agreement of the class accuracies under pairs of {what}; W = {concordance.w:.3f}, "
        f"p = {p_text(concordance.p_value)}",
        {
            "pair": "words",
            "spearman": "number",
            "kendall": "number",
            "weakest fifth": "number",
            "across halves": "number",
            "ceiling": "number",
            "corrected": "number",
            "interval": "words",
        },
        rows,
        spare=("kendall", "weakest fifth"),
    )


def mean_corrected(pairs: Mapping[str, Agreement]) -> float:
    """Return the mean corrected correlation of some pairs, NaN without any."""
    return float(np.mean(known(np.array([pair.corrected for pair in pairs.values()] or [np.nan]))))


def correlations(interval: Interval) -> str:
    """Write the interval of a corrected correlation, which no true one exceeds 1.

    Example:
        >>> correlations(Interval(0.81, 1.03))
        '0.81 to 1.00'
    """
    return ABSENT if np.isnan(interval.low) else f"{min(1.0, interval.low):.2f} to {min(1.0, interval.high):.2f}"


def _accuracies(table: Floats32, y: Ints) -> Floats:
    """Return class accuracies (m, C) of the classes with images."""
    return np.stack([table[:, y == c].mean(1, dtype=np.float64) for c in np.unique(y)], axis=1)


def _half_accuracies(table: Floats32, y: Ints, seed: int) -> Halves:
    """Return class accuracies on either half of the images, (m, 1, S, C) each."""
    first = halves(y, _SPLITS, seed)
    parts = [(table[:, None, y == c], first[:, y == c]) for c in _divisible(y)]
    return _stacked([_two_means(values, split) for values, split in parts], len(table))


def _resampled(table: Floats32, y: Ints, seed: int) -> Floats:
    """Return the corrected correlations (R, m, m) of images drawn again within class, in parts that fit memory."""
    random, split = generator(seed), halves(y, _SPLITS_EACH, seed)
    classes = _divisible(y)
    part = max(1, _CHUNK // max(1, len(table) * _SPLITS_EACH * len(classes)))
    sizes = [min(part, _RESAMPLES - start) for start in range(0, _RESAMPLES, part)]
    inside = [(table[:, y == c], split[:, y == c]) for c in classes]
    return np.concatenate(
        [
            _corrected(_cross(*_stacked([_drawn_halves(*values, n, random) for values in inside], len(table))))[0]
            for n in sizes
        ]
    )


def _drawn_halves(values: Floats32, split: NDArray[np.bool_], size: int, random: np.random.Generator) -> Halves:
    """Draw images of a class anew, (m, size, S) means of either part; in random order, so one split does for all."""
    drawn = random.integers(0, values.shape[1], (size, values.shape[1]))
    means = [_two_means(row[drawn], split) for row in values]
    return np.stack([one for one, _ in means]), np.stack([two for _, two in means])


def _two_means(values: Floats32, first: NDArray[np.bool_]) -> Halves:
    """Return the means of values (..., n) over either part of splits (S, n), (..., S) each."""
    sums, total, count = values @ first.T.astype(np.float32), values.sum(-1)[..., None], first.sum(1)
    return divide(sums, count), divide(total - sums, first.shape[1] - count)


def _stacked(halves: Sequence[Halves], m: int) -> Halves:
    if not halves:
        return np.zeros((m, 1, 1, 0)), np.zeros((m, 1, 1, 0))
    return np.stack([one for one, _ in halves], axis=-1), np.stack([two for _, two in halves], axis=-1)


def _divisible(y: Ints) -> Ints:
    """Return the classes that have two images, since a single one has no halves."""
    classes, n = np.unique(y, return_counts=True)
    return np.asarray(classes[n > 1])


def _cross(first: Floats, second: Floats) -> Floats:
    """Return (R, m, m) mean Spearman correlations over splits of vectors (m, R, S, C) across the two halves."""
    one, two = (standardised_ranks(values).transpose(1, 2, 0, 3) for values in (first, second))
    products = one @ two.swapaxes(-1, -2)
    defined = ~np.isnan(products)
    cross = divide(np.where(defined, products, 0.0).sum(1), defined.sum(1))
    return np.asarray((cross + cross.swapaxes(-1, -2)) / 2)


def _corrected(cross: Floats) -> tuple[Floats, Floats]:
    """Return the corrected correlations and their ceilings, shaped as ``cross`` (..., m, m)."""
    own = np.diagonal(cross, axis1=-2, axis2=-1)
    root = np.sqrt(np.where(own > 0, own, np.nan))
    ceiling = root[..., :, None] * root[..., None, :]
    return cross / ceiling, ceiling


def known(values: Floats) -> Floats:
    """Return the defined values, so that their mean warns of nothing; one NaN if there are none."""
    defined = values[~np.isnan(values)]
    return defined if defined.size else np.array([np.nan])
