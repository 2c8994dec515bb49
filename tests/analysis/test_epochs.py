from __future__ import annotations

import numpy as np
import pytest
from tests.metrics.test_training import FINAL, lines, rising

from classwise.analysis.epochs import ERROR, converge_alike, epochs
from classwise.metrics.training import Training, curve


def training(accuracy: np.ndarray, **changes) -> Training:
    return Training("run", tuple("abcdefgh"), lines(accuracy, **changes))


@pytest.mark.parametrize(
    ("speed", "verdict"),
    [(FINAL, "supported"), (1.2 - FINAL, "refuted"), (np.full(8, 0.5), "undecided")],
)
def test_h10_is_whether_hard_classes_take_longer(speed, verdict: str) -> None:
    assert epochs(training(rising(np.asarray(speed)))).verdict == verdict


def noisy(final: np.ndarray, speed: np.ndarray | float, length: int, times: int):
    """Draw curves of ten classes with 100 images, whose weights move from epoch to epoch by another three points."""
    random, steps = np.random.default_rng(0), np.arange(1, length + 1)[:, None]
    for _ in range(times):
        rates = final * (1 - np.exp(-steps * speed)) + random.normal(0, 0.03, (length, 10))
        yield random.binomial(100, np.clip(rates, 0, 1)) / 100


def decided(curves) -> tuple[int, int]:
    """Count verdicts for and against H10."""
    tails = [converge_alike(curve, np.full(10, 100.0), permutations=400) for curve in curves]
    return sum(less < ERROR / 2 for less, _ in tails), sum(greater < ERROR / 2 for _, greater in tails)


@pytest.mark.parametrize("final", [np.full(10, 0.5), np.linspace(0.05, 0.6, 10)], ids=["one curve", "other heights"])
@pytest.mark.parametrize("length", [6, 15])
def test_h10_is_decided_in_few_runs_whose_classes_converge_alike(final, length: int) -> None:
    """At most 5 % of 80 runs: 7 are 1.8 standard errors above 4. The first crossing refutes it in 6 to 29 %."""
    assert sum(decided(noisy(final, 4 / length, length, 80))) <= 7


@pytest.mark.parametrize(("length", "reverse"), [(6, 6), (15, 10)])
def test_h10_is_seen_where_easy_classes_are_faster_and_the_reverse_too(length: int, reverse: int) -> None:
    """In at least 10 of 15 runs; six epochs are a coarse clock for weak classes that are early."""
    final = np.linspace(0.3, 0.9, 10)
    assert decided(noisy(final, (0.2 + 2 * (final - 0.3)) * 9 / length, length, 15))[0] >= 10
    assert decided(noisy(final, (0.2 + 2 * (0.9 - final)) * 9 / length, length, 15))[1] >= reverse


def test_a_class_that_is_never_robust_has_no_time() -> None:
    accuracy = rising(FINAL)
    accuracy[:, 0] = 0
    assert np.isnan(curve(lines(accuracy)).time[0])
    assert "over 7 classes" in epochs(training(accuracy)).sentence


def test_classes_that_all_take_as_long_have_no_order_and_the_sentence_says_so() -> None:
    found = epochs(training(np.linspace(0.1, 0.8, 6)[:, None] * np.ones(8)))
    assert found.verdict == "undecided"
    assert "cannot be ranked against that accuracy: 8 classes" in found.sentence
    assert "nan" not in found.sentence
