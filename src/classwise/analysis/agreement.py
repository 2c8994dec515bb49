"""How vectors over classes agree: the measure behind consistency over attacks (A8) and over defences (A9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from classwise.analysis.finding import table
from classwise.metrics.outcomes import Floats, Ints, divide
from classwise.metrics.ranks import kendall, kendall_w, kendall_w_test, overlap, spearman, spearman_brown, spearman_rows
from classwise.metrics.resampling import halves
from classwise.report.sheet import Sheet
from classwise.report.tables import p_text

LEVEL = 0.01
"""Of the permutation test of concordance [ours]."""
AGREEMENT, DISAGREEMENT = 0.8, 0.5
"""Corrected rank correlation of a pair from which on it agrees, and below which it does not [ours]."""
_SPLITS = 200


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


class Concordance(NamedTuple):
    """Concordance of m vectors over C classes: Kendall's W, its permutation p-value, and every pair by name."""

    names: tuple[str, ...]
    w: float
    p_value: float
    reliability: tuple[float, ...]
    pairs: dict[str, Agreement]

    @property
    def lowest(self) -> float:
        """The smallest corrected correlation; NaN if one is undefined."""
        return float(min((pair.corrected for pair in self.pairs.values()), key=lambda r: -np.inf if np.isnan(r) else r))

    @property
    def agrees(self) -> bool:
        """Whether W is significant and every pair agrees."""
        return self.p_value < LEVEL and self.lowest >= AGREEMENT

    @property
    def disagrees(self) -> bool:
        """Whether some pair does not agree although both of its vectors are reliable."""
        return any(pair.corrected < DISAGREEMENT and pair.ceiling >= AGREEMENT for pair in self.pairs.values())


def measure(names: Sequence[str], verdicts: ArrayLike, y: Ints, seed: int = 0) -> Concordance:
    """Compare m vectors of class accuracies, given the verdicts (m, N) on the same images with labels (N,).

    Attacks share images, which inflates their agreement: so one on half of the images is compared with the other on the
    other half, over 200 stratified splits, and their reliability is measured in the same way.
    """
    first, second = _half_accuracies(verdicts, y, seed)
    whole = _accuracies(verdicts, y, np.ones((1, y.size)))[:, 0]
    size = len(names)
    cross = np.array([[np.mean(known(spearman_rows(first[a], second[b]))) for b in range(size)] for a in range(size)])
    cross = (cross + cross.T) / 2
    pairs = {
        f"{names[a]} / {names[b]}": Agreement(
            spearman(whole[a], whole[b]),
            kendall(whole[a], whole[b]),
            overlap(whole[a], whole[b]),
            cross[a, b],
            ceiling := _root(cross[a, a] * cross[b, b], cross[a, a]),
            float(divide(cross[a, b], ceiling)),
        )
        for b in range(size)
        for a in range(b)
    }
    reliability = tuple(spearman_brown(r) for r in np.diagonal(cross).tolist())
    return Concordance(tuple(names), kendall_w(whole), kendall_w_test(whole, seed=seed), reliability, pairs)


def agreement_sheet(found: Concordance, what: str) -> Sheet:
    """Return the table of all pairs of ``what``, attacks or models."""
    rows = [[name, *pair] for name, pair in found.pairs.items()]
    return table(
        f"consistency-{what}",
        f"Agreement of the class accuracies under pairs of {what}; W = {found.w:.3f}, p = {p_text(found.p_value)}",
        {
            "pair": "words",
            "spearman": "number",
            "kendall": "number",
            "weakest fifth": "number",
            "across halves": "number",
            "ceiling": "number",
            "corrected": "number",
        },
        rows,
    )


def mean_corrected(pairs: Mapping[str, Agreement]) -> float:
    """Return the mean corrected correlation of some pairs, NaN without any."""
    return float(np.mean(known(np.array([pair.corrected for pair in pairs.values()] or [np.nan]))))


def _accuracies(verdicts: ArrayLike, y: Ints, parts: Floats) -> Floats:
    """Return class accuracies (m, S, C) of the classes with images, given verdicts (m, N) and parts of them (S, N)."""
    one_hot = (y[:, None] == np.unique(y)).astype(np.float64)
    n = parts @ one_hot
    return np.array([divide((parts * row) @ one_hot, n) for row in np.asarray(verdicts, dtype=np.float64)])


def _half_accuracies(verdicts: ArrayLike, y: Ints, seed: int) -> tuple[Floats, Floats]:
    first = halves(y, _SPLITS, seed).astype(np.float64)
    one, two = _accuracies(verdicts, y, first), _accuracies(verdicts, y, 1 - first)
    both = ~(np.isnan(one) | np.isnan(two)).any((0, 1))  # a class with one image has no halves
    return one[..., both], two[..., both]


def known(values: Floats) -> Floats:
    """Return the defined values, so that their mean warns of nothing; one NaN if there are none."""
    defined = values[~np.isnan(values)]
    return defined if defined.size else np.array([np.nan])


def _root(product: float, one: float) -> float:
    return float(np.sqrt(product)) if product > 0 and one > 0 else float("nan")
