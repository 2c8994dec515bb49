from __future__ import annotations

import numpy as np
import pytest
from tests.analysis.strategies import planted, subject
from tests.metrics.strategies import make

from classwise.analysis.gain import decompose, gain
from classwise.errors import InputError

WEAK = [0.3, 0.4, 0.8, 0.9]


@pytest.mark.parametrize(
    ("strong", "verdict"),
    [
        ([0.1, 0.2, 0.8, 0.9], "supported"),  # all of the gain on the weak half
        ([0.3, 0.4, 0.6, 0.7], "refuted"),  # none of it
        # A quarter of what is left in every class: 0.175 of 0.6, which is the opportunity and less than an equal share.
        ([0.225, 0.3, 0.6, 0.675], "refuted"),
        ([0.3, 0.4, 0.79, 0.9], "undecided"),  # four images
    ],
)
def test_h4_asks_for_more_than_the_equal_and_the_opportunity_share(strong, verdict: str) -> None:
    found = decompose(planted({"pgd": WEAK, "apgd-ce": strong}, 400), "pgd", "apgd-ce")
    assert found.verdict == verdict


def test_shares_by_hand() -> None:
    """70 of the 240 robust images of every 400 are in the weak half; 0.175/0.6 of the gain falls there too."""
    found = decompose(planted({"pgd": WEAK, "apgd-ce": [0.225, 0.3, 0.6, 0.675]}, 400), "pgd", "apgd-ce")
    assert found.equal == 0.5
    assert found.opportunity == pytest.approx(0.7 / 2.4, abs=0.01)
    assert found.share == pytest.approx(0.7 / 2.4, abs=0.02)
    assert found.over_opportunity.low < 0 < found.over_opportunity.high
    assert found.slope == pytest.approx(0, abs=0.02)
    assert found.newly.tolist() == [30, 40, 80, 90]


def test_the_change_of_the_variance_is_that_of_the_gain_less_twice_the_covariance() -> None:
    outcomes = planted({"pgd": WEAK, "apgd-ce": [0.1, 0.4, 0.5, 0.7]}, 100)
    found = decompose(outcomes, "pgd", "apgd-ce")
    gained = found.newly / 100
    expected = gained.var() - 2 * np.cov(WEAK, gained, ddof=0)[0, 1]
    assert found.variance_after - found.variance_before == pytest.approx(expected)


def test_noise_that_stands_on_both_sides_makes_no_gain_of_the_weak_half() -> None:
    """Two random attacks on ten equal classes: what the second breaks is even, whatever order the first gave.

    Ranked on the same images, the half that looks weak has fewer images left and so a smaller share: 45 % here.
    """
    random, shares, naive = np.random.default_rng(1), [], []
    y = np.repeat(np.arange(10), 40)
    for seed in range(40):
        a, b = (np.where(random.random(400) < 0.5, y, (y + 1) % 10) for _ in range(2))
        found = decompose(make(y, y, pgd=a, fgsm=b), "pgd", "fgsm", seed)
        shares.append(found.share)
        order = np.argsort(found.still, kind="stable")[:5]
        naive.append(found.newly[order].sum() / found.newly.sum())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.015)
    assert np.mean(naive) < 0.47


def test_every_attack_is_compared_with_pgd_and_fgsm_with_it() -> None:
    rates = {"fgsm": [0.9, 0.9], "pgd": [0.8, 0.8], "apgd-ce": [0.7, 0.7]}
    found = gain(subject(planted(rates)))
    assert list(found.values["pairs"]) == ["fgsm → pgd", "pgd → apgd-ce"]


def test_without_pgd_the_weakest_attack_is_the_base() -> None:
    found = gain(subject(planted({"apgd-ce": [0.7, 0.7], "margin-pgd": [0.8, 0.8]})))
    assert list(found.values["pairs"]) == ["margin-pgd → apgd-ce"]


def test_one_attack_gains_on_nothing() -> None:
    with pytest.raises(InputError, match="fewer than two attacks"):
        gain(subject(planted({"pgd": [0.5, 0.5]})))


def test_an_absent_class_and_no_gain_are_no_trouble() -> None:
    outcomes = planted({"pgd": [0.5, 0.9, 0.4], "apgd-ce": [0.5, 0.9, 0.4]}, 50)
    found = decompose(outcomes.select(outcomes.y != 1), "pgd", "apgd-ce")
    assert found.newly.tolist() == [0, 0, 0]
    assert np.isnan(found.share)
    assert found.verdict == "undecided"
