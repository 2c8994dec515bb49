from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.analysis.strategies import planted, subject
from tests.metrics.strategies import QUICK

from classwise.analysis.groups import discover, grouping_test, groups


def blocks(sizes: list[int], inside: int = 20, outside: int = 1) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.where(labels[:, None] == labels, inside, outside)
    np.fill_diagonal(counts, 500)
    return counts


@pytest.mark.parametrize("sizes", [[4, 6], [2, 3, 4], [5, 5, 5, 5]])
def test_planted_blocks_are_found(sizes: list[int]) -> None:
    assert discover(blocks(sizes)).tolist() == np.repeat(np.arange(len(sizes)), sizes).tolist()


@QUICK
@given(st.permutations(range(9)))
def test_renaming_classes_renames_the_groups(order: list[int]) -> None:
    counts, labels = blocks([2, 3, 4]), np.repeat([0, 1, 2], [2, 3, 4])
    found = discover(counts[np.ix_(order, order)])
    same = found[:, None] == found
    np.testing.assert_array_equal(same, (labels[:, None] == labels)[np.ix_(order, order)])


def test_classes_that_are_never_confused_stay_alone() -> None:
    assert discover(np.eye(4) * 9).tolist() == [0, 1, 2, 3]
    assert discover([[9, 3, 0], [3, 9, 0], [0, 0, 9]]).tolist() == [0, 0, 1]


def test_the_test_of_a_grouping_counts_the_groupings_that_are_as_good() -> None:
    """Four classes in two pairs can be paired in three ways, of which one is the planted one."""
    assert grouping_test(blocks([2, 2]), [0, 0, 1, 1], permutations=6000) == pytest.approx(1 / 3, abs=0.03)


def test_an_even_confusion_supports_no_grouping() -> None:
    assert grouping_test(blocks([4, 6], inside=5, outside=5), [0] * 4 + [1] * 6, permutations=200) == 1


def test_given_and_discovered_groups_are_both_described() -> None:
    """Every broken image goes to the next class: from 1 to 2 and from 3 to 0 it leaves its group."""
    given = {"first": ["class 0", "class 1"], "second": ["class 2", "class 3"]}
    outcomes = planted({"pgd": [0.2, 0.9, 0.2, 0.9]})
    named, found = groups(subject(outcomes, groups=given))
    assert named.values["within"] == pytest.approx(160 / 180)
    assert "superclasses of the data set" in named.sentence
    assert list(found.values["groups"].values()) == [("class 0", "class 1"), ("class 2", "class 3")]
    assert [finding.question for finding in groups(subject(outcomes))] == ["groups"]
