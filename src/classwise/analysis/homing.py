"""A6: are images that an attack sends to one class safe in a network that was trained without that class (H7)?

For images of class i that an attack on the network of all classes sends to class j ("S_ij"), the network without class
j is compared with controls on the same images: (c1) a network without a dissimilar class, which has as many classes and
images; (c2) all classes from another seed, since S_ij was selected for being breakable and regresses to the mean; (c3)
all classes with as many random images removed. The paper's own form is not verified; both forms here are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classwise.analysis.finding import Finding, Kind, Verdict, decide, headline, points, table
from classwise.errors import InputError
from classwise.files.texts import plain
from classwise.metrics.hypotheses import holm
from classwise.metrics.intervals import Interval
from classwise.metrics.outcomes import Floats, Ints, divide
from classwise.metrics.paired import Pairs, average_change, mcnemar, pairs
from classwise.report.sheet import Sheet
from classwise.report.tables import percent

Bools = NDArray[np.bool_]
ERROR = 0.05
"""Of each two-sided test where images are as safe as in a control [ours]."""
LEAST = 30
"""Images that a pair, and the study as a whole, need to decide anything."""
FORMS = {
    "replay": "right on the old adversarial image",
    "attack again": "right, and without an adversarial image under a new attack",
}
_COLUMNS: dict[str, Kind] = {
    "pair": "words",
    "images": "count",
    "without the class": "share",
    "without another": "share",
    "other seed": "share",
    "fewer images": "share",
    "effect": "points",
    "p Holm": "p",
}


class Selected(NamedTuple):
    """Images that an attack on the network of all classes broke: label and the class each was sent to, (N,) each."""

    y: Ints
    target: Ints


class Verdicts(NamedTuple):
    """Whether each selected image is safe, in one form, for each network.

    Attributes:
        without: row j for the network without class j, (C, N); images of class j count as not safe there.
        again: all classes, another seed, (N,).
        fewer: all classes, fewer images, (N,).
    """

    without: Bools
    again: Bools
    fewer: Bools


class Effect(NamedTuple):
    """Safe images of one form, all pairs together, and the paired difference to each control with its interval."""

    treated: float
    over_another: tuple[float, Interval]
    over_seed: tuple[float, Interval]
    over_fewer: tuple[float, Interval]


def dissimilar(flow: ArrayLike, n: ArrayLike, group: ArrayLike) -> Ints:
    """Return for each pair (i, j) the class k that is least confused with i, (C, C); −1 where i = j or none is left.

    Smallest Φ_ik + Φ_ki over k other than i and j and, where there is one, of another superclass than i.

    Args:
        flow: counts of the network of all classes, (C, C).
        n: images of each class, (C,).
        group: superclass of each class, (C,); all equal where there are none.
    """
    labels, counts = np.asarray(group), np.asarray(flow, dtype=np.float64)
    phi = np.nan_to_num(divide(counts, np.asarray(n)[:, None]))
    size, partners = len(phi), np.full(phi.shape, -1, dtype=np.int64)
    for i, j in np.argwhere(~np.eye(size, dtype=bool)):
        others = [k for k in range(size) if k not in (i, j)]
        far = [k for k in others if labels[k] != labels[i]] or others
        partners[i, j] = min(far, key=lambda k: phi[i, k] + phi[k, i], default=-1)
    return partners


def homing(
    classes: tuple[str, ...], selected: Selected, forms: Mapping[str, Verdicts], other: ArrayLike, subject: str
) -> Finding:
    """Compare safety without the class with every control.

    H7 is supported if, attacked again, more images are safe without their class than without another class and than
    with another seed, all pairs together (exact McNemar test of each, 2.5 %); refuted if fewer than in either (1.25 %
    each, as there are two to be fewer than).

    Args:
        classes: names (C,).
        selected: images that the first attack broke.
        forms: verdicts by the names of `FORMS`.
        other: class of control c1 for each pair, (C, C), as of `dissimilar`.
        subject: as printed.

    Raises:
        InputError: no image was broken.
    """
    if not selected.y.size:
        raise InputError("No image was broken, so that there is none to look for a home for; raise the radius.")
    other = np.asarray(other)
    effects = {form: _effect(selected, verdicts, other) for form, verdicts in forms.items()}
    main = effects["attack again"]
    ends = [main.over_another[1], main.over_seed[1]]
    decided = verdict(selected, forms["attack again"], other) if selected.y.size >= LEAST else "undecided"
    sentence = (
        f"{headline('H7', decided)}: of {selected.y.size:,} images that were sent to another class, "
        f"{percent(main.treated)} % are safe in a network without that class; that is {points(ends[0])} points "
        f"more than without a dissimilar class, and {points(ends[1])} more than with another seed (95 % intervals)."
    )
    pair_sheets = (_sheet(classes, selected, form, forms[form], other) for form in forms)
    sheets = (_summary(effects), *(sheet for sheet in pair_sheets if sheet.rows))
    return Finding("homing", "H7", subject, decided, sentence, sheets, {"effects": effects})


def verdict(selected: Selected, verdicts: Verdicts, other: Ints) -> Verdict:
    """Decide by exact tests: with few images that disagree, a bootstrap takes the few for all there can be."""
    treated, *controls = _rows(selected, verdicts, other)
    counts = [pairs(control, treated, np.zeros(treated.size, dtype=np.int64), 1) for control in controls[:2]]
    p_values = [float(mcnemar(pairs)[0]) for pairs in counts]
    more, fewer = ([sign * pairs.change[0] > 0 for pairs in counts] for sign in (1, -1))
    return decide(
        all(more) and max(p_values) < ERROR,
        any(less and p < ERROR / len(counts) for less, p in zip(fewer, p_values, strict=True)),
    )


def _rows(selected: Selected, verdicts: Verdicts, other: Ints) -> tuple[Bools, Bools, Bools, Bools]:
    """Return treatment and the three controls for each image, (N,) each."""
    images = np.arange(selected.y.size)
    another = verdicts.without[other[selected.y, selected.target], images]
    return verdicts.without[selected.target, images], another, verdicts.again, verdicts.fewer


def _effect(selected: Selected, verdicts: Verdicts, other: Ints) -> Effect:
    treated, *controls = _rows(selected, verdicts, other)
    together = np.zeros(treated.size, dtype=np.int64)
    changes = [average_change(pairs(control, treated, together, 1)) for control in controls]
    return Effect(float(treated.mean()), changes[0], changes[1], changes[2])


def _summary(effects: Mapping[str, Effect]) -> Sheet:
    rows = [
        [form, effect.treated, *(f"{100 * value:+.1f} ({points(ends)})" for value, ends in effect[1:])]
        for form, effect in effects.items()
    ]
    columns: dict[str, Kind] = {"form": "words", "without the class": "share", "over another class": "words"}
    more: dict[str, Kind] = {"over other seed": "words", "over fewer images": "words"}
    caption = "Safe images in per cent, and how many points more than in each control (95 % interval)"
    return table("homing", caption, {**columns, **more}, rows)


def _sheet(classes: tuple[str, ...], selected: Selected, form: str, verdicts: Verdicts, other: Ints) -> Sheet:
    """Table of the pairs with enough images; a pair is tested against both controls, and the larger p-value counts."""
    size = len(classes)
    pair = selected.y * size + selected.target
    n = np.bincount(pair, minlength=size * size)
    tested = [int(p) for p in np.argsort(-n, kind="stable") if n[p] >= LEAST]
    kinds = _rows(selected, verdicts, other)
    shares = [divide(np.bincount(pair[kind], minlength=size * size), n) for kind in kinds]
    both = [_p_values(pairs(control, kinds[0], pair, size * size), tested) for control in kinds[1:3]]
    p_holm = holm(np.maximum(*both)) if tested else np.zeros(0)
    rows: list[list[Any]] = [
        [
            f"{plain(classes[p // size])} → {plain(classes[p % size])}",
            int(n[p]),
            *(share[p] for share in shares),
            shares[0][p] - max(shares[1][p], shares[2][p]),
            adjusted,
        ]
        for p, adjusted in zip(tested, p_holm, strict=True)
    ]
    caption = f"Form {form!r}: {FORMS[form]}, in per cent; pairs with {LEAST} images, effect over the larger control"
    return table(f"homing-{form.replace(' ', '-')}", caption, _COLUMNS, rows)


def _p_values(counts: Pairs, tested: list[int]) -> Floats:
    return mcnemar(Pairs(*(values[tested] for values in counts)))
