from __future__ import annotations

import numpy as np
import pytest
from tests.analysis.strategies import planted, subject
from tests.metrics.strategies import make

from classwise.analysis.disparity import disparity, error_share

SPREAD = [0.2, 0.5, 0.5, 0.6, 0.8]


@pytest.mark.parametrize(
    ("robust", "n", "verdict"),
    [
        (SPREAD, 200, "supported"),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 200, "undecided"),
        # Many images and equal classes: the gap is at most a few points, whatever it is.
        ([0.9, 0.9, 0.9], 20_000, "refuted"),
    ],
)
def test_h1_needs_a_gap_beyond_noise(robust, n: int, verdict: str) -> None:
    assert disparity(subject(planted({"pgd": robust}, n)))[0].verdict == verdict


@pytest.mark.parametrize(
    ("robust", "verdict"),
    [([0.1, 0.95, 0.95, 0.95, 0.95], "supported"), (SPREAD, "refuted"), ([0.4, 0.85, 0.85, 0.85, 0.85], "undecided")],
)
def test_h9_asks_for_more_than_half_of_all_errors(robust, verdict: str) -> None:
    """The weakest of five makes 0.9/1.1, 0.8/2.4 and 0.6/1.2 of them."""
    assert disparity(subject(planted({"pgd": robust}, 200)))[1].verdict == verdict


def test_the_share_of_errors_by_hand() -> None:
    """Halves of exact rates differ by a few images: 0.8 of 2.4 errors are those of the weakest class."""
    share, (low, high), chosen = error_share(planted({"pgd": SPREAD}, 1000))
    assert chosen == [0]
    assert share == pytest.approx(1 / 3, abs=0.03)
    assert low < 1 / 3 < high


def test_equal_classes_are_not_given_a_weakest_fifth_by_luck() -> None:
    """Chosen and counted on the same images, they would seem to make a quarter of the errors and more."""
    random, shares, naive = np.random.default_rng(0), [], []
    for seed in range(60):
        y = np.repeat(np.arange(10), 40)
        outcomes = make(y, y, pgd=np.where(random.random(400) < 0.5, y, (y + 1) % 10))
        shares.append(error_share(outcomes, seed)[0])
        errors = np.sort(outcomes.n - outcomes.counts())[::-1]
        naive.append(errors[:2].sum() / errors.sum())
    assert np.mean(shares) == pytest.approx(0.2, abs=0.01)
    assert np.mean(naive) > 0.23


def test_without_errors_the_share_is_undefined() -> None:
    assert np.isnan(error_share(planted({"pgd": [1.0, 1.0]}, 10))[0])


def test_an_absent_class_is_not_the_weakest() -> None:
    outcomes = planted({"pgd": [0.5, 0.9, 0.1]}, 50)
    without = outcomes.select(outcomes.y != 2)
    assert error_share(without)[2] == [0]
    assert "class 2" not in disparity(subject(without))[1].sentence
