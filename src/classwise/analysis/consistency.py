"""A8: is the order of the classes the same under every attack (H2)?"""

from __future__ import annotations

import numpy as np

from classwise.analysis.agreement import agreement_sheet, correlations, measure
from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, decide, headline
from classwise.errors import InputError
from classwise.report.tables import p_text


def consistency(subject: Subject) -> Finding:
    """Compare the class accuracies under all attacks that met every image (A8).

    H2 is supported if the interval of the corrected rank correlation is at least 0.8 for every pair, and a strong
    attack is among them, since agreement of PGD with PGD is no evidence; refuted if it is below 0.8 for some pair. That
    unrelated attacks would agree less (Kendall's W) is said, and decides nothing: nobody doubts it.

    Raises:
        InputError: fewer than two such attacks.
    """
    names, outcomes = subject.alone, subject.result.outcomes
    if len(names) < 2:
        raise InputError(f"{subject.label} has {len(names)} attack on every image; their agreement takes at least two.")
    verdicts = np.array([outcomes.correct(name) for name in names])
    concordance = measure(names, verdicts, outcomes.y, seed=int(subject.result.header["seed"]))
    strong = f"with {subject.strong[0]}" if subject.strong else "PGD family only, which is no evidence"
    verdict = decide(bool(subject.strong) and concordance.agrees, concordance.disagrees)
    sentence = (
        f"{headline('H2', verdict)}: {len(names)} attacks ({strong}) agree with Kendall's W = {concordance.w:.2f} "
        f"(p = {p_text(concordance.p_value)}); lowest corrected rank correlation "
        f"{concordance.lowest.corrected:.2f} (interval "
        f"{correlations(concordance.lowest.interval)}) over {len(subject.present)} classes."
    )
    return Finding(
        "consistency",
        "H2",
        subject.label,
        verdict,
        sentence,
        (agreement_sheet(concordance, "attacks"),),
        concordance._asdict(),
    )
