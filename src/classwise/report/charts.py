r"""The interactive charts as plotly figures in plain data, coloured when the page is shown.

A colour is written as a token, ``\x00ink``; the page's script replaces it from the light or dark palette. Names
cannot contain the NUL character, so no name is ever taken for a colour.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from classwise.report.contents import Contents, Floats, View
from classwise.report.palette import MARKERS, Marker
from classwise.report.tables import percent, span

SHOWN = 30
"""Classes that a chart has room for."""

NUMBERED = 12
"""Classes up to which a heat map prints the number into each cell."""

BANDS = 12
"""Classes that a flow diagram has room for."""

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
_ROW_HEIGHT, _CELL_HEIGHT, _BAND_HEIGHT = 40, 30, 44


def weakest_classes(contents: Contents, limit: int = SHOWN) -> list[int]:
    """Return the classes that a bar chart shows, weakest first."""
    return [int(c) for c in contents.order[:limit]]


def flow_classes(contents: Contents, limit: int = SHOWN) -> list[int]:
    """Return the classes that a heat map shows: those with the most lost images, in superclass order."""
    most = set(np.argsort(-contents.lost, kind="stable")[:limit].tolist())
    return [int(c) for c in contents.flow_order if int(c) in most and contents.n[c] > 0]


def class_bars(contents: Contents) -> dict[str, Any]:
    """Bars of the weakest classes: clean behind, worst case with its interval in front, a marker an attack."""
    indices = weakest_classes(contents)
    rows = list(range(len(indices)))
    data = [_clean_bars(contents, indices), *_worst_bars(contents, indices)]
    data += [_attack_markers(contents, view, i, indices) for i, view in enumerate(contents.attacks)]
    drawn = layout(height=60 + _ROW_HEIGHT * len(indices))
    drawn |= {
        "barmode": "overlay",
        # The page has a legend of its own, which wraps on a phone.
        "showlegend": False,
        "xaxis": {**axis(), "range": [0, 100], "title": {"text": "accuracy, %"}, "showgrid": True, "dtick": 20},
        "yaxis": {
            **axis(),
            "range": [len(indices) - 0.5, -0.5],
            "tickvals": rows,
            "ticktext": [label(contents.classes[c]) for c in indices],
        },
        "margin": {"l": 8, "r": 16, "t": 8, "b": 44},
    }
    return {"data": data, "layout": drawn}


def flow_heatmap(contents: Contents) -> dict[str, Any]:
    """Heat map of the confusion flow: share of the row's images that the attacks send to the column."""
    indices = flow_classes(contents)
    numbers = len(indices) <= NUMBERED
    names = [label(contents.classes[c], 22 if numbers else 16) for c in indices]
    share = flow_share(contents, indices)
    position = list(range(len(indices)))
    trace = {
        "type": "heatmap",
        "x": position,
        "y": position,
        "z": [[None if np.isnan(v) else round(100 * float(v), 3) for v in row] for row in share],
        "customdata": _flow_hover(contents, indices),
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "colorscale": "\0flow",
        "zmin": 0,
        "zmax": top_share(share),
        "xgap": 2,
        "ygap": 2,
        "texttemplate": "%{z:.1f}" if numbers else "",
        "showscale": not numbers,
        "colorbar": {"title": {"text": "%"}, "thickness": 12, "len": 1, "outlinewidth": 0},
    }
    drawn = layout(height=150 + _CELL_HEIGHT * max(3, len(indices)))
    side = {**axis(), "tickvals": position, "ticktext": names, "showgrid": False}
    drawn |= {
        "xaxis": {
            **side,
            "side": "top",
            "tickangle": tilt(names),
            "title": {"text": "true class (row) sent to class (column)"},
        },
        "yaxis": {**side, "range": [len(indices) - 0.5, -0.5]},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 16},
        "shapes": _dividers(contents, indices),
    }
    return {"data": [trace], "layout": drawn}


def flow_diagram(contents: Contents) -> dict[str, Any]:
    """Flow diagram: images right when clean, from their class (left) to what they are taken for under attack (right).

    Shows the classes that lose the most images; what they lose to others ends in one more place.
    """
    indices = flow_classes(contents, BANDS)
    links = _links(contents, indices)
    size, others = len(indices), bool(links) and max(target for _, target, _ in links) == 2 * len(indices)
    names = [contents.classes[c] for c in indices] * 2 + ["other classes"] * others
    weakest = [int(c == contents.worst_case.worst) for c in indices] * 2 + [0] * others
    hover = _node_hover(contents, indices, names)
    # plotly leaves out nodes without a band, but not their places, which would then go to other nodes.
    nodes = sorted({end for source, target, _ in links for end in (source, target)})
    number = {node: position for position, node in enumerate(nodes)}
    trace = {
        "type": "sankey",
        "arrangement": "fixed",
        "node": {
            "label": [label(names[node]) for node in nodes],
            "color": ["\0weakest" if weakest[node] else "\0worst" for node in nodes],
            **_places(size, links, nodes),
            "pad": 10,
            "thickness": 14,
            "line": {"width": 0},
            "customdata": [hover[node] for node in nodes],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
        "link": {
            "source": [number[source] for source, _, _ in links],
            "target": [number[target] for _, target, _ in links],
            "value": [count for _, _, count in links],
            "color": [_link_color(source, target, size, weakest) for source, target, _ in links],
            "customdata": [_link_hover(contents, indices, names, link) for link in links],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
        "textfont": {"color": "\0ink", "size": 13},
    }
    drawn = layout(height=60 + _BAND_HEIGHT * max(3, size)) | {"margin": {"l": 8, "r": 8, "t": 8, "b": 16}}
    return {"data": [trace], "layout": drawn}


def flow_share(contents: Contents, indices: list[int]) -> Floats:
    """Return the flow among ``indices`` as a share of each row's images (m, m), NaN on the diagonal."""
    counts = contents.flow[np.ix_(indices, indices)].astype(np.float64)
    share = counts / contents.n[indices, None]
    np.fill_diagonal(share, np.nan)
    return share


def tilt(names: list[str]) -> int:
    """Return the angle of the names over a heat map in degrees, as far as they need room."""
    return -90 if len(names) > NUMBERED else -45 if max(map(len, names), default=0) > 3 else 0


def top_share(share: Floats) -> float:
    """Return the largest share in per cent, at which the colours end; 1 if nothing flows."""
    return round(100 * float(np.nan_to_num(share).max(initial=0)), 3) or 1.0


def group_breaks(contents: Contents, indices: list[int]) -> list[int]:
    """Return the positions in ``indices`` at which another superclass begins."""
    groups = [contents.groups[c] for c in indices]
    return [i for i in range(1, len(indices)) if groups[i] != groups[i - 1]]


def label(name: str, limit: int = 22) -> str:
    """Shorten a name for an axis and make it literal, since plotly reads markup in text.

    Example:
        >>> label("<b>cat</b>"), label("a name that is much too long")
        ('&lt;b&gt;cat&lt;/b&gt;', 'a name that is much t…')
    """
    return html.escape(name if len(name) <= limit else f"{name[: limit - 1]}…", quote=False)


def _clean_bars(contents: Contents, indices: list[int]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": "clean",
        "x": _per_cent(contents.clean, indices),
        "y": list(range(len(indices))),
        "width": 0.84,
        "marker": {"color": "\0clean"},
        "hovertemplate": "%{customdata}<extra></extra>",
        "customdata": _hover(contents, contents.clean, indices),
    }


def _worst_bars(contents: Contents, indices: list[int]) -> list[dict[str, Any]]:
    """Return the weakest class and the others as traces of their own, each in its colour."""
    parts = (([0], "\0weakest", "weakest class"), (list(range(1, len(indices))), "\0worst", "worst case"))
    return [_interval_bars(contents, indices, *part) for part in parts if part[0]]


def _interval_bars(contents: Contents, indices: list[int], rows: list[int], color: str, name: str) -> dict[str, Any]:
    view, classes = contents.worst_case, [indices[row] for row in rows]
    low, high = view.intervals[classes].T
    value = view.by_class[classes]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": _per_cent(view, classes),
        "y": rows,
        # The lower part of the row, so that markers above it stay clear of the interval.
        "width": 0.36,
        "offset": 0.02,
        "marker": {"color": color},
        "error_x": whiskers(100 * (high - value), 100 * (value - low)),
        "hovertemplate": "%{customdata}<extra></extra>",
        "customdata": _hover(contents, view, classes),
    }


def _attack_markers(contents: Contents, view: View, i: int, indices: list[int]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(view.name, 40),
        "x": _per_cent(view, indices),
        "y": [row + lane(i, len(contents.attacks)) for row in range(len(indices))],
        "marker": {"symbol": marker(contents, i).plotly, "size": 7, "color": "\0ink"},
        "hovertemplate": "%{customdata}<extra></extra>",
        "customdata": _hover(contents, view, indices),
    }


def legend(contents: Contents) -> list[tuple[str, str, str]]:
    """Return the signs of the bar chart: "bar" with a colour token or "marker" with a glyph, and what it means."""
    return [
        ("bar", "clean", "clean"),
        *(("marker", sign.glyph, name) for sign, name in attack_legend(contents)),
        ("bar", "worst", "worst case"),
        ("bar", "weakest", "worst case of the weakest class"),
        ("marker", "├─┤", interval_name(contents)),
    ]


def attack_legend(contents: Contents) -> list[tuple[Marker, str]]:
    """Return the marker of each attack, or one for all of them where there are more attacks than shapes."""
    names = [view.name for view in contents.attacks]
    return list(zip(MARKERS, names, strict=False)) if len(names) <= len(MARKERS) else [(MARKERS[0], "each attack")]


def marker(contents: Contents, i: int) -> Marker:
    """Return the marker of attack ``i``."""
    return MARKERS[i if len(contents.attacks) <= len(MARKERS) else 0]


def interval_name(contents: Contents) -> str:
    """Return what the whiskers are called."""
    return f"simultaneous {contents.confidence} % interval"


def lane(i: int, lanes: int) -> float:
    """Return the height of attack ``i`` within a row: the upper part, first attack on top."""
    return -0.18 if lanes == 1 else -0.29 + 0.22 * i / (lanes - 1)


def _per_cent(view: View, indices: list[int]) -> list[float]:
    return [round(100 * float(view.by_class[c]), 3) for c in indices]


def _hover(contents: Contents, view: View, indices: list[int]) -> list[str]:
    def line(c: int) -> str:
        text = f"<b>{label(contents.classes[c], 60)}</b><br>{html.escape(view.name)}: {percent(view.by_class[c])} %"
        if view is contents.worst_case:
            text += f"<br>simultaneous interval {span(*view.intervals[c])} %"
        return f"{text}<br>{view.correct[c]:,} of {contents.n[c]:,} images"

    return [line(c) for c in indices]


def _flow_hover(contents: Contents, indices: list[int]) -> list[list[str]]:
    def line(i: int, j: int) -> str:
        share = percent(contents.flow[i, j] / contents.n[i])
        names = f"<b>{label(contents.classes[i], 60)} → {label(contents.classes[j], 60)}</b>"
        return f"{names}<br>{contents.flow[i, j]:,} of {contents.n[i]:,} images ({share} %)"

    return [[line(i, j) for j in indices] for i in indices]


def _links(contents: Contents, indices: list[int]) -> list[tuple[int, int, int]]:
    """Return (source, target, images) of the bands; targets count on from the sources, and end in "other classes"."""
    inner, size = contents.flow[np.ix_(indices, indices)], len(indices)
    elsewhere = contents.flow[indices].sum(1) - inner.sum(1)
    counts = np.column_stack([inner, elsewhere])
    return [(int(i), size + int(j), int(counts[i, j])) for i, j in np.argwhere(counts)]


def _places(size: int, links: list[tuple[int, int, int]], nodes: list[int]) -> dict[str, list[float]]:
    """Return where the nodes stand: both sides in the same order, each as high as its images need."""
    images = Counter[int]()
    for source, target, count in links:
        images.update({source: count, target: count})
    x, y = [0.001 if node < size else 0.999 for node in nodes], list[float]()
    for side in ([node for node in nodes if node < size], [node for node in nodes if node >= size]):
        gap = 0.2 / max(1, len(side))
        height = 0.8 * np.array([images[node] for node in side]) / max(1, sum(images[node] for node in side))
        y += (np.cumsum(height + gap) - gap / 2 - height / 2).clip(0.001, 0.999).round(4).tolist()
    return {"x": x, "y": y}


def _link_color(source: int, target: int, size: int, weakest: list[int]) -> str:
    if target == source + size:
        return "\0kept"
    return "\0drain" if weakest[source] else "\0moved"


def _link_hover(contents: Contents, indices: list[int], names: list[str], link: tuple[int, int, int]) -> str:
    source, target, count = link
    whose, n = label(names[source], 60), int(contents.n[indices[source]])
    where = "stay" if target == source + len(indices) else f"→ {label(names[target], 60)}"
    return f"<b>{whose} {where}</b><br>{count:,} of {n:,} images ({percent(count / n)} %)"


def _node_hover(contents: Contents, indices: list[int], names: list[str]) -> list[str]:
    clean, lost = contents.clean.correct, contents.lost
    sent = [
        f"<b>{label(names[i], 60)}</b><br>{clean[c]:,} images right when clean, {lost[c]:,} of them lost"
        for i, c in enumerate(indices)
    ]
    taken = [
        f"<b>{label(names[len(indices) + i], 60)}</b> under attack<br>"
        f"{int(contents.flow[indices, c].sum() - contents.flow[c, c]):,} images of the classes shown come here"
        for i, c in enumerate(indices)
    ]
    return [*sent, *taken, *(["<b>classes that are not shown</b>"] * (len(names) - 2 * len(indices)))]


def _dividers(contents: Contents, indices: list[int]) -> list[dict[str, Any]]:
    line = {"type": "line", "line": {"color": "\0ink", "width": 1.5}}
    edges = {"0": -0.5, "1": len(indices) - 0.5}
    shapes = []
    for start in group_breaks(contents, indices):
        across = {"x0": edges["0"], "x1": edges["1"], "y0": start - 0.5, "y1": start - 0.5}
        down = {"y0": edges["0"], "y1": edges["1"], "x0": start - 0.5, "x1": start - 0.5}
        shapes += [{**line, **across}, {**line, **down}]
    return shapes


def whiskers(
    above: Iterable[float], below: Iterable[float], color: str = "\0ink", thickness: float = 1.4, width: int = 4
) -> dict[str, Any]:
    """Return error bars that end so far above and below their values, in the units of the axis."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [round(float(length), 3) for length in above],
        "arrayminus": [round(float(length), 3) for length in below],
        "color": color,
        "thickness": thickness,
        "width": width,
    }


def axis() -> dict[str, Any]:
    """Return what every axis shares."""
    return {
        "automargin": True,
        "fixedrange": True,
        "zeroline": False,
        "showgrid": False,
        "gridcolor": "\0line",
        "tickcolor": "\0line",
        "ticks": "",
        "ticklabelstandoff": 6,
    }


def layout(height: int) -> dict[str, Any]:
    """Return what every chart shares; ``height`` in pixels."""
    return {
        "height": height,
        "autosize": True,
        "font": {"family": _FONT, "size": 13, "color": "\0ink"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "\0raised", "bordercolor": "\0line", "font": {"color": "\0ink"}, "align": "left"},
        "dragmode": False,
    }
