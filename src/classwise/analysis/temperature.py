"""H5: does Temperature-PGD break more and enlarge disparity, at as many steps, and beyond margin attacks?"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, Kind, decide, headline, points, table
from classwise.errors import InputError
from classwise.metrics.hypotheses import binomial_test
from classwise.metrics.intervals import Interval
from classwise.metrics.outcomes import Outcomes, divide
from classwise.metrics.recorded import Described, attack_of
from classwise.metrics.resampling import percentiles, resample

ERROR = 0.05
"""Probability of a verdict for or against H5 where Temperature-PGD does what PGD does, at most [ours]."""
_NAME = "temperature-pgd"
_COLUMNS: dict[str, Kind] = {
    "against": "words",
    "own steps": "count",
    "its steps": "count",
    "broken": "points",
    "interval": "words",
    "variance": "fine",
    "interval of the variance": "words",
    "gap": "points",
}
_SPARE = ("own steps", "gap")


class Contest(NamedTuple):
    """Temperature-PGD against another attack on the same images; differences are Temperature-PGD's less the other's.

    `steps` are the most gradients that each may take an image, NaN if its settings do not say; `broken` is the
    difference of the share broken, `variance` and `gap` of the class accuracies, each with the paired bootstrap
    interval within class (none for the gap, which is a difference of extremes). `broken_p` is the exact two-sided
    p-value of McNemar's test of `broken`, which holds where a bootstrap does not: with few images that disagree.
    """

    steps: tuple[float, float]
    broken: float
    broken_interval: Interval
    broken_p: float
    variance: float
    variance_interval: Interval
    gap: float

    @property
    def even(self) -> bool:
        """Whether both may take as many steps."""
        return self.steps[0] == self.steps[1]


def temperature(subject: Subject) -> Finding:
    """Compare Temperature-PGD with every other attack that met every image.

    H5 is supported if, against PGD on the cross-entropy with as many steps, both the share broken (exact McNemar test)
    and the class variance (interval) are larger, refuted if one of them is smaller. Either may refute, and there may be
    several such PGDs: each test has its share of the error (Bonferroni), and one PGD for and one against decide
    nothing. What remains against the margin is said too.

    Raises:
        InputError: Temperature-PGD is not among the attacks.
    """
    attacks = {name: attack_of(subject.result.header["attacks"][name]) for name in subject.alone}
    ours = next((name for name, attack in attacks.items() if attack.get("kind") == "TemperaturePGD"), None)
    if ours is None:
        raise InputError(f"{subject.label} was not attacked with {_NAME}, so that H5 cannot be looked at.")
    seed, steps = int(subject.result.header["seed"]), {name: total_steps(attack) for name, attack in attacks.items()}
    rivals = [name for name in subject.alone if name != ours]
    even = [name for name in rivals if steps[name] == steps[ours] and _climbs_cross_entropy(attacks[name])]
    error = ERROR / (2 * max(1, len(even)))
    contests = {
        name: _contest(subject.result.outcomes, (ours, name), (steps[ours], steps[name]), seed, error)
        for name in rivals
    }
    fair = {name: contest for name, contest in contests.items() if contest.even}
    larger, smaller = (any(judge(contests[name], error) for name in even) for judge in (_larger, _smaller))
    verdict = decide(larger and not smaller, smaller and not larger)
    clauses = "; ".join(
        f"{name} at as many steps: {points(c.broken_interval)} points broken, variance {c.variance:+.4f} "
        f"({c.variance_interval.low:+.4f} to {c.variance_interval.high:+.4f})"
        for name, c in fair.items()
    )
    sentence = f"{headline('H5', verdict)}: against {clauses or 'no attack of as many steps'}."
    caption = f"{ours} less each other attack: share broken and gap in points, class variance"
    sheet = table(
        "temperature", caption, _COLUMNS, [_row(name, contest) for name, contest in contests.items()], spare=_SPARE
    )
    return Finding("temperature", "H5", subject.label, verdict, sentence, (sheet,), {"contests": contests})


def _climbs_cross_entropy(attack: Described) -> bool:
    return attack.get("kind") == "PGD" and attack.get("loss", "cross_entropy") == "cross_entropy"


def _larger(contest: Contest, error: float) -> bool:
    return contest.broken > 0 and contest.broken_p < error and contest.variance_interval.low > 0


def _smaller(contest: Contest, error: float) -> bool:
    return (contest.broken < 0 and contest.broken_p < error) or contest.variance_interval.high < 0


def _row(name: str, contest: Contest) -> list[object]:
    variance = f"{contest.variance_interval.low:+.4f} to {contest.variance_interval.high:+.4f}"
    return [
        name,
        *contest.steps,
        contest.broken,
        points(contest.broken_interval),
        contest.variance,
        variance,
        contest.gap,
    ]


def total_steps(attack: Described) -> float:
    """Return the most gradients an attack of the PGD or APGD family takes an image; NaN for others.

    Steps times restarts times targets times temperatures.

    Args:
        attack: its kind and fields, as :func:`classwise.metrics.recorded.attack_of` returns them.

    Example:
        >>> total_steps({"kind": "PGD", "steps": 20, "restarts": 2})
        40
    """
    if attack.get("kind") == "TemperaturePGD":
        return total_steps(attack["pgd"]) * len(attack["inverse_temperatures"])
    if attack.get("kind") not in ("PGD", "APGD", "MomentumPGD"):
        return math.nan
    return int(attack.get("steps", 1)) * int(attack.get("restarts", 1)) * max(1, int(attack.get("targets", 0)))


def _contest(
    outcomes: Outcomes, names: tuple[str, str], steps: tuple[float, float], seed: int, error: float
) -> Contest:
    ours, other = (outcomes.correct(name) for name in names)
    cells = [ours & other, ours & ~other, ~ours & other, ~ours & ~other]
    counts = np.stack([np.bincount(outcomes.y[which], minlength=outcomes.num_classes) for which in cells], axis=1)
    counts = counts[outcomes.n > 0]
    drawn = resample(counts, seed=seed)
    (broken, variance, gap), (drawn_broken, drawn_variance, _) = _differences(counts[None]), _differences(drawn)
    return Contest(
        steps,
        float(broken[0]),
        percentiles(drawn_broken, 1 - error),
        binomial_test(int(counts[:, 2].sum()), int(counts[:, 1:3].sum())),
        float(variance[0]),
        percentiles(drawn_variance, 1 - error),
        float(gap[0]),
    )


def _differences(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return differences in share broken, class variance and gap, (R,) each, of counts (R, C, 4)."""
    n = counts.sum(2)
    ours, other = (divide(counts[:, :, 0] + counts[:, :, cell], n) for cell in (1, 2))
    broken = (counts[:, :, 2] - counts[:, :, 1]).sum(1) / n.sum(1)
    return broken, ours.var(1) - other.var(1), np.ptp(ours, axis=1) - np.ptp(other, axis=1)
