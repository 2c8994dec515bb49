"""A4: where broken images go: main confounders, how concentrated the loss is, one-sided pairs, attractors."""

from __future__ import annotations

import numpy as np

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, Kind, table
from classwise.files.texts import plain
from classwise.metrics.flow import Asymmetry, asymmetry, concentration, confounder, in_flow, net_flow, out_flow, rates
from classwise.metrics.outcomes import WORST_CASE
from classwise.report.contents import read
from classwise.report.sheet import Sheet
from classwise.report.tables import SIGNIFICANCE, flow_sheet, percent

_SHOWN = 20  # classes in the matrix, pairs in the list
_COLUMNS: dict[str, Kind] = {
    "class": "words",
    "lost": "share",
    "mostly to": "words",
    "first share": "share",
    "first two": "share",
    "confounders": "number",
    "received": "share",
    "net": "points",
}
_SPARE = ("first two", "confounders", "received")


def flow(subject: Subject, view: str = WORST_CASE) -> Finding:
    """Describe the confusion flow of one view, the counts (C, C) of images right when clean and moved by the attack.

    The flow of a worst case depends on the order of the attacks; for one attack alone, name it as the view.

    Raises:
        InputError: no such view.
    """
    outcomes = subject.result.outcomes
    counts, names = outcomes.flow(view), [plain(name) for name in outcomes.classes]
    phi, pairs = rates(counts, outcomes.n), asymmetry(counts, outcomes.n)
    few, net = concentration(phi), net_flow(phi)
    one_sided = [pair for pair in pairs if pair.p_holm < SIGNIFICANCE]
    order = np.argsort(-np.nan_to_num(net, nan=-np.inf), kind="stable")
    attractors = [names[c] for c in order[:3] if net[c] > 0]
    first = percent(float(np.nanmedian(few.top_1))) if np.isfinite(few.top_1).any() else ""
    sentence = (
        f"Half of the classes lose {first} % or more of their lost images to one class (even spread: "
        f"{percent(1 / max(1, len(names) - 1))} %); {len(one_sided)} of {len(pairs)} pairs are one-sided "
        f"(exact test, Holm, {100 * SIGNIFICANCE:g} %); the classes that take more than they lose most are "
        f"{', '.join(attractors) or 'none'}."
        if first
        else "No image that is right when clean was moved to another class, so there is no flow to describe."
    )
    lost, received, to = out_flow(phi), in_flow(phi), confounder(phi)
    rows = [
        [names[c], lost[c], names[to[c]] if to[c] >= 0 else "", *(share[c] for share in few), received[c], net[c]]
        for c in order[~np.isnan(net[order])]
    ]
    sheets = (
        table(
            "flow-classes", f"Confusion flow ({view}) in per cent, net attractors first", _COLUMNS, rows, spare=_SPARE
        ),
        _pair_table(pairs, names),
        flow_sheet(read(subject.result), order[:_SHOWN].tolist()),
    )
    values = {"view": view, "counts": counts, "n": outcomes.n, "concentration": few, "net": net, "pairs": pairs}
    return Finding("flow", "", subject.label, "described", sentence, sheets, values)


def _pair_table(pairs: list[Asymmetry], names: list[str]) -> Sheet:
    rows = [
        [names[pair.source], names[pair.sink], pair.forth, pair.back, pair.difference, pair.p_holm]
        for pair in pairs[:_SHOWN]
    ]
    return table(
        "flow-pairs",
        f"The {len(rows)} most one-sided of {len(pairs)} pairs with any flow",
        {"from": "words", "to": "words", "forth": "count", "back": "count", "difference": "points", "p Holm": "p"},
        rows,
    )
