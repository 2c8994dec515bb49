"""A7: is a class the more robust, the longer its weights in the last layer are (H8)?"""

from __future__ import annotations

import numpy as np

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, decide, headline, table
from classwise.files.texts import plain
from classwise.metrics.intervals import Interval
from classwise.metrics.outcomes import CLEAN, Floats
from classwise.metrics.ranking import correlation_test, fisher_interval, partial_correlation, pearson, spearman
from classwise.report.tables import p_text

ERROR = 0.05
"""Probability of a verdict for or against H8 where length and robustness have nothing to do with each other."""
_MANY = 100
"""Classes from which on a correlation over classes can settle anything."""


def weight_norm(subject: Subject, weight: Floats) -> Finding:
    """Correlate the length of each class's weights with its robust accuracy.

    The permutation test of Pearson's r decides, which is exact whatever the lengths look like: H8 is supported if r is
    above 0 with p < 0.05 (two-sided), refuted if below 0 likewise. Fisher's interval, rank correlation, the
    lengths of centred rows (softmax does not see a common shift), the partial correlation given clean accuracy and the
    correlation with clean accuracy stand beside it. A network whose rows all have one length (a cosine head) leaves H8
    undecided.

    Args:
        subject: an evaluation of the network.
        weight: rows of the last linear layer, (C, F); :func:`classwise.analysis.network.last_layer`.
    """
    outcomes, present = subject.result.outcomes, subject.present
    rows = np.asarray(weight, dtype=np.float64)
    lengths = {"plain": _lengths(rows), "centred": _lengths(rows - rows.mean(0))}
    robust, clean = outcomes.accuracy()[present], outcomes.accuracy(CLEAN)[present]
    length = lengths["plain"][present]
    if np.ptp(length) < 1e-6 * length.max():
        text = f"{headline('H8', 'undecided')}: every class has weights of the same length (a cosine head)."
        return Finding("weight_norm", "H8", subject.label, "undecided", text, (), {"lengths": lengths})
    r = pearson(length, robust)
    interval = fisher_interval(r, len(present))
    p = correlation_test(length, robust, rank=False)
    verdict = decide(r > 0 and p < ERROR, r < 0 and p < ERROR)
    doubt = "" if len(present) >= _MANY else f"; {len(present)} classes are {len(present)} points"
    sentence = (
        f"{headline('H8', verdict)}: r = {r:+.2f} (95 % interval {interval.low:+.2f} to {interval.high:+.2f}, "
        f"permutation p = {p_text(p)}), given clean accuracy {partial_correlation(length, robust, clean):+.2f}{doubt}."
    )
    measured = {
        "length": _all(length, robust, clean),
        "length of centred row": _all(lengths["centred"][present], robust, clean),
        "clean accuracy": (pearson(clean, robust), spearman(clean, robust), float("nan"), float("nan")),
    }
    sheets = (
        table(
            "weight-norm",
            "Correlation with robust accuracy over classes",
            {"of": "words", "pearson": "number", "spearman": "number", "given clean": "number", "with clean": "number"},
            [[name, *values] for name, values in measured.items()],
        ),
        table(
            "weight-norm-classes",
            "Length of each class's weights; accuracies in per cent",
            {"class": "words", "length": "number", "clean": "share", "robust": "share"},
            [[plain(outcomes.classes[c]), *v] for c, *v in zip(present, length, clean, robust, strict=True)],
        ),
    )
    values = {"lengths": lengths, "correlations": measured, "interval": Interval(*interval), "p_value": p}
    return Finding("weight_norm", "H8", subject.label, verdict, sentence, sheets, values)


def _lengths(rows: Floats) -> Floats:
    return np.asarray(np.linalg.norm(rows, axis=1))


def _all(length: Floats, robust: Floats, clean: Floats) -> tuple[float, float, float, float]:
    return (
        pearson(length, robust),
        spearman(length, robust),
        partial_correlation(length, robust, clean),
        pearson(length, clean),
    )
