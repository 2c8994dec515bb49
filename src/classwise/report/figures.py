"""Figures for print: matplotlib through its object interface, so no window, no global state, no backend to choose."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from classwise.errors import InputError
from classwise.files.writing import write_bytes
from classwise.metrics.result import Result
from classwise.report.charts import (
    NUMBERED,
    attack_legend,
    flow_classes,
    flow_share,
    group_breaks,
    interval_name,
    lane,
    marker,
    tilt,
    top_share,
    weakest_classes,
)
from classwise.report.contents import Contents, Floats, read
from classwise.report.palette import FLOW_LIGHT, LIGHT

WIDTH = 5.5
"""Inches: the text width of most conference templates."""

# Without a date, and with fixed identifiers in the SVG, the same result gives the same bytes.
_METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"Creator": "classwise", "Producer": "matplotlib", "CreationDate": None},
    "png": {"Software": "classwise"},
    "svg": {"Creator": "classwise", "Date": None},
}
_MARKER: dict[str, Any] = {"linestyle": "", "markersize": 3.2, "color": LIGHT["ink"]}
WHISKER: dict[str, Any] = {"fmt": "none", "ecolor": LIGHT["ink"], "elinewidth": 0.9, "capsize": 2, "capthick": 0.9}
# Typed by matplotlib as a dict whose keys are the names of its own version.
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["ink"],
    "xtick.color": LIGHT["soft"],
    "ytick.color": LIGHT["ink"],
    "text.color": LIGHT["ink"],
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "classwise",
    "axes.unicode_minus": True,
}


def class_bars(result: Result) -> Figure:
    """Draw accuracy by class, weakest first: clean, a marker an attack, worst case with simultaneous intervals.

    Shows at most the 30 weakest classes, and says so on the axis.
    """
    with mpl.rc_context(STYLE):
        return _class_bars(read(result))


def flow_heatmap(result: Result) -> Figure:
    """Draw the confusion flow: share of each class's images that the attacks send to each other class.

    Shows at most the 30 classes with the most lost images, in superclass order where there are groups.
    """
    with mpl.rc_context(STYLE):
        return _flow_heatmap(read(result))


def save_figures(
    result: Result, directory: Path | str, formats: Iterable[str] = ("pdf", "png", "svg")
) -> tuple[Path, ...]:
    """Write both figures in every format and return the paths; the same result gives the same bytes.

    Raises:
        InputError: an unknown format, or a folder that cannot be written.
    """
    makers: dict[str, Callable[[Result], Figure]] = {"class_bars": class_bars, "flow_heatmap": flow_heatmap}
    return write_figures({stem: partial(make, result) for stem, make in makers.items()}, directory, formats)


def write_figures(
    makers: Mapping[str, Callable[[], Figure]], directory: Path | str, formats: Iterable[str] = ("pdf", "png", "svg")
) -> tuple[Path, ...]:
    """Draw figures and write each, under its name, in every format; see :func:`save_figures`.

    Raises:
        InputError: an unknown format, or a folder that cannot be written.
    """
    chosen = tuple(formats)
    for name in chosen:
        if name not in _METADATA:
            raise InputError(f"Figures cannot be written as {name!r}: use {', '.join(_METADATA)}.")
    paths = []
    for stem, make in makers.items():
        with mpl.rc_context(STYLE):
            figure = make()
        for name in chosen:
            paths.append(Path(directory) / f"{stem}.{name}")
            write_bytes(paths[-1], _render(figure, name))
    return tuple(paths)


def _render(figure: Figure, name: str) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A class name in a script that DejaVu lacks shows as boxes; that is no reason to stop.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format=name, dpi=300, bbox_inches="tight", metadata=_METADATA[name])
    return buffer.getvalue()


def _class_bars(contents: Contents) -> Figure:
    indices = weakest_classes(contents)
    figure, axes = canvas(1.1 + 0.3 * len(indices))
    rows = np.arange(len(indices))
    worst = contents.worst_case
    value = 100 * worst.by_class[indices]
    low, high = 100 * worst.intervals[indices].T
    colors = [LIGHT["weakest"], *[LIGHT["worst"]] * len(indices)][: len(indices)]
    axes.barh(rows, 100 * contents.clean.by_class[indices], height=0.84, color=LIGHT["clean"])
    for i, view in enumerate(contents.attacks):
        height = rows + lane(i, len(contents.attacks))
        shape = marker(contents, i).matplotlib
        axes.plot(100 * view.by_class[indices], height, marker=shape, **_MARKER)
    axes.barh(rows + 0.2, value, height=0.36, color=colors)
    axes.errorbar(value, rows + 0.2, xerr=np.stack([value - low, high - value]), **WHISKER)
    _legend(figure, contents)
    name_ticks(axes.yaxis, [contents.classes[c] for c in indices])
    excerpt = _excerpt(contents, indices, "weakest")
    axes.set(xlim=(0, 100), ylim=(len(indices) - 0.5, -0.5), xlabel=f"accuracy, %{excerpt}")
    return figure


def _flow_heatmap(contents: Contents) -> Figure:
    indices = flow_classes(contents)
    figure, axes = canvas(min(WIDTH, 1.4 + 0.34 * len(indices)))
    edges = np.arange(len(indices) + 1) - 0.5
    share = 100 * flow_share(contents, indices)
    mesh = axes.pcolormesh(
        edges,
        edges,
        np.ma.masked_invalid(share),
        cmap=LinearSegmentedColormap.from_list("flow", list(FLOW_LIGHT)),
        vmin=0,
        vmax=top_share(share / 100),
        edgecolors="white",
        linewidth=0.8,
    )
    if len(indices) <= NUMBERED:
        _cell_numbers(axes, share)
    for start in group_breaks(contents, indices):
        axes.axhline(start - 0.5, color=LIGHT["ink"], linewidth=0.9)
        axes.axvline(start - 0.5, color=LIGHT["ink"], linewidth=0.9)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(edges[-1], edges[0]), ylabel="true class", aspect="equal")
    axes.set_xlabel("sent to" + _excerpt(contents, indices, "losing most images"))
    _flow_names(axes, [contents.classes[c] for c in indices])
    bar = figure.colorbar(mesh, ax=axes, fraction=0.046, pad=0.02, label="% of the class's images")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


def canvas(height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of the usual width, and a height in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    return figure, axes


def name_ticks(axis: Axis, names: list[str], limit: int = 24, **style: Any) -> None:
    """Put names on an axis, shortened to ``limit`` characters."""
    short = [name if len(name) <= limit else f"{name[: limit - 1]}…" for name in names]
    axis.set_ticks(range(len(names)), short, **style)
    for text in axis.get_ticklabels():
        # A dollar sign in a class name is a dollar sign.
        text.set_parse_math(False)


def _flow_names(axes: Axes, names: list[str]) -> None:
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.xaxis.set_label_position("bottom")
    limit, size = (24, 8) if len(names) <= NUMBERED else (18, 6)
    angle = -tilt(names)
    slanted = {"ha": "left", "rotation_mode": "anchor"} if angle == 45 else {"ha": "center"}
    name_ticks(axes.yaxis, names, limit, fontsize=size)
    name_ticks(axes.xaxis, names, limit, fontsize=size, color=LIGHT["ink"], rotation=angle, va="bottom", **slanted)


def _legend(figure: Figure, contents: Contents) -> None:
    handles: list[Artist] = [Patch(color=LIGHT["clean"], label="clean")]
    for shape, name in attack_legend(contents):
        handles.append(Line2D([], [], marker=shape.matplotlib, label=name, **_MARKER))
    handles += [
        Patch(color=LIGHT["worst"], label="worst case"),
        Patch(color=LIGHT["weakest"], label="worst case of the weakest class"),
        Line2D([], [], color=LIGHT["ink"], linewidth=0.9, marker="|", markersize=5, label=interval_name(contents)),
    ]
    legend = figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, handlelength=1.4)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _cell_numbers(axes: Axes, share: Floats) -> None:
    top = np.nanmax(share, initial=0)
    for (i, j), value in np.ndenumerate(share):
        if np.isfinite(value) and value > 0:
            color = "white" if value > 0.45 * top else LIGHT["ink"]
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", color=color, fontsize=6.5)


def _excerpt(contents: Contents, indices: list[int], which: str) -> str:
    present = len(contents.order)
    return "" if len(indices) == present else f"   (the {len(indices)} of {present} classes {which})"
