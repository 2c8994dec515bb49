from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln, gammaln
from tests.metrics.strategies import QUICK

from classwise.errors import InputError
from classwise.metrics import Race
from classwise.metrics.race import PRIOR, breakable
from classwise.metrics.result import Result

ROOT = Path(__file__).parents[2]
# Robust accuracies by class of an adversarially trained network on CIFAR-10 (shared/spec/attacks.md, section 6).
TYPICAL = np.array([0.59, 0.70, 0.32, 0.21, 0.28, 0.42, 0.53, 0.57, 0.61, 0.64])


def run(n: np.ndarray, survivors: np.ndarray, broken: np.ndarray, seed: int, batch: int = 8) -> Race:
    """Run a race in which the strong attack would break so many survivors of each class."""
    random, race = np.random.default_rng(seed), Race.start(n, survivors)
    while not race.decided:
        drawn = race.draw(batch)
        left = broken - race.broken
        hit = [
            random.hypergeometric(b, r - b, k) if k else 0
            for b, r, k in zip(left, survivors - race.sampled, drawn, strict=True)
        ]
        race = race.after(drawn, hit)
    return race


def planted(rates: np.ndarray, share: float, per_class: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, survivors of the cheap attack and those that the strong one breaks, as a share of them."""
    robust = np.round(rates * per_class).astype(int)
    survivors = np.minimum(per_class, np.round(robust / (1 - share)).astype(int))
    return np.full(len(rates), per_class), survivors, survivors - robust


@QUICK
@given(st.integers(0, 60).flatmap(lambda s: st.tuples(st.just(s), st.integers(0, s))), st.integers(0, 60))
def test_bounds_agree_with_the_formula_written_out(drawn, hit: int) -> None:
    s, m = drawn
    x, (a, d) = min(hit, m), PRIOR
    ratio = {
        b: np.exp(
            betaln(a + x, d + m - x)
            - betaln(a, d)
            + gammaln(s + 1)
            - gammaln(s - m + 1)
            - (gammaln(b + 1) - gammaln(b - x + 1) + gammaln(s - b + 1) - gammaln(s - b - (m - x) + 1))
        )
        for b in range(x, s - (m - x) + 1)
    }
    inside = [b for b, value in ratio.items() if value < 1 / 0.05 * (1 - 1e-9)]
    assert breakable(s, m, x, 0.05) == (inside[0], inside[-1])


@pytest.mark.parametrize("broken", [0, 5, 30, 100])
def test_the_truth_stays_inside_at_all_times_as_often_as_promised(broken: int) -> None:
    """300 runs over the draws of 100 survivors, looked at after every third; the promise is an error of 10 %."""
    random, left = np.random.default_rng(0), 0
    for _ in range(300):
        hits = np.cumsum(random.permutation(100) < broken)
        for m in range(1, 101, 3):
            low, high = breakable(100, m, int(hits[m - 1]), 0.1)
            if not low <= broken <= high:
                left += 1
                break
    assert left / 300 <= 0.1


@pytest.mark.parametrize(
    ("second", "share", "most"),
    [(0.28, 0.05, 0.05), (0.28, 0.1, 0.05), (0.22, 0.05, 0.1), (0.22, 0.1, 0.1)],
)
def test_few_images_find_the_worst_class_and_never_another(second: float, share: float, most: float) -> None:
    """The goal of the specification: 5 % of the images where one class is clearly worst, 10 % where two nearly tie."""
    rates = np.where(TYPICAL == 0.28, second, TYPICAL)
    races = [run(*planted(rates, share), seed) for seed in range(40)]
    assert all(race.worst == [3] for race in races)
    assert np.mean([race.share for race in races]) <= most
    assert max(race.share for race in races) <= 1.2 * most


def test_a_tie_ends_as_the_classes_that_tie() -> None:
    rates = np.where(TYPICAL == 0.28, 0.21, TYPICAL)
    for seed in range(10):
        race = run(*planted(rates, 0.1), seed)
        assert race.worst == [3, 4]
        assert race.share < 0.1


def test_the_class_named_is_wrong_no_more_often_than_promised() -> None:
    """Small classes, a strong attack that breaks a lot, and five classes close together: 200 races at 95 %."""
    wrong, random = 0, np.random.default_rng(5)
    for seed in range(200):
        n = np.full(5, 40)
        survivors = random.binomial(40, 0.6, 5)
        broken = random.binomial(survivors, 0.3)
        robust = survivors - broken
        wrong += not set(np.flatnonzero(robust == robust.min())) <= set(run(n, survivors, broken, seed, batch=2).worst)
    assert wrong / 200 <= 0.05


@pytest.mark.parametrize(
    ("folder", "cheap", "strong"),
    [
        ("cifar10-resnet2b-adv-2", "pgd", "temperature-pgd"),
        ("cifar10-resnet2b-adv-8", "pgd", "temperature-pgd"),
        ("mnist-smallcnn-trades-0.3", "pgd", "temperature-pgd"),
    ],
)
def test_on_real_outcomes_the_true_worst_class_is_named(folder: str, cheap: str, strong: str) -> None:
    outcomes = Result.read(ROOT / "results" / folder).outcomes
    left = outcomes.correct(cheap)
    survivors = np.bincount(outcomes.y[left], minlength=10)
    broken = np.bincount(outcomes.y[left & ~outcomes.correct(strong)], minlength=10)
    robust = (survivors - broken) / outcomes.n
    for seed in range(20):
        assert int(robust.argmin()) in run(outcomes.n, survivors, broken, seed).worst


def test_the_cheap_attack_alone_can_decide() -> None:
    race = Race.start([100, 100, 0], [60, 0, 0])
    assert not race.decided
    assert race.draw(8).tolist() == [8, 0, 0]  # class 1 has no survivor left to draw
    done = race.after([8, 0, 0], [0, 0, 0])
    assert (done.worst, done.decided) == ([1], True)


def test_absent_classes_are_no_candidates_and_a_single_class_needs_no_race() -> None:
    assert Race.start([0, 10], [0, 5]).worst == [1]
    assert Race.start([0, 10], [0, 5]).decided
    assert Race.start([0, 0], [0, 0]).worst == []
    assert Race.start([0, 0], [0, 0]).decided


def test_a_draw_never_takes_more_than_is_left() -> None:
    race = Race.start([10, 10], [5, 5]).after([3, 0], [1, 0])
    assert (race.draw(8) <= race.survivors - race.sampled).all()


@pytest.mark.parametrize(("n", "survivors", "message"), [([5], [6], "some survive"), ([5], [-1], "some survive")])
def test_counts_that_cannot_be_are_refused(n, survivors, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Race.start(n, survivors)
    with pytest.raises(InputError, match="confidence is 1"):
        Race.start([5], [5], confidence=1.0)


# These images, and the population that they were drawn from


def test_two_classes_that_the_race_tells_apart_on_these_images_may_both_be_the_worst_of_the_population() -> None:
    """250 and 270 of 1,000 are right for certain; which rate is lower is not."""
    done = Race(*(np.array(each) for each in ([1000] * 3, [300, 310, 800], [300, 310, 100], [50, 40, 0])))
    assert (done.worst, done.population_worst) == ([0], [0, 1])


def test_clearly_different_classes_have_one_worst_in_the_population_too() -> None:
    n, survivors, broken = planted(TYPICAL, 0.1)
    assert Race(n, survivors, survivors, broken).population_worst == [3]


def test_a_race_that_stops_early_leaves_more_classes_possible_in_the_population_than_on_its_images() -> None:
    race = run(*planted(TYPICAL, 0.1), 0)
    assert race.worst == [3]
    assert set(race.population_worst) > {3}


def test_the_worst_class_of_the_population_is_named_as_often_as_promised() -> None:
    """200 samples of 100 images at 27 and 30 %: the race names the wrong class of the population in about a third."""
    random, named, wrong = np.random.default_rng(6), 0, 0
    for seed in range(200):
        right = random.binomial(100, [0.27, 0.30, 0.6])
        survivors = right + random.binomial(100 - right, 0.1)
        race = run(np.full(3, 100), survivors, survivors - right, seed)
        named += 0 in race.population_worst
        wrong += race.worst != [0]
    assert named / 200 >= 0.95
    assert wrong / 200 > 0.2


def test_without_images_no_class_is_the_worst_of_the_population() -> None:
    assert Race.start([0, 0], [0, 0]).population_worst == []
    assert Race.start([0, 10], [0, 5]).population_worst == [1]
