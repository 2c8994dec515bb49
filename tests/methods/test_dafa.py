"""DAFA: the weights by hand and as a transport between pairs, and the loss and attack that they scale."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.strategies import Watched, attack, batch, network, pass_of
from torch import Tensor

from classwise import registry
from classwise.errors import InputError
from classwise.losses import cross_entropy, kl
from classwise.methods import DAFA, TRADES, Epoch, Step
from classwise.methods.dafa import distance_weight, floored

Y = torch.arange(24) % 3


@st.composite
def similarities(draw: st.DrawFn) -> Tensor:
    """Draw a matrix of positive numbers whose rows sum to 1."""
    size = draw(st.integers(2, 8))
    numbers = draw(st.lists(st.floats(0.01, 1), min_size=size * size, max_size=size * size))
    matrix = torch.tensor(numbers, dtype=torch.float64).view(size, size)
    return matrix / matrix.sum(1, keepdim=True)


def build(text: str = "dafa(warmup=1)", **settings: Any) -> DAFA:
    method: DAFA = registry.build("method", text, 3, attack(**settings))
    return method


def weighted(text: str, weight: list[float], **settings: Any) -> DAFA:
    method = build(text, **settings)
    method.weight.copy_(torch.tensor(weight))
    return method


def made(method: DAFA | TRADES, model: torch.nn.Module | None = None) -> Step:
    x, noise = batch(Y)
    step: Step = method(model or network(3), x, Y, noise)
    return step


def test_the_weights_of_three_classes_by_hand() -> None:
    """Ease 0.5, 0.6, 0.9. Moved: 0.3·0.6 from 1 to 0, 0.2·0.9 from 2 to 0, 0.1·0.9 from 2 to 1; λ 1.

    So 1 + 0.18 + 0.18, 1 − 0.18 + 0.09 and 1 − 0.18 − 0.09.
    """
    similarity = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.6, 0.1], [0.05, 0.05, 0.9]])
    assert distance_weight(similarity, 1.0).tolist() == pytest.approx([1.36, 0.91, 0.73])
    assert distance_weight(similarity, 0.5).tolist() == pytest.approx([1.18, 0.955, 0.865])


@settings(deadline=None)
@given(similarities(), st.floats(0, 3))
def test_weights_have_mean_1_the_hardest_class_gains_and_the_easiest_loses(matrix: Tensor, lambda1: float) -> None:
    weight, ease = distance_weight(matrix, lambda1), matrix.diagonal()
    assert float(weight.mean()) == pytest.approx(1)
    assert float(weight[ease.argmin()]) >= 1 - 1e-12
    assert float(weight[ease.argmax()]) <= 1 + 1e-12


@settings(deadline=None)
@given(similarities(), st.randoms())
def test_relabelling_the_classes_permutes_the_weights(matrix: Tensor, random: Any) -> None:
    order = torch.tensor(random.sample(range(len(matrix)), len(matrix)))
    torch.testing.assert_close(distance_weight(matrix[order][:, order], 1.0), distance_weight(matrix, 1.0)[order])


@settings(deadline=None)
@given(similarities())
def test_without_lambda_all_weigh_alike(matrix: Tensor) -> None:
    assert distance_weight(matrix, 0.0).tolist() == [1] * len(matrix)


def test_classes_that_are_equally_hard_leave_each_other_alone() -> None:
    assert distance_weight(torch.tensor([[0.6, 0.4], [0.3, 0.6]]), 1.0).tolist() == [1, 1]


def test_a_class_that_was_not_seen_exchanges_nothing() -> None:
    similarity = torch.tensor([[0.5, 0.3, 0.2], [math.nan] * 3, [0.05, 0.05, 0.9]])
    assert distance_weight(similarity, 1.0).tolist() == pytest.approx([1.18, 1, 0.82])


def test_no_weight_falls_below_a_twentieth_and_the_mean_stays_1() -> None:
    weight = floored(torch.tensor([3.2, 1.0, -1.2]))
    assert float(weight.mean()) == pytest.approx(1)
    assert weight.tolist() == pytest.approx([3.2 / 4.25 * 3, 3 / 4.25, 0.15 / 4.25])
    assert floored(torch.tensor([1.36, 0.91, 0.73])).tolist() == pytest.approx([1.36, 0.91, 0.73]), "else unchanged"


def test_the_weights_come_from_the_last_epoch_of_the_warm_up_and_stay() -> None:
    method = build("dafa(warmup=2)")
    seen = []
    for number, robust in enumerate([[0.9, 0.2, 0.5], [0.5, 0.6, 0.9], [0.1, 0.9, 0.2]]):
        method.end_epoch(Epoch(number, pass_of(robust=robust), None))
        seen.append(method.weight.tolist())
    # Each class is taken for the next where it is not right: S = [[.5, .5, 0], [0, .6, .4], [.1, 0, .9]].
    wanted = [1 + 0.5 * 0.6, 1 - 0.5 * 0.6 + 0.4 * 0.9, 1 - 0.4 * 0.9]
    assert seen[0] == [1, 1, 1]
    assert seen[1] == seen[2] == pytest.approx(wanted)


def test_in_the_warm_up_it_is_trades() -> None:
    torch.testing.assert_close(made(build()).loss, made(TRADES(3, attack())).loss)


def test_the_cross_entropy_is_weighted_and_the_divergence_is_not() -> None:
    step = made(weighted("dafa(beta=2)", [1.5, 1.0, 0.5]))
    weight = torch.tensor([1.5, 1.0, 0.5])[Y]
    wanted = (weight * cross_entropy(step.logits, Y)).mean() + 2 * kl(step.logits_adv, step.logits).mean()  # type: ignore[arg-type]
    torch.testing.assert_close(step.loss, wanted)


def test_on_adversarial_training_the_loss_on_attacked_images_is_weighted() -> None:
    step = made(weighted("dafa(base='at')", [1.5, 1.0, 0.5]))
    wanted = torch.tensor([1.5, 1.0, 0.5])[Y] * cross_entropy(step.logits_adv, Y)  # type: ignore[arg-type]
    assert step.logits is None
    torch.testing.assert_close(step.loss, wanted.mean())


@pytest.mark.parametrize("base", ["at", "trades"])
@pytest.mark.parametrize(("steps", "reach"), [(1, 0.5), (8, 1.0)])
def test_radius_and_step_of_a_class_are_scaled_by_its_weight(base: str, steps: int, reach: float) -> None:
    """The step is half the radius, so one step from x + 0.001·N reaches half of each radius, and eight all of it."""
    method = weighted(f"dafa(base={base!r})", [1.5, 1.0, 0.5], eps=0.2, steps=steps)
    x, _ = batch(Y)
    model = Watched(network(3))
    made(method, model)
    moved = (model.seen[-1][1] - x).abs().amax((1, 2, 3)) / 0.2
    assert [float(moved[c == Y].max()) for c in range(3)] == pytest.approx(
        [1.5 * reach, reach, 0.5 * reach], abs=0.025 if steps == 1 else 1e-4
    )


@pytest.mark.parametrize("setting", ["lambda1=-1", "warmup=0", "beta=-1"])
def test_a_setting_outside_its_range_is_refused(setting: str) -> None:
    with pytest.raises(InputError, match="setting " + setting.partition("=")[0]):
        build(f"dafa({setting})")
