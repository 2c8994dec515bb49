"""A3: how far the classes lie apart (H1), and how many of all errors the weakest fifth makes (H9)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, Verdict, decide, headline, table
from classwise.metrics.intervals import Interval, tail_size
from classwise.metrics.outcomes import WORST_CASE, Floats, Ints, Outcomes, divide
from classwise.metrics.resampling import centred, generator, percentiles, resample
from classwise.report.contents import read
from classwise.report.sheet import Sheet
from classwise.report.tables import p_text, percent, span, spread_sheet

LEVEL = 0.01
"""Of the permutation test of H1 [ours]."""
NEGLIGIBLE = 0.05
"""A gap whose upper bound is below five points refutes H1, however sure it is that classes differ [ours]."""
DANGER = 0.5
"""Share of all robust errors that makes the weakest fifth of the classes the main danger [ours]."""
CONFIDENCE = 0.98
"""Of the bootstrap of that share: with a hundred images a class one at 95 % errs in 7 % (benchmarks/claims.py)."""
_SPLITS, _RESAMPLES = 2000, 2000


def disparity(subject: Subject) -> tuple[Finding, Finding]:
    """Test H1 and H9 on the worst case of a subject."""
    return _differences(subject), _errors(subject)


def _differences(subject: Subject) -> Finding:
    result = subject.result
    test, gap = result.equal_classes, result.view(WORST_CASE).gap
    p, bounds, clean = test.permuted_chi_square.p_value, gap.interval, result.clean.gap.value
    negligible = bounds.high < NEGLIGIBLE
    verdict = decide(p < LEVEL and not negligible, negligible)
    sentence = (
        f"{headline('H1', verdict)}: {percent(gap.value)} points from best to worst class (clean {percent(clean)}), "
        f"interval of the gap {span(*bounds)}, permutation test of equal classes p = {p_text(p)}."
    )
    values = {
        "gap": gap.value,
        "gap_interval": bounds,
        "equal_classes": {"view": WORST_CASE, **test.as_dict()},
        **result.views,
    }
    sheet = spread_sheet(read(subject.result))
    return Finding("disparity", "H1", subject.label, verdict, sentence, (sheet,), values)


def _errors(subject: Subject) -> Finding:
    outcomes = subject.result.outcomes.select(np.isin(subject.result.outcomes.y, subject.present))
    errors = error_share(outcomes, seed=int(subject.result.header["seed"]))
    even = len(errors.chosen) / max(1, len(subject.present))
    share, ends = percent(errors.share), span(*errors.interval)
    names = ", ".join(outcomes.classes[c] for c in errors.chosen)
    if errors.most.high < DANGER:
        verdict: Verdict = "not applicable"
        most = f"even without any robust image they could make {percent(errors.most.high)} % at most, less than half"
        sentence = f"{headline('H9', verdict)}: the weakest fifth ({names}) makes {share} % of all robust errors "
        sentence += f"(98 % interval {ends} %), where an even spread would give {percent(even)} %; {most}."
    else:
        verdict = decide(errors.interval.low > DANGER, errors.interval.high < DANGER)
        sentence = f"{headline('H9', verdict)}: the weakest fifth ({names}) makes {share} % of all robust errors "
        sentence += (
            f"(98 % interval {ends} %), where an even spread would give {percent(even)} % and being the main danger "
        )
        sentence += "takes more than half."
    values = {**errors._asdict(), "even_share": even}
    return Finding("disparity", "H9", subject.label, verdict, sentence, (_error_sheet(outcomes),), values)


def _error_sheet(outcomes: Outcomes) -> Sheet:
    rows = [
        [outcomes.classes[c], int(n), int(n - k), divide(n - k, (outcomes.n - outcomes.counts()).sum())]
        for c, (n, k) in enumerate(zip(outcomes.n, outcomes.counts(), strict=True))
        if n
    ]
    return table(
        "errors",
        "Robust errors by class; shares in per cent",
        {"class": "words", "n": "count", "errors": "count", "of all errors": "share"},
        sorted(rows, key=lambda row: -row[3]),
    )


class ErrorShare(NamedTuple):
    """Which share of all robust errors the weakest fifth of the classes makes; NaN without errors.

    Attributes:
        share: mean over splits into halves, the classes chosen on one half and their errors counted on the other.
        interval: of that share, 98 %.
        most: interval of the share if those classes had no robust image left: what arithmetic allows.
        chosen: the max(1, ⌈C/5⌉) classes with the lowest accuracy on all images.
    """

    share: float
    interval: Interval
    most: Interval
    chosen: list[int]


def error_share(outcomes: Outcomes, seed: int = 0) -> ErrorShare:
    """Measure which share of all robust errors the weakest fifth of the classes makes.

    Classes chosen for many errors have more of them by that choice alone, so they are chosen on one half of the images
    and their errors counted on the other, over 2,000 stratified splits. The interval: images are drawn again within
    their classes and split anew; quantiles of these shares, moved to the share observed, since the draws have more
    noise than the images.
    """
    present = np.flatnonzero(outcomes.n)
    n, errors = outcomes.n[present], (outcomes.n - outcomes.counts())[present]
    size = tail_size(len(present), 0.2)
    share = float(_split_share(errors[None], n, size, _SPLITS, seed)[0])
    drawn = resample(np.stack([errors, n - errors], axis=1), _RESAMPLES, seed)[:, :, 0]
    shares = _split_share(drawn, n, size, 2, seed)
    order = np.argsort(-divide(errors, n), kind="stable")[:size]
    return ErrorShare(
        share, centred(shares, share, CONFIDENCE), percentiles(_most(drawn, n, size)), present[order].tolist()
    )


def _split_share(errors: Ints, n: Ints, size: int, splits: int, seed: int) -> Floats:
    """Return the mean share over splits, (R,), of errors (R, C) among n (C,) images; a half is once in either part."""
    half = n // 2
    one = generator(seed).hypergeometric(errors, n - errors, half, size=(splits, *errors.shape))
    two = errors - one
    both = [_share_of_weakest(divide(a, m), b, size) for a, b, m in ((one, two, half), (two, one, n - half))]
    defined = ~np.isnan(both)
    return divide(np.where(defined, both, 0.0).sum((0, 1)), defined.sum((0, 1)))


def _share_of_weakest(rate: Floats, counted: Ints, size: int) -> Floats:
    weakest = np.argsort(np.nan_to_num(-rate, nan=np.inf), axis=-1, kind="stable")[..., :size]
    return divide(np.take_along_axis(counted, weakest, axis=-1).sum(-1), counted.sum(-1))


def _most(errors: Ints, n: Ints, size: int) -> Floats:
    """Return the largest share that the classes with the highest error rates can make, (R,), the others as they are."""
    weakest = np.argsort(-divide(errors, n), axis=-1, kind="stable")[..., :size]
    all_wrong = n[weakest].sum(-1)
    return divide(all_wrong, all_wrong + errors.sum(-1) - np.take_along_axis(errors, weakest, axis=-1).sum(-1))
