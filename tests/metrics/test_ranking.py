from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from tests.metrics.strategies import QUICK

from classwise.errors import InputError
from classwise.metrics import (
    correlation_test,
    fisher_interval,
    kendall,
    kendall_w,
    kendall_w_test,
    overlap,
    partial_correlation,
    pearson,
    ranks,
    spearman,
    spearman_brown,
    weakest,
)

# Halves make ties likely and rounding harmless.
VALUES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=12).map(
    lambda rows: (np.array(rows, dtype=float) / 2).T
)


@QUICK
@given(VALUES)
def test_ranks_and_correlations_agree_with_scipy(values) -> None:
    one, two = values
    np.testing.assert_array_equal(ranks(one), stats.rankdata(one))
    assume(np.ptp(one) > 0 and np.ptp(two) > 0)
    assert pearson(one, two) == pytest.approx(stats.pearsonr(one, two).statistic, abs=1e-9)
    assert spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic, abs=1e-9)
    assert kendall(one, two) == pytest.approx(stats.kendalltau(one, two).statistic, abs=1e-9)


@pytest.mark.parametrize("correlation", [pearson, spearman, kendall])
def test_a_constant_vector_has_no_correlation(correlation) -> None:
    assert math.isnan(correlation([0.1, 0.1, 0.1], [1, 2, 3]))


def test_concordance_agrees_with_friedmans_test() -> None:
    """W = χ²_F/(m(C − 1)), also with ties."""
    random = np.random.default_rng(0)
    table = random.integers(0, 5, size=(4, 8)).astype(float)
    chi = stats.friedmanchisquare(*table.T).statistic
    assert kendall_w(table) == pytest.approx(chi / (4 * 7))


def test_the_mean_spearman_correlation_follows_from_concordance_without_ties() -> None:
    random = np.random.default_rng(1)
    table = np.array([random.permutation(9) for _ in range(3)], dtype=float)
    mean = np.mean([spearman(table[a], table[b]) for a in range(3) for b in range(a)])
    assert mean == pytest.approx((3 * kendall_w(table) - 1) / 2)


def test_the_test_of_concordance_is_exact_on_three_classes() -> None:
    """Two rankings of three classes agree fully in one of six permutations."""
    assert kendall_w_test([[1, 2, 3], [1, 2, 3]], permutations=60_000) == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize("test", [lambda a, b: kendall_w_test([a, b], permutations=199), correlation_test])
def test_unrelated_rankings_are_rejected_no_more_often_than_the_level(test) -> None:
    """300 pairs at level 0.1: the standard error is 1.7 points."""
    random = np.random.default_rng(2)
    if test is correlation_test:
        p = [correlation_test(*random.random((2, 8)), permutations=199) for _ in range(300)]
    else:
        p = [test(*random.random((2, 8))) for _ in range(300)]
    assert 0.05 < np.mean(np.array(p) <= 0.1) < 0.15


@pytest.mark.parametrize(("alternative", "least", "most"), [("greater", 0.0, 0.02), ("less", 0.98, 1.0)])
def test_a_one_sided_test_looks_to_its_side(alternative, least: float, most: float) -> None:
    assert least <= correlation_test(range(8), range(8), alternative=alternative, permutations=499) <= most


def test_an_undefined_correlation_is_not_significant() -> None:
    assert correlation_test([1, 1, 1], [1, 2, 3]) == 1


@pytest.mark.parametrize(("r", "size", "expected"), [(0.6, 10, (-0.05, 0.89)), (0.6, 100, (0.46, 0.71))])
def test_fisher_intervals_of_the_specification(r: float, size: int, expected) -> None:
    assert fisher_interval(r, size) == pytest.approx(expected, abs=0.005)


def test_fisher_intervals_end_where_r_is_1_and_need_four_classes() -> None:
    assert fisher_interval(1.0, 10).high == pytest.approx(1)
    assert math.isnan(fisher_interval(0.5, 3).low)


def test_a_partial_correlation_is_that_of_the_residuals() -> None:
    random = np.random.default_rng(4)
    c = random.random(20)
    a, b = c + random.random(20), c - random.random(20)
    left = [v - np.polyval(np.polyfit(c, v, 1), c) for v in (a, b)]
    assert partial_correlation(a, b, c) == pytest.approx(pearson(*left))
    assert math.isnan(partial_correlation(a, b, a))


@pytest.mark.parametrize(("r", "whole"), [(0.0, 0.0), (0.5, 2 / 3), (1.0, 1.0)])
def test_spearman_brown(r: float, whole: float) -> None:
    assert spearman_brown(r) == pytest.approx(whole)


def test_the_weakest_fifth_and_its_overlap() -> None:
    values = [0.9, 0.1, 0.5, 0.1, 0.8, 0.7]
    assert weakest(values) == [1, 3]
    assert overlap(values, [0.9, 0.1, 0.2, 0.3, 0.8, 0.7]) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="same classes"):
        overlap([1, 2], [1, 2, 3])
