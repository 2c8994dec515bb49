"""Robustness of each class over the epochs of the training run that was evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from classwise.errors import InputError
from classwise.metrics.result import Result
from classwise.metrics.training import LOG_FILE, Curve, Training, curve, run_folder
from classwise.report.charts import SHOWN, axis, label, layout
from classwise.report.contents import Contents, Floats, weakest_first
from classwise.report.sheet import Cell, Column, Sheet
from classwise.report.tables import percent

_WORDS = {"valid": "held-out images under PGD-10", "train": "training batches under the training attack"}


def read_curve(result: Result, directory: Path) -> Curve | None:
    """Return the curve of the run that was evaluated; None where it is no run, or its log is not to be had.

    The log is looked for beside the result, then where the model string says.
    """
    run = run_folder(str(result.header["model"]["name"]))
    for folder in (directory, run):
        if folder is not None and (folder / LOG_FILE).is_file():
            try:
                training = Training.read(folder)
                return curve(training.lines) if training.classes == result.outcomes.classes else None
            except InputError:
                return None
    return None


def images_meant(curve: Curve) -> str:
    """Say on which images the curve was measured."""
    return _WORDS[curve.part]


def epoch_chart(curve: Curve, contents: Contents) -> dict[str, Any]:
    """Lines of the average, the worst class of each epoch, and the classes that end weakest."""
    epochs = list(range(1, len(curve.accuracy) + 1))
    every = [_class_line(curve, contents, epochs, c) for c in _shown(curve)]
    worst = [f"{_weakest(curve, contents, e)}" for e in range(len(epochs))]
    lines = [
        _line("worst class", epochs, np.nanmin(curve.accuracy, axis=1), "\0weakest", worst),
        _line("average", epochs, curve.average, "\0worst", [""] * len(epochs)),
    ]
    return {
        "data": [*every, *lines],
        "layout": {
            **layout(height=380),
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {**axis(), "title": {"text": "epoch"}, "range": [0.5, len(epochs) + 0.5], "tickformat": "d"},
            "yaxis": {**axis(), "title": {"text": "robust accuracy, %"}, "range": [0, 100], "showgrid": True},
            "margin": {"l": 8, "r": 16, "t": 8, "b": 44},
        },
    }


def epoch_sheet(curve: Curve, contents: Contents) -> Sheet:
    """Table of the same: a row an epoch, a column for each class that is drawn."""
    indices = _shown(curve)
    columns = (
        Column("epoch", ("epoch",)),
        Column("average", ("average",)),
        Column("worst", ("worst",)),
        Column("worst class", ("worst_class",), words=True),
        *(Column(contents.classes[c], (contents.classes[c],)) for c in indices),
    )
    rows = []
    for e, accuracy in enumerate(curve.accuracy):
        shares = [float(curve.average[e]), float(np.nanmin(accuracy))]
        name = _weakest(curve, contents, e)
        cells = [Cell(percent(share), (share,)) for share in (*shares, *accuracy[indices].tolist())]
        rows.append((Cell(str(e + 1), (e + 1,)), *cells[:2], Cell(name, (name,)), *cells[2:]))
    caption = f"Robust accuracy over {len(rows)} epochs in per cent ({images_meant(curve)})"
    return Sheet("epochs", caption, columns, tuple(rows))


def _shown(curve: Curve) -> list[int]:
    """Return the classes that have room, those that end weakest first."""
    return [int(c) for c in weakest_first(curve.final)[:SHOWN]]


def _weakest(curve: Curve, contents: Contents, epoch: int) -> str:
    return contents.classes[int(np.nanargmin(curve.accuracy[epoch]))]


def _class_line(curve: Curve, contents: Contents, epochs: list[int], c: int) -> dict[str, Any]:
    drawn = _line(contents.classes[c], epochs, curve.accuracy[:, c], "\0faint", [""] * len(epochs))
    return {**drawn, "mode": "lines", "line": {"color": "\0faint", "width": 1.2}}


def _line(name: str, epochs: list[int], share: Floats, color: str, remarks: list[str]) -> dict[str, Any]:
    notes = [f" ({label(remark, 60)})" if remark else "" for remark in remarks]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "cliponaxis": False,
        "name": label(name, 60),
        "x": epochs,
        "y": [None if np.isnan(v) else round(100 * float(v), 3) for v in share],
        "line": {"color": color, "width": 2.4},
        "marker": {"size": 5, "color": color},
        "customdata": [
            f"<b>{label(name, 60)}</b>{note}<br>epoch {e}: {percent(v)} %"
            for e, v, note in zip(epochs, share, notes, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
