"""Critical eps by class: the table, the sentence to read first, and the chart of what is left at each radius."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from classwise.files.texts import plain
from classwise.metrics.critical_eps import QUANTILES, CriticalEps
from classwise.metrics.outcomes import Floats
from classwise.metrics.recorded import attack_of
from classwise.report.figures import STYLE, canvas, write_figures
from classwise.report.palette import LIGHT
from classwise.report.sheet import Cell, Column, Sheet
from classwise.report.tables import ABSENT

_STEM = "critical_eps"


def critical_sheet(critical: CriticalEps, radii: Sequence[float] = ()) -> Sheet:
    """Return the table: a row a class, weakest first, with quantiles, and counts of images still right at ``radii``."""
    valid = critical.checked(radii)
    columns = (
        Column("class", ("class",), words=True),
        Column("n", ("n",)),
        Column("wrong when clean", ("wrong_clean",), spare=True),
        *(Column(_heading(q), (f"quantile_{q:g}",), spare=q != 0.5) for q in QUANTILES),
        Column(
            f"median, {100 * critical.confidence:g} %",
            ("median_low", "median_high"),
            note="interval of order statistics; holds for all classes at once",
        ),
        *(Column(f"right at {eps_text(critical, r)}", (f"right_{r:g}",), spare=not radii) for r in valid),
    )
    rows = tuple(_row(critical, int(c), valid) for c in critical.order)
    unit = ", in 1/255" if _in_bytes(critical) else ""
    caption = f"Smallest {critical.norm} radius found to break an image of {critical.about['data']['name']}{unit}"
    return Sheet(_STEM, caption, columns, rows, marked=0 if rows else None)


def sentence(critical: CriticalEps) -> str:
    """Say within which radius half of the weakest and of the strongest class is broken."""
    if critical.weakest is None:
        return "There are no images."
    first, last = (int(critical.order[end]) for end in (0, -1))
    words = f"Half of the images of {critical.classes[first]} are {_broken(critical, critical.medians[first])}"
    if last != first:
        words += f"; half of those of {critical.classes[last]} are {_broken(critical, critical.medians[last])}"
    others = [critical.classes[c] for c in critical.may_be_weakest if c != first]
    return f"{words}. " + (
        f"With {100 * critical.confidence:g} % confidence the median of {critical.classes[first]} is the smallest."
        if not others
        else f"At {100 * critical.confidence:g} % confidence the smallest median may also be that of {_listed(others)}."
    )


def remark(eps: CriticalEps) -> str:
    """Say what kind of number this is, and which images it leaves open."""
    lost = int(eps.about["unconfirmed"])
    kind = attack_of({"settings": eps.about["attack"]}).get("kind", "attacks")
    words = f"Upper bounds by {kind}, not certified radii: a better attack may need less"
    above = int(np.isinf(eps.distance).sum())
    words += f"; {above} of {len(eps.y)} images are above {eps_text(eps, eps.eps_max)}"
    return words + (f", {lost} of them as their candidate was right when run again." if lost else ".")


def critical_curve(critical: CriticalEps) -> Figure:
    """Draw the share of each class still right against the radius, the class of the smallest median in colour."""
    with mpl.rc_context(STYLE):
        figure, axes = canvas(3.2)
        scale = 255 if _in_bytes(critical) else 1
        for c in critical.order[::-1]:
            _draw(axes, critical.of_class(int(c)), critical.eps_max, scale, LIGHT["faint"], 0.9)
        _draw(axes, critical.distance, critical.eps_max, scale, LIGHT["worst"], 1.8, "all images")
        if critical.weakest is not None:
            name = f"{plain(critical.classes[critical.weakest])}, smallest median"
            _draw(axes, critical.of_class(critical.weakest), critical.eps_max, scale, LIGHT["weakest"], 1.8, name)
        unit = "1/255" if scale == 255 else "pixel range 1"
        axes.set(xlim=(0, scale * critical.eps_max), ylim=(0, 100), ylabel="images still right, %")
        axes.set_xlabel(f"{critical.norm} radius, {unit}   (upper bounds; grey: the other classes)")
        axes.grid(axis="y", color=LIGHT["line"], linewidth=0.6)
        for text in axes.legend(frameon=False).get_texts():
            text.set_parse_math(False)
    return figure


def save_figure(critical: CriticalEps, folder: Path | str) -> Path:
    """Write the chart as critical_eps.svg and return its path; the same numbers give the same bytes."""
    return write_figures({_STEM: lambda: critical_curve(critical)}, folder, ("svg",))[0]


def eps_text(critical: CriticalEps, radius: float) -> str:
    """Return a radius with three digits, written as the largest one is: "1.3/255", "0.302", "> 32/255" if censored."""
    return _number(critical, radius) + ("/255" if _in_bytes(critical) and not math.isnan(radius) else "")


def _number(critical: CriticalEps, radius: float) -> str:
    """Return the same in units of 1/255 where radii are written in them."""
    if math.isnan(radius):
        return ABSENT
    if math.isinf(radius):
        return f"> {_number(critical, critical.eps_max)}"
    return f"{255 * radius if _in_bytes(critical) else radius:.3g}"


def _in_bytes(critical: CriticalEps) -> bool:
    return str(critical.about["threat"]["eps_text"]).endswith("/255")


def _heading(q: float) -> str:
    return "median" if q == 0.5 else f"{100 * q:g} % within"


def _row(critical: CriticalEps, c: int, radii: Sequence[float]) -> tuple[Cell, ...]:
    mine, ends = critical.of_class(c), critical.median_intervals
    low, high = float(ends.low[c]), float(ends.high[c])
    wrong, counts = int(((critical.y == c) & (critical.clean != c)).sum()), critical.right(radii)[c].tolist()
    quantiles = [float(critical.quantiles(q)[c]) for q in QUANTILES]
    return (
        Cell(critical.classes[c], (critical.classes[c],)),
        Cell(str(len(mine)), (len(mine),)),
        Cell(str(wrong), (wrong,)),
        *(Cell(_number(critical, value), (_known(value),)) for value in quantiles),
        Cell(f"{_number(critical, low)}–{_number(critical, high)}", (_known(low), _known(high))),
        *(Cell(str(count), (count,)) for count in counts),
    )


def _known(radius: float) -> float | None:
    return radius if math.isfinite(radius) else None


def _broken(critical: CriticalEps, median: float) -> str:
    if math.isinf(median):
        return f"broken above {eps_text(critical, critical.eps_max)} at best"
    return "wrong without any attack" if median == 0 else f"broken within {eps_text(critical, median)}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _draw(
    axes: Axes, distance: Floats, eps_max: float, scale: float, color: str, width: float, label: str | None = None
) -> None:
    """Draw the step function from the clean accuracy down to what is left at eps_max."""
    radii = np.unique([0.0, *distance[np.isfinite(distance)].tolist(), eps_max])
    left = len(distance) - np.searchsorted(np.sort(distance), radii, side="right")
    x, y = scale * radii, 100 * left / len(distance)
    axes.step(x, y, where="post", color=color, linewidth=width, label=label)
