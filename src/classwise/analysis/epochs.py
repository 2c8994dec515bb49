"""A1: class-wise robustness over the epochs of a training run (H10)."""

from __future__ import annotations

import numpy as np

from classwise.analysis.finding import Finding, decide, headline, table
from classwise.metrics.ranks import correlation_test, spearman
from classwise.metrics.training import QUANTILE, Training, curve
from classwise.report.tables import p_text
from classwise.texts import plain

LEVEL = 0.05


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
    classes = f"{len(time)} classes"
    relation = (
        f"cannot be ranked against that accuracy: {classes} take equally long, or end alike ({found.part} images)"
        if np.isnan(rho)
        else f"has rank correlation {rho:+.2f} with that accuracy over {classes} (p = {p_text(less)} for below 0, "
        f"{found.part} images)"
    )
    sentence = (
        f"{headline('H10', verdict)}: the time to {100 * QUANTILE:g} % of the final robust accuracy {relation}; from "
        f"epoch to epoch the worst class moves by {worst:.1f} points, the average by {average:.1f}."
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
