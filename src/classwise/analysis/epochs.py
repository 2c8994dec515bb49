"""A1: class-wise robustness over the epochs of a training run (H10)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from classwise.analysis.finding import Finding, decide, headline, table
from classwise.files.texts import plain
from classwise.metrics.outcomes import Floats, Ints, divide
from classwise.metrics.ranking import spearman, standardised_ranks
from classwise.metrics.resampling import generator
from classwise.metrics.training import LAST, QUANTILE, Training, arrival, curve
from classwise.report.tables import p_text

ERROR = 0.03
"""Nominal probability of a verdict for or against H10 where all classes converge alike; half of it for each [ours].

Noise that changes places between classes of other heights fits less than exactly: 0.03 keeps it below 0.05 there, and
far below it where classes are alike in height too (benchmarks/claims.py)."""
_PERMUTATIONS = 10_000


def epochs(training: Training) -> Finding:
    """Test whether hard classes converge later: rank correlation of the time to 80 % with the final robust accuracy.

    H10 is supported if it is below 0 beyond what noise does to classes that converge alike (`converge_alike`), refuted
    if above 0 likewise.

    Raises:
        InputError: the run has fewer than two epochs, or was not attacked.
    """
    course = curve(training.lines)
    known = ~np.isnan(course.time)
    time, final = course.time[known], course.final[known]
    rho = spearman(time, final)
    less, greater = converge_alike(course.accuracy[:, known], course.n[known])
    verdict = decide(less < ERROR / 2, greater < ERROR / 2)
    worst, average = (100 * value for value in course.jitter)
    classes = f"{len(time)} classes"
    relation = (
        f"cannot be ranked against that accuracy: {classes} take equally long, or end alike ({course.part} images)"
        if np.isnan(rho)
        else f"has rank correlation {rho:+.2f} with that accuracy over {classes} (p = {p_text(less)} for below 0, "
        f"{course.part} images)"
    )
    sentence = (
        f"{headline('H10', verdict)}: the time to {100 * QUANTILE:g} % of the final robust accuracy {relation}; from "
        f"epoch to epoch the worst class moves by {worst:.1f} points, the average by {average:.1f}."
    )
    order = np.argsort(course.final, kind="stable")
    rows = [
        [
            plain(training.classes[c]),
            course.final[c],
            course.time[c],
            course.accuracy[:, c].max(),
            course.overfitting[c],
        ]
        for c in order
    ]
    sheet = table(
        "epochs",
        f"Robust accuracy of each class over {len(training.lines)} epochs ({course.part} images), in per cent",
        {"class": "words", "final": "share", "epochs to 80 %": "number", "best": "share", "best less last": "points"},
        rows,
    )
    values = {**course._asdict(), "spearman": rho, "p_less": less, "p_greater": greater}
    return Finding("epochs", "H10", training.label, verdict, sentence, (sheet,), values)


class Tails(NamedTuple):
    """One-sided p-values of a rank correlation: of one as low, and of one as high."""

    less: float
    greater: float


def converge_alike(accuracy: Floats, n: Floats, *, permutations: int = _PERMUTATIONS, seed: int = 0) -> Tails:
    """Test the correlation of time and final value if all classes had one curve but for its height.

    Noise makes this correlation by itself: an end that is too high by chance is reached late. So the noise is permuted,
    and not the times: class c keeps its expected curve, a height times the mean curve of all, and gets the deviations
    of another class from its own, in units of their binomial standard errors; then its time and its final value are
    read anew. Deviations hold the noise of images and that of weights that move from epoch to epoch.

    Args:
        accuracy: robust accuracy of each class in each epoch, (E, C).
        n: images of each class, (C,).
        permutations: number of draws.
        seed: of the draws.
    """
    if accuracy.shape[1] < 2:
        return Tails(1.0, 1.0)
    final = arrival(accuracy).final
    expected = (accuracy * n).sum(1)[:, None] / (final * n).sum() * _heights(accuracy, final)
    inside = np.clip(expected, 0.5 / n, 1 - 0.5 / n)
    error = np.sqrt(inside * (1 - inside) / n)
    deviation, size = (accuracy - expected) / error, len(n)
    # (E, C, C): the expected curve of the first class with the noise of the second.
    curves = expected[:, :, None] + error[:, :, None] * deviation[:, None, :]
    ends, times = (values.reshape(size, size) for values in arrival(curves.reshape(len(curves), -1)))
    order = generator(seed).permuted(np.tile(np.arange(size), (permutations, 1)), axis=1)
    drawn = np.nan_to_num(_correlations(times, ends, order))
    observed = float(np.nan_to_num(_correlations(times, ends, np.arange(size)[None]))[0])
    return Tails(
        *(float((1 + (side * drawn >= side * observed - 1e-12).sum()) / (1 + permutations)) for side in (-1, 1))
    )


def _heights(accuracy: Floats, final: Floats) -> Floats:
    """Return the final values (C,), drawn together by as much of their variance as the noise of epochs explains.

    That noise is the variance of a mean of the last epochs. Equal classes differ by 1.7 times as much in one case of
    ten (χ² with nine degrees of freedom), so as much is taken for noise.
    """
    last = accuracy[-LAST:]
    noise = last.var(0, ddof=1).mean() / len(last)
    reliability = max(0.0, 1 - float(divide(1.7 * noise, final.var(ddof=1))))
    return np.asarray(final.mean() + reliability * (final - final.mean()))


def _correlations(times: Floats, ends: Floats, order: Ints) -> Floats:
    """Return Spearman's ρ of (C, C) times and ends for each row (P, C) of which class lends its noise to which."""
    own = np.arange(order.shape[1])
    one, two = (standardised_ranks(np.nan_to_num(values[own, order], nan=np.inf)) for values in (times, ends))
    return np.asarray((one * two).sum(-1))
