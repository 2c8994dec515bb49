"""The plane of methods: average accuracy under attack across, worst class upwards, a point for each row of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from classwise.report.charts import axis, label, layout
from classwise.report.palette import MARKERS
from classwise.report.tables import percent

_NAMED = 12  # points up to which names stand beside them


@dataclass(frozen=True)
class Point:
    """A method with one kind of its weights.

    Attributes:
        name: what it is called.
        kind: what the shape of its marker tells: the weights.
        average: mean over seeds of the average, in 0 … 1.
        worst: mean over seeds of the worst class.
        std: deviations over seeds of the two; None for a single seed.
        reference: whether the others are compared with it.
    """

    name: str
    kind: str
    average: float
    worst: float
    std: tuple[float | None, float | None] = (None, None)
    reference: bool = False


def plane(points: Sequence[Point]) -> dict[str, Any]:
    """Return the chart; bars are one standard deviation over seeds, the reference has a colour of its own."""
    kinds = list(dict.fromkeys(point.kind for point in points))
    traces = [_trace([point for point in points if point.kind == kind], i, len(points)) for i, kind in enumerate(kinds)]
    return {
        "data": traces,
        "layout": {
            **layout(height=520),
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {**axis(), "title": {"text": "average under attack, %"}, "showgrid": True},
            "yaxis": {**axis(), "title": {"text": "worst class under attack, %"}, "showgrid": True},
            "margin": {"l": 8, "r": 24, "t": 16, "b": 44},
        },
    }


def legend(points: Sequence[Point]) -> list[tuple[str, str]]:
    """Return glyph and meaning of each shape."""
    kinds = dict.fromkeys(point.kind for point in points)
    return [(MARKERS[i % len(MARKERS)].glyph, kind) for i, kind in enumerate(kinds)]


def _trace(points: Sequence[Point], kind: int, total: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers+text" if total <= _NAMED else "markers",
        "cliponaxis": False,
        "x": [round(100 * point.average, 3) for point in points],
        "y": [round(100 * point.worst, 3) for point in points],
        "error_x": _bars([point.std[0] for point in points]),
        "error_y": _bars([point.std[1] for point in points]),
        "text": [label(point.name) for point in points],
        "textposition": "top center",
        "marker": {
            "symbol": MARKERS[kind % len(MARKERS)].plotly,
            "size": 11,
            "color": ["\0weakest" if point.reference else "\0worst" for point in points],
        },
        "customdata": [_hover(point) for point in points],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _bars(deviations: Sequence[float | None]) -> dict[str, Any]:
    lengths = [round(100 * value, 3) if value is not None else 0.0 for value in deviations]
    return {"type": "data", "array": lengths, "color": "\0faint", "thickness": 1, "width": 3}


def _hover(point: Point) -> str:
    def value(mean: float, std: float | None) -> str:
        return percent(mean, 1) + ("" if std is None else f" ± {percent(std, 1)}") + " %"

    about = f"{label(point.kind)}, the reference" if point.reference else label(point.kind)
    lines = (f"<b>{label(point.name, 60)}</b>, {about}", f"average {value(point.average, point.std[0])}")
    return "<br>".join((*lines, f"worst class {value(point.worst, point.std[1])}"))
