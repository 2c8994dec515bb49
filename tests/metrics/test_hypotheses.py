from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from tests.metrics.strategies import QUICK, counts

from classwise.errors import InputError
from classwise.metrics import binomial_test, chi_square, equal_classes, holm
from classwise.metrics.hypotheses import chi_square_tail


def shuffle_labels(right: list[int], n: list[int], times: int) -> dict[str, float]:
    """Do the same test the slow way, by shuffling the correctness vector."""
    random, ends = np.random.default_rng(5), np.cumsum([0, *n])
    correct = np.concatenate([np.arange(size) < k for k, size in zip(right, n, strict=True)]).astype(float)

    def summarise(vector: np.ndarray) -> np.ndarray:
        rates = np.add.reduceat(vector, ends[:-1]) / n
        return np.array([rates.var(), np.ptp(rates), -rates.min()])

    observed = summarise(correct)
    extreme = sum((summarise(random.permutation(correct)) >= observed - 1e-12).astype(int) for _ in range(times))
    return dict(zip(["variance", "gap", "minimum"], (1 + extreme) / (1 + times), strict=True))


@pytest.mark.parametrize(("right", "n"), [([12, 18, 15], [30, 30, 30]), ([3, 20, 9, 8], [10, 30, 20, 12])])
def test_drawing_counts_is_the_same_as_shuffling_labels(right, n) -> None:
    """Both p-values have a standard error of at most 0.01 with 3,000 shuffles."""
    slow, fast = shuffle_labels(right, n, 3000), equal_classes(right, n)
    for name, p_value in slow.items():
        assert getattr(fast, name).p_value == pytest.approx(p_value, abs=0.04)


def test_the_exact_probability_of_two_small_classes() -> None:
    """Two right and none of two: of the C(4, 2) = 6 ways to place two right images, 2 have gap 1."""
    tested = equal_classes([2, 0], [2, 2], permutations=50_000)
    assert tested.gap.p_value == pytest.approx(1 / 3, abs=0.01)
    assert tested.variance.p_value == tested.gap.p_value
    assert tested.minimum.p_value == tested.gap.p_value


def test_clear_disparity_has_the_smallest_p_value_possible() -> None:
    tested = equal_classes([900, 300], [1000, 1000], permutations=999)
    assert tested.variance.p_value == tested.gap.p_value == tested.minimum.p_value == 1 / 1000
    assert tested.chi_square.p_value < 1e-100


def test_statistics_of_the_data_are_reported() -> None:
    tested = equal_classes([9, 3], [10, 10], permutations=9)
    assert tested.gap.value == pytest.approx(0.6)
    assert tested.variance.value == pytest.approx(0.09)
    assert tested.minimum.value == pytest.approx(0.3)


def test_under_equal_classes_it_rejects_no_more_often_than_its_level() -> None:
    """400 data sets: at level 0.1 the standard error is 1.5 points; ties make the test a little conservative."""
    draws = np.random.default_rng(0).binomial([40, 60, 50], 0.4, size=(400, 3))
    p = np.array(
        [
            [
                getattr(equal_classes(k, [40, 60, 50], permutations=499), s).p_value
                for s in ("variance", "gap", "minimum")
            ]
            for k in draws
        ]
    )
    rejected = (p <= 0.1).mean(0)
    assert (rejected < 0.14).all()
    assert (rejected > 0.05).all()


@QUICK
@given(counts())
def test_p_values_are_probabilities_above_0(drawn) -> None:
    tested = equal_classes(*drawn, permutations=20)
    for statistic in (tested.variance, tested.gap, tested.minimum):
        assert 1 / 21 <= statistic.p_value <= 1


@pytest.mark.parametrize(("right", "n"), [([0, 0], [5, 7]), ([5, 7], [5, 7]), ([3], [7]), ([3, 0], [7, 0])])
def test_without_differences_nothing_is_rejected_and_chi_square_is_undefined(right, n) -> None:
    tested = equal_classes(right, n, permutations=50)
    assert tested.variance.p_value == tested.gap.p_value == tested.minimum.p_value == 1
    assert math.isnan(tested.chi_square.p_value)


def test_without_images_values_are_undefined() -> None:
    tested = equal_classes([0, 0], [0, 0])
    assert math.isnan(tested.gap.value)
    assert tested.gap.p_value == 1


def test_absent_classes_are_left_out() -> None:
    assert equal_classes([9, 0, 3], [10, 0, 10]) == equal_classes([9, 3], [10, 10])


def test_the_seed_decides_the_draws_and_may_be_negative() -> None:
    first, again = (equal_classes([9, 5], [10, 10], seed=-3) for _ in range(2))
    assert first == again
    assert first.gap.p_value != equal_classes([9, 5], [10, 10], seed=4).gap.p_value


def test_chunks_together_make_the_number_of_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all images wrong every permutation counts, so a lost or doubled chunk would show."""
    monkeypatch.setattr("classwise.metrics.hypotheses._CHUNK", 7)
    assert equal_classes([0, 0], [5, 5], permutations=100).gap.p_value == 1


def test_bad_counts_and_no_permutations_are_refused() -> None:
    with pytest.raises(InputError, match="integers between 0"):
        equal_classes([3], [2])
    with pytest.raises(InputError, match="needs permutations, not 0"):
        equal_classes([1], [2], permutations=0)


@QUICK
@given(counts(min_classes=2, min_images=1))
def test_chi_square_agrees_with_scipy(drawn) -> None:
    right, n = map(np.array, drawn)
    tested = chi_square(right, n)
    if 0 < right.sum() < n.sum():
        peer = stats.chi2_contingency([right, n - right], correction=False)
        assert tested.statistic == pytest.approx(peer.statistic, rel=1e-9, abs=1e-12)
        assert (tested.dof, tested.p_value) == (peer.dof, pytest.approx(peer.pvalue, rel=1e-9))
    else:
        assert math.isnan(tested.statistic)


@QUICK
@given(st.floats(0, 3000), st.integers(1, 999))
def test_the_tail_of_chi_square_agrees_with_scipy(statistic: float, dof: int) -> None:
    assert chi_square_tail(statistic, dof) == pytest.approx(stats.chi2.sf(statistic, dof), rel=1e-9, abs=1e-280)


def test_chi_square_and_permutations_agree_on_large_classes() -> None:
    """For equal sizes the class variance is a multiple of χ², so the two p-values estimate the same thing."""
    tested = equal_classes([480, 500, 530], [1000] * 3, permutations=20_000)
    assert tested.variance.p_value == pytest.approx(tested.chi_square.p_value, abs=0.01)


@settings(deadline=None, max_examples=8)  # statsmodels collects garbage at every call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_agrees_with_statsmodels(p_values) -> None:
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=1e-12)


def test_holm_skips_tests_that_were_not_made() -> None:
    np.testing.assert_array_equal(holm([0.01, math.nan, 0.04]), [0.02, math.nan, 0.04])
    assert holm([]).tolist() == []


@QUICK
@given(st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.01, 0.99))
def test_the_binomial_test_agrees_with_scipy(drawn, probability: float) -> None:
    successes, trials = drawn
    peer = stats.binomtest(successes, trials, probability).pvalue if trials else 1.0
    assert binomial_test(successes, trials, probability) == pytest.approx(peer, rel=1e-6, abs=1e-12)


def test_the_binomial_test_at_one_half_counts_both_sides_in_spite_of_rounding() -> None:
    for successes in range(1, 500):
        expected = 2 * stats.binom.cdf(successes, 999, 0.5)
        assert binomial_test(successes, 999) == pytest.approx(min(1, expected), rel=1e-9)


@pytest.mark.parametrize(
    ("successes", "trials", "probability"), [(1, 2, 2 / 3), (2, 2, 2 / 3), (0, 3, 1 / 4), (1, 3, 1 / 4)]
)
def test_the_likeliest_counts_have_p_value_1_even_if_two_tie(successes, trials, probability) -> None:
    assert binomial_test(successes, trials, probability) == 1


@pytest.mark.parametrize(("successes", "trials", "probability"), [(3, 2, 0.5), (-1, 2, 0.5), (1, 2, 0.0)])
def test_a_senseless_binomial_test_is_refused(successes, trials, probability) -> None:
    with pytest.raises(InputError, match="makes no sense"):
        binomial_test(successes, trials, probability)
