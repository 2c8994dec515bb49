from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classwise.metrics.result import Result
from classwise.report.contents import plain, read


def test_views_are_clean_attacks_and_worst_case_in_order(result: Result) -> None:
    names = [view.name for view in read(result).views]
    assert names == ["clean", "pgd", "margin-pgd", "temperature-pgd", "worst case"]


def test_classes_come_weakest_first(result: Result) -> None:
    contents = read(result)
    assert contents.classes[contents.order[0]] == "cat"
    assert (np.diff(contents.worst_case.by_class[contents.order]) >= 0).all()


def test_every_image_is_broken_by_one_thing_or_survives(result: Result) -> None:
    contents = read(result)
    assert sum(contents.broken_by.values()) + contents.worst_case.correct.sum() == len(result.outcomes)


def test_a_class_lost_is_the_sum_of_its_flow(result: Result) -> None:
    contents = read(result)
    assert (contents.flow.sum(1) - contents.flow.diagonal()).tolist() == contents.lost.tolist()


def test_members_of_a_superclass_stand_side_by_side(result: Result) -> None:
    contents = read(result)
    assert [contents.groups[c] for c in contents.flow_order] == ["vehicles"] * 4 + ["animals"] * 6


def test_without_groups_the_order_is_that_of_the_classes(make: Callable[..., Result]) -> None:
    assert read(make()).flow_order.tolist() == list(range(10))


def test_absent_classes_are_not_ranked(make: Callable[..., Result]) -> None:
    contents = read(make(absent=(0, 5)))
    assert {0, 5}.isdisjoint(contents.order.tolist())
    assert np.isnan(contents.worst_case.by_class[[0, 5]]).all()


def test_one_class_cannot_be_tested_for_disparity(make: Callable[..., Result]) -> None:
    assert read(make(classes=["only"], weak=0)).p_value is None


def test_a_result_read_back_says_the_same(folder: Path, result: Result) -> None:
    before, after = read(result), read(Result.read(folder))
    assert before.worst_case.by_class.tolist() == after.worst_case.by_class.tolist()
    assert (before.p_value, before.broken_by, before.groups) == (after.p_value, after.broken_by, after.groups)
    assert [view.settings for view in before.attacks] == [view.settings for view in after.attacks]


def test_ties_for_the_weakest_class_are_told(make: Callable[..., Result]) -> None:
    # All images are robust in each class, so that all classes tie.
    result = make(classes=["a", "b", "c", "d", "e"], attacks=(), per_class=2)
    tied = replace(result, outcomes=replace(result.outcomes, clean=result.outcomes.y))
    assert read(tied).weakest == "a (tied with b, c and 2 more)"


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\nb", "a\tb", "a\udce9b"])
def test_names_lose_what_drives_a_terminal_or_stops_a_file(text: str) -> None:
    cleaned = plain(text)
    assert cleaned.isprintable()
    assert cleaned.encode()
