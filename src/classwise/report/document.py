"""Pages that stand alone: a template, its tables and its charts become one HTML file that loads nothing.

A template extends ``page.html.j2``, which brings the style, the script that sorts and searches tables
(``tables.js``), and plotly with the script that draws (``charts.js``) where there are charts.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from classwise.files.texts import plain_lines, portable
from classwise.report.palette import DARK, LIGHT, palettes
from classwise.report.sheet import Sheet, to_csv

_TEMPLATES = Path(__file__).parent / "templates"


def render(
    template: str, charts: Mapping[str, Any], *, title: str, subtitle: str, version: str = "", **values: Any
) -> str:
    """Return a page as HTML; every text in it is escaped.

    Args:
        template: file in ``templates`` that extends ``page.html.j2``.
        charts: plotly figures in plain data by the id of the element that they are drawn into, colours as tokens
            (:mod:`classwise.report.charts`); empty for a page without plotly.
        title: of the page.
        subtitle: the line below it.
        version: of classwise, in the last line; the installed one if empty.
        values: what the template names.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    environment.filters["csv_uri"] = csv_uri
    return environment.get_template(template).render(
        title=title,
        subtitle=subtitle,
        version=version or importlib.metadata.version("classwise"),
        light=LIGHT,
        dark=DARK,
        plotly=Markup(get_plotlyjs()) if charts else "",  # the library itself, shipped inside the plotly package
        data=script_json({"palettes": palettes(), "charts": charts}) if charts else "",
        **values,
    )


def _clean(value: Any) -> Any:
    """Keep what a reader must not meet out of the text of a page; pictures and files inside it stay as they are."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.startswith("data:"):
        return value
    return portable(plain_lines(value))


def script_json(value: Any) -> Markup:
    """Write JSON that may stand inside a script element: no ``<`` is left to close the element with."""
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def csv_uri(sheet: Sheet) -> str:
    """Return a sheet's values as a ``data:`` address for a download link, which works without scripts."""
    return "data:text/csv;charset=utf-8," + quote(to_csv(sheet), safe=",.:;()/")
