"""The tables of a study: over seeds, against the reference, by test images, and seconds that count what came before."""

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

from classwise.metrics.extremes import worst_interval
from classwise.metrics.result import Result
from classwise.report.sheet import Sheet
from classwise.studies import table as study_table
from classwise.studies.spec import Entry, Given, Study
from classwise.studies.table import Spread, TableRow, achieved, mean_radius, price, rows, sampling, training_seconds
from classwise.studies.trials import GIVEN, Trial

STUDY = Study("tiny", "digits", ("digits_cnn",), recipe="digits", method=(Entry("at"),))


def result(clean: list[int], attacked: list[int]) -> Result:
    """Return an evaluation of four images of each of two classes, with so many right."""
    y = np.repeat([0, 1], 4)

    def prediction(right: list[int]) -> Any:
        return np.concatenate([np.where(np.arange(4) < count, c, 1 - c) for c, count in enumerate(right)])

    made = make(y, prediction(clean), num_classes=2, pgd=prediction(attacked))
    return Result(header(made), made)


def row(*results: Result, wanted: int = 2) -> TableRow:
    numbered = dict(enumerate(results))
    return TableRow("at", "digits_cnn", "best", wanted, numbered, {seed: 10.0 * (seed + 1) for seed in numbered})


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
    three = Spread.of([0.25, 0.5, 0.75])
    assert (three.mean, three.std, three.values) == (0.5, pytest.approx(0.25), (0.25, 0.5, 0.75))
    assert Spread.of([]).as_dict() == {"mean": None, "std": None, "values": []}


def texts(sheet: Sheet, line: int = 0) -> dict[str, str]:
    return {column.title: cell.text for column, cell in zip(sheet.columns, sheet.rows[line], strict=True)}


def test_cells_are_per_cent_with_a_deviation_where_there_are_two_seeds() -> None:
    """Seconds 10 and 20: mean 15, deviation √50 = 7.07. NSD of 3/4 and 1/4 is a half, of 1/2 and 1/2 nothing."""
    several = row(result([4, 4], [3, 1]), result([4, 3], [2, 2]))
    found = texts(achieved(STUDY, [several]))
    assert found["robust worst"] == f"37.5 ± {100 * math.sqrt(1 / 32):.1f}"
    assert found["robust NSD"] == f"25.0 ± {100 * math.sqrt(1 / 8):.1f}"
    assert found["seeds"] == "2/2"
    found = texts(price(STUDY, [several]))
    assert (found["seconds"], found["worst classes"]) == ("15 ± 7", "class 1, class 0")
    single = texts(achieved(STUDY, [row(result([4, 4], [3, 1]))]))
    assert (single["robust worst"], single["seeds"]) == ("25.0", "1/2")


def test_a_row_without_results_has_dashes() -> None:
    empty = achieved(STUDY, [row()])
    assert {cell.text for cell in empty.rows[0][2:-1]} == {"–"}
    assert empty.marked is None
    assert {cell.text for cell in price(STUDY, [row()]).rows[0][2:]} == {"–"}
    assert sampling(STUDY, [row()]).rows == ()


def test_the_best_worst_class_is_marked() -> None:
    low, high = row(result([4, 4], [4, 1])), row(result([4, 4], [2, 2]))
    assert achieved(STUDY, [low, high, row()]).marked == 1


# Test images: the interval of one seed, whatever other seeds did


def test_the_interval_is_that_of_the_test_images_of_the_first_seed() -> None:
    """Robust 3/4 and 1/4; the interval is that of the worst class of two."""
    both = row(result([4, 4], [3, 1]), result([4, 3], [2, 2]))
    alone = row(result([4, 4], [3, 1]))
    low, high = worst_interval([3, 1], [4, 4])
    found = texts(sampling(STUDY, [both]))
    assert found == texts(sampling(STUDY, [alone]))
    assert found["robust worst"] == f"25.0 ({100 * low:.1f}–{100 * high:.1f})"
    assert both.record()["views"]["worst_case"]["worst"]["intervals"][0] == pytest.approx([low, high])
    assert len(both.record()["views"]["worst_case"]["worst"]["intervals"]) == 2


# The reference


def large(right: tuple[int, int]) -> Result:
    """Return an evaluation of a hundred images of each of two classes, of which the first so many stay right."""
    y = np.repeat([0, 1], 100)
    attacked = np.concatenate([np.where(np.arange(100) < count, c, 1 - c) for c, count in enumerate(right)])
    made = make(y, y, num_classes=2, pgd=attacked)
    return Result(header(made), made)


def test_rho_is_relative_gain_of_the_worst_class_less_relative_loss_of_the_average() -> None:
    """Worst 20 to 30 of 100: +1/2. Average 50 to 40 %: −1/5. So 0.3; and −1/2 − 0.2 for 10 and 40 %."""
    base = row(large((80, 20)), large((80, 20)))
    other = replace(row(large((50, 30)), large((70, 10))), name="other", reference=base)
    assert other.rho == pytest.approx([0.3, -0.7])
    assert texts(achieved(STUDY, [base, other]), 1)["rho_wat"] == "-0.20 ± 0.71"
    assert texts(achieved(STUDY, [base, other]))["rho_wat"] == "–"


def test_classes_pay_and_gain_where_a_paired_test_says_so() -> None:
    """A class that loses 30 of 100 images and gains none pays; one that loses 2 does not (p = 1/2)."""
    base = row(large((80, 20)), large((80, 20)))
    other = replace(row(large((50, 60)), large((78, 60))), name="other", reference=base)
    found = texts(price(STUDY, [base, other]), 1)
    assert (found["gains"], found["pays"]) == ("class 1 2/2", "class 0 1/2")
    same = replace(base, reference=base)
    assert texts(price(STUDY, [same]))["pays"] == "no class"
    assert other.record()["reference"]["pays"] == {"class 0": 1}


def test_only_seeds_that_both_have_are_compared() -> None:
    base = row(large((80, 20)))
    other = replace(row(large((50, 30)), large((50, 30))), name="other", reference=base)
    assert list(other.changes) == [0]
    assert other.record()["reference"]["sha256"] == ["0" * 64]


def test_a_study_without_reference_says_nothing_of_it() -> None:
    study = replace(STUDY, method=(Entry("trades"),))
    found = row(result([4, 4], [3, 1]))
    titles = {column.title for sheet in study_table.sheets(study, [found]) for column in sheet.columns}
    assert not titles & {"rho_wat", "gains", "pays"}


def test_the_reference_has_the_same_weights_if_it_can(tmp_path: Path) -> None:
    study = replace(STUDY, method=(Entry("at"), Entry("trades")), seeds=(0,))
    trials = [trial("at", weights=("best", "last")), trial("trades", weights=("last", "fawa-best"))]
    found = {(each.name, each.weights): each.reference for each in rows(study, trials, tmp_path)}
    assert found["at", "best"] is None
    assert [(each and each.weights) for each in (found["trades", "last"], found["trades", "fawa-best"])] == [
        "last",
        "best",
    ]


# Cost


def line(radius: list[float] | None, n: list[int], attacked: bool = True) -> dict[str, Any]:
    state = {} if radius is None else {"radius": radius}
    return {"train": {"robust" if attacked else "clean": {"n": n}}, "class_state": state}


def test_the_mean_radius_is_that_of_the_images() -> None:
    """Epochs two and three use what the log says after one and two: (2·1 + 1·3)/4 and (2·2 + 2·1)/4."""
    lines = [line([2, 1], [9, 9]), line([2, 1], [1, 3]), line([7, 7], [2, 2])]
    assert mean_radius(lines) == pytest.approx((5 + 6) / 8)
    assert mean_radius([line(None, [1, 1])] * 2) == 1.0
    assert mean_radius([line(None, [1, 1], attacked=False)] * 2) is None
    assert mean_radius([line([2, 2], [1, 1])]) is None


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
    (each.folder(tmp_path) / "trial.json").write_text(json.dumps({"name": each.name, "key": each.key, "code": [code]}))
    return each


def test_the_files_hold_what_was_found_and_say_what_is_missing(tmp_path: Path) -> None:
    trials = [finished(tmp_path, 0, "a"), trial("at", seed=1, evaluation={"images": 8})]
    found = rows(STUDY, trials, tmp_path)
    assert [(each.name, list(each.results), each.wanted) for each in found] == [("at", [0], 2)]
    study_table.write(STUDY, trials, found, tmp_path)
    record = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    assert record["rows"][0]["views"]["worst_case"]["worst"]["values"] == [0.25]
    assert record["reference"] == "at"
    text = (tmp_path / "table.md").read_text()
    assert "1 of 2 evaluations finished" in text
    assert "states of the code" not in text


def test_rows_made_by_different_code_are_told(tmp_path: Path) -> None:
    trials = [finished(tmp_path, 0, "aaaa"), finished(tmp_path, 1, "bbbb")]
    study_table.write(STUDY, trials, rows(STUDY, trials, tmp_path), tmp_path)
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
    study = replace(STUDY, given=(Given("theirs", "digits_cnn", eps=0.1),), eps=0.1)
    found = rows(study, [given(tmp_path, "theirs"), finished(tmp_path, 0, "a")], tmp_path)
    assert [(each.name, each.model, each.weights) for each in found] == [
        ("at", "digits_cnn", "best"),
        ("theirs", "given", "given"),
    ]
    texts = [[cell.text for cell in table(study, found).rows[1]] for table in (achieved, price)]
    assert texts[0][:2] == ["theirs", "given"]
    assert "25.0" in texts[0]
    assert texts[1][-1] == "–"


def test_data_and_threat_are_in_the_table_where_rows_differ_in_them(tmp_path: Path) -> None:
    study = Study("tiny", "digits", given=(Given("a", "digits_cnn"), Given("b", "digits_cnn", "mnist")), eps=0.1)
    trials = [given(tmp_path, "a"), given(tmp_path, "b", data="mnist")]
    study_table.write(study, trials, rows(study, trials, tmp_path), tmp_path, "\n## What was said\n")
    text = (tmp_path / "table.md").read_text()
    assert "| a | digits, Linf 0.1 | given |" in text
    assert "| b | mnist, Linf 0.1 | given |" in text
    assert "training" not in text
    assert text.endswith("## What was said\n")
