from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, multinomial
from statsmodels.stats.contingency_tables import mcnemar as peer
from tests.metrics.strategies import QUICK

from classwise.errors import InputError
from classwise.metrics import (
    Levelling,
    Pairs,
    average_change,
    change_intervals,
    clopper_pearson,
    detectable,
    holm,
    largest_gain,
    largest_loss,
    levelling,
    mcnemar,
    pairs,
)
from classwise.metrics.intervals import Interval


def counts(gained: list[int], lost: list[int], n: list[int]) -> Pairs:
    return Pairs(*(np.array(values, dtype=np.int64) for values in (gained, lost, n)))


@st.composite
def drawn_pairs(draw: st.DrawFn) -> Pairs:
    rows = [
        (gained, draw(st.integers(0, n - gained)), n)
        for n in draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
        for gained in [draw(st.integers(0, n))]
    ]
    return counts(*map(list, zip(*rows, strict=True)))


def test_pairs_by_hand() -> None:
    """Class 0: one gained, one lost, one right twice; class 1: one gained, one wrong twice."""
    y, first = [0, 0, 0, 1, 1], np.array([1, 0, 1, 0, 0], bool)
    found = pairs(first, np.array([0, 1, 1, 1, 0], bool), y, num_classes=3)
    assert [values.tolist() for values in found] == [[1, 1, 0], [1, 0, 0], [3, 2, 0]]
    np.testing.assert_array_equal(found.change, [0, 0.5, np.nan])


def test_other_images_cannot_be_paired() -> None:
    with pytest.raises(InputError, match="paired only on the same images"):
        pairs([True], [True, False], [0, 0], num_classes=1)


@QUICK
@given(drawn_pairs())
def test_mcnemar_agrees_with_statsmodels(drawn: Pairs) -> None:
    for p, gained, lost, n in zip(mcnemar(drawn), *drawn, strict=True):
        expected = min(1.0, peer([[0, gained], [lost, 0]], exact=True).pvalue) if n else math.nan
        assert p == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_mcnemar_with_holm_rejects_no_class_of_equal_models_more_often_than_its_level() -> None:
    """300 comparisons of 10 classes; discreteness makes the family-wise error well below the level of 10 %."""
    random = np.random.default_rng(0)
    rejected = 0
    for _ in range(300):
        gained, lost = random.binomial(200, 0.1, size=(2, 10))
        rejected += (holm(mcnemar(counts(gained, lost, [200] * 10))) < 0.1).any()
    assert rejected / 300 < 0.13


def test_an_interval_of_a_change_by_hand() -> None:
    """Gained 8/100 with exact limits .0352 and .1516, lost 4/100 with .0110 and .0993, correlation −.0602."""
    low, high = change_intervals(counts([8], [4], [100]))
    assert low[0] == pytest.approx(0.04 - np.sqrt(0.0448**2 + 0.0593**2 + 2 * 0.0602 * 0.0448 * 0.0593), abs=2e-4)
    assert high[0] == pytest.approx(0.04 + np.sqrt(0.0716**2 + 0.0290**2 + 2 * 0.0602 * 0.0716 * 0.0290), abs=2e-4)


def test_where_nothing_is_lost_the_interval_is_no_narrower_than_the_exact_one_of_what_is_gained() -> None:
    low, high = change_intervals(counts([20], [0], [1000]))
    exact = clopper_pearson([20], [1000])
    assert high[0] == pytest.approx(exact.high[0])
    assert exact.low[0] - 0.001 < low[0] < exact.low[0]


def test_few_images_or_mostly_discordant_ones_have_the_exact_box() -> None:
    for gained, lost, n in [(2, 0, 10), (40, 30, 100)]:
        low, high = change_intervals(counts([gained], [lost], [n]))
        up, down = clopper_pearson([gained], [n], 0.975), clopper_pearson([lost], [n], 0.975)
        assert (low[0], high[0]) == pytest.approx((up.low[0] - down.high[0], up.high[0] - down.low[0]))


SHARES = [0, 1e-4, 0.001, 0.005, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999, 1]


@pytest.mark.parametrize("n", [5, 20, 100])
@pytest.mark.parametrize("confidence", [0.95, 0.995])
def test_a_change_is_covered_at_all_shares_of_gained_and_lost_images(n: int, confidence: float) -> None:
    """All outcomes enumerated, each end by itself, so that no end leans on the other; 1.04 is said in the docstring."""
    gained, lost = (side[np.add.outer(range(n + 1), range(n + 1)) <= n] for side in np.indices((n + 1, n + 1)))
    size = np.full(len(gained), n)
    low, high = change_intervals(Pairs(gained, lost, size), confidence, simultaneous=False)
    for up, down in [(up, down) for up in SHARES for down in SHARES if up + down <= 1]:
        chance = multinomial.pmf(np.stack([gained, lost, n - gained - lost], 1), n, [up, down, max(0.0, 1 - up - down)])
        for outside in (low > up - down + 1e-9, high < up - down - 1e-9):
            assert chance[outside].sum() <= 1.04 * (1 - confidence) / 2, (up, down)


def test_one_sided_discordance_is_covered_where_the_adjusted_wald_interval_is_not() -> None:
    """Ten classes of 1,000 images with 2 % gained and none lost: adjusted Wald (Bonett & Price 2012) covers 90 %."""
    gained = np.arange(1001)
    chance = binom.pmf(gained, 1000, 0.02)
    low, high = change_intervals(Pairs(gained, 0 * gained, np.full(1001, 1000)), 0.995, simultaneous=False)
    up, down = (gained + 1) / 1002, 1 / 1002
    half = 2.807034 * np.sqrt((up + down - (up - down) ** 2) / 1002)
    assert chance[(low <= 0.02) & (high >= 0.02)].sum() ** 10 >= 0.95
    assert chance[np.abs(up - down - 0.02) <= half].sum() ** 10 < 0.91


@QUICK
@given(drawn_pairs())
def test_intervals_of_changes_hold_the_estimate_and_stay_in_range(drawn: Pairs) -> None:
    low, high = change_intervals(drawn)
    known = drawn.n > 0
    assert (np.isnan(low) == ~known).all()
    assert (low[known] >= -1).all()
    assert (high[known] <= 1).all()
    assert (low[known] - 1e-12 <= drawn.change[known]).all()
    assert (drawn.change[known] <= high[known] + 1e-12).all()


@pytest.mark.parametrize("n", [50, 1000])
@pytest.mark.parametrize("case", ["equal", "spread", "one-sided"])
def test_simultaneous_changes_gains_and_losses_are_covered(n: int, case: str) -> None:
    """1,000 comparisons of ten classes; the standard error of a coverage of 95 % is 0.7 points."""
    up = np.full(10, 0.05)
    down = {"equal": up, "spread": np.linspace(0.02, 0.3, 10), "one-sided": 0 * up}[case]
    truth, random, covered = up - down, np.random.default_rng(3), np.zeros(3)
    for _ in range(1000):
        drawn = np.array([random.multinomial(n, [a, b, 1 - a - b]) for a, b in zip(up, down, strict=True)])
        found = change_intervals(counts(drawn[:, 0], drawn[:, 1], [n] * 10))
        gain, loss = largest_gain(found), largest_loss(found)
        covered += [
            ((found.low <= truth) & (truth <= found.high)).all(),
            gain.low <= truth.max() <= gain.high,
            loss.low <= truth.min() <= loss.high,
        ]
    assert (covered / 1000 >= 0.94).all(), covered


def test_extremes_without_any_class_are_undefined() -> None:
    assert math.isnan(largest_gain(change_intervals(counts([0], [0], [0]))).low)


def test_the_change_of_the_average_is_narrower_than_two_unpaired_intervals() -> None:
    """100 gained and 50 lost of 1,000: 0.05 with standard error √(0.15 − 0.0025)/√1000 = 0.01215."""
    change, (low, high) = average_change(counts([60, 40], [20, 30], [500, 500]))
    assert change == pytest.approx(0.05)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.01215, rel=0.05)


def test_models_that_never_disagree_do_not_change() -> None:
    assert average_change(counts([0, 0], [0, 0], [5, 0])) == (0.0, Interval(0.0, 0.0))
    assert math.isnan(average_change(counts([0], [0], [0]))[0])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([0.2, 0.8], [0.2, 0.5], Levelling(1, -0.3, 0, 0.0, True)),
        ([0.2, 0.8], [0.3, 0.7], Levelling(1, -0.1, 1, 0.1, False)),
        ([0.2, 0.8], [0.2, 0.8], Levelling(0, 0.0, 0, 0.0, False)),
        ([0.2, math.nan, 0.8], [0.1, math.nan, 0.5], Levelling(2, -0.2, 0, 0.0, True)),
        # All lose the same share: the gap falls, the NSD stays.
        ([0.4, 0.8], [0.2, 0.4], Levelling(2, -0.3, 0, 0.0, True)),
        # The NSD falls as the middle gains: nobody is levelled down.
        ([0.2, 0.5, 0.8], [0.2, 0.7, 0.8], Levelling(0, 0.0, 1, 0.2, False)),
        # The gap grows, but relative to the mean the classes become more equal; the worst class rises.
        ([0.1, 0.4], [0.4, 0.8], Levelling(0, 0.0, 2, 0.35, False)),
    ],
)
def test_levelling_down_is_more_equality_without_a_better_worst_class(before, after, expected: Levelling) -> None:
    found = levelling(before, after)
    assert found == pytest.approx(expected)


def test_the_smallest_difference_that_is_noticed_has_a_power_of_80_per_cent() -> None:
    """Two unpaired samples of 400 at 0.3 and at 0.3 + the difference, tested at 5 %; 2,000 data sets, error 1 point."""
    random, n = np.random.default_rng(0), 400
    more = detectable(0.3, n)
    first, second = random.binomial(n, 0.3, 2000) / n, random.binomial(n, 0.3 + more, 2000) / n
    pooled = (first + second) / 2
    noticed = np.abs(second - first) > 1.96 * np.sqrt(2 * pooled * (1 - pooled) / n)
    assert noticed.mean() == pytest.approx(0.8, abs=0.04)
    assert math.isnan(detectable(0.3, 0))
