from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.metrics.strategies import QUICK, make, outcomes

from classwise.errors import InputError
from classwise.metrics import (
    Outcomes,
    asymmetry,
    boundary_error,
    concentration,
    confounder,
    group_accuracy,
    group_labels,
    in_flow,
    net_flow,
    out_flow,
    rates,
    within_group_share,
)

# 20, 10, 40 images; class 3 has none, but images of class 2 flow to it.
FLOW = [[8, 6, 2, 0], [1, 5, 0, 0], [0, 0, 30, 4], [0, 0, 0, 0]]
N = [20, 10, 40, 0]


def test_rates_divide_by_all_images_of_the_class_and_drop_survivors() -> None:
    expected = [[0, 0.3, 0.1, 0], [0.1, 0, 0, 0], [0, 0, 0, 0.1], [math.nan] * 4]
    np.testing.assert_allclose(rates(FLOW, N), expected)


def test_out_flow_in_flow_and_net_flow() -> None:
    phi = rates(FLOW, N)
    np.testing.assert_allclose(out_flow(phi), [0.4, 0.1, 0.1, math.nan])
    np.testing.assert_allclose(in_flow(phi), [0.1, 0.3, 0.1, 0.1])
    np.testing.assert_allclose(net_flow(phi), [-0.3, 0.2, 0.0, math.nan], atol=1e-15)


def test_the_confounder_takes_the_most_and_there_is_none_without_loss() -> None:
    assert confounder(rates(FLOW, N)).tolist() == [1, 0, 3, -1]
    assert confounder(rates([[5, 0], [0, 5]], [5, 5])).tolist() == [-1, -1]


def test_concentration_by_hand() -> None:
    """Class 0 loses 3/4 to class 1 and 1/4 to class 2: H = ln 4 − (3/4) ln 3."""
    found = concentration(rates(FLOW, N))
    np.testing.assert_allclose(found.top_1, [0.75, 1, 1, math.nan])
    np.testing.assert_allclose(found.top_2, [1, 1, 1, math.nan])
    np.testing.assert_allclose(found.effective, [4 / 3**0.75, 1, 1, math.nan])


@QUICK
@given(outcomes(min_images=1))
def test_effective_confounders_agree_with_scipys_entropy(drawn: Outcomes) -> None:
    phi = rates(drawn.flow(), drawn.n)
    effective = concentration(phi).effective
    for row, value in zip(phi, effective, strict=True):
        if np.nansum(row) > 0:
            assert value == pytest.approx(np.exp(stats.entropy(row)))
            assert 1 - 1e-9 <= value <= len(row) - 1 + 1e-9
        else:
            assert math.isnan(value)


@QUICK
@given(outcomes(min_images=1))
def test_nothing_is_lost_between_classes(drawn: Outcomes) -> None:
    phi = rates(drawn.flow(), drawn.n)
    assert np.nansum(out_flow(phi)) == pytest.approx(in_flow(phi).sum())


def test_the_loss_of_a_class_is_clean_minus_robust_accuracy() -> None:
    made = make([0, 0, 0, 1], [0, 0, 1, 1], pgd=[0, 1, 1, 0])
    loss = out_flow(rates(made.flow("pgd"), made.n))
    np.testing.assert_allclose(loss, boundary_error(made.accuracy("clean"), made.accuracy("pgd")))


def test_asymmetry_is_named_from_the_heavier_side_with_exact_p_values() -> None:
    first, second = asymmetry([[0, 1, 6], [9, 0, 0], [6, 0, 0]], [20, 20, 20])
    assert (first.source, first.sink, first.forth, first.back) == (1, 0, 9, 1)
    assert first.difference == pytest.approx(0.4)
    assert first.p_value == pytest.approx(22 / 1024)  # 2·(1 + 10)/2¹⁰
    assert first.p_holm == pytest.approx(2 * 22 / 1024)
    assert (second.forth, second.back, second.p_value, second.p_holm) == (6, 6, 1, 1)


def test_asymmetry_allows_for_classes_of_different_size() -> None:
    """Ten of 100 against one of ten is the same rate, and no asymmetry."""
    (pair,) = asymmetry([[0, 10], [1, 0]], [100, 10])
    assert pair.difference == pytest.approx(0)
    assert pair.p_value == pytest.approx(stats.binomtest(10, 11, 100 / 110).pvalue)


def test_the_source_of_an_asymmetry_is_the_class_with_the_higher_rate_and_not_the_higher_count() -> None:
    (pair,) = asymmetry([[0, 3], [2, 0]], [100, 10])
    assert (pair.source, pair.sink, pair.forth, pair.back) == (1, 0, 2, 3)
    assert pair.difference == pytest.approx(0.17)


def test_pairs_without_flow_or_with_an_absent_class_are_no_tests() -> None:
    assert {frozenset((pair.source, pair.sink)) for pair in asymmetry(FLOW, N)} == {
        frozenset((0, 1)),
        frozenset((0, 2)),
    }
    assert asymmetry([[3, 0], [0, 3]], [3, 3]) == []


def test_group_labels_follow_the_order_of_groups() -> None:
    groups = {"animals": ["cat", "dog"], "vehicles": ["ship"]}
    assert group_labels(["ship", "cat", "dog"], groups).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": ["cat"]}, "Class 'dog' is in no group"),
        ({"a": ["cat", "dog"], "b": ["dog"]}, "Class 'dog' is in more than one group"),
        ({"a": ["cat", "dog", "cow"]}, "unknown class 'cow'"),
    ],
)
def test_groups_that_are_no_partition_are_refused(groups, message: str) -> None:
    with pytest.raises(InputError, match=message):
        group_labels(["cat", "dog"], groups)


def test_within_group_share_by_hand() -> None:
    """Groups {0, 1}, {2}. Errors: 0→1 6, 0→2 2, 2→1 4. Within 6/12; chance (8·½ + 4·0)/12."""
    share = within_group_share([[9, 6, 2], [0, 9, 0], [0, 4, 9]], [0, 0, 1])
    assert share == pytest.approx((0.5, 1 / 3))


@QUICK
@given(st.integers(2, 6), st.integers(0, 1000))
def test_errors_that_are_spread_evenly_stay_within_a_group_at_chance_level(num_classes, seed) -> None:
    random = np.random.default_rng(seed)
    errors = random.integers(1, 9, num_classes)
    confusion = np.broadcast_to(errors[:, None], (num_classes, num_classes))
    within, chance = within_group_share(confusion, random.integers(0, 2, num_classes))
    assert within == pytest.approx(chance)


def test_within_group_share_without_errors_is_undefined() -> None:
    assert all(math.isnan(value) for value in within_group_share([[3, 0], [0, 3]], [0, 1]))


def test_group_accuracy_forgives_confusion_within_the_group_but_not_invalid_predictions() -> None:
    accuracy = group_accuracy([[1, 2, 1], [0, 3, 0], [0, 0, 0]], [5, 3, 0], [0, 0, 1])
    np.testing.assert_array_equal(accuracy, [6 / 8, math.nan])
