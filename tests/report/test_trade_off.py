from __future__ import annotations

import json
from pathlib import Path

import plotly.graph_objects as go
import pytest
from tests.metrics.test_trade_off import document, write
from tests.report.test_charts import painted

from classwise.metrics.result import Result
from classwise.metrics.trade_off import TradeOff
from classwise.report.contents import read
from classwise.report.page import page, write_page
from classwise.report.palette import palettes
from classwise.report.trade_off import read_trade_off, trade_off_chart, trade_off_note, trade_off_sheet


def corrected(result: Result, folder: Path) -> Result:
    name = f"corrected:{folder}"
    return Result({**result.header, "model": {**result.header["model"], "name": name}}, result.outcomes)


def curve(folder: Path, chosen: int = 1) -> TradeOff:
    return TradeOff.read(write(folder, document(chosen)))


def test_the_curve_of_the_corrected_model_that_was_evaluated_is_on_the_page(result: Result, tmp_path: Path) -> None:
    write(tmp_path, document())
    text = write_page(tmp_path, result=corrected(result, tmp_path)).read_text()
    assert "iv-offsets was fitted on 1,000 images (held out); the average could fall by 1 points. Round 1" in text
    assert '"trade-off-chart"' in text


def test_a_correction_whose_folder_is_gone_says_how_to_see_its_rounds(result: Result, tmp_path: Path) -> None:
    found = corrected(result, tmp_path / "gone")
    assert read_trade_off(found) is None
    assert "the page shows the rounds of the correction" in page(found, tmp_path)


def test_a_model_without_correction_has_no_such_section(result: Result, tmp_path: Path) -> None:
    assert read_trade_off(result) is None
    assert 'id="correction"' not in page(result, tmp_path)


def test_the_chart_has_the_rounds_and_this_evaluation_with_its_interval(result: Result, tmp_path: Path) -> None:
    contents = read(result)
    rounds, before, chosen, last = trade_off_chart(curve(tmp_path), contents)["data"]
    assert (rounds["x"], rounds["y"]) == ([50.0, 49.5, 48.0], [20.0, 30.0, 35.0])
    assert (before["x"], chosen["x"], chosen["y"]) == ([50.0], [49.5], [30.0])
    assert chosen["error_y"]["array"] == [pytest.approx(10)]
    view = contents.worst_case
    assert last["x"] == [pytest.approx(100 * view.average, abs=1e-3)]
    assert last["y"][0] + last["error_y"]["array"][0] == pytest.approx(100 * view.worst_interval[1], abs=2e-3)


def test_where_nothing_was_better_nothing_is_marked_as_chosen(result: Result, tmp_path: Path) -> None:
    found = curve(tmp_path, chosen=0)
    assert trade_off_chart(found, read(result))["data"][2]["x"] == []
    assert "nothing was changed" in trade_off_note(found)


def test_the_table_has_a_row_for_each_round_and_marks_the_chosen_one(tmp_path: Path) -> None:
    sheet = trade_off_sheet(curve(tmp_path))
    assert sheet.marked == 1
    assert [cell.text for cell in sheet.rows[1]] == [
        "1",
        "80.00",
        "49.50",
        "46.50–52.50",
        "-0.50",
        "-1.50 to +0.50",
        "cat",
        "30.00",
        "20.00–40.00",
    ]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_plotly_takes_the_chart_in_both_palettes(result: Result, tmp_path: Path, mode: str) -> None:
    chart = trade_off_chart(curve(tmp_path), read(result))
    assert json.dumps(chart, allow_nan=False)
    assert go.Figure(painted(chart, palettes()[mode])).data
