"""A10: which classes a stronger attack breaks more of (H4)."""

from __future__ import annotations

from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, Kind, Verdict, decide, headline, table
from classwise.errors import InputError
from classwise.metrics.hypotheses import hypergeometric_test
from classwise.metrics.intervals import Interval, clopper_pearson
from classwise.metrics.outcomes import Floats, Ints, Outcomes, divide
from classwise.metrics.resampling import half_counts

ERROR = 0.05
"""Probability of a verdict for or against H4 where attacks break in proportion to what is left; half of it for each."""
LEAST = 20
"""Fewer newly broken images than this decide nothing [ours]."""
_SPLITS = 2000
_COLUMNS: dict[str, Kind] = {
    "weak → strong": "words",
    "newly broken": "count",
    "on vulnerable half": "estimate",
    "of what was left": "share",
    "of the classes": "share",
    "p": "p",
    "relative slope": "number",
    "variance change": "fine",
    "H4": "words",
}
_SPARE = ("of the classes", "relative slope", "variance change")


class Gain(NamedTuple):
    """What attack b breaks beyond attack a, by class, and where.

    Attributes:
        still: images robust under a, (C,).
        newly: those of them that b breaks, (C,).
        share: of the newly broken images, those in the vulnerable half of the classes.
        interval: exact interval of that share (Clopper-Pearson).
        opportunity: share of the images still robust under a that are in that half: only these can be broken.
        equal: share of classes in that half.
        p_value: exact, two-sided, of as many or as few in that half if b broke images in proportion to what was left.
        slope: of the relative gain newly/still on the accuracy under a, across halves; below 0: weak classes lose more.
        variance_before: class variance under a.
        variance_after: class variance under a and b.
        verdict: on H4.
    """

    still: Ints
    newly: Ints
    share: float
    interval: Interval
    opportunity: float
    equal: float
    p_value: float
    slope: float
    variance_before: float
    variance_after: float
    verdict: Verdict


def gain(subject: Subject) -> Finding:
    """Take the gain of each attack over the weaker PGD (else over the weakest attack) apart by class.

    The tests of all pairs hold at once (Bonferroni). H4 is supported if a pair supports it and none refutes it, refuted
    the other way round.

    Raises:
        InputError: fewer than two attacks met every image.
    """
    outcomes = subject.result.outcomes
    pairs = _pairs(subject)
    if not pairs:
        raise InputError(f"{subject.label} has fewer than two attacks on every image, so that none gains on another.")
    seed = int(subject.result.header["seed"])
    error = ERROR / len(pairs)
    gains = {f"{weak} → {strong}": decompose(outcomes, weak, strong, seed, error) for weak, strong in pairs}
    number = {kind: sum(gain_.verdict == kind for gain_ in gains.values()) for kind in get_args(Verdict)}
    verdict = decide(number["supported"] > 0 == number["refuted"], number["refuted"] > 0 == number["supported"])
    few = sum(gain_.newly.sum() < LEAST for gain_ in gains.values())
    sentence = (
        f"{headline('H4', verdict)}: of {len(gains)} pairs of attacks, the stronger one breaks more of the vulnerable "
        f"half of the classes than its share of what was left in {number['supported']}, less in {number['refuted']}, "
        f"and as much but for noise in {number['undecided'] - few}; {few} break fewer than {LEAST} images and decide "
        "nothing."
    )
    caption = (
        "Where stronger attacks gain: the vulnerable half's share of the newly broken images, of those left, and of "
    )
    caption += "the classes, in per cent"
    sheet = table("gain", caption, _COLUMNS, [_row(name, gain_) for name, gain_ in gains.items()], spare=_SPARE)
    return Finding("gain", "H4", subject.label, verdict, sentence, (sheet,), {"pairs": gains})


def decompose(outcomes: Outcomes, weak: str, strong: str, seed: int = 0, error: float = ERROR) -> Gain:
    """Take the gain of one attack over another apart by class, the two combined point by point.

    The vulnerable half, V, are the ⌊C/2⌋ classes that are the least robust under the weak attack. If the strong attack
    breaks images in proportion to what is left, the newly broken ones are a random draw of those still robust, and how
    many of them are in V is hypergeometric, whatever the weak attack did: so V may be chosen on the same images, and
    the test is exact. Noise that makes a class look weak leaves fewer images of it, and lowers both shares alike.

    Args:
        outcomes: verdicts under both attacks.
        weak: name of attack a.
        strong: name of attack b.
        seed: of the splits behind the slope.
        error: of the test and of the interval.
    """
    before = outcomes.correct(weak)
    n, still, survived = (
        _count(outcomes, which) for which in (np.ones_like(before), before, before & outcomes.correct(strong))
    )
    newly, present = still - survived, np.flatnonzero(n)
    half = present[np.argsort(divide(still, n)[present], kind="stable")[: len(present) // 2]]
    drawn, inside, left, left_inside = (
        int(v) for v in (newly.sum(), newly[half].sum(), still.sum(), still[half].sum())
    )
    low, high = clopper_pearson([inside], [drawn], 1 - error)
    p_value = hypergeometric_test(inside, drawn, left_inside, left)
    share, opportunity = float(divide(inside, drawn)), float(divide(left_inside, left))
    sure = drawn >= LEAST and p_value < error
    return Gain(
        still=still,
        newly=newly,
        share=share,
        interval=Interval(float(low[0]), float(high[0])),
        opportunity=opportunity,
        equal=len(half) / max(1, len(present)),
        p_value=p_value,
        slope=_slope(_by_split(np.stack([newly, survived, n - still], axis=1), seed)),
        variance_before=float(np.nanvar(divide(still, n))),
        variance_after=float(np.nanvar(divide(survived, n))),
        verdict=decide(sure and share > opportunity, sure and share < opportunity),
    )


def _row(name: str, gain: Gain) -> list[object]:
    share, change = (gain.share, gain.interval), gain.variance_after - gain.variance_before
    rest = gain.opportunity, gain.equal, gain.p_value, gain.slope, change, gain.verdict
    return [name, int(gain.newly.sum()), share, *rest]


def _pairs(subject: Subject) -> list[tuple[str, str]]:
    outcomes = subject.result.outcomes
    robust = {name: int(outcomes.correct(name).sum()) for name in subject.alone}
    base = "pgd" if "pgd" in robust else max(robust, key=lambda name: robust[name], default="")
    first = [("fgsm", base)] if "fgsm" in robust and base != "fgsm" else []
    return first + [(base, name) for name in robust if name not in {base, "fgsm"}]


def _by_split(counts: Ints, seed: int) -> tuple[Floats, Floats]:
    """Split counts (C, 3) of newly broken, kept and others into halves, each half once in either part.

    Returns:
        accuracy under a on the one half, and newly broken images over those still robust on the other, (S, C) each.
    """
    first = half_counts(counts[counts.sum(1) > 0], _SPLITS // 2, seed)
    second = counts[counts.sum(1) > 0] - first
    one, other = np.concatenate([first, second]), np.concatenate([second, first])
    return divide(one[..., :2].sum(2), one.sum(2)), divide(other[..., 0], other[..., :2].sum(2))


def _slope(halves: tuple[Floats, Floats]) -> float:
    """Return the mean over splits of the regression slope of newly/still on the accuracy in the other half."""
    accuracy, relative = halves
    x, y = (_centred(np.where(np.isnan(relative), np.nan, values)) for values in (accuracy, relative))
    return _mean(divide(np.nansum(x * y, axis=1), np.nansum(x * x, axis=1)))


def _centred(values: Floats) -> Floats:
    return values - divide(np.nansum(values, axis=1), (~np.isnan(values)).sum(1))[:, None]


def _count(outcomes: Outcomes, which: NDArray[np.bool_]) -> Ints:
    return np.bincount(outcomes.y[which], minlength=outcomes.num_classes)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
