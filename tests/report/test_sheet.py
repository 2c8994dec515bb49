from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.console import Console

from classwise.report.sheet import (
    Cell,
    Column,
    Sheet,
    escape_latex,
    escape_markdown,
    to_csv,
    to_latex,
    to_markdown,
    to_rich,
)

COLUMNS = (Column("name", ("name",), words=True), Column("interval", ("low", "high")))


def sheet(name: str = "cat") -> Sheet:
    return Sheet("s", "a caption", COLUMNS, ((Cell(name, (name,)), Cell("10–20", (0.1, 0.2))),), marked=0)


def show(table: Sheet) -> str:
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(to_rich(table))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_markdown_has_a_heading_an_alignment_and_a_line_a_row() -> None:
    assert to_markdown(sheet()) == "| name | interval |\n| :--- | ---: |\n| cat | 10–20 |\n"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1))
def test_no_name_adds_a_cell_or_a_line_to_a_markdown_table(name: str) -> None:
    line = to_markdown(sheet(name)).split("\n")[2]
    assert line.replace("\\\\", "").replace("\\|", "").count("|") == 3


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "<b>", "&lt;"])
def test_markdown_names_hold_no_html(name: str) -> None:
    assert "<" not in escape_markdown(name)
    assert escape_markdown("&lt;") == "&amp;lt;"


def test_underscores_inside_a_word_stay_readable() -> None:
    assert escape_markdown("sports_car _x_") == "sports_car \\_x\\_"


@pytest.mark.parametrize("name", ["[bold]cat[/bold]", "[red]", "[/]"])
def test_terminal_names_are_not_read_as_markup(name: str) -> None:
    assert name in show(sheet(name))


def test_the_terminal_table_has_the_caption_and_headings() -> None:
    text = show(sheet())
    assert "a caption" in text
    assert "interval" in text


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), min_size=1))
def test_csv_reads_back_whatever_the_name(name: str) -> None:
    assume(not name.startswith(("=", "+", "-", "@")))
    assert list(csv.reader(io.StringIO(to_csv(sheet(name)), newline=""))) == [
        ["name", "low", "high"],
        [name, "0.1", "0.2"],
    ]


@pytest.mark.parametrize("name", ["=HYPERLINK(A1)", "+1+cmd", "-2+3", "@SUM(A1)"])
def test_a_spreadsheet_computes_nothing_that_a_name_says(name: str) -> None:
    assert next(csv.reader(io.StringIO(to_csv(sheet(name)).split("\n", 1)[1])))[0] == f"'{name}"


@pytest.mark.parametrize("name", ["-1", "+2.5"])
def test_a_name_that_is_a_number_stays_one(name: str) -> None:
    assert next(csv.reader(io.StringIO(to_csv(sheet(name)).split("\n", 1)[1])))[0] == name


@pytest.mark.parametrize("character", "\x1b\x07\n\r\x9b\u202e\u2066\u200b\ufeff\u2028")
def test_no_spelling_of_a_table_holds_a_character_that_drives_a_terminal(character: str) -> None:
    table = sheet(f"a{character}b")
    for text in (to_markdown(table), to_latex(table), to_csv(table), show(table)):
        assert not any(f"a{character}" in line or f"{character}b" in line for line in text.split("\n"))
        assert "a" in text


def test_csv_leaves_undefined_values_empty() -> None:
    table = Sheet("s", "", COLUMNS, ((Cell("cat", ("cat",)), Cell("–", (None, None))),))
    assert to_csv(table) == "name,low,high\ncat,,\n"


def test_latex_has_a_caption_a_heading_an_alignment_and_a_line_a_row() -> None:
    assert to_latex(sheet(), "PGD only").splitlines() == [
        r"\begin{table}",
        r"\caption{a caption. PGD only}",
        r"\label{tab:s}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"name & interval \\",
        r"\midrule",
        r"cat & 10--20 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1))
def test_no_name_adds_a_cell_a_command_or_a_comment_to_a_latex_table(name: str) -> None:
    row = to_latex(sheet(name)).split("\n")[7].removesuffix(r" \\")
    escaped = re.sub(r"\\[&%$#_{}]", "", row)
    assert escaped.count("&") == 1
    assert not set("%$#_~^<>|") & set(escaped)
    assert set(re.findall(r"\\(\w*)", escaped)) <= {
        "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "ldots",
        "textperiodcentered", "ensuremath", "le", "ge", "pm", "to",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["[2pt] cat", "*"])
def test_a_name_is_not_read_as_an_option_of_the_end_of_the_row_before(name: str) -> None:
    assert escape_latex(name)[0] == "{"
