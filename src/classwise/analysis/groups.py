"""A5: superclasses, given by the data set or discovered in the confusions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, Kind, table
from classwise.files.texts import plain
from classwise.metrics.flow import group_accuracy, group_labels, within_group_share
from classwise.metrics.outcomes import Floats, Ints, Outcomes
from classwise.metrics.resampling import generator, halves
from classwise.report.tables import p_text, percent

_AT_ONCE = 500  # groupings that are looked at together


def groups(subject: Subject) -> tuple[Finding, ...]:
    """Look at a subject by the superclasses of its data set, if it has any, and by discovered ones."""
    outcomes, superclasses = subject.result.outcomes, subject.result.document["groups"]
    findings = [_described(subject, "superclasses of the data set", outcomes, superclasses)] if superclasses else []
    first = halves(outcomes.y, 1, int(subject.result.header["seed"]))[0]
    discovered = discover(outcomes.select(first).confusion())
    named = _named(discovered, outcomes.classes)
    return (
        *findings,
        _described(subject, "groups discovered on one half of the images", outcomes.select(~first), named),
    )


def discover(confusion: ArrayLike) -> Ints:
    """Group classes that are confused with each other, (C,) group numbers from 0.

    Greedy modularity on the symmetrised confusions F + Fᵀ without diagonal (Clauset, Newman & Moore 2004): starting
    from single classes, join the two groups whose union raises the modularity most, as long as one does. So the number
    of groups is found, not set. A class that is never confused stays alone.

    Example:
        >>> discover([[9, 5, 0, 1], [5, 9, 0, 0], [0, 0, 9, 4], [1, 0, 4, 9]]).tolist()
        [0, 0, 1, 1]
    """
    counts = np.asarray(confusion, dtype=np.float64)
    links = counts + counts.T
    np.fill_diagonal(links, 0)
    if not links.any():
        return np.arange(len(links), dtype=np.int64)
    share = links / links.sum()
    # Modularity rises by 2(e_ij − a_i a_j) where groups i and j are joined.
    gain = share - np.outer(share.sum(1), share.sum(1))
    labels = np.arange(len(links))
    np.fill_diagonal(gain, -np.inf)
    while gain.max() > 1e-12:
        one, other = sorted(np.unravel_index(int(gain.argmax()), gain.shape))
        labels[labels == other] = one
        gain[one] += gain[other]
        gain[:, one] += gain[:, other]
        gain[other] = gain[:, other] = gain[one, one] = -np.inf
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def grouping_test(confusion: ArrayLike, labels: ArrayLike, *, permutations: int = 10_000, seed: int = 0) -> float:
    """Return the p-value of the within-group share of errors among random groupings of the same sizes.

    p = (1 + #{share at least as large})/(1 + permutations), one-sided; with few classes many groupings coincide, so it
    cannot be small: ten classes in groups of 4 and 6 have 210.
    """
    errors, group, random = np.array(confusion, dtype=np.float64), np.asarray(labels), generator(seed)
    np.fill_diagonal(errors, 0)
    true, taken = errors.nonzero()
    observed, extreme = float(errors[true, taken] @ (group[true] == group[taken])), 0
    for start in range(0, permutations, _AT_ONCE):
        drawn = np.stack([random.permutation(group) for _ in range(min(_AT_ONCE, permutations - start))])
        within = (drawn[:, true] == drawn[:, taken]) @ errors[true, taken]
        extreme += int(np.count_nonzero(within >= observed - 1e-9))
    return (1 + extreme) / (1 + permutations)


def _described(subject: Subject, what: str, outcomes: Outcomes, named: Mapping[str, tuple[str, ...]]) -> Finding:
    labels, confusion = group_labels(outcomes.classes, named), outcomes.confusion()
    share = within_group_share(confusion, labels)
    p = grouping_test(confusion, labels) if 1 < len(named) < len(labels) else 1.0
    accuracy, within = outcomes.accuracy(), group_accuracy(confusion, outcomes.n, labels)
    means = [_mean(accuracy[labels == g]) for g in range(len(named))]
    sentence = (
        f"By {what}, {percent(share.within)} % of the robust errors stay within a group where chance gives "
        f"{percent(share.chance)} % (p = {p_text(p)} among random groupings); the weakest group is "
        f"{list(named)[int(np.nanargmin(means))]} at {percent(min(means))} % on average."
    )
    rows = [[name, ", ".join(named[name]), means[g], float(within[g])] for g, name in enumerate(named)]
    columns: dict[str, Kind] = {"group": "words", "classes": "words", "mean robust": "share", "group right": "share"}
    sheet = table("groups", f"{what[0].upper()}{what[1:]}, worst case, in per cent", columns, rows)
    values = {
        "groups": named,
        "within": share.within,
        "chance": share.chance,
        "p_value": p,
        "mean": means,
        "kept": within,
    }
    return Finding("groups", "", subject.label, "described", sentence, (sheet,), values)


def _named(labels: Ints, classes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    members = [tuple(classes[c] for c in np.flatnonzero(labels == g)) for g in np.unique(labels)]
    return {plain(" + ".join(group[:3]) + (" …" if len(group) > 3 else "")): group for group in members}


def _mean(accuracy: Floats) -> float:
    known = accuracy[~np.isnan(accuracy)]
    return float(known.mean()) if known.size else np.nan
