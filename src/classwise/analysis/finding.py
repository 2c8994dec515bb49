"""What an analysis returns: numbers, tables, and one sentence that says whether a claim holds on this evidence."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from classwise.files.texts import plain
from classwise.metrics.intervals import Interval
from classwise.report.sheet import Cell, Column, Sheet, Value, escape_markdown, to_latex, to_markdown
from classwise.report.tables import ABSENT, p_text, percent, span

Verdict = Literal["supported", "refuted", "undecided", "not applicable", "described"]
"""On this evidence; "not applicable" where no outcome could decide, "described" where the analysis tests no claim."""

Kind = Literal["words", "count", "share", "interval", "estimate", "points", "number", "fine", "p"]


@dataclass(frozen=True, eq=False)
class Finding:
    """The answer to one question on one subject.

    Attributes:
        question: name of the question.
        claim: id of the claim in docs/analysis.md that the verdict is about, "" if none.
        subject: which evaluation or run, as printed.
        verdict: what this evidence says about the claim.
        sentence: the verdict in words, with its numbers.
        sheets: tables.
        values: the numbers behind it: arrays, plain types, named tuples; NaN for undefined.
    """

    question: str
    claim: str
    subject: str
    verdict: Verdict
    sentence: str
    sheets: tuple[Sheet, ...]
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", plain(self.subject))
        object.__setattr__(self, "sentence", plain(self.sentence))

    def as_dict(self) -> dict[str, Any]:
        """Return the same in plain types for JSON, None for undefined numbers; tables as rows of values."""
        tables = {sheet.name: _rows(sheet) for sheet in self.sheets}
        named = {key: getattr(self, key) for key in ("question", "claim", "subject", "verdict", "sentence")}
        return {**named, "values": plain_json(self.values), "tables": tables}


def markdown(findings: Sequence[Finding]) -> str:
    """Return findings as Markdown: a heading, the sentence and the tables of each."""
    return "\n".join(_section(finding) for finding in findings)


def latex(findings: Sequence[Finding]) -> str:
    """Return the tables of findings in LaTeX (package booktabs), each with its finding's sentence in the caption."""
    return "\n".join(to_latex(sheet, finding.sentence) for finding in findings for sheet in finding.sheets)


def _section(finding: Finding) -> str:
    claim = f" ({finding.claim}: {finding.verdict})" if finding.claim else ""
    tables = "".join(f"\n{escape_markdown(sheet.caption)}:\n\n{to_markdown(sheet)}" for sheet in finding.sheets)
    title, sentence = f"{finding.question}: {finding.subject}{claim}", escape_markdown(finding.sentence)
    return f"## {escape_markdown(title)}\n\n{sentence}\n{tables}"


def decide(supported: bool, refuted: bool) -> Verdict:
    """Return the verdict of two tests that exclude each other; neither is undecided.

    Example:
        >>> decide(False, False)
        'undecided'
    """
    return "supported" if supported else "refuted" if refuted else "undecided"


def headline(claim: str, verdict: Verdict) -> str:
    """Return how a verdict's sentence begins.

    Example:
        >>> headline("H4", "refuted")
        'H4 is refuted on this evidence'
    """
    return f"{claim} is {verdict} on this evidence"


def table(
    name: str,
    caption: str,
    columns: Mapping[str, Kind],
    rows: Sequence[Sequence[Any]],
    marked: int | None = None,
    spare: Collection[str] = (),
) -> Sheet:
    """Make a table of typed values.

    Args:
        name: stem of its CSV file.
        caption: what it shows, with the unit.
        columns: titles, and how to write each column: a share of 1 in per cent with two decimals ("share", "interval"
            for a pair, "estimate" for a value and its interval), a difference of shares with sign ("points"), a plain
            number with three or four decimals ("number", "fine"), a p-value.
        rows: one value a column.
        marked: position of the row to emphasise.
        spare: columns that a narrow terminal may leave out.
    """
    heads = tuple(
        Column(title, _keys(title, kind), words=kind == "words", spare=title in spare)
        for title, kind in columns.items()
    )
    cells = tuple(tuple(_cell(value, kind) for value, kind in zip(row, columns.values(), strict=True)) for row in rows)
    return Sheet(name, caption, heads, cells, marked)


def plain_json(value: Any) -> Any:
    """Turn typed values, arrays, named tuples and mappings into what JSON can say; NaN and infinity become None."""
    if hasattr(value, "as_dict"):
        return plain_json(value.as_dict())
    if isinstance(value, (np.ndarray, np.generic)):
        return plain_json(value.tolist())
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain_json(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _keys(title: str, kind: Kind) -> tuple[str, ...]:
    key = title.lower().replace(" ", "_")
    ends = (f"{key}_low", f"{key}_high")
    return ends if kind == "interval" else (key, *ends) if kind == "estimate" else (key,)


def _cell(value: Any, kind: Kind) -> Cell:
    if kind == "words":
        return Cell(str(value) or ABSENT, (str(value),))
    if kind == "interval":
        low, high = value
        return Cell(span(low, high), (_defined(low), _defined(high)))
    if kind == "estimate":
        number, (low, high) = value
        within = f" ({span(low, high)})" if _defined(low) is not None else ""
        return Cell(percent(number) + within, (_defined(number), _defined(low), _defined(high)))
    number = _defined(value)
    if number is None:
        return Cell(ABSENT, (None,))
    return Cell(_written(number, kind), (number,))


def _written(number: float, kind: Kind) -> str:
    if kind == "count":
        return f"{number:,.0f}"
    if kind == "share":
        return percent(number)
    if kind == "points":
        return f"{100 * number:+.2f}"
    return p_text(number) if kind == "p" else f"{number:.{4 if kind == 'fine' else 3}f}"


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _rows(sheet: Sheet) -> list[dict[str, Value]]:
    keys = [key for column in sheet.columns for key in column.keys]
    return [dict(zip(keys, (v for cell in row for v in cell.values), strict=True)) for row in sheet.rows]


def points(interval: Interval) -> str:
    """Write an interval of a difference of shares in points.

    Example:
        >>> points(Interval(-0.01, 0.024))
        '−1.0 to +2.4'
    """
    return f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}".replace("-", "−")
