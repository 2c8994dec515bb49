from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint
from tests.metrics.strategies import QUICK, counts

from classwise.errors import InputError
from classwise.metrics import (
    clopper_pearson,
    lower_bounds,
    simultaneous,
    upper_bounds,
    wilson,
)
from classwise.metrics.intervals import tail_size

K = np.array([0, 1, 7, 50, 99, 100, 250, 4999])
N = np.array([10, 1, 50, 100, 100, 100, 1000, 5000])


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.9995])
def test_wilson_agrees_with_statsmodels(confidence: float) -> None:
    low, high = proportion_confint(K, N, alpha=1 - confidence, method="wilson")
    mine = wilson(K, N, confidence)
    np.testing.assert_allclose(mine.low, low, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(mine.high, high, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.9995])
def test_clopper_pearson_agrees_with_statsmodels(confidence: float) -> None:
    low, high = proportion_confint(K, N, alpha=1 - confidence, method="beta")
    mine = clopper_pearson(K, N, confidence)
    np.testing.assert_allclose(mine.low, low, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(mine.high, high, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("n", [1, 20, 300])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.9995])
def test_one_sided_bounds_are_right_at_least_as_often_as_promised_at_every_rate(n: int, confidence: float) -> None:
    """Enumerated; between the bounds that a sample can have, coverage is monotone, so its least is beside one of them.

    Exact also means no wider than needed: beside some bound, coverage is what was promised.
    """
    right, size = np.arange(n + 1), np.full(n + 1, n)
    for bounds, holds in ((lower_bounds, np.less_equal), (upper_bounds, np.greater_equal)):
        ends = bounds(right, size, confidence)
        rates = np.concatenate([ends - 1e-9, ends, ends + 1e-9]).clip(0, 1)
        covered = (binom.pmf(right[:, None], n, rates) * holds(ends[:, None], rates)).sum(0)
        assert covered.min() == pytest.approx(confidence, abs=1e-7)


def test_two_sided_ends_are_one_sided_bounds_at_half_the_error() -> None:
    low, high = clopper_pearson(K, N, 0.95)
    np.testing.assert_array_equal(low, lower_bounds(K, N, 0.975))
    np.testing.assert_array_equal(high, upper_bounds(K, N, 0.975))


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("n", [20, 100, 1000])
def test_all_classes_are_covered_at_once_down_to_rates_of_one_in_a_thousand(classes: int, n: int) -> None:
    """Enumerated; Wilson's intervals, for comparison, fall to 37 % and below."""
    right, size = np.arange(n + 1), np.full(n + 1, n)
    share = 1 - 0.05 / classes
    rates = np.array([0.001, 0.0015, 0.005, 0.01, 0.1, 0.5, 0.9, 0.99, 0.995, 0.9985, 0.999])
    chance = binom.pmf(right[:, None], n, rates)

    def at_once(base) -> np.ndarray:
        low, high = (ends[:, None] for ends in base(right, size, share))
        return (chance * ((low <= rates) & (rates <= high))).sum(0) ** classes

    assert at_once(clopper_pearson).min() >= 0.95
    assert at_once(wilson).min() < 0.95


def test_a_thousand_classes_have_their_simultaneous_intervals() -> None:
    low, high = simultaneous(np.full(1000, 999), np.full(1000, 1000))
    assert (low == low[0]).all()
    assert low[0] < 0.999 < high[0] < 1


def test_wilson_by_hand() -> None:
    """k = 5, n = 10, z = 1.959964: z² = 3.841459, centre (0.5 + 0.192073)/1.384146 = 0.5, and the half width
    1.959964·√(0.025 + 0.00960365)/1.384146 = 0.263405."""
    low, high = wilson([5], [10])
    assert low[0] == pytest.approx(0.236595, abs=2e-6)
    assert high[0] == pytest.approx(0.763405, abs=2e-6)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson, simultaneous])
def test_a_class_without_images_has_no_interval(interval) -> None:
    low, high = interval([0, 3], [0, 5])
    assert math.isnan(low[0])
    assert math.isnan(high[0])
    assert low[1] < 0.6 < high[1]


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_all_wrong_starts_at_exactly_0_and_all_right_ends_at_exactly_1(interval) -> None:
    low, high = interval(np.array([0, 17]), np.array([17, 17]))
    assert low[0] == 0.0
    assert high[1] == 1.0


@QUICK
@given(counts(), st.sampled_from([wilson, clopper_pearson]), st.floats(0.5, 0.999))
def test_intervals_hold_the_estimate_and_stay_in_the_unit_range(drawn, interval, confidence) -> None:
    right, n = map(np.array, drawn)
    low, high = interval(right, n, confidence)
    there = n > 0
    rate = right[there] / n[there]
    assert ((low[there] >= 0) & (low[there] <= rate) & (rate <= high[there]) & (high[there] <= 1)).all()


@QUICK
@given(counts(min_images=1), st.sampled_from([wilson, clopper_pearson]))
def test_swapping_right_and_wrong_mirrors_the_interval(drawn, interval) -> None:
    right, n = map(np.array, drawn)
    low, high = interval(right, n)
    other_low, other_high = interval(n - right, n)
    np.testing.assert_allclose(low, 1 - other_high, atol=1e-13)
    np.testing.assert_allclose(high, 1 - other_low, atol=1e-13)


def test_bonferroni_is_the_interval_at_one_minus_a_over_c() -> None:
    np.testing.assert_allclose(simultaneous(K, N, 0.95), clopper_pearson(K, N, 1 - 0.05 / 8), rtol=1e-12)
    np.testing.assert_allclose(simultaneous(K, N, 0.95, base="wilson"), wilson(K, N, 1 - 0.05 / 8), rtol=1e-12)


def test_sidak_is_the_interval_at_one_minus_a_to_the_1_over_c() -> None:
    np.testing.assert_allclose(
        simultaneous(K, N, 0.95, correction="sidak", base="clopper_pearson"),
        clopper_pearson(K, N, 0.95 ** (1 / 8)),
        rtol=1e-10,
    )


def test_sidak_is_never_wider_than_bonferroni() -> None:
    sidak, bonferroni = simultaneous(K, N, correction="sidak"), simultaneous(K, N)
    assert (sidak.low >= bonferroni.low).all()
    assert (sidak.high <= bonferroni.high).all()


def test_absent_classes_cost_no_confidence() -> None:
    alone, beside = simultaneous([30, 40], [50, 50]), simultaneous([30, 0, 40], [50, 0, 50])
    np.testing.assert_array_equal(alone.low, beside.low[[0, 2]])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, -0.1])
def test_a_confidence_that_is_no_probability_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match=r"must lie between 0 and 1, as in 0\.95"):
        simultaneous([1], [2], confidence)


@pytest.mark.parametrize(("right", "n"), [([3], [2]), ([-1], [2]), ([0.5], [2]), ([1, 1], [2])])
def test_counts_that_cannot_be_are_refused(right, n) -> None:
    with pytest.raises(InputError, match="integers between 0"):
        wilson(right, n)


def test_an_unknown_correction_or_base_is_refused() -> None:
    with pytest.raises(InputError, match="no 'none' correction"):
        simultaneous([1], [2], correction="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'wald' intervals"):
        simultaneous([1], [2], base="wald")  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "q", "m"), [(10, 0.1, 1), (11, 0.1, 2), (100, 0.07, 7), (5, 0, 1), (7, 1, 7)])
def test_the_tail_has_the_ceiling_of_qc_classes(size: int, q: float, m: int) -> None:
    assert tail_size(size, q) == m


def test_a_tail_that_is_no_share_is_refused() -> None:
    with pytest.raises(InputError, match=r"q is 10; it must lie between 0 and 1"):
        tail_size(10, 10)
