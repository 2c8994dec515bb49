"""Stratified splits and samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classwise.data import stratified_sample, stratified_split
from classwise.data.splits import draw_by_class
from classwise.errors import InputError
from classwise.noise import Noise

labels = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(torch.tensor)
shares = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32)
BALANCED = torch.arange(10).repeat(100)


@given(labels, shares, seeds)
def test_a_split_is_disjoint_complete_and_sorted(y, share, seed):
    train, held_out = stratified_split(y, share=share, seed=seed)
    assert torch.cat([train, held_out]).sort().values.tolist() == list(range(len(y)))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(held_out, held_out.sort().values)


@given(labels, shares, seeds)
def test_a_split_holds_out_the_share_of_every_class(y, share, seed):
    _, held_out = stratified_split(y, share=share, seed=seed)
    size, held = torch.bincount(y), torch.bincount(y[held_out], minlength=int(y.max()) + 1)
    for n, k in zip(size.tolist(), held.tolist(), strict=True):
        assert k == min(max(1, int(share * n + 0.5)), n - 1) if n else k == 0


@given(st.integers(1, 3), seeds)
def test_a_number_of_images_a_class_is_held_out_exactly(per_class, seed):
    y = torch.tensor([3, 0, 0, 3, 0, 3, 0, 3])
    _, held_out = stratified_split(y, per_class=per_class, seed=seed)
    assert torch.bincount(y[held_out]).tolist() == [per_class, 0, 0, per_class]


@given(labels, shares, seeds)
def test_a_split_depends_on_nothing_but_labels_and_seed(y, share, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = stratified_split(y, share=share, seed=seed)[1]
        torch.manual_seed(2)
        torch.rand(3)
        assert torch.equal(stratified_split(y, share=share, seed=seed)[1], first)


def test_a_split_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    stratified_split(BALANCED, share=0.1, seed=0)
    stratified_sample(BALANCED, 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_is_another_split():
    splits = {tuple(stratified_split(BALANCED, per_class=5, seed=seed)[1].tolist()) for seed in range(20)}
    assert len(splits) == 20


def test_every_image_is_held_out_equally_often():
    times = torch.zeros(40)
    for seed in range(2000):
        times[stratified_split(torch.arange(2).repeat(20), share=0.25, seed=seed)[1]] += 1
    # Binomial with n = 2000, p = 1/4: five standard deviations are 97.
    assert (times - 500).abs().max() < 97


def test_the_split_of_a_seed_is_pinned():
    """A changed split would silently mix training and validation images of old runs."""
    _, held_out = stratified_split(BALANCED[:60], per_class=1, seed=0)
    assert held_out.tolist() == [4, 22, 27, 30, 38, 41, 43, 55, 56, 59]


@pytest.mark.parametrize("settings", [{}, {"share": 0.5, "per_class": 2}])
def test_a_split_wants_a_share_or_a_number(settings):
    with pytest.raises(InputError, match="either share or per_class"):
        stratified_split(BALANCED, **settings)


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(InputError, match="between 0 and 1"):
        stratified_split(BALANCED, share=share)


@pytest.mark.parametrize(("per_class", "label"), [(0, 0), (2, 1), (3, 1)])
def test_a_class_with_too_few_images_is_named(per_class, label):
    with pytest.raises(InputError, match=f"hold out {per_class} images of class {label}: "):
        stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), per_class=per_class)


@given(labels, st.integers(1, 100), seeds)
def test_a_sample_has_the_size_asked_for_and_is_sorted(y, limit, seed):
    sample = stratified_sample(y, limit, seed)
    assert len(sample.unique()) == len(sample) == min(limit, len(y))
    assert torch.equal(sample, sample.sort().values)


@given(labels, st.integers(1, 79), seeds)
def test_a_larger_sample_contains_the_smaller(y, limit, seed):
    small, large = stratified_sample(y, limit, seed), stratified_sample(y, limit + 1, seed)
    assert set(small.tolist()) <= set(large.tolist())


@given(labels, st.integers(1, 80), seeds)
def test_seats_follow_the_rule_of_sainte_lague(y, limit, seed):
    """No class could give a seat to another and come closer to its share: (s - 1/2)/n <= (t + 1/2)/m."""
    size = torch.bincount(y).double()
    seats = torch.bincount(y[stratified_sample(y, limit, seed)], minlength=len(size)).double()
    size, seats = size[size > 0], seats[size > 0]
    next_turn = torch.where(seats < size, (seats + 0.5) / size, torch.inf)
    assert ((seats - 0.5) / size).max() <= next_turn.min() + 1e-12


@pytest.mark.parametrize(("limit", "counts"), [(1000, {100}), (200, {20}), (15, {1, 2})])
def test_a_sample_of_balanced_classes_is_balanced(limit, counts):
    assert set(torch.bincount(BALANCED[stratified_sample(BALANCED, limit)]).tolist()) == counts


def test_seven_seats_for_classes_of_53_24_and_23():
    """The quotients (s + 1/2)/n in order: 53, 24, 23, 53, 53, 24, 23; the rule of d'Hondt would give 4, 2, 1."""
    y = torch.arange(3).repeat_interleave(torch.tensor([53, 24, 23]))
    assert torch.bincount(y[stratified_sample(y, 7)]).tolist() == [3, 2, 2]


def test_a_sample_of_no_images_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        stratified_sample(BALANCED, 0)


UNEQUAL = torch.tensor([2, 0, 0, 0, 4, 2, 4, 4, 0, 4])  # no image of class 1 or 3


@pytest.mark.parametrize("probs", [[0.2] * 5, [0.5, 0.1, 0.1, 0.0, 0.3], [0.0, 0.5, 1.0, 0.5, 0.0]])
def test_classes_are_drawn_with_their_probabilities_and_images_of_a_class_alike(probs):
    """Of 40,000 draws the share of a class has a standard error below 0.0025; classes without images are left out."""
    drawn = draw_by_class(UNEQUAL, torch.tensor(probs), Noise(3, torch.arange(40_000)))
    there = torch.tensor(probs) * torch.tensor([1, 0, 1, 0, 1])
    share = there / there.sum() / torch.tensor([4, 1, 2, 1, 4])
    frequency = torch.bincount(drawn, minlength=10) / 40_000
    assert frequency.tolist() == pytest.approx(share[UNEQUAL].tolist(), abs=0.01)
    assert (frequency[share[UNEQUAL] == 0] == 0).all()


def test_a_draw_depends_on_its_own_number_alone():
    probs = torch.tensor([0.5, 0.0, 0.2, 0.0, 0.3])
    whole = draw_by_class(UNEQUAL, probs, Noise(3, torch.arange(50)))
    part = draw_by_class(UNEQUAL, probs, Noise(3, torch.arange(1, 50, 2)))
    assert torch.equal(whole[1::2], part)
