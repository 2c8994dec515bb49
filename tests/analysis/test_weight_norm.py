from __future__ import annotations

import numpy as np
import pytest
from tests.analysis.strategies import planted, subject

from classwise.analysis.weight_norm import weight_norm

ROBUST = np.linspace(0.1, 0.9, 9)


def rows(lengths: np.ndarray) -> np.ndarray:
    directions = np.random.default_rng(0).normal(size=(len(lengths), 5))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True) * np.asarray(lengths)[:, None]


@pytest.mark.parametrize(("lengths", "verdict"), [(1 + ROBUST, "supported"), (2 - ROBUST, "refuted")])
def test_h8_follows_the_sign_of_a_clear_correlation(lengths, verdict: str) -> None:
    found = weight_norm(subject(planted({"pgd": ROBUST.tolist()})), rows(lengths))
    assert found.verdict == verdict
    assert "9 classes are 9 points" in found.sentence
    np.testing.assert_allclose(found.values["lengths"]["plain"], lengths)


def test_ten_points_without_order_decide_nothing() -> None:
    lengths = np.random.default_rng(3).permutation(1 + ROBUST)
    assert weight_norm(subject(planted({"pgd": ROBUST.tolist()})), rows(lengths)).verdict == "undecided"


def test_weights_of_one_length_leave_it_open() -> None:
    found = weight_norm(subject(planted({"pgd": ROBUST.tolist()})), rows(np.ones(9)))
    assert (found.verdict, found.sheets) == ("undecided", ())
    assert "same length" in found.sentence


def test_a_shift_common_to_all_rows_changes_no_centred_length() -> None:
    weight = rows(1 + ROBUST)
    one, two = (weight_norm(subject(planted({"pgd": ROBUST.tolist()})), w) for w in (weight, weight + 3.0))
    np.testing.assert_allclose(one.values["lengths"]["centred"], two.values["lengths"]["centred"])
