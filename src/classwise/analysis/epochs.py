"""A1: class-wise robustness over the epochs of a training run (H10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from classwise.analysis.evidence import Training
from classwise.analysis.finding import Finding, decide, headline, table
from classwise.errors import InputError
from classwise.metrics.outcomes import Floats, divide
from classwise.metrics.ranks import correlation_test, spearman
from classwise.report.contents import plain
from classwise.report.tables import p_text

QUANTILE = 0.8
LEVEL = 0.05
_LAST = 5  # epochs whose mean is the final value
_ENOUGH = 100  # images of a class from which on held-out images are looked at, else training batches


class Curve(NamedTuple):
    """Robust accuracy of each class over epochs.

    Attributes:
        part: "valid" or "train", the images.
        accuracy: (E, C), NaN for an absent class.
        band: 1.96 standard errors, (E, C).
        final: mean of the last five epochs, (C,).
        time: first epoch, from 1, at 80 % of the final value, (C,); NaN where that is 0.
        overfitting: best epoch less the last one, (C,).
        jitter: std of the changes from epoch to epoch of the worst class and of the average.
    """

    part: str
    accuracy: Floats
    band: Floats
    final: Floats
    time: Floats
    overfitting: Floats
    jitter: tuple[float, float]


def epochs(training: Training) -> Finding:
    """Test whether hard classes converge later: rank correlation of the time to 80 % with the final robust accuracy.

    H10 is supported if it is below 0 with a one-sided permutation p < 0.05, refuted if above 0 likewise.

    Raises:
        InputError: the run has fewer than two epochs, or was not attacked.
    """
    found = curve(training.lines)
    known = ~np.isnan(found.time)
    time, final = found.time[known], found.final[known]
    rho = spearman(time, final)
    less, greater = (correlation_test(time, final, alternative=side) for side in ("less", "greater"))
    verdict = decide(rho < 0 and less < LEVEL, rho > 0 and greater < LEVEL)
    worst, average = (100 * value for value in found.jitter)
    sentence = (
        f"{headline('H10', verdict)}: the time to {100 * QUANTILE:g} % of the final robust accuracy has rank "
        f"correlation {rho:+.2f} with that accuracy over {int(known.sum())} classes (p = {p_text(less)} for below 0, "
        f"{found.part} images); from epoch to epoch the worst class moves by {worst:.1f} points, the average by "
        f"{average:.1f}."
    )
    order = np.argsort(found.final, kind="stable")
    rows = [
        [plain(training.classes[c]), found.final[c], found.time[c], found.accuracy[:, c].max(), found.overfitting[c]]
        for c in order
    ]
    sheet = table(
        "epochs",
        f"Robust accuracy of each class over {len(training.lines)} epochs ({found.part} images), in per cent",
        {"class": "words", "final": "share", "epochs to 80 %": "count", "best": "share", "best less last": "points"},
        rows,
    )
    values = {**found._asdict(), "spearman": rho, "p_less": less, "p_greater": greater}
    return Finding("epochs", "H10", training.label, verdict, sentence, (sheet,), values)


def curve(lines: Sequence[Mapping[str, Any]]) -> Curve:
    """Read the robust accuracy of each class in each epoch from the lines of log.jsonl.

    Held-out images are taken where each class has 100, else the batches under the training attack, which are many but
    are seen while the weights move.

    Raises:
        InputError: fewer than two epochs, or no attack.
    """
    part = _part(lines)
    entries = [(line[part] or {}).get("robust", {}) for line in lines]
    if len(lines) < 2 or not all(entries):
        raise InputError("Robustness over epochs takes a run of at least two epochs that was trained under attack.")
    correct, n = (np.array([entry[key] for entry in entries], dtype=np.float64) for key in ("correct", "n"))
    accuracy = divide(correct, n)
    final = accuracy[-_LAST:].mean(0)
    reached = accuracy >= QUANTILE * final
    time = np.where((final > 0) & reached.any(0), reached.argmax(0) + 1.0, np.nan)
    average = divide(correct.sum(1), n.sum(1))
    worst = np.nanmin(accuracy, axis=1)
    return Curve(
        part=part,
        accuracy=accuracy,
        band=1.96 * np.sqrt(divide(accuracy * (1 - accuracy), n)),
        final=final,
        time=time,
        overfitting=accuracy.max(0) - accuracy[-1],
        jitter=(float(np.diff(worst).std()), float(np.diff(average).std())),
    )


def _part(lines: Sequence[Mapping[str, Any]]) -> str:
    held_out = (lines[0].get("valid") or {}).get("robust")
    sizes = [size for size in held_out["n"] if size] if held_out else []
    return "valid" if sizes and min(sizes) >= _ENOUGH else "train"
