from __future__ import annotations

import json
import math

import numpy as np
import pytest

from classwise.analysis.finding import Finding, decide, markdown, plain_json, table
from classwise.metrics.intervals import Interval
from classwise.report.sheet import to_csv


@pytest.mark.parametrize(
    ("kind", "value", "text", "values"),
    [
        ("words", "cat", "cat", ("cat",)),
        ("words", "", "–", ("",)),
        ("count", 1234, "1,234", (1234.0,)),
        ("share", 0.1234, "12.34", (0.1234,)),
        ("share", math.nan, "–", (None,)),
        ("points", -0.012, "-1.20", (-0.012,)),
        ("number", 0.12345, "0.123", (0.12345,)),
        ("fine", 0.12345, "0.1235", (0.12345,)),
        ("p", 0.0312, "0.031", (0.0312,)),
        ("interval", (0.1, 0.2), "10.00–20.00", (0.1, 0.2)),
        ("interval", (math.nan, math.nan), "–", (None, None)),
        ("estimate", (0.15, (0.1, 0.2)), "15.00 (10.00–20.00)", (0.15, 0.1, 0.2)),
        ("estimate", (0.15, (math.nan, math.nan)), "15.00", (0.15, None, None)),
    ],
)
def test_each_kind_of_column_is_written_and_keeps_its_values(kind, value, text: str, values) -> None:
    cell = table("t", "caption", {"title": kind}, [[value]]).rows[0][0]
    assert (cell.text, cell.values) == (text, values)


def test_an_interval_takes_two_csv_columns_and_an_estimate_three() -> None:
    sheet = table("t", "c", {"a b": "interval", "x": "estimate"}, [[(0.1, 0.2), (0.5, (0.4, 0.6))]])
    assert to_csv(sheet).splitlines() == ["a_b_low,a_b_high,x,x_low,x_high", "0.1,0.2,0.5,0.4,0.6"]


def test_a_finding_is_strict_json_with_null_for_undefined() -> None:
    values = {"array": np.array([0.5, np.nan]), "pair": Interval(0.0, math.inf), "n": np.int64(3), 4: (True, None)}
    finding = Finding(
        "flow", "", "model", "described", "It is so.", (table("t", "c", {"x": "share"}, [[0.5]]),), values
    )
    document = json.loads(json.dumps(finding.as_dict(), allow_nan=False))
    assert document["values"] == {"array": [0.5, None], "pair": {"low": 0.0, "high": None}, "n": 3, "4": [True, None]}
    assert document["tables"] == {"t": [{"x": 0.5}]}
    assert document["verdict"] == "described"


def test_markdown_holds_sentence_verdict_and_tables_and_escapes_names() -> None:
    sheet = table("t", "the caption", {"class": "words"}, [["<b>|"]])
    text = markdown([Finding("flow", "H4", "a|b", "refuted", "So *it* is.", (sheet,), {})])
    assert "## flow: a\\|b (H4: refuted)" in text
    assert "So \\*it\\* is." in text
    assert "| &lt;b&gt;\\| |" in text


def test_what_is_both_supported_and_refuted_cannot_be() -> None:
    assert [decide(True, False), decide(False, True), decide(False, False)] == ["supported", "refuted", "undecided"]


def test_plain_types_stay_as_they_are() -> None:
    assert plain_json({"a": "text", "b": [1, 2.5, None, True]}) == {"a": "text", "b": [1, 2.5, None, True]}
