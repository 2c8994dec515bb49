"""Worst class against average over the rounds of the correction that was evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from classwise.errors import InputError
from classwise.files.texts import plain
from classwise.metrics.intervals import clopper_pearson
from classwise.metrics.result import Result
from classwise.metrics.trade_off import Ends, TradeOff, TradeOffPoint, corrected_folder
from classwise.report.charts import axis, label, layout, whiskers
from classwise.report.contents import Contents
from classwise.report.sheet import Cell, Column, Sheet
from classwise.report.tables import percent, span


def read_trade_off(result: Result) -> TradeOff | None:
    """Return the curve of the corrected model that was evaluated; None where it is none, or its folder is gone."""
    folder = corrected_folder(str(result.header["model"]["name"]))
    if folder is None:
        return None
    try:
        return TradeOff.read(folder)
    except InputError:
        return None


def trade_off_chart(curve: TradeOff, contents: Contents) -> dict[str, Any]:
    """Worst against average: the rounds in order, the one without correction, the chosen one, and this evaluation."""
    chosen = [curve.chosen] if curve.chosen else []
    last = _evaluated(contents)
    return {
        "data": [
            {**_dots("rounds", curve, range(len(curve.points)), "\0faint", "circle", 7), "mode": "lines+markers"},
            _dots("no correction", curve, [0], "\0soft", "circle-open", 13),
            _dots("chosen", curve, chosen, "\0worst", "circle", 13),
            {
                **_drawn("this evaluation", [last], "\0weakest", "diamond", 13),
                "customdata": [f"<b>this evaluation</b><br>{_said(last)}"],
            },
        ],
        "layout": {
            **layout(height=420),
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {**axis(), "title": {"text": "average robust accuracy, %"}, "showgrid": True},
            "yaxis": {**axis(), "title": {"text": "worst class, %"}, "showgrid": True, "rangemode": "tozero"},
            "margin": {"l": 8, "r": 16, "t": 8, "b": 44},
        },
    }


def trade_off_sheet(curve: TradeOff) -> Sheet:
    """Table of the rounds; the chosen one is marked."""
    columns = (
        Column("round", ("round",)),
        Column("clean", ("clean",), spare=True),
        Column("average", ("average",)),
        Column("95 % interval", ("average_low", "average_high"), spare=True),
        Column("change", ("change",)),
        Column("95 % interval of it", ("change_low", "change_high"), spare=True),
        Column("worst class", ("worst_class",), words=True),
        Column("worst", ("worst",)),
        Column("interval of the worst", ("worst_low", "worst_high"), spare=True),
    )
    rows = tuple(_cells(number, point) for number, point in enumerate(curve.points))
    caption = f"Rounds of {plain(curve.rule)} on the {curve.n:,} images that it was fitted on, in per cent and points"
    return Sheet("trade-off", caption, columns, rows, curve.chosen)


def trade_off_note(curve: TradeOff) -> str:
    """Say what was fitted on which images, at what price, and what was chosen."""
    images = f" ({plain(curve.images)})" if curve.images else ""
    choice = (
        f"Round {curve.chosen} was chosen" if curve.chosen else "No round was better than none, so nothing was changed"
    )
    return (
        f"{plain(curve.rule)} was fitted on {curve.n:,} images{images}; the average could fall by {curve.max_loss:g} "
        f"points. {choice}."
    )


def _evaluated(contents: Contents) -> TradeOffPoint:
    """Return what this evaluation came to, in which nothing is compared with no correction."""
    view, total = contents.worst_case, int(contents.n.sum())
    ends = clopper_pearson([view.correct.sum()], [total])
    return TradeOffPoint(
        clean=contents.clean.average,
        average=view.average,
        average_interval=(float(ends.low[0]), float(ends.high[0])),
        worst=float(view.by_class[view.worst]),
        worst_interval=view.worst_interval,
        worst_class=contents.classes[view.worst],
        change=math.nan,
        change_interval=(math.nan, math.nan),
    )


def _dots(name: str, curve: TradeOff, rounds: Sequence[int], color: str, symbol: str, size: int) -> dict[str, Any]:
    points = [curve.points[number] for number in rounds]
    notes = [f"<b>{name}</b>, round {number}<br>{_said(point)}" for number, point in zip(rounds, points, strict=True)]
    return {**_drawn(name, points, color, symbol, size), "customdata": notes}


def _drawn(name: str, points: Sequence[TradeOffPoint], color: str, symbol: str, size: int) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "cliponaxis": False,
        "name": name,
        "x": [round(100 * point.average, 3) for point in points],
        "y": [round(100 * point.worst, 3) for point in points],
        "line": {"color": color, "width": 1.2},
        "marker": {"size": size, "color": color, "symbol": symbol, "line": {"width": 2, "color": color}},
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    if len(points) == 1:  # whiskers on every round would hide the curve
        drawn["error_x"] = _whisker(points[0].average, points[0].average_interval, color)
        drawn["error_y"] = _whisker(points[0].worst, points[0].worst_interval, color)
    return drawn


def _whisker(value: float, ends: Ends, color: str) -> dict[str, Any]:
    low, high = ends
    return whiskers([100 * (high - value)], [100 * (value - low)], color, thickness=1.2)


def _said(point: TradeOffPoint) -> str:
    average, worst = span(*point.average_interval), span(*point.worst_interval)
    return (
        f"average {percent(point.average)} % ({average})<br>"
        f"worst {percent(point.worst)} % ({worst}), {label(plain(point.worst_class), 40)}"
    )


def _cells(number: int, point: TradeOffPoint) -> tuple[Cell, ...]:
    name, (low, high) = plain(point.worst_class), point.change_interval
    return (
        Cell(str(number), (number,)),
        Cell(percent(point.clean), (point.clean,)),
        Cell(percent(point.average), (point.average,)),
        Cell(span(*point.average_interval), point.average_interval),
        Cell(f"{point.change:+.2f}", (point.change,)),
        Cell(f"{low:+.2f} to {high:+.2f}", (low, high)),
        Cell(name, (name,)),
        Cell(percent(point.worst), (point.worst,)),
        Cell(span(*point.worst_interval), point.worst_interval),
    )
