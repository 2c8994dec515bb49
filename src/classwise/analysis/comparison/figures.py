"""The charts of a comparison for print."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from classwise.analysis.comparison.charts import Series, Shift, by_baseline, by_change, series, shifts
from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding
from classwise.files.texts import plain
from classwise.report.charts import SHOWN
from classwise.report.figures import WHISKER, canvas, name_ticks, write_figures
from classwise.report.palette import LIGHT, SERIES

_SIGNS = {1: ("worst", "gains beyond chance"), 0: ("faint", "not beyond chance"), -1: ("weakest", "pays beyond chance")}


def save_figures(subjects: Sequence[Subject], findings: Sequence[Finding], directory: Path | str) -> tuple[Path, ...]:
    """Write classes.* and changes-N.* as PDF, PNG and SVG and return the paths.

    Args:
        subjects: the evaluations, of which the first is the baseline.
        findings: what `compare` returned for them.
        directory: the folder.

    Raises:
        InputError: a folder that cannot be written.
    """
    board, *changes = findings
    classes = [plain(name) for name in subjects[0].result.outcomes.classes]
    makers = {"classes": partial(class_figure, series(subjects, board.values["view"])[:SERIES], classes)}
    moved = {f"changes-{i}": partial(change_figure, shift, classes) for i, shift in enumerate(shifts(changes), 1)}
    return write_figures({**makers, **moved}, directory)


def class_figure(models: Sequence[Series], classes: Sequence[str]) -> Figure:
    """Draw the classes that are weakest under the baseline, a bar a model, with simultaneous intervals."""
    indices = by_baseline(models)[:SHOWN]
    figure, axes = canvas(0.9 + len(indices) * (0.12 + 0.11 * len(models)))
    rows, width = np.arange(len(indices)), 0.8 / len(models)
    for i, model in enumerate(models):
        value, low, high = (100 * values[indices] for values in (model.accuracy, *model.intervals))
        place = rows - 0.4 + (i + 0.5) * width
        axes.barh(place, value, height=width, color=LIGHT[f"series{i}"])
        axes.errorbar(value, place, xerr=np.stack([value - low, high - value]), **WHISKER)
    _legend(figure, [(f"series{i}", model.name) for i, model in enumerate(models)])
    name_ticks(axes.yaxis, [classes[c] for c in indices])
    axes.set(xlim=(0, 100), ylim=(len(indices) - 0.5, -0.5), xlabel="accuracy, %")
    return figure


def change_figure(shift: Shift, classes: Sequence[str]) -> Figure:
    """Draw the changes of the classes in points, with simultaneous intervals."""
    indices = by_change(shift)
    figure, axes = canvas(0.9 + 0.22 * len(indices))
    change, low, high = (100 * values[indices] for values in (shift.change, *shift.intervals))
    rows = np.arange(len(indices))
    axes.barh(rows, change, height=0.6, color=[LIGHT[_SIGNS[int(sign)][0]] for sign in shift.sign[indices]])
    axes.errorbar(change, rows, xerr=np.stack([change - low, high - change]), **WHISKER)
    axes.axvline(0, color=LIGHT["ink"], linewidth=0.8)
    _legend(figure, list(_SIGNS.values()))
    name_ticks(axes.yaxis, [classes[c] for c in indices])
    axes.set(ylim=(len(indices) - 0.5, -0.5))
    # A dollar sign in a name is a dollar sign.
    axes.set_xlabel(f"change of {shift.name}, points", parse_math=False)
    return figure


def _legend(figure: Figure, entries: Sequence[tuple[str, str]]) -> None:
    handles = [Patch(color=LIGHT[color], label=name) for color, name in entries]
    legend = figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, handlelength=1.4)
    for text in legend.get_texts():
        text.set_parse_math(False)
