"""Colours of charts and page: told apart by people who see red and green alike, on paper and on a dark screen.

Blue and vermilion are Okabe and Ito's (2008). Identity never rests on colour alone: the weakest class is also the
first row, and attacks differ by the shape of their marker.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Okabe and Ito's colours after a grey for the baseline, each also lighter for a dark ground.
_SERIES_LIGHT = ("#7d8894", "#0072b2", "#d55e00", "#009e73", "#b8578f", "#b07c00", "#3a93c9", "#1b2129")
_SERIES_DARK = ("#8e99a5", "#4ba9e0", "#ff8b45", "#35c79b", "#e08fbd", "#e6b03a", "#9bd3f5", "#e6eaee")
SERIES = len(_SERIES_LIGHT)
"""Models that a chart can tell apart."""

LIGHT = {
    "surface": "#ffffff",
    "raised": "#f4f6f8",
    "ink": "#1b2129",
    "soft": "#56606b",
    "line": "#d6dbe1",
    "clean": "#d3d9e0",
    "worst": "#0072b2",
    "weakest": "#d55e00",
    "link": "#00598a",
    "warning": "#fff3e6",
    "wrong": "#a84a00",
    "faint": "#b3bcc6",
    "kept": "rgba(120, 134, 148, 0.18)",
    "moved": "rgba(0, 114, 178, 0.42)",
    "drain": "rgba(213, 94, 0, 0.55)",
    **{f"series{i}": color for i, color in enumerate(_SERIES_LIGHT)},
}
DARK = {
    "surface": "#12161b",
    "raised": "#1b2128",
    "ink": "#e6eaee",
    "soft": "#a3adb8",
    "line": "#343d47",
    "clean": "#3b444f",
    "worst": "#4ba9e0",
    "weakest": "#ff8b45",
    "link": "#7cc4f0",
    "warning": "#33261a",
    "wrong": "#ff9c61",
    "faint": "#56616d",
    "kept": "rgba(160, 172, 184, 0.16)",
    "moved": "rgba(75, 169, 224, 0.42)",
    "drain": "rgba(255, 139, 69, 0.55)",
    **{f"series{i}": color for i, color in enumerate(_SERIES_DARK)},
}
FLOW_LIGHT = ((0.0, "#f4f6f8"), (0.25, "#b5d6ea"), (0.6, "#3d93c6"), (1.0, "#00436b"))
FLOW_DARK = ((0.0, "#1b2128"), (0.25, "#134a6b"), (0.6, "#2f8fc8"), (1.0, "#bfe4fa"))


def palettes() -> dict[str, dict[str, Any]]:
    """Return what each colour token means in light and in dark."""
    return {"light": {**LIGHT, "flow": FLOW_LIGHT}, "dark": {**DARK, "flow": FLOW_DARK}}


class Marker(NamedTuple):
    """One shape, as plotly and matplotlib call it, and as a character for the legend of the page."""

    plotly: str
    matplotlib: str
    glyph: str


MARKERS = (
    Marker("diamond", "D", "◆"),
    Marker("square", "s", "■"),
    Marker("triangle-up", "^", "▲"),
    Marker("circle", "o", "●"),
    Marker("cross", "P", "✚"),
    Marker("x", "X", "✖"),
)
