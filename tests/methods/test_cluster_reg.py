"""Clustering by superclass: the penalty by hand, what it ignores, and adversarial training without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.strategies import attack, batch, network

from classwise.errors import InputError
from classwise.methods import AT, ClusterReg, Step
from classwise.methods.cluster_reg import numbered, spread

Y = torch.arange(24) % 4
GROUPS = ((0, 2), (1, 3))

logits = st.lists(st.floats(-9, 9, width=32), min_size=5, max_size=5)


def made(method: Any) -> Step:
    x, noise = batch(Y)
    step: Step = method(network(4), x, Y, noise)
    return step


def test_the_penalty_is_the_squared_distance_from_the_mean_of_the_group() -> None:
    """Group {0, 2} has logits 1 and 3: 1 + 1; group {1, 3, 4} has 0, 0 and 6: 4 + 4 + 16; class 5 is alone."""
    z = torch.tensor([[1.0, 0.0, 3.0, 0.0, 6.0, 7.0]])
    assert spread(z, numbered([(0, 2), (1, 3, 4)], 6)).tolist() == pytest.approx([26.0])


@settings(max_examples=50, deadline=None)
@given(logits, st.floats(-9, 9, width=32), st.floats(-9, 9, width=32))
def test_a_constant_added_to_the_logits_of_a_group_changes_nothing(z: list[float], one: float, other: float) -> None:
    group = numbered([(0, 3), (1, 2)], 5)
    before = torch.tensor([z], dtype=torch.float64)
    after = before + torch.tensor([one, other, other, one, 5.0])
    torch.testing.assert_close(spread(after, group), spread(before, group), atol=1e-9, rtol=1e-9)


def test_equal_logits_inside_each_group_cost_nothing() -> None:
    assert spread(torch.tensor([[2.0, -1.0, 2.0, -1.0]]), numbered(GROUPS, 4)).tolist() == [0.0]


def test_the_gradient_flows_through_the_mean_too() -> None:
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: spread(logits, numbered(GROUPS, 4)), (z,))


def test_the_loss_is_the_cross_entropy_and_a_tenth_of_beta_times_the_penalty() -> None:
    step = made(ClusterReg(4, attack(), GROUPS, beta=2.0))
    z = step.logits_adv
    penalty = sum(((z[:, [a, b]] - z[:, [a, b]].mean(1, keepdim=True)) ** 2).sum(1).mean() for a, b in GROUPS)
    torch.testing.assert_close(step.loss, F.cross_entropy(z, Y) + 0.2 * penalty)


def test_without_beta_it_is_adversarial_training() -> None:
    ours, plain = made(ClusterReg(4, attack(), GROUPS, beta=0)), made(AT(4, attack()))
    torch.testing.assert_close(ours.loss, plain.loss)
    assert torch.equal(ours.logits_adv, plain.logits_adv)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "the data set has none"),
        ({"groups": ()}, "the data set has none"),
        ({"groups": 3}, "the data set has none"),
        ({"groups": ((0, 4),)}, "Class 4 of the groups"),
        ({"groups": ((0, 1), (1, 2))}, "Class 1 of the groups is listed twice"),
        ({"groups": (("cat",),)}, "setting groups"),
        ({"groups": GROUPS, "beta": -1}, "setting beta"),
    ],
)
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ClusterReg(4, attack(), **wrong)
