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
        # A quarter of what is left in every class: 0.175 of 0.6, less than half, and all that it can be.
        ([0.225, 0.3, 0.6, 0.675], "undecided"),
        ([0.3, 0.36, 0.8, 0.9], "undecided"),  # sixteen images, all of them in the weak half
    ],
)
def test_h4_asks_for_more_than_the_weak_half_has_left(strong, verdict: str) -> None:
    found = decompose(planted({"pgd": WEAK, "apgd-ce": strong}, 400), "pgd", "apgd-ce")
    assert found.verdict == verdict


def test_shares_by_hand() -> None:
    """70 of the 240 robust images of every 400 are in the weak half; 0.175/0.6 of the gain falls there too."""
    found = decompose(planted({"pgd": WEAK, "apgd-ce": [0.225, 0.3, 0.6, 0.675]}, 400), "pgd", "apgd-ce")
    assert found.equal == 0.5
    assert found.opportunity == pytest.approx(0.7 / 2.4)
    assert found.share == pytest.approx(0.7 / 2.4)
    assert found.p_value == 1
    assert found.interval.low < found.opportunity < found.interval.high
    assert found.slope == pytest.approx(0, abs=0.02)
    assert found.newly.tolist() == [30, 40, 80, 90]


def test_the_change_of_the_variance_is_that_of_the_gain_less_twice_the_covariance() -> None:
    outcomes = planted({"pgd": WEAK, "apgd-ce": [0.1, 0.4, 0.5, 0.7]}, 100)
    found = decompose(outcomes, "pgd", "apgd-ce")
    gained = found.newly / 100
    expected = gained.var() - 2 * np.cov(WEAK, gained, ddof=0)[0, 1]
    assert found.variance_after - found.variance_before == pytest.approx(expected)


def tried(strong: list[float], times: int) -> list[str]:
    """Return verdicts on data sets of ten classes with 60 images, in which b breaks such shares of what a leaves."""
    random, y = np.random.default_rng(1), np.repeat(np.arange(10), 60)
    weak = np.linspace(0.2, 0.8, 10)
    found = []
    for seed in range(times):
        still = random.random(600) < weak[y]
        kept = still & (random.random(600) >= np.array(strong)[y])
        a, b = (np.where(each, y, (y + 1) % 10) for each in (still, kept))
        found.append(decompose(make(y, y, pgd=a, fgsm=b), "pgd", "fgsm", seed).verdict)
    return found


def test_an_attack_that_breaks_in_proportion_to_what_is_left_decides_h4_in_at_most_a_twentieth() -> None:
    """A tenth of the survivors of every class: exact, so at most 2.5 % either way; of 120, 8 are 3 errors above."""
    found = tried([0.1] * 10, 120)
    assert found.count("supported") <= 8
    assert found.count("refuted") <= 8


@pytest.mark.parametrize(
    ("strong", "verdict"), [([0.5] * 5 + [0.1] * 5, "supported"), ([0.05] * 5 + [0.4] * 5, "refuted")]
)
def test_an_attack_that_breaks_another_share_of_the_weak_half_decides_h4_alike_on_both_sides(strong, verdict) -> None:
    assert tried(strong, 20).count(verdict) >= 18


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
