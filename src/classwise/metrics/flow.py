"""Where broken images go: statistics of the confusion flow (docs/metrics.md).

Functions take `Outcomes.flow(view)`, the counts (C, C) of images of class i that were right when clean and are
predicted as j under attack, or the rates made of it. Invalid predictions flow to no class, so the loss of a class
is A_i − R_i less the share of its images that became invalid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from classwise.errors import InputError
from classwise.metrics.hypotheses import binomial_test, holm
from classwise.metrics.outcomes import Floats, Ints, divide


def rates(flow: ArrayLike, n: ArrayLike) -> Floats:
    """Return Φ_ij = #{y = i, clean = i, adversarial = j}/n_i with a zero diagonal, (C, C).

    Args:
        flow: counts (C, C), the diagonal being the survivors.
        n: images of each class, (C,); the row of a class without images is NaN.

    Example:
        >>> rates([[6, 2], [1, 7]], [10, 10]).tolist()
        [[0.0, 0.2], [0.1, 0.0]]
    """
    counts = _off_diagonal(flow)
    return divide(counts, np.asarray(n)[:, None])


def out_flow(phi: Floats) -> Floats:
    """Return the loss of each class, Σ_{j≠i} Φ_ij = A_i − R_i, (C,); NaN for an absent class."""
    return np.asarray(phi.sum(1))


def in_flow(phi: Floats) -> Floats:
    """Return what each class receives, Σ_i Φ_ij, (C,); absent classes send nothing but may receive."""
    return np.asarray(np.nansum(phi, axis=0))


def net_flow(phi: Floats) -> Floats:
    """Return in-flow minus out-flow, (C,): above 0 a net attractor, below 0 a net loser; NaN if absent.

    Example:
        >>> net_flow(np.array([[0.0, 0.5], [0.25, 0.0]])).tolist()
        [-0.25, 0.25]
    """
    return in_flow(phi) - out_flow(phi)


def confounder(phi: Floats) -> Ints:
    """Return j*(i) = argmax_j Φ_ij, (C,) int64; −1 for a class that loses nothing, the first class in a tie."""
    top = np.argmax(np.nan_to_num(phi), axis=1)
    return np.where(np.nan_to_num(out_flow(phi)) > 0, top, -1).astype(np.int64)


class Concentration(NamedTuple):
    """How few classes each class is lost to, (C,) each; NaN for a class that loses nothing.

    `top_1` and `top_2` are the shares of the loss that go to the first one and two confounders, `effective` is
    the effective number of confounders exp(H), from 1 (all to one class) to C − 1 (evenly to all).
    """

    top_1: Floats
    top_2: Floats
    effective: Floats


def concentration(phi: Floats) -> Concentration:
    """Return the shares of the first confounders and exp(H(Φ_i·/ΣΦ_i·)), H the Shannon entropy in nats.

    Example:
        >>> concentration(np.array([[0.0, 0.1, 0.1], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0]])).effective.tolist()
        [2.0, 1.0, nan]
    """
    share = divide(phi, out_flow(phi)[:, None])
    ordered = np.sort(share, axis=1)[:, ::-1]
    # x log x is 0 at 0; a row of NaN stays NaN.
    entropy = -(share * np.log(np.where(share == 0, 1.0, share))).sum(1)
    return Concentration(ordered[:, 0], ordered[:, :2].sum(1), np.exp(entropy))


class Asymmetry(NamedTuple):
    """One unordered pair of classes, named so that more flows from `source` to `sink` than back.

    `difference` is Φ_source,sink − Φ_sink,source ≥ 0, `forth` and `back` are the counts, `p_holm` is the p-value
    adjusted for all pairs listed.
    """

    source: int
    sink: int
    forth: int
    back: int
    difference: float
    p_value: float
    p_holm: float


def asymmetry(flow: ArrayLike, n: ArrayLike) -> list[Asymmetry]:
    """Test for each unordered pair whether the flow is one-sided: exact binomial test, Holm over pairs.

    Given its total, the forward count is compared with Binomial(total, n_i/(n_i + n_j)), which is 1/2 for classes
    of equal size and allows for unequal ones. Pairs between which nothing flows say nothing about asymmetry and
    are no tests; the p-values condition on the totals, so leaving them out keeps Holm's guarantee.

    Returns:
        the pairs with any flow, by p-value and then by classes.
    """
    counts, size = _off_diagonal(flow), np.asarray(n)
    phi = rates(flow, n)
    first, second = np.nonzero(np.triu(counts + counts.T))
    # A class without images cannot be compared: nothing flows out of it.
    comparable = (size[first] > 0) & (size[second] > 0)
    pairs = [
        (i, j) if phi[i, j] >= phi[j, i] else (j, i)
        for i, j in zip(first[comparable].tolist(), second[comparable].tolist(), strict=True)
    ]
    p_values = [
        binomial_test(int(counts[i, j]), int(counts[i, j] + counts[j, i]), float(size[i] / (size[i] + size[j])))
        for i, j in pairs
    ]
    tested = [
        Asymmetry(i, j, int(counts[i, j]), int(counts[j, i]), float(phi[i, j] - phi[j, i]), p, adjusted)
        for (i, j), p, adjusted in zip(pairs, p_values, holm(p_values).tolist(), strict=True)
    ]
    return sorted(tested, key=lambda pair: (pair.p_value, pair.source, pair.sink))


def group_labels(classes: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Ints:
    """Return the group of each class as its position in `groups`, (C,) int64.

    Raises:
        InputError: a class is in no group or in two, or a group names an unknown class.
    """
    labels = np.full(len(classes), -1, dtype=np.int64)
    for number, (group, members) in enumerate(groups.items()):
        for member in members:
            if member not in classes:
                raise InputError(f"Group {group!r} names the unknown class {member!r}; check its spelling.")
            position = list(classes).index(member)
            if labels[position] != -1:
                raise InputError(f"Class {member!r} is in more than one group; put it into one only.")
            labels[position] = number
    if (labels == -1).any():
        missing = classes[int(np.argmax(labels == -1))]
        raise InputError(f"Class {missing!r} is in no group; put every class into one.")
    return labels


class GroupShare(NamedTuple):
    """The share of errors that stay within a group, and the share if errors hit other classes evenly."""

    within: float
    chance: float


def within_group_share(confusion: ArrayLike, labels: ArrayLike) -> GroupShare:
    """Compare the within-group share of errors with its chance level; both NaN if there is no error.

    s_w = Σ_{g(i)=g(j), i≠j} F_ij / Σ_{i≠j} F_ij; chance Σ_i e_i (|g(i)| − 1)/(C − 1) / Σ_i e_i, e_i the errors
    of class i, which is what s_w averages to if each error picks one of the C − 1 wrong classes evenly [derived].

    Args:
        confusion: images of class i predicted as j, (C, C).
        labels: group of each class, (C,).
    """
    errors, group = _off_diagonal(confusion), np.asarray(labels)
    same = group[:, None] == group
    per_class = errors.sum(1)
    within = divide((errors * same).sum(), errors.sum())
    chance = divide((per_class * divide(same.sum(1) - 1, len(group) - 1)).sum(), per_class.sum())
    return GroupShare(float(within), float(chance))


def group_accuracy(confusion: ArrayLike, n: ArrayLike, labels: ArrayLike) -> Floats:
    """Return P(group of the prediction = group of y) for each group, (G,); NaN for a group without images.

    Args:
        confusion: images of class i predicted as j, (C, C).
        n: images of each class, (C,), invalid predictions included, which are wrong.
        labels: group of each class, (C,) in 0 … G − 1.
    """
    group, counts = np.asarray(labels), np.asarray(confusion)
    right = (counts * (group[:, None] == group)).sum(1)
    return divide(np.bincount(group, weights=right), np.bincount(group, weights=np.asarray(n)))


def _off_diagonal(counts: ArrayLike) -> Ints:
    result = np.array(counts, dtype=np.int64)
    np.fill_diagonal(result, 0)
    return result
