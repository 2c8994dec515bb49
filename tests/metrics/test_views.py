from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from tests.metrics.strategies import QUICK, header, make, outcomes, recorded

from classwise.errors import InputError
from classwise.metrics import Outcomes, Result, lower_bounds, simultaneous, summarize, upper_bounds, worst_interval

MADE = make([0] * 4 + [1] * 4, [0] * 4 + [1, 1, 1, 0], num_classes=3, pgd=[0, 0, 0, 1, 1, 0, 0, 0])


def result(made: Outcomes) -> Result:
    return Result(header(made), made)


def test_the_weakest_class_has_a_name_an_accuracy_and_the_interval_of_the_minimum() -> None:
    worst = result(MADE).worst
    assert (worst.name, worst.index, worst.images, worst.correct, worst.tied) == ("class 1", 1, 4, 1, (1,))
    assert (worst.accuracy, worst.clean_accuracy) == (0.25, 0.75)
    assert worst.interval == worst_interval([3, 1, 0], [4, 4, 0])


def test_the_average_counts_all_images_and_has_its_exact_interval() -> None:
    average = result(MADE).average
    assert (average.images, average.correct, average.accuracy) == (8, 4, 0.5)
    assert average.interval == (lower_bounds([4], [8], 0.975)[0], upper_bounds([4], [8], 0.975)[0])


def test_classes_are_found_by_number_and_by_name() -> None:
    by_class = result(MADE).by_class
    assert [entry.name for entry in by_class] == ["class 0", "class 1", "class 2"]
    assert by_class["class 0"] is by_class[0] is by_class[-3] is by_class[:2][0]
    assert (by_class[0].correct, by_class[0].accuracy, by_class[0].clean_accuracy, by_class[0].cfps) == (
        3,
        0.75,
        1,
        0.75,
    )
    assert by_class[0].interval == tuple(ends[0] for ends in simultaneous([3, 1, 0], [4, 4, 0]))
    assert "class 1" in by_class
    assert "cat" not in by_class


def test_a_class_without_images_is_undefined_and_never_0() -> None:
    empty = result(MADE).by_class["class 2"]
    assert (empty.images, empty.correct) == (0, 0)
    assert np.isnan([empty.accuracy, empty.clean_accuracy, *empty.interval]).all()


def test_a_name_that_no_class_or_two_classes_have_is_refused() -> None:
    with pytest.raises(InputError, match="no class 'cat'; the classes are class 0, class 1, class 2"):
        summarize(MADE).by_class["cat"]
    twins = Outcomes(("a", "a"), [0, 1], [0, 1], [0, 1], {}, {}, {})
    with pytest.raises(InputError, match="2 classes are called 'a'; take the class by its number"):
        summarize(twins).by_class["a"]


def test_every_view_has_the_same_form() -> None:
    made = result(MADE)
    assert list(made.views) == ["clean", "pgd", "worst_case"]
    assert made.clean is made.view("clean")
    assert made.clean.average.accuracy == 0.875
    assert made.view("pgd").header["settings"] == recorded("pgd")["settings"]
    assert made.view().worst is made.worst
    assert made.view().gap.value == 0.5
    assert made.view().worst_q10.size == 1


def test_no_images_have_no_weakest_class() -> None:
    summary = summarize(make([], [], num_classes=2))
    assert (summary.worst.name, summary.worst.index, summary.worst.tied) == ("", -1, ())
    assert math.isnan(summary.worst.accuracy)
    assert math.isnan(summary.average.accuracy)


@QUICK
@given(outcomes(min_images=1))
def test_typed_values_are_the_numbers_of_result_json(drawn: Outcomes) -> None:
    made = result(drawn)
    for name, view in made.views.items():
        stored = made.table(name)
        assert stored["accuracy"] == view.average.accuracy
        assert stored["worst"]["index"] == view.worst.index
        assert stored["correct"] == [entry.correct for entry in view.by_class]
        assert [math.nan if value is None else value for value in stored["by_class"]] == pytest.approx(
            [entry.accuracy for entry in view.by_class], abs=0, nan_ok=True
        )
    assert made.document["equal_classes"]["gap"]["p_value"] == made.equal_classes.gap.p_value
