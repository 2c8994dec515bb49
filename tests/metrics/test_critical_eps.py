"""Critical eps: quantiles that a censored image cannot spoil, their intervals, and counts at radii."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from tests.metrics.strategies import QUICK, header, make

from classwise.errors import InputError
from classwise.metrics import CriticalEps, Outcomes, Result
from classwise.metrics.critical_eps import ABOVE, quantile, quantile_interval, quantile_ranks

ABOUT = {
    "threat": {"norm": "Linf", "eps": 1.0, "eps_text": "1"},
    "attack": "Narrowing()",
    "unconfirmed": 0,
    "flags": [],
}
distances = st.lists(st.one_of(st.floats(0, 1), st.just(math.inf)), min_size=1, max_size=40)


def measured(*groups: list[float], eps_max: float = 1.0, confidence: float = 0.95) -> CriticalEps:
    """Return the critical eps of classes a, b, …; radius 0 stands for an image that is wrong when clean."""
    y = np.array([c for c, group in enumerate(groups) for _ in group], dtype=np.int64)
    distance = np.array([value for group in groups for value in group], dtype=np.float64)
    clean = np.where(distance == 0, (y + 1) % max(2, len(groups)), y)
    return CriticalEps(
        tuple("abcdef"[: len(groups)]), np.arange(len(y)), y, clean, distance, eps_max, ABOUT, confidence
    )


@QUICK
@given(distances, st.floats(0.01, 1))
def test_a_quantile_is_the_smallest_radius_that_breaks_such_a_share(values: list[float], q: float) -> None:
    found, array = quantile(values, q), np.array(values)
    assert (array <= found).mean() >= q - 1e-9
    assert (array < found).mean() < q
    assert found in values


@QUICK
@given(distances)
def test_the_median_of_a_censored_half_is_no_number(values: list[float]) -> None:
    above = np.isinf(values).mean()
    assert math.isinf(quantile(values, 0.5)) == (above > 0.5)


@QUICK
@given(st.integers(0, 300), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.8, 0.95, 0.999]))
def test_the_ranks_are_the_tightest_that_the_binomial_tails_allow(n: int, q: float, confidence: float) -> None:
    low, high = quantile_ranks(n, q, confidence)
    tail = (1 - confidence) / 2
    assert binom.cdf(low - 1, n, q) <= tail < binom.cdf(low, n, q)
    assert binom.sf(high - 1, n, q) <= tail < binom.sf(high - 2, n, q)


def test_the_interval_of_the_median_of_ten_images_by_hand() -> None:
    """P(B ≤ 1) = 11/1024 = 0.0107 for B ~ Binomial(10, 1/2), P(B ≤ 2) = 56/1024 = 0.0547: ranks 2 and 9."""
    assert quantile_interval(np.arange(1, 11) / 10, 0.5) == (0.2, 0.9)


def test_too_few_images_exclude_nothing() -> None:
    assert quantile_interval([0.1, 0.2, 0.3], 0.5) == (0.0, math.inf)


@pytest.mark.parametrize("draw", ["continuous", "atoms"])
def test_the_interval_covers_the_true_median_as_often_as_it_says(draw: str) -> None:
    """Of 1,000 samples 50 may miss, 70 with three deviations. The true median is 0.6; what is above 0.7 is censored."""
    random, missed = np.random.default_rng(0), 0
    for _ in range(1000):
        sample = random.uniform(0.1, 1.1, 41)
        sample = np.where(sample > 0.7, np.inf, np.round(sample, 1) if draw == "atoms" else sample)
        low, high = quantile_interval(sample, 0.5)
        missed += not low <= 0.6 <= high
    assert missed <= 70


def test_classes_share_the_error_of_their_intervals() -> None:
    found = measured([0.1 * k for k in range(1, 10)] * 4, [0.2] * 30, [])
    one = quantile_interval(found.of_class(0), 0.5, 0.975)
    assert (found.median_intervals.low[0], found.median_intervals.high[0]) == one
    assert np.isnan(found.median_intervals.low[2])


def test_accuracy_at_a_radius_is_a_count_of_what_lies_beyond() -> None:
    found = measured([0.0, 0.1, 0.3, math.inf], [0.1, 0.2, math.inf])
    assert found.right([0.0, 0.1, 0.2, 1.0]).tolist() == [[3, 2, 2, 1], [3, 2, 1, 1]]
    assert found.accuracy([0.2])[:, 0].tolist() == [0.5, 1 / 3]
    low, high = found.intervals(0.2)
    assert (low < found.accuracy([0.2])[:, 0]).all()
    assert (high > found.accuracy([0.2])[:, 0]).all()


@QUICK
@given(distances, distances, st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_counts_never_rise_with_the_radius_and_add_up(a: list[float], b: list[float], radii: list[float]) -> None:
    found = measured(a, b)
    counts = found.right(radii)
    assert (np.diff(counts) <= 0).all()
    assert counts[:, -1].sum() == (found.distance > max(radii)).sum()
    assert (found.right([0.0])[:, 0] == found.n - np.bincount(found.y[found.clean != found.y], minlength=2)).all()


@QUICK
@given(distances, distances, st.randoms())
def test_the_order_of_images_does_not_matter(a: list[float], b: list[float], random: Any) -> None:
    first, second = measured(a, b), measured(random.sample(a, len(a)), random.sample(b, len(b)))
    for key in ("overall", "by_class", "weakest", "weakest_at"):
        assert first.document()[key] == second.document()[key]


def test_the_weakest_class_by_median_may_be_another_than_at_a_radius() -> None:
    found = measured([0.2] * 6 + [0.9] * 4, [0.3] * 8 + [math.inf] * 2)
    assert found.weakest == 0
    assert found.weakest_at(0.25) == [0]
    assert found.weakest_at(0.5) == [1]
    assert found.weakest_at(0.1) == [0, 1]


def test_medians_that_differ_surely_leave_one_candidate_for_the_weakest() -> None:
    assert measured([0.1] * 30, [0.5] * 30).may_be_weakest == [0]
    assert measured([0.1, 0.6] * 15, [0.5] * 30).may_be_weakest == [0, 1]
    assert measured([0.1] * 3, [0.5] * 3).may_be_weakest == [0, 1]


def test_ties_of_medians_go_to_the_class_with_less_left() -> None:
    assert measured([0.0] * 6 + [0.5] * 4, [0.0] * 6 + [0.2] * 4).order.tolist() == [1, 0]


def test_a_class_without_images_and_a_censored_median_are_said_as_they_are() -> None:
    found = measured([0.1, math.inf, math.inf], [])
    document = found.document([0.5])
    assert (found.by_class["a"].quantiles[0.1], found.by_class["a"].median) == (0.1, math.inf)
    assert (found.by_class[1].images, found.overall.images, found.overall.above_eps_max) == (0, 3, 2)
    assert document["by_class"][0]["quantiles"] == {"0.1": 0.1, "0.5": ABOVE, "0.9": ABOVE}
    assert document["by_class"][0]["median_interval"] == [0.0, ABOVE]
    assert document["by_class"][1]["quantiles"] == {"0.1": None, "0.5": None, "0.9": None}
    assert (document["weakest"], document["weakest_at"]) == ("a", [["a"]])
    assert document["overall"]["right"] == [2]
    assert "not certified" in document["bound"]


def test_no_images_at_all_have_no_weakest_class() -> None:
    found = measured([], [])
    assert found.document()["weakest"] is None
    assert found.may_be_weakest == found.weakest_at(0.1) == []
    assert math.isnan(quantile([], 0.5))


def test_without_radii_eighths_of_the_largest_are_counted() -> None:
    assert measured([0.1], eps_max=0.8).checked([]) == pytest.approx([0.1 * k for k in range(1, 9)])
    assert measured([0.1]).checked([0.5, 0.2, 0.5]) == [0.2, 0.5]


@pytest.mark.parametrize("radius", [-0.1, 1.1, math.nan])
def test_a_radius_where_nothing_is_known_is_refused(radius: float) -> None:
    with pytest.raises(InputError, match="not between 0 and the largest"):
        measured([0.1]).right([radius])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": np.array([0.1])}, "one entry an image"),
        ({"distance": np.array([0.1, 1.2])}, "lies between 0 and 1"),
        ({"distance": np.array([0.1, -0.1])}, "lies between 0 and 1"),
        ({"clean": np.array([0, 1])}, "0 for an image that is wrong"),
        ({"y": np.array([0, 5])}, "numbers of the 1 classes"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    sound = {**vars(measured([0.1, 0.2])), **changes}
    with pytest.raises(InputError, match=message):
        CriticalEps(**sound)


@pytest.mark.parametrize("q", [0.0, 1.5, math.nan])
def test_a_quantile_is_a_share(q: float) -> None:
    with pytest.raises(InputError, match="share above 0"):
        quantile([0.1], q)


def evaluation(**predictions: list[int]) -> Result:
    """Four images: wrong when clean, broken at 0.01, not broken, not broken although there was a candidate."""
    outcomes = make([0, 0, 1, 1], [1, 0, 1, 1], **predictions)
    found = {name: np.array([0, 0.01, 0, 0.02], dtype=np.float32) for name in predictions}
    outcomes = Outcomes(outcomes.classes, outcomes.index, outcomes.y, outcomes.clean, predictions, {}, found)
    return Result(header(outcomes), outcomes)


def test_critical_eps_derive_from_outcomes_and_survive_the_disk(tmp_path: Path) -> None:
    result = evaluation(narrowing=[1, 1, 1, 1])
    result.write(tmp_path)
    found = CriticalEps.read(tmp_path)
    assert found.distance.tolist() == [0.0, pytest.approx(0.01), math.inf, math.inf]
    assert found.about["unconfirmed"] == 1
    stored = json.loads(found.write(tmp_path).read_text())
    assert stored == json.loads(json.dumps(found.document()))


def test_an_evaluation_by_several_attacks_is_refused() -> None:
    with pytest.raises(InputError, match="one attack"):
        CriticalEps.of(evaluation(pgd=[1, 1, 1, 1], narrowing=[1, 1, 1, 1]))
