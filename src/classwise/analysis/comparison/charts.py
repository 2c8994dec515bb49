"""What the comparison page draws: every class under every model, and what each model changes, in plain data."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, Kind, points, table
from classwise.files.texts import plain
from classwise.metrics.intervals import Interval, Intervals, simultaneous
from classwise.metrics.outcomes import Floats, Ints
from classwise.report.charts import SHOWN, axis, label, layout, whiskers
from classwise.report.contents import weakest_first
from classwise.report.palette import SERIES
from classwise.report.sheet import Sheet
from classwise.report.tables import percent, span

_BAR, _ROW = 13, 26  # pixels


class Series(NamedTuple):
    """Accuracy of each class (C,) under one model, with simultaneous intervals."""

    name: str
    accuracy: Floats
    intervals: Intervals


class Shift(NamedTuple):
    """Change of each class (C,) from the baseline to one model.

    Attributes:
        name: of the model.
        change: of the accuracy.
        intervals: simultaneous, of the change.
        sign: 1 where a class gains by more than chance, −1 where it pays, else 0.
    """

    name: str
    change: Floats
    intervals: Intervals
    sign: Ints


def series(subjects: Sequence[Subject], view: str) -> list[Series]:
    """Return the class accuracies of every model."""
    models = []
    for subject in subjects:
        outcomes = subject.result.outcomes
        ends = simultaneous(outcomes.counts(view), outcomes.n, subject.result.confidence)
        models.append(Series(plain(subject.label), outcomes.accuracy(view), ends))
    return models


def shifts(changes: Sequence[Finding]) -> list[Shift]:
    """Return the changes of every model but the baseline, from the findings of `compare`."""
    return [_shift(plain(finding.subject), finding.values) for finding in changes]


def by_baseline(models: Sequence[Series]) -> list[int]:
    """Return the classes that have images, those first that are weakest under the baseline."""
    return [int(c) for c in weakest_first(models[0].accuracy)]


def by_change(shift: Shift, limit: int = SHOWN) -> list[int]:
    """Return the classes with the largest changes, those that lose most first."""
    order = np.argsort(-np.abs(np.nan_to_num(shift.change)), kind="stable")
    indices = [c for c in order.tolist() if not np.isnan(shift.change[c])][:limit]
    return sorted(indices, key=lambda c: (shift.change[c], c))


def class_chart(models: Sequence[Series], classes: Sequence[str]) -> dict[str, Any]:
    """Bars of the classes that are weakest under the baseline, one a model, with simultaneous intervals."""
    indices, drawn = by_baseline(models)[:SHOWN], models[:SERIES]
    height = 60 + len(indices) * (12 + _BAR * len(drawn))
    return {
        "data": [_bars(model, i, indices, classes) for i, model in enumerate(drawn)],
        "layout": {
            **layout(height),
            "barmode": "group",
            "bargap": 0.25,
            "showlegend": False,
            "xaxis": {**axis(), "range": [0, 100], "title": {"text": "accuracy, %"}, "showgrid": True, "dtick": 20},
            "yaxis": {**axis(), **_names(indices, classes)},
            "margin": {"l": 8, "r": 16, "t": 8, "b": 44},
        },
    }


def change_chart(shift: Shift, classes: Sequence[str]) -> dict[str, Any]:
    """Changes of the classes in points, with simultaneous intervals, coloured where they are beyond chance."""
    indices = by_change(shift)
    change, low, high = (100 * values[indices] for values in (shift.change, *shift.intervals))
    trace = {
        "type": "bar",
        "orientation": "h",
        "name": label(shift.name, 60),
        "x": change.round(3).tolist(),
        "y": list(range(len(indices))),
        "width": 0.5,
        "marker": {"color": [f"\0{_COLORS[int(sign)]}" for sign in shift.sign[indices]]},
        "error_x": whiskers(high - change, change - low, thickness=1.1, width=3),
        "customdata": [_change_hover(shift, c, classes) for c in indices],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    side = {**axis(), "title": {"text": "change, points"}, "showgrid": True, "zeroline": True, "zerolinecolor": "\0ink"}
    drawn = layout(70 + _ROW * len(indices)) | {"xaxis": side, "yaxis": {**axis(), **_names(indices, classes)}}
    return {"data": [trace], "layout": {**drawn, "margin": {"l": 8, "r": 16, "t": 8, "b": 44}, "showlegend": False}}


def class_sheet(models: Sequence[Series], classes: Sequence[str], view: str) -> Sheet:
    """Table of every class under every model, weakest under the baseline first."""
    columns: dict[str, Kind] = {"class": "words", **{model.name: "estimate" for model in models}}
    rows = [
        [plain(classes[c]), *((m.accuracy[c], Interval(m.intervals.low[c], m.intervals.high[c])) for m in models)]
        for c in by_baseline(models)
    ]
    caption = f"Accuracy of each class ({view}), in per cent with simultaneous intervals"
    return table("classes", caption, columns, rows)


_COLORS = {1: "worst", 0: "faint", -1: "weakest"}


def _shift(name: str, values: Mapping[str, Any]) -> Shift:
    sign = np.zeros(len(values["change"]), dtype=np.int64)
    sign[values["gains"]], sign[values["pays"]] = 1, -1
    return Shift(name, values["change"], values["intervals"], sign)


def _names(indices: list[int], classes: Sequence[str]) -> dict[str, Any]:
    ticks = [label(plain(classes[c])) for c in indices]
    return {"range": [len(indices) - 0.5, -0.5], "tickvals": list(range(len(indices))), "ticktext": ticks}


def _bars(model: Series, i: int, indices: list[int], classes: Sequence[str]) -> dict[str, Any]:
    value, low, high = (100 * values[indices] for values in (model.accuracy, *model.intervals))
    hover = [
        f"<b>{label(plain(classes[c]), 60)}</b><br>{html.escape(model.name)}: {percent(model.accuracy[c])} % "
        f"({span(model.intervals.low[c], model.intervals.high[c])})"
        for c in indices
    ]
    return {
        "type": "bar",
        "orientation": "h",
        "name": label(model.name, 60),
        "x": value.round(3).tolist(),
        "y": list(range(len(indices))),
        "marker": {"color": f"\0series{i}"},
        "error_x": whiskers(high - value, value - low, thickness=1.1, width=3),
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _change_hover(shift: Shift, c: int, classes: Sequence[str]) -> str:
    words = {1: "gains beyond chance", 0: "not beyond chance", -1: "pays beyond chance"}[int(shift.sign[c])]
    ends = points(Interval(shift.intervals.low[c], shift.intervals.high[c]))
    return f"<b>{label(plain(classes[c]), 60)}</b><br>{100 * shift.change[c]:+.2f} points ({ends})<br>{words}"
