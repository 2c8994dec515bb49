from __future__ import annotations

import numpy as np
import pytest
from tests.analysis.strategies import planted, subject

from classwise.analysis.weight_norm import ERROR, weight_norm
from classwise.metrics.ranking import correlation_test

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


HEAVY = {
    "normal": lambda rng, size: 1 + rng.normal(0, 0.1, size) ** 2,
    "one class far longer": lambda rng, size: 1 + rng.pareto(0.5, size),
    "two lengths": lambda rng, size: 1.0 + rng.integers(0, 2, size) + 1e-3 * rng.uniform(size=size),
}


@pytest.mark.parametrize(("shape", "size"), [("normal", 5), ("one class far longer", 10), ("two lengths", 10)])
def test_lengths_without_a_bearing_on_robustness_rarely_decide_h8(shape: str, size: int) -> None:
    """Size at most 5 %, up to three standard errors of 1,000 draws, on either side together; skewed accuracies too."""
    rng = np.random.default_rng(size)
    robust = np.linspace(0, 0.9, size) ** 8
    lengths = (HEAVY[shape](rng, size) for _ in range(1000))
    p = np.array([correlation_test(each, robust, rank=False, permutations=99) for each in lengths])
    assert (p < ERROR).mean() <= ERROR + 3 * (ERROR * (1 - ERROR) / 1000) ** 0.5


def test_h8_is_decided_by_the_permutation_test_whose_size_was_simulated() -> None:
    rng, given = np.random.default_rng(0), subject(planted({"pgd": ROBUST.tolist()}))
    for spread in (0.0, 0.1, 0.2, 0.3, 0.5):
        lengths = 1 + ROBUST + rng.normal(0, spread, 9)
        found = weight_norm(given, rows(lengths))
        assert found.values["p_value"] == correlation_test(lengths, given.result.outcomes.accuracy(), rank=False)
        assert (found.verdict == "supported") == (found.values["p_value"] < ERROR)
