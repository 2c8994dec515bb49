"""A9: is the order of the classes the same for every defence (H3)?"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import numpy as np

from classwise.analysis.agreement import agreement_sheet, known, mean_corrected, measure
from classwise.analysis.evidence import Subject, check_same
from classwise.analysis.finding import Finding, decide, headline
from classwise.metrics.outcomes import CLEAN, WORST_CASE
from classwise.metrics.ranks import kendall_w, kendall_w_test, partial_correlation
from classwise.report.tables import p_text


def defences(subjects: Sequence[Subject], view: str = WORST_CASE) -> Finding:
    """Compare the class accuracies of several models on the same images under the same attacks (A9).

    Models are named by their training method where their run can be read. H3 is supported if W over the methods (the
    mean of their seeds) is significant and every pair of models of different methods agrees; refuted as H2. Pairs of
    one method with other seeds are the ceiling: without any, H3 stays undecided.

    Raises:
        InputError: fewer than two models, other images or threats, or other attacks.
    """
    check_same(subjects, view)
    outcomes = [subject.result.outcomes for subject in subjects]
    labels, methods = [subject.label for subject in subjects], [subject.method for subject in subjects]
    verdicts = np.array([each.correct(view) for each in outcomes])
    found = measure(labels, verdicts, outcomes[0].y, seed=0)
    within = {pair: found.pairs[pair] for pair, same in _same_method(labels, methods).items() if same}
    across = {pair: found.pairs[pair] for pair in found.pairs if pair not in within}
    present = outcomes[0].n > 0
    accuracy = np.array([each.accuracy(view)[present] for each in outcomes])
    means = {m: accuracy[[method == m for method in methods]].mean(0) for m in dict.fromkeys(methods)}
    w, p = kendall_w(list(means.values())), kendall_w_test(list(means.values()))
    between = found._replace(w=w, p_value=p, pairs=across or found.pairs)
    comparable = len(means) > 1 and bool(within)
    verdict = decide(comparable and between.agrees, comparable and between.disagrees)
    ceiling, clean = mean_corrected(within), _given_clean(subjects, view)
    sentence = (
        f"{headline('H3', verdict)}: {len(means)} training methods ({len(subjects)} models) agree with Kendall's "
        f"W = {w:.2f} (p = {p_text(p)}); mean corrected rank correlation {mean_corrected(across):.2f} across methods, "
        f"{_across_seeds(ceiling)}; given clean accuracy {clean:.2f}."
    )
    values = {**found._asdict(), "methods": methods, "w": w, "p_value": p, "view": view}
    return Finding(
        "defences", "H3", f"{len(subjects)} models", verdict, sentence, (agreement_sheet(found, "models"),), values
    )


def _same_method(labels: Sequence[str], methods: Sequence[str]) -> dict[str, bool]:
    size = len(labels)
    return {f"{labels[a]} / {labels[b]}": methods[a] == methods[b] for b in range(size) for a in range(b)}


def _across_seeds(ceiling: float) -> str:
    """Write the correlation across seeds of one method, which is not defined where each has one."""
    return (
        "not known across seeds, of which each has one"
        if isnan(ceiling)
        else f"{ceiling:.2f} across seeds of one method"
    )


def _given_clean(subjects: Sequence[Subject], view: str) -> float:
    """Return the mean correlation of two models' robust accuracies given the mean of their clean ones."""
    clean, robust = (
        np.array([subject.result.outcomes.accuracy(v)[subject.present] for subject in subjects]) for v in (CLEAN, view)
    )
    found = [
        partial_correlation(robust[a], robust[b], (clean[a] + clean[b]) / 2)
        for b in range(len(robust))
        for a in range(b)
    ]
    return float(np.mean(known(np.array(found))))
