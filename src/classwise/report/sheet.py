"""A table as values, and its four spellings: Markdown, the terminal, CSV, and the cells of the page."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

Value = str | int | float | None


@dataclass(frozen=True)
class Cell:
    """What a reader sees, and the values behind it.

    Attributes:
        text: the cell as printed.
        values: one value for each CSV column of its column; None where undefined.
    """

    text: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        keys: names of its CSV columns, mostly one; an interval has two.
        words: left-aligned text rather than numbers.
        note: what the heading means, for a tooltip and the reading guide.
    """

    title: str
    keys: tuple[str, ...]
    words: bool = False
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table with a caption; the first cell of a row is its heading.

    Attributes:
        name: stem of the CSV file.
        marked: position of the row to emphasise, if any.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: int | None = None


def to_markdown(sheet: Sheet) -> str:
    """Return the sheet as a GitHub-flavoured Markdown table, safe against names that contain markup."""
    lines = [
        [escape_markdown(column.title) for column in sheet.columns],
        [":---" if column.words else "---:" for column in sheet.columns],
        *([escape_markdown(cell.text) for cell in row] for row in sheet.rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_rich(sheet: Sheet) -> Table:
    """Return the sheet as a table for the terminal; text is never read as rich markup."""
    table = Table(title=Text(sheet.caption), title_justify="left", caption_justify="left")
    for column in sheet.columns:
        table.add_column(Text(column.title), justify="left" if column.words else "right")
    for position, row in enumerate(sheet.rows):
        style = "bold" if position == sheet.marked else None
        table.add_row(*(Text(cell.text) for cell in row), style=style)
    return table


def to_csv(sheet: Sheet) -> str:
    """Return the values behind the sheet as CSV: shares as fractions of 1, undefined values empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(key for column in sheet.columns for key in column.keys)
    writer.writerows(_values(row) for row in sheet.rows)
    return buffer.getvalue()


def escape_markdown(text: str) -> str:
    r"""Make text literal inside a Markdown table cell.

    Example:
        >>> escape_markdown("<b>cat|dog</b>")
        '&lt;b&gt;cat\\|dog&lt;/b&gt;'
    """
    literal = re.sub(r"([\\`*\[\]|~])", r"\\\1", html.escape(text, quote=False))
    # An underscore inside a word never starts emphasis, so names such as sports_car stay readable.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", literal)


def _values(row: tuple[Cell, ...]) -> Iterator[Value]:
    for cell in row:
        yield from (repr(round(v, 6)) if isinstance(v, float) else v for v in cell.values)
