from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from tests.report.test_charts import painted

from classwise.metrics.result import Result
from classwise.metrics.training import Curve
from classwise.report.contents import read
from classwise.report.epochs import epoch_chart, epoch_sheet, images_meant, read_curve
from classwise.report.palette import palettes


def write_run(folder: Path, classes: list[str], epochs: int = 3) -> None:
    folder.mkdir()
    entry = {"n": [200] * len(classes), "correct": list(range(len(classes)))}
    line = json.dumps({"valid": {"robust": entry}, "train": None})
    (folder / "log.jsonl").write_text(f"{line}\n" * epochs)
    (folder / "run.json").write_text(json.dumps({"classes": classes}))


def evaluated(result: Result, name: str) -> Result:
    return Result({**result.header, "model": {**result.header["model"], "name": name}}, result.outcomes)


def test_the_log_of_the_run_that_was_evaluated_is_read(result: Result, tmp_path: Path) -> None:
    write_run(tmp_path / "run", list(result.outcomes.classes))
    for name in (f"run:{tmp_path / 'run'}", f"run:{tmp_path / 'run'}@ema-best"):
        found = read_curve(evaluated(result, name), tmp_path)
        assert found is not None
        assert found.accuracy.shape == (3, 10)


def test_a_log_beside_the_result_is_read_wherever_the_run_was(result: Result, tmp_path: Path) -> None:
    write_run(tmp_path / "both", list(result.outcomes.classes))
    assert read_curve(evaluated(result, "run:gone"), tmp_path / "both") is not None


@pytest.mark.parametrize("name", ["run:gone", "mine.py:load"])
def test_without_a_log_there_is_no_curve(result: Result, tmp_path: Path, name: str) -> None:
    assert read_curve(evaluated(result, name), tmp_path) is None


@pytest.mark.parametrize(("classes", "epochs"), [(["other"] * 10, 3), (None, 1)])
def test_a_run_with_other_classes_or_one_epoch_gives_no_curve(
    result: Result, tmp_path: Path, classes: list[str] | None, epochs: int
) -> None:
    write_run(tmp_path / "run", classes or list(result.outcomes.classes), epochs)
    assert read_curve(evaluated(result, f"run:{tmp_path / 'run'}"), tmp_path) is None


def test_lines_are_the_average_the_worst_and_every_class(result: Result, training: Curve) -> None:
    """Class c ends at 10 (c + 5) of 200 images: 2.5, 3.0, … 7.0 tenths, mean 4.75 tenths, worst 2.5."""
    *classes, worst, average = epoch_chart(training, read(result))["data"]
    assert [line["name"] for line in classes] == list(result.outcomes.classes)
    assert average["y"][-1] == pytest.approx(47.5)
    assert worst["y"][-1] == pytest.approx(25)
    assert worst["customdata"][-1] == "<b>worst class</b> (airplane)<br>epoch 5: 25.00 %"


def test_the_table_of_epochs_has_the_numbers_of_the_chart(result: Result, training: Curve) -> None:
    sheet = epoch_sheet(training, read(result))
    assert [row[0].text for row in sheet.rows] == ["1", "2", "3", "4", "5"]
    assert [cell.text for cell in sheet.rows[-1][1:5]] == ["47.50", "25.00", "airplane", "25.00"]
    assert images_meant(training) in sheet.caption


def test_classes_without_images_are_not_drawn(result: Result, training: Curve) -> None:
    accuracy, final = training.accuracy.copy(), training.final.copy()
    accuracy[:, 4], final[4] = np.nan, np.nan
    chart = epoch_chart(training._replace(accuracy=accuracy, final=final), read(result))
    assert "deer" not in {line["name"] for line in chart["data"]}
    assert json.dumps(chart, allow_nan=False)
    assert go.Figure(painted(chart, palettes()["dark"])).data
