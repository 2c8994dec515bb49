"""A9: is the order of the classes the same for every defence (H3)?"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import numpy as np

from classwise.analysis.agreement import agreement_sheet, correlations, known, mean_corrected, measure
from classwise.analysis.evidence import Subject, check_same
from classwise.analysis.finding import Finding, decide, headline
from classwise.metrics.outcomes import CLEAN, WORST_CASE
from classwise.metrics.ranking import partial_correlation
from classwise.report.tables import p_text


def defences(subjects: Sequence[Subject], view: str = WORST_CASE) -> Finding:
    """Compare the class accuracies of several models on the same images under the same attacks (A9).

    Models are named by their training method where their run can be read, and a method is the mean of its seeds. H3 is
    supported if every pair of methods agrees, as H2 asks it of attacks; refuted if some pair does not, while the seeds
    of one method do not differ as far. Pairs of one method with other seeds are the ceiling: without any, H3 stays
    undecided. The intervals are about these networks: images vary in them, seeds do not.

    Raises:
        InputError: fewer than two models, other images or threats, or other attacks.
    """
    check_same(subjects, view)
    outcomes = [subject.result.outcomes for subject in subjects]
    labels, methods = [subject.label for subject in subjects], [subject.method for subject in subjects]
    verdicts = np.array([result.correct(view) for result in outcomes])
    concordance = measure(labels, verdicts, outcomes[0].y, seed=0)
    same = _same_method(labels, methods)
    within, across = (
        {pair: tau for pair, tau in concordance.pairs.items() if same[pair] is one} for one in (True, False)
    )
    names = tuple(dict.fromkeys(methods))
    means = [verdicts[[method == name for method in methods]].mean(0) for name in names]
    between = measure(names, means, outcomes[0].y, seed=0)
    comparable = len(names) > 1 and bool(within)
    seeds_differ = concordance._replace(pairs=within).disagrees
    verdict = decide(comparable and between.agrees, comparable and between.disagrees and not seeds_differ)
    lowest = f", lowest of two methods {correlations(between.lowest.interval)}" if between.pairs else ""
    sentence = (
        f"{headline('H3', verdict)}: {len(names)} training methods ({len(subjects)} models) agree with Kendall's "
        f"W = {between.w:.2f} (p = {p_text(between.p_value)}); mean corrected rank correlation "
        f"{mean_corrected(across):.2f} across methods{lowest}, "
        f"{_across_seeds(mean_corrected(within))}; given clean accuracy {_given_clean(subjects, view):.2f}."
    )
    values = {**concordance._asdict(), "methods": methods, "between_methods": between._asdict(), "view": view}
    sheets = (agreement_sheet(between, "methods"), agreement_sheet(concordance, "models"))
    return Finding("defences", "H3", f"{len(subjects)} models", verdict, sentence, sheets, values)


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
    rates = [
        partial_correlation(robust[a], robust[b], (clean[a] + clean[b]) / 2)
        for b in range(len(robust))
        for a in range(b)
    ]
    return float(np.mean(known(np.array(rates))))
