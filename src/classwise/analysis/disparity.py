"""A3: how far the classes lie apart (H1), and how many of all errors the weakest fifth makes (H9)."""

from __future__ import annotations

import numpy as np

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, decide, headline, table
from classwise.metrics.extremes import gap_interval
from classwise.metrics.intervals import Interval, tail_size
from classwise.metrics.outcomes import CLEAN, WORST_CASE, Floats, Ints, Outcomes, divide
from classwise.metrics.ranks import weakest
from classwise.metrics.resampling import halves, percentiles, resample
from classwise.report.contents import read
from classwise.report.tables import p_text, percent, span, spread_sheet

LEVEL = 0.01
"""Of the permutation test of H1 [ours]."""
NEGLIGIBLE = 0.05
"""A gap of which the upper bound is below five points refutes H1 [ours]."""


def disparity(subject: Subject) -> tuple[Finding, Finding]:
    """Test H1 and H9 on the worst case of a subject."""
    return _differences(subject), _errors(subject)


def _differences(subject: Subject) -> Finding:
    outcomes, document = subject.result.outcomes, subject.result.document
    test = document["equal_classes"]
    p, gap = test["variance"]["p_value"], document["attacks"][WORST_CASE]["gap"]["value"]
    bounds = gap_interval(outcomes.counts(), outcomes.n, subject.result.confidence)
    verdict = decide(p < LEVEL and bounds.low > 0, bounds.high < NEGLIGIBLE)
    clean = document["clean"]["gap"]["value"]
    sentence = (
        f"{headline('H1', verdict)}: {percent(gap)} points from best to worst class (clean {percent(clean)}), "
        f"simultaneous interval {span(*bounds)}, permutation test of equal classes p = {p_text(p)}."
    )
    values = {
        "gap": gap,
        "gap_interval": bounds,
        "equal_classes": test,
        **{view: document["attacks"].get(view, document["clean"]) for view in (CLEAN, *outcomes.attacks, WORST_CASE)},
    }
    sheet = spread_sheet(read(subject.result))
    return Finding("disparity", "H1", subject.label, verdict, sentence, (sheet,), values)


def _errors(subject: Subject) -> Finding:
    outcomes = subject.result.outcomes.select(np.isin(subject.result.outcomes.y, subject.present))
    share, interval, chosen = error_share(outcomes, seed=int(subject.result.header["seed"]))
    even = len(chosen) / max(1, len(subject.present))
    verdict = decide(interval.low > 0.5, interval.high < 0.5)
    names = ", ".join(outcomes.classes[c] for c in chosen)
    sentence = (
        f"{headline('H9', verdict)}: the weakest fifth ({names}) makes {percent(share)} % of all robust errors "
        f"(interval {span(*interval)} %), where an even spread would give {percent(even)} % and being the main danger "
        "takes more than half."
    )
    rows = [
        [outcomes.classes[c], int(n), int(n - k), divide(n - k, (outcomes.n - outcomes.counts()).sum())]
        for c, (n, k) in enumerate(zip(outcomes.n, outcomes.counts(), strict=True))
        if n
    ]
    sheet = table(
        "errors",
        "Robust errors by class; shares in per cent",
        {"class": "words", "n": "count", "errors": "count", "of all errors": "share"},
        sorted(rows, key=lambda row: -row[3]),
    )
    values = {"share": share, "interval": interval, "weakest": chosen, "even_share": even}
    return Finding("disparity", "H9", subject.label, verdict, sentence, (sheet,), values)


def error_share(outcomes: Outcomes, seed: int = 0) -> tuple[float, Interval, list[int]]:
    """Return which share of all robust errors the weakest fifth of the classes makes.

    The classes are chosen on one half of the images and their errors counted on the other, as classes chosen for many
    errors have more of them by that choice alone. The interval is a bootstrap within class on that other half.

    Returns:
        the share, its 95 % interval, and the max(1, ⌈C/5⌉) classes; NaN without errors.
    """
    first = halves(outcomes.y, 1, seed)[0]
    chosen_on, counted = outcomes.select(first), outcomes.select(~first)
    accuracy = chosen_on.accuracy()
    size = tail_size(int((~np.isnan(accuracy)).sum()), 0.2)
    chosen = weakest(np.nan_to_num(accuracy, nan=np.inf), 1.0)[:size]
    right = counted.counts()
    drawn = resample(np.stack([counted.n - right, right], axis=1), seed=seed)[:, :, 0]
    return float(_share(counted.n - right, chosen)), percentiles(_share(drawn, chosen)), chosen


def _share(errors: Ints, chosen: list[int]) -> Floats:
    return divide(errors[..., chosen].sum(-1), errors.sum(-1))
