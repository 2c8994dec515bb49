"""The audit's bound: exact for one class, never too small for several, and right as often as it promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom
from tests.strategies import examples

from classwise.errors import InputError
from classwise.metrics.audit import at_most, at_most_by_class, round_error, sample_size, share_out

Counts = list[int]
PAIRS = st.integers(0, 40).flatmap(lambda s: st.tuples(st.just(s), st.integers(0, s)))
CLASSES = st.lists(PAIRS, min_size=1, max_size=6)
ERRORS = st.floats(0.001, 0.5)


def bound(pairs: list[tuple[int, int]], error: float) -> int:
    survivors, sampled = zip(*pairs, strict=True)
    return at_most(np.array(survivors), np.array(sampled), error)


def chance_of_a_clean_sample(survivors: Counts, sampled: Counts, breakable: Counts) -> float:
    """Return the probability that a sample of each class holds none of the images that can be broken."""
    parts = zip(survivors, breakable, sampled, strict=True)
    return math.prod(float(hypergeom.pmf(0, s, b, m)) for s, b, m in parts)


def by_brute_force(survivors: Counts, sampled: Counts, error: float) -> int:
    """Return the largest total that some way to share it out makes likelier than the error."""
    ways = itertools.product(*(range(s + 1) for s in survivors))
    return max(sum(way) for way in ways if chance_of_a_clean_sample(survivors, sampled, [*way]) > error)


# The bound itself.


@pytest.mark.parametrize("error", [0.05, 0.01, 0.29])
@pytest.mark.parametrize("survivors", [1, 2, 7, 50, 333])
def test_the_bound_of_one_class_is_the_hypergeometric_one(survivors: int, error: float) -> None:
    breakable = np.arange(survivors + 1)
    for sampled in {0, 1, survivors // 3, survivors // 2, survivors - 1, survivors}:
        possible = hypergeom.pmf(0, survivors, breakable, sampled) > error
        assert at_most(np.array([survivors]), np.array([sampled]), error) == breakable[possible].max()


@pytest.mark.parametrize("error", [0.05, 0.2])
@pytest.mark.parametrize(
    ("survivors", "sampled"),
    [([4, 4], [2, 2]), ([9, 3], [3, 1]), ([6, 5, 4], [3, 2, 2]), ([8, 1, 5], [0, 1, 3]), ([5, 5, 5, 2], [4, 1, 2, 0])],
)
def test_the_bound_of_several_classes_holds_for_every_way_to_share_out(
    survivors: Counts, sampled: Counts, error: float
) -> None:
    assert at_most(np.array(survivors), np.array(sampled), error) == by_brute_force(survivors, sampled, error)


def test_one_class_of_three_thousand_needs_the_sample_of_the_docs() -> None:
    # docs/fast.md: the sample holds about 3.2·S/(points/100·N) images.
    size = int(sample_size(np.array([3000]), 100, round_error(0, 0.05))[0])
    assert size == pytest.approx(3.2 * 3000 / 100, rel=0.05)


@given(CLASSES, ERRORS)
@examples(100)
def test_a_larger_error_never_gives_a_larger_bound(pairs: list[tuple[int, int]], error: float) -> None:
    assert bound(pairs, error) >= bound(pairs, min(0.99, 1.5 * error))


@given(CLASSES, ERRORS, st.data())
@examples(100)
def test_one_more_image_sampled_never_gives_a_larger_bound(
    pairs: list[tuple[int, int]], error: float, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(pairs) - 1))
    survivors, sampled = pairs[place]
    more = [*pairs[:place], (survivors, min(survivors, sampled + 1)), *pairs[place + 1 :]]
    assert bound(more, error) <= bound(pairs, error)


@given(CLASSES, ERRORS, st.data())
@examples(50)
def test_the_order_of_the_classes_does_not_matter(
    pairs: list[tuple[int, int]], error: float, data: st.DataObject
) -> None:
    assert bound(data.draw(st.permutations(pairs)), error) == bound(pairs, error)


@given(CLASSES, ERRORS)
@examples(100)
def test_what_was_sampled_is_not_counted_among_the_misses(pairs: list[tuple[int, int]], error: float) -> None:
    assert 0 <= bound(pairs, error) <= sum(s - m for s, m in pairs)


def test_a_sample_of_all_leaves_none_and_a_sample_of_none_leaves_all() -> None:
    survivors = np.array([5, 0, 7])
    assert at_most(survivors, survivors, 0.05) == 0
    assert at_most(survivors, np.zeros(3, int), 0.05) == 12
    assert at_most(np.zeros(0, int), np.zeros(0, int), 0.05) == 0


@pytest.mark.parametrize(
    ("survivors", "sampled", "error"),
    [([3], [4], 0.05), ([3, 9], [4, 1], 0.05), ([3], [-1], 0.05), ([3], [1], 0.0), ([3], [1], 1.0), ([3], [1], -0.1)],
)
def test_a_bound_that_cannot_be_is_refused(survivors: Counts, sampled: Counts, error: float) -> None:
    with pytest.raises(InputError, match="samples at most the survivors of each class, with an error between 0 and 1"):
        at_most(np.array(survivors), np.array(sampled), error)


# How large a sample.


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 300))
@examples(200)
def test_a_sample_is_shared_out_in_proportion_and_rounded_up(survivors: Counts, size: int) -> None:
    shares, total = share_out(np.array(survivors), size), sum(survivors)
    wanted = min(size, total)
    assert shares.sum() >= wanted
    for count, share in zip(survivors, shares.tolist(), strict=True):
        exact = count * wanted / max(1, total)
        assert exact - 1e-9 <= share < exact + 1
        assert share <= count


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 30), ERRORS)
@examples(100)
def test_the_sample_excludes_what_it_shall_and_no_smaller_one_does(
    survivors: Counts, allowed: int, error: float
) -> None:
    strata = np.array(survivors)
    chosen = sample_size(strata, allowed, error)
    assert at_most(strata, chosen, error) <= allowed
    smaller = (share_out(strata, size) for size in range(sum(survivors) + 1))
    assert all(at_most(strata, share, error) > allowed for share in smaller if share.sum() < chosen.sum())


def test_no_miss_allowed_takes_every_survivor() -> None:
    # Up to the error: one breakable image of S hides from all but one with probability 1/S.
    assert sample_size(np.array([5, 0, 9]), 0, 0.04).tolist() == [5, 0, 9]


def test_all_misses_allowed_take_nobody() -> None:
    assert sample_size(np.array([5, 0, 9]), 14, 0.04).tolist() == [0, 0, 0]


def test_the_rounds_together_spend_the_error_and_no_more() -> None:
    spent = [round_error(number, 0.05) for number in range(60)]
    assert sum(spent) == pytest.approx(0.05)
    assert spent == sorted(spent, reverse=True)
    assert spent[0] == pytest.approx(0.04)


# Coverage by simulation: 4,000 audits each, so that the Monte-Carlo standard error at 5 % is 0.34 points.

_AUDITS = 4000
_SHAPES = {  # survivors and breakable images of each class
    "one class": ([300], [20]),
    "all in one of four": ([100, 100, 100, 100], [24, 0, 0, 0]),
    "spread": ([100, 100, 100, 100], [6, 6, 6, 6]),
    "in proportion": ([160, 80, 40, 20], [16, 8, 4, 2]),
    "all in the smallest": ([200, 100, 12], [0, 0, 9]),
    "all in the largest": ([200, 100, 12], [22, 0, 0]),
}


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("short", [1, 2, 4])
def test_a_clean_audit_bounds_the_misses_too_low_in_five_of_a_hundred_at_most(shape: str, short: int) -> None:
    """The worst case: some more images can be broken than the bound after a clean sample allows.

    Then every clean audit states a bound that is too low, so the rate is that of clean audits; a sample that breaks
    an image states none. 0.05 and 4 standard errors make 0.064.
    """
    survivors, breakable = (np.array(counts) for counts in _SHAPES[shape])
    sampled = sample_size(survivors, int(breakable.sum()) - short, 0.05)
    assert at_most(survivors, sampled, 0.05) < breakable.sum()
    random = np.random.default_rng(0)
    found = random.hypergeometric(breakable, survivors - breakable, sampled, (_AUDITS, len(survivors)))
    assert (found.sum(1) == 0).mean() <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / _AUDITS)


@pytest.mark.parametrize("shape", _SHAPES)
def test_the_bounds_of_all_classes_hold_at_once(shape: str) -> None:
    """Each class has one breakable image more than its own bound, where it has so many survivors."""
    survivors = np.array(_SHAPES[shape][0])
    sampled, each = share_out(survivors, int(survivors.sum()) // 3), 0.05 / len(survivors)
    bounds = [at_most(survivors[[c]], sampled[[c]], each) for c in range(len(survivors))]
    breakable = np.minimum(np.array(bounds) + 1, survivors)
    random = np.random.default_rng(1)
    found = random.hypergeometric(breakable, survivors - breakable, sampled, (_AUDITS, len(survivors)))
    # Even if a bound were stated for each class whose own sample is clean, all of them hold but in 5 %.
    wrong = ((found == 0) & (breakable > bounds)).any(1).mean()
    assert wrong <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / _AUDITS)


# Of each class.


@given(CLASSES, ERRORS)
@examples(100)
def test_no_class_may_hide_more_than_all_together_and_all_hide_at_most_their_sum(
    pairs: list[tuple[int, int]], error: float
) -> None:
    survivors, sampled = (np.array(each) for each in zip(*pairs, strict=True))
    by_class, total = at_most_by_class(survivors, sampled, error), at_most(survivors, sampled, error)
    assert by_class.max() <= total <= by_class.sum()


@pytest.mark.parametrize(
    ("survivors", "sampled"), [([9, 9, 9], [5, 5, 5]), ([20, 3, 8], [9, 1, 4]), ([12, 12], [11, 2]), ([6] * 4, [4] * 4)]
)
def test_all_bounds_by_class_err_together_no_more_often_than_one_error(survivors: Counts, sampled: Counts) -> None:
    """Every way to hide breakable images, enumerated: P(nothing broke), where some class hides more than its bound."""
    error = 0.2
    most = at_most_by_class(np.array(survivors), np.array(sampled), error)
    ways = [way for way in itertools.product(*(range(s + 1) for s in survivors)) if (np.array(way) > most).any()]
    worst = max(chance_of_a_clean_sample(survivors, sampled, [*way]) for way in ways)
    assert 0.05 < worst <= error
