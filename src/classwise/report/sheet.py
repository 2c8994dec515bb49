"""A table as values, and its spellings: Markdown, LaTeX, the terminal, CSV, and the cells of the page."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table

from classwise.files.texts import plain
from classwise.report.console import Text

Value = str | int | float | None

# A bracket or an asterisk at the start of a row would be read as an option of the \\ that ends the row before.
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "–": "--",
    "·": r"\textperiodcentered{}",
    "…": r"\ldots{}",
    "−": r"\ensuremath{-}",
    "≤": r"\ensuremath{\le}",
    "≥": r"\ensuremath{\ge}",
    "±": r"\ensuremath{\pm}",
    "→": r"\ensuremath{\to}",
}


@dataclass(frozen=True)
class Cell:
    """What a reader sees, and the values behind it.

    Attributes:
        text: the cell as printed.
        values: one value for each CSV column of its column; None where undefined.
        link: where the text leads to on a page, relative to it; "" for nowhere.
    """

    text: str
    values: tuple[Value, ...]
    link: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", plain(self.text))
        object.__setattr__(self, "values", tuple(plain(v) if isinstance(v, str) else v for v in self.values))


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        keys: names of its CSV columns, mostly one; an interval has two.
        words: left-aligned text rather than numbers.
        note: what the heading means, for a tooltip and the reading guide.
        spare: left out of a terminal too narrow for every column.
        find: whether a search for rows looks at it, as at the first column.
    """

    title: str
    keys: tuple[str, ...]
    words: bool = False
    note: str = ""
    spare: bool = False
    find: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", plain(self.title))


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "caption", plain(self.caption))


def to_markdown(sheet: Sheet) -> str:
    """Return the sheet as a GitHub-flavoured Markdown table, safe against names that contain markup."""
    lines = [
        [escape_markdown(column.title) for column in sheet.columns],
        [":---" if column.words else "---:" for column in sheet.columns],
        *([escape_markdown(cell.text) for cell in row] for row in sheet.rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_latex(sheet: Sheet, remark: str = "") -> str:
    """Return the sheet as a LaTeX table, for a document that loads the package booktabs.

    ``remark`` goes on in the caption, where it stays with the numbers.
    """
    caption = f"{sheet.caption}. {remark}" if remark else f"{sheet.caption}."
    lines = [
        " & ".join(escape_latex(column.title) for column in sheet.columns),
        *(" & ".join(escape_latex(cell.text) for cell in row) for row in sheet.rows),
    ]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\label{{tab:{sheet.name}}}",
            rf"\begin{{tabular}}{{{''.join('l' if column.words else 'r' for column in sheet.columns)}}}",
            r"\toprule",
            rf"{lines[0]} \\",
            r"\midrule",
            *(rf"{line} \\" for line in lines[1:]),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_rich(sheet: Sheet, width: int = 80) -> Table:
    """Return the sheet as a table for a terminal ``width`` characters wide, which spare columns make room in.

    Text is never read as rich markup.
    """
    columns = _fitting(sheet, width)
    table = Table(title=Text(sheet.caption), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for c in columns:
        column = sheet.columns[c]
        side: Literal["left", "right"] = "left" if column.words else "right"
        # Headings and cells of two numbers may break at a blank; no number is cut.
        longest = max((len(word) for row in sheet.rows for word in row[c].text.split()), default=1)
        table.add_column(Text(column.title), justify=side, no_wrap=c == 0, min_width=longest)
    for position, row in enumerate(sheet.rows):
        style = "bold" if position == sheet.marked else None
        table.add_row(*(Text(row[c].text) for c in columns), style=style)
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


def escape_latex(text: str) -> str:
    r"""Make text literal in LaTeX.

    Example:
        >>> escape_latex("cat_1 & 50 %")
        'cat\\_1 \\& 50 \\%'
    """
    return "".join(_LATEX.get(character, character) for character in text)


def _fitting(sheet: Sheet, width: int) -> list[int]:
    """Return the columns to show: all, or all but as many spare ones, from the right, as there is no room for."""
    titles = [len(column.title) for column in sheet.columns]
    needed = [max([size, *(len(row[c].text) for row in sheet.rows)]) + 3 for c, size in enumerate(titles)]
    columns = list(range(len(titles)))
    for c in reversed(columns.copy()):
        if sum(needed[column] for column in columns) > width and sheet.columns[c].spare:
            columns.remove(c)
    return columns


def _values(row: tuple[Cell, ...]) -> Iterator[Value]:
    for cell in row:
        yield from (repr(round(v, 6)) if isinstance(v, float) else _no_formula(v) for v in cell.values)


def _no_formula(value: Value) -> Value:
    """Keep a spreadsheet from computing what a name says; a number written as text stays one."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@")):
        return value
    return value if re.fullmatch(r"[+-]?[\d.]+", value) else f"'{value}"
