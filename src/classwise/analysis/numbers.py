"""A2: the accuracy of every class, clean, under each attack and in the worst case, with simultaneous intervals."""

from __future__ import annotations

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding
from classwise.metrics.outcomes import CLEAN, WORST_CASE
from classwise.metrics.summaries import worst_classes
from classwise.report.contents import read
from classwise.report.tables import attack_sheet, class_sheet, percent, span


def numbers(subject: Subject) -> Finding:
    """Tabulate the class accuracies (C,) of every view, and say how often the weakest class is the same."""
    outcomes, contents = subject.result.outcomes, read(subject.result)
    views = (CLEAN, *subject.alone, WORST_CASE)
    weakest = {view: worst_classes(outcomes.accuracy(view)) for view in views}
    last = set(weakest[WORST_CASE])
    same = sum(1 for view in subject.alone if last & set(weakest[view]))
    low, high = contents.worst_case.worst_interval
    lowest = percent(contents.worst_case.by_class[contents.worst_case.worst])
    sentence = (
        f"The weakest class is {contents.weakest} at {lowest} % ({contents.confidence} % simultaneous interval of the "
        f"minimum {span(low, high)} %), and the weakest under {same} of {len(subject.alone)} attacks alone."
    )
    return Finding(
        question="numbers",
        claim="",
        subject=subject.label,
        verdict="described",
        sentence=sentence,
        sheets=(class_sheet(contents), attack_sheet(contents)),
        values={
            "classes": contents.classes,
            "n": contents.n,
            "correct": {view: outcomes.counts(view) for view in views},
            "weakest": weakest,
            "cfps": contents.worst_case.cfps,
        },
    )
