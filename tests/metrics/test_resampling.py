from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.strategies import QUICK

from classwise.errors import InputError
from classwise.metrics import bootstrap_interval, gap, halves, macro_average, std, worst, worst_q
from classwise.metrics.resampling import half_counts, percentiles, resample


def test_the_bootstrap_of_the_mean_has_the_width_of_the_normal_interval() -> None:
    """Two classes of 1,000 at 0.3 and 0.7: the mean has standard error √(2·0.21/1000)/2 = 0.01025."""
    low, high = bootstrap_interval([300, 700], [1000, 1000], macro_average)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.01025, rel=0.05)
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.002)


def test_the_bootstrap_of_a_spread_covers_it_where_classes_differ() -> None:
    rates, covered = np.linspace(0.2, 0.8, 10), 0
    draws = np.random.default_rng(0).binomial(200, rates, size=(100, 10))
    for right in draws:
        low, high = bootstrap_interval(right, np.full(10, 200), std, resamples=300)
        covered += low <= std(rates) <= high
    assert covered / 100 > 0.85


@pytest.mark.parametrize("summary", [worst, worst_q, gap])
def test_a_bootstrap_of_the_extreme_classes_is_refused(summary) -> None:
    with pytest.raises(InputError, match="extreme classes is wrong"):
        bootstrap_interval([1], [2], summary)


def test_absent_classes_are_left_out_and_the_seed_decides() -> None:
    first = bootstrap_interval([30, 0, 60], [100, 0, 100], std, resamples=200, seed=-1)
    assert first == bootstrap_interval([30, 60], [100, 100], std, resamples=200, seed=-1)
    assert first != bootstrap_interval([30, 60], [100, 100], std, resamples=200, seed=2)


def test_percentiles_are_the_quantiles_of_both_ends() -> None:
    assert percentiles(np.arange(101), 0.9) == pytest.approx((5, 95))


@QUICK
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5))
def test_resampling_keeps_every_class_at_its_size(counts) -> None:
    drawn = resample(counts, 7)
    assert drawn.shape == (7, len(counts), 3)
    np.testing.assert_array_equal(drawn.sum(2), np.tile(np.sum(counts, axis=1), (7, 1)))
    # A category without images stays without.
    empty = (np.array(counts) == 0) & (np.sum(counts, axis=1) > 0)[:, None]
    assert not drawn[:, empty].any()


def test_resampling_has_the_mean_and_the_variance_of_drawing_with_replacement() -> None:
    drawn = resample([[30, 70]], 20_000)[:, 0, 0]
    assert drawn.mean() == pytest.approx(30, abs=0.15)
    assert drawn.var() == pytest.approx(21, rel=0.05)


@QUICK
@given(st.lists(st.integers(0, 4), max_size=40))
def test_halves_split_each_class_evenly(y: list[int]) -> None:
    labels = np.array(y, dtype=np.int64)
    for first in halves(labels, splits=4):
        difference = np.bincount(labels[first], minlength=5) - np.bincount(labels[~first], minlength=5)
        assert (np.abs(difference) == np.bincount(labels, minlength=5) % 2).all()


def test_the_odd_image_goes_to_either_half() -> None:
    assert set(halves([0, 0, 0], splits=40).sum(1).tolist()) == {1, 2}


def test_counts_of_halves_are_those_of_halved_images() -> None:
    """Of 30 images in categories of 6 and 24, a half of 15 holds 3 of the first on average, with variance 1.241."""
    drawn = half_counts([[6, 24], [0, 1]], splits=20_000)
    assert drawn[:, 0].sum(1).tolist() == [15] * 20_000
    assert drawn[:, 1].sum() == 0
    assert drawn[:, 0, 0].mean() == pytest.approx(3, abs=0.05)
    assert drawn[:, 0, 0].var() == pytest.approx(15 * 0.2 * 0.8 * 15 / 29, rel=0.05)
    masks = halves([0] * 30, splits=4000)
    assert masks[:, :6].sum(1).var() == pytest.approx(15 * 0.2 * 0.8 * 15 / 29, rel=0.1)


def test_labels_that_are_no_integers_are_refused() -> None:
    with pytest.raises(InputError, match="integers of shape"):
        halves([0.5], splits=1)
