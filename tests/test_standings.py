"""The table of a study: means and deviations over seeds, worst classes, and seconds that count starts and teachers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.metrics.strategies import header, make
from tests.trials_for_tests import trial

from classwise import standings
from classwise.metrics.result import Result
from classwise.standings import Row, rows, sheet, spread, training_seconds
from classwise.study import Entry, Given, Study
from classwise.trials import GIVEN, Trial

STUDY = Study("tiny", "digits", ("digits_cnn",), recipe="digits", method=(Entry("at"),))


def result(clean: list[int], attacked: list[int]) -> Result:
    """Return an evaluation of four images of each of two classes, with so many right."""
    y = np.repeat([0, 1], 4)

    def prediction(right: list[int]) -> Any:
        return np.concatenate([np.where(np.arange(4) < count, c, 1 - c) for c, count in enumerate(right)])

    made = make(y, prediction(clean), num_classes=2, pgd=prediction(attacked))
    return Result(header(made), made)


def row(*results: Result, wanted: int = 2) -> Row:
    numbered = dict(enumerate(results))
    return Row("at", "digits_cnn", "best", wanted, numbered, {seed: 10.0 * (seed + 1) for seed in numbered})


def test_the_numbers_of_a_row_are_those_of_its_results() -> None:
    """Robust: 3/4 and 1/4 of the classes, then 2/4 and 2/4: averages 1/2 and 1/2, worst 1/4 and 1/2, gaps 1/2 and 0."""
    found = row(result([4, 4], [3, 1]), result([4, 3], [2, 2]))
    assert found.values("worst_case", "average") == [0.5, 0.5]
    assert found.values("worst_case", "worst") == found.values("worst_case", "W10") == [0.25, 0.5]
    assert found.values("worst_case", "gap") == [0.5, 0.0]
    assert found.values("clean", "average") == [1.0, 0.875]
    assert found.worst_classes == ["class 1", "class 0"]
    assert found.record()["views"].keys() == {"clean", "pgd", "worst_case"}


def test_the_deviation_is_that_of_a_sample() -> None:
    """0.25, 0.5, 0.75: mean 0.5, squares 2/16 over 2, root 1/4."""
    assert spread([0.25, 0.5, 0.75]) == {"mean": 0.5, "std": pytest.approx(0.25), "values": [0.25, 0.5, 0.75]}
    assert spread([]) == {"mean": None, "std": None, "values": []}


def test_cells_are_per_cent_with_a_deviation_where_there_are_two_seeds() -> None:
    several = sheet(STUDY, [row(result([4, 4], [3, 1]), result([4, 3], [2, 2]))])
    cells = dict(zip((column.title for column in several.columns), several.rows[0], strict=True))
    assert cells["robust worst"].text == f"37.5 ± {100 * math.sqrt(1 / 32):.1f}"
    assert (cells["seconds"].text, cells["seeds"].text, cells["worst classes"].text) == (
        "15",
        "2/2",
        "class 1, class 0",
    )
    single = sheet(STUDY, [row(result([4, 4], [3, 1]))])
    texts = [cell.text for cell in single.rows[0]]
    assert "25.0" in texts
    assert texts[-1] == "1/2"


def test_a_row_without_results_has_dashes() -> None:
    empty = sheet(STUDY, [row()])
    assert {cell.text for cell in empty.rows[0][2:-1]} == {"–"}
    assert empty.marked is None


def test_the_best_worst_class_is_marked() -> None:
    low, high = row(result([4, 4], [4, 1])), row(result([4, 4], [2, 2]))
    assert sheet(STUDY, [low, high, row()]).marked == 1


def test_seconds_count_every_run_below_once(tmp_path: Path) -> None:
    """A student of a teacher that started where the student starts: 1 + 10 + 100 s."""
    start = trial("start")
    teacher = trial("teacher", start=start)
    student = trial("student", start=start, teacher=teacher)
    for each, seconds in ((start, 1), (teacher, 10), (student, 100)):
        folder = each.folder(tmp_path)
        folder.mkdir()
        (folder / "log.jsonl").write_text("".join(json.dumps({"seconds": seconds / 2}) + "\n" for _ in range(2)))
    assert training_seconds(student, tmp_path) == 111
    assert training_seconds(teacher, tmp_path) == 11


def finished(tmp_path: Path, seed: int, code: str) -> Trial:
    each = trial("at", seed=seed, evaluation={"images": 8})
    result([4, 4], [3, 1]).write(each.evaluation_folder(tmp_path, "best"))
    (each.folder(tmp_path) / "trial.json").write_text(json.dumps({"key": each.key, "code": [code]}))
    return each


def test_the_files_hold_what_was_found_and_say_what_is_missing(tmp_path: Path) -> None:
    trials = [finished(tmp_path, 0, "a"), trial("at", seed=1, evaluation={"images": 8})]
    found = rows(STUDY, trials, tmp_path)
    assert [(each.name, list(each.results), each.wanted) for each in found] == [("at", [0], 2)]
    standings.write(STUDY, trials, found, tmp_path)
    record = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    assert record["rows"][0]["views"]["worst_case"]["worst"]["values"] == [0.25]
    text = (tmp_path / "table.md").read_text()
    assert "1 of 2 evaluations finished" in text
    assert "states of the code" not in text


def test_rows_made_by_different_code_are_told(tmp_path: Path) -> None:
    trials = [finished(tmp_path, 0, "aaaa"), finished(tmp_path, 1, "bbbb")]
    standings.write(STUDY, trials, rows(STUDY, trials, tmp_path), tmp_path)
    assert "2 states of the code, aaaa, bbbb" in (tmp_path / "table.md").read_text()


def test_rows_have_the_order_of_the_file_whatever_is_done_first(tmp_path: Path) -> None:
    study = replace(STUDY, method=(Entry("rslad", "student", teacher="at"), Entry("at")))
    base = trial("at")
    found = rows(study, [base, trial("student", teacher=base)], tmp_path)
    assert [each.name for each in found] == ["student", "at"]


def given(tmp_path: Path, name: str, **settings: Any) -> Trial:
    each = trial(name, recipe=None, weights=(GIVEN,), evaluation={"images": 8}, images=0, **settings)
    result([4, 4], [3, 1]).write(each.evaluation_folder(tmp_path, GIVEN))
    return each


def test_a_model_that_is_given_stands_below_what_was_trained_without_seconds(tmp_path: Path) -> None:
    study = replace(STUDY, given=(Given("theirs", "digits_cnn"),))
    found = rows(study, [given(tmp_path, "theirs"), finished(tmp_path, 0, "a")], tmp_path)
    assert [(each.name, each.model, each.weights) for each in found] == [
        ("at", "digits_cnn", "best"),
        ("theirs", "given", "given"),
    ]
    cells = dict(
        zip((column.title for column in sheet(study, found).columns), sheet(study, found).rows[1], strict=True)
    )
    assert (cells["robust worst"].text, cells["seconds"].text) == ("25.0", "–")
    assert "data" not in cells


def test_data_and_threat_are_in_the_table_where_rows_differ_in_them(tmp_path: Path) -> None:
    study = Study("tiny", "digits", given=(Given("a", "digits_cnn"), Given("b", "digits_cnn", "mnist")))
    trials = [given(tmp_path, "a"), given(tmp_path, "b", data="mnist")]
    standings.write(study, trials, rows(study, trials, tmp_path), tmp_path, "\n## What was said\n")
    text = (tmp_path / "table.md").read_text()
    assert "| a | digits, Linf 0.1 | given |" in text
    assert "| b | mnist, Linf 0.1 | given |" in text
    assert "training" not in text
    assert text.endswith("## What was said\n")
