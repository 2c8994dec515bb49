from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix
from tests.metrics.strategies import QUICK, counts, make, outcomes

from classwise.errors import InputError
from classwise.metrics import (
    INVALID,
    Outcomes,
    attack_success_rate,
    average,
    boundary_error,
    cfps,
    class_variance,
    delta,
    disparity_shift,
    fairlearn_names,
    false_positive_rate,
    gap,
    gini,
    literature_names,
    macro_average,
    nsd,
    ratio,
    rho_wat,
    std,
    std_corrected,
    table,
    variance_corrected,
    worst,
    worst_classes,
    worst_fixed,
    worst_q,
)
from classwise.metrics.summaries import by_row, corrected_variances

SUMMARIES = [macro_average, worst, worst_q, gap, ratio, std, class_variance, nsd, gini]
RATES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
V = [0.2, 0.4, 0.4, 0.8]


@pytest.mark.parametrize(
    ("summary", "value"),
    [
        (macro_average, 0.45),
        (worst, 0.2),
        (gap, 0.6),
        (ratio, 0.25),
        # deviations −0.25, −0.05, −0.05, 0.35: squares sum to 0.19
        (class_variance, 0.0475),
        (std, math.sqrt(0.0475)),
        (nsd, math.sqrt(0.0475) / 0.45),
        # unordered pairs differ by 0.2, 0.2, 0.6, 0, 0.4, 0.4 = 1.8; 2·1.8/(2·16·0.45)
        (gini, 0.25),
    ],
)
def test_each_summary_by_hand(summary, value: float) -> None:
    assert summary(V) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("q", "value"), [(0.1, 0.2), (0.5, 0.3), (0.6, 1 / 3), (1, 0.45)])
def test_worst_q_averages_the_lowest_classes(q: float, value: float) -> None:
    assert worst_q(V, q) == pytest.approx(value)


@pytest.mark.parametrize("summary", SUMMARIES)
def test_an_absent_class_is_skipped_and_not_counted_as_0(summary) -> None:
    assert summary([0.2, math.nan, 0.4, 0.4, 0.8]) == summary(V)


@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize("accuracy", [[math.nan, math.nan], []])
def test_without_any_class_a_summary_is_nan(summary, accuracy) -> None:
    assert math.isnan(summary(accuracy))


@pytest.mark.parametrize("summary", [ratio, nsd, gini])
def test_a_relative_summary_is_undefined_when_every_class_is_at_0(summary) -> None:
    assert math.isnan(summary([0.0, 0.0]))


@pytest.mark.parametrize("summary", SUMMARIES)
def test_a_matrix_is_refused_in_place_of_classes(summary) -> None:
    with pytest.raises(InputError, match=r"shape \(1, 2\); give one number a class"):
        summary([[0.5, 0.5]])


@QUICK
@given(RATES, st.floats(0, 1))
def test_worst_is_at_most_the_tail_the_mean_and_the_best(rates, q) -> None:
    rounding = 1e-12
    assert worst(rates) <= worst_q(rates, q) + rounding
    assert worst_q(rates, q) <= macro_average(rates) + rounding
    assert macro_average(rates) <= max(rates) + rounding


@QUICK
@given(RATES, st.randoms(use_true_random=False))
def test_the_order_of_classes_does_not_matter(rates, random) -> None:
    shuffled = random.sample(rates, len(rates))
    for summary in SUMMARIES:
        assert summary(shuffled) == pytest.approx(summary(rates), rel=1e-9, abs=1e-12, nan_ok=True)


@QUICK
@given(st.floats(0.01, 1), st.integers(1, 12))
def test_equal_classes_have_no_disparity(rate, size) -> None:
    for summary in (gap, std, class_variance, nsd, gini):
        assert summary([rate] * size) == pytest.approx(0, abs=1e-12)
    assert ratio([rate] * size) == 1


@QUICK
@given(RATES)
def test_spread_agrees_with_scipy(rates) -> None:
    assert class_variance(rates) == pytest.approx(np.var(rates), abs=1e-15)
    if np.mean(rates) > 0.01:
        assert nsd(rates) == pytest.approx(stats.variation(rates), abs=1e-12)


@QUICK
@given(RATES.filter(lambda rates: sum(rates) > 0.01))
def test_gini_is_half_the_mean_difference_over_the_mean(rates) -> None:
    v = np.array(rates)
    assert gini(rates) == pytest.approx(np.abs(v[:, None] - v).mean() / (2 * v.mean()), abs=1e-12)


@pytest.mark.parametrize("summary", SUMMARIES)
def test_by_row_is_each_row_alone(summary) -> None:
    accuracy = np.random.default_rng(0).random((20, 5))
    accuracy[:, 2] = math.nan
    accuracy[7] = [0, 0, math.nan, 0, 0]  # some are undefined there
    np.testing.assert_allclose(by_row(summary, accuracy), [summary(row) for row in accuracy], rtol=1e-12)
    assert np.isnan(by_row(summary, np.full((3, 2), math.nan))).all()


def test_all_classes_at_the_minimum_are_named() -> None:
    assert worst_classes([0.5, math.nan, 0.2, 0.2]) == [2, 3]
    assert worst_classes([math.nan]) == []


def test_worst_fixed_reads_the_class_chosen_on_validation_data() -> None:
    assert worst_fixed([0.1, 0.6, 0.3], [0.5, 0.2, math.nan]) == 0.6
    assert worst_fixed([0.1, 0.6, 0.3], [0.5, 0.2, 0.2]) == 0.6
    assert math.isnan(worst_fixed([0.1], [math.nan]))


def test_average_weighs_images_and_macro_average_classes() -> None:
    y, prediction = np.array([0] * 9 + [1]), np.array([0] * 9 + [0])
    made = make(y, prediction)
    assert average(made.counts(), made.n) == accuracy_score(y, prediction) == 0.9
    assert macro_average(made.accuracy()) == balanced_accuracy_score(y, prediction) == 0.5
    assert math.isnan(average([0], [0]))


def test_std_corrected_by_hand() -> None:
    """v = (0.2, 0.8), n = 11: σ² = 0.09; v(1 − v)/(n − 1) = 0.016 each; 0.09 − ½·0.016 = 0.082."""
    assert variance_corrected([22, 88], [110, 110]) == pytest.approx(0.09 - 0.5 * 0.16 / 109)
    assert std_corrected([2, 8], [10, 10]) == pytest.approx(math.sqrt(0.09 - 0.5 * 0.16 / 9))


def test_std_corrected_is_0_where_noise_explains_the_spread() -> None:
    assert variance_corrected([50, 52], [100, 100]) < 0
    assert std_corrected([50, 52], [100, 100]) == 0


def test_std_corrected_skips_absent_classes_and_needs_two_images() -> None:
    assert std_corrected([2, 0, 8], [10, 0, 10]) == std_corrected([2, 8], [10, 10])
    assert math.isnan(std_corrected([1, 8], [1, 10]))
    assert math.isnan(std_corrected([0], [0]))


def test_the_corrected_variance_is_unbiased_and_the_plain_one_is_not() -> None:
    """4,000 samples of 20 images a class: the standard error of the mean is about 0.0006, the bias 0.009."""
    rates = np.array([0.3, 0.4, 0.5, 0.7])
    n = np.array([20, 15, 20, 25])
    draws = np.random.default_rng(0).binomial(n, rates, size=(4000, 4))
    corrected = np.mean(corrected_variances(draws, n))
    assert corrected_variances(draws, n)[7] == variance_corrected(draws[7], n)
    plain = np.mean([class_variance(right / n) for right in draws])
    assert corrected == pytest.approx(np.var(rates), abs=0.002)
    assert plain - np.var(rates) > 0.006


@pytest.mark.parametrize(
    ("method", "mean", "lowest", "rho"),
    [
        ("FRL", 44.68, 25.84, 0.110),
        ("CFA", 50.78, 27.62, 0.316),
        ("BAT", 45.89, 17.82, -0.242),
        ("WAT", 46.30, 28.55, 0.269),
        ("DAFA", 49.05, 30.53, 0.418),
    ],
)
def test_rho_of_dafas_cifar10_table(method: str, mean: float, lowest: float, rho: float) -> None:
    """Against TRADES, average 49.80 and worst 21.31, as printed in DAFA's repository (spec/methods.md)."""
    assert rho_wat(lowest, mean, worst_base=21.31, average_base=49.80) == pytest.approx(rho, abs=0.0005), method


def test_rho_against_a_baseline_at_0_is_undefined() -> None:
    assert math.isnan(rho_wat(0.1, 0.5, worst_base=0.0, average_base=0.5))


def test_delta_without_a_change_of_the_average_has_no_ratio() -> None:
    assert math.isnan(delta(0.5, 0.5, 0.25, 0.5).ratio)


def test_disparity_shift_is_the_disparity_that_the_attack_adds() -> None:
    assert disparity_shift([0.9, 0.8], [0.6, 0.2]) == pytest.approx(0.3)
    assert disparity_shift([0.5, 0.5], [0.2, 0.6], measure=std) == pytest.approx(0.2)


def test_boundary_error_completes_the_robust_error() -> None:
    clean, robust = np.array([0.9, math.nan]), np.array([0.5, math.nan])
    error = boundary_error(clean, robust)
    assert (1 - clean[0]) + error[0] == pytest.approx(1 - robust[0])
    assert math.isnan(error[1])


def test_attack_success_rate_divides_by_the_images_that_were_right() -> None:
    np.testing.assert_array_equal(attack_success_rate([8, 4, 0], [2, 4, 0]), [0.75, 0.0, math.nan])


@QUICK
@given(outcomes(min_images=1))
def test_false_positive_shares_sum_to_1_or_are_undefined(drawn: Outcomes) -> None:
    for view in drawn.views:
        confusion = drawn.confusion(view)
        shares = cfps(confusion)
        wrong = confusion.sum() - np.trace(confusion)
        if wrong:
            assert shares.sum() == pytest.approx(1)
        else:
            assert np.isnan(shares).all()


def test_false_positives_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(3)
    y, prediction = random.integers(0, 4, 200), random.integers(0, 4, 200)
    confusion = confusion_matrix(y, prediction)
    positives = np.array([((prediction == c) & (y != c)).sum() for c in range(4)])
    np.testing.assert_allclose(cfps(confusion), positives / (y != prediction).sum())
    others = np.array([(y != c).sum() for c in range(4)])
    np.testing.assert_allclose(false_positive_rate(confusion, confusion.sum(1)), positives / others)


def test_a_class_without_images_can_be_the_favourite_wrong_answer() -> None:
    assert cfps(make([0, 0, 1], [2, 2, 1], num_classes=3).confusion("clean")).tolist() == [0, 0, 1]


def test_an_invalid_prediction_is_no_false_positive() -> None:
    made = make([0, 0], [INVALID, 0], num_classes=2)
    assert np.isnan(cfps(made.confusion("clean"))).all()
    assert false_positive_rate(made.confusion("clean"), made.n).tolist()[1] == 0


@QUICK
@given(counts())
def test_corrected_spread_never_exceeds_the_plain_one(drawn) -> None:
    right, n = map(np.array, drawn)
    corrected = std_corrected(right, n)
    if not math.isnan(corrected):
        assert corrected <= std(right[n > 0] / n[n > 0]) + 1e-12


def test_the_table_holds_counts_and_summaries() -> None:
    made = make([0] * 4 + [1] * 4, [0] * 4 + [1, 1, 1, 0], num_classes=3, pgd=[0, 0, 0, 1, 1, 0, 0, 0])
    found = table(made, "pgd")
    assert found["correct"] == [3, 1, 0]
    assert found["accuracy"] == 0.5
    assert found["by_class"] == [0.75, 0.25, None]
    assert found["intervals"][2] is None
    assert found["worst"]["class"] == "class 1"
    assert found["worst"]["index"] == 1
    assert found["worst"]["tied"] == [1]
    assert found["gap"]["value"] == 0.5
    assert found["cfps"] == [0.75, 0.25, 0.0]
    assert found["worst_q10"]["size"] == 1


def test_the_table_names_the_first_of_tied_worst_classes() -> None:
    found = table(make([0, 1, 2], [1, 0, 2]))["worst"]
    assert (found["class"], found["tied"]) == ("class 0", [0, 1])


def test_the_table_without_images_says_null_and_not_0() -> None:
    found = table(make([], [], num_classes=2))
    assert found["accuracy"] is found["worst"]["accuracy"] is found["worst"]["class"] is found["cfps"] is None
    assert found["gap"]["interval"] is None


def test_a_perfect_model_has_undefined_false_positive_shares() -> None:
    assert table(make([0, 1], [0, 1]))["cfps"] is None


@QUICK
@given(outcomes())
def test_every_table_is_strict_json(drawn: Outcomes) -> None:
    for view in drawn.views:
        found = table(drawn, view)
        assert json.loads(json.dumps(found, allow_nan=False)) == found


@QUICK
@given(outcomes(min_images=1))
def test_the_table_is_unchanged_in_rates_when_images_are_duplicated(drawn: Outcomes) -> None:
    twice = drawn.select(np.tile(np.arange(len(drawn)), 2))
    for name in ("by_class", "accuracy", "macro_average", "std", "cfps", "class_variance"):
        assert table(twice)[name] == table(drawn)[name]


@QUICK
@given(counts())
def test_the_names_of_others_stand_for_our_summaries(drawn) -> None:
    right, n = map(np.array, drawn)
    accuracy = np.divide(right, n, out=np.full(len(n), math.nan), where=n > 0)
    best = max((value for value in accuracy if not math.isnan(value)), default=math.nan)
    ours = {
        "overall": average(right, n),
        "group_min": worst(accuracy),
        "group_max": best,
        "difference": gap(accuracy),
        "ratio": ratio(accuracy),
        "WCA": worst(accuracy),
        "W10CR": worst_q(accuracy, 0.1),
    }
    found = literature_names(right, n)
    assert found.pop("by_group") == [None if math.isnan(value) else value for value in accuracy]
    assert found == {name: None if math.isnan(value) else value for name, value in ours.items()}


def test_the_names_of_fairlearn_by_hand() -> None:
    """Classes right in 8 of 10, 1 of 2 and 0 of 0: 9 of 12 overall, and the absent class is in no summary."""
    assert fairlearn_names([8, 1, 0], [10, 2, 0]) == {
        "overall": 0.75,
        "by_group": [0.8, 0.5, None],
        "group_min": 0.5,
        "group_max": 0.8,
        "difference": pytest.approx(0.3),
        "ratio": 0.625,
    }
