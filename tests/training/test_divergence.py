"""Divergence is noted on the step it happens in, however much later it is read, and blamed on a class."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from classwise.errors import InputError
from classwise.training import divergence
from classwise.training.divergence import DivergenceMonitor, class_losses, responsible_classes

CLASSES = ("cat", "dog", "owl")
Y = torch.tensor([0, 1, 1])


def logits(*losing: int) -> Tensor:
    """Return logits under which the images at these positions have a large loss."""
    found = torch.zeros(3, 3)
    found[torch.arange(3), Y] = 3.0
    found[list(losing)] *= -1
    return found


def lazy(epoch: int = 0) -> DivergenceMonitor:
    """Return a watch that looks only when told to, as on a device."""
    watch = DivergenceMonitor(epoch, CLASSES, torch.clone, torch.device("cpu"))
    watch._every = 1000
    return watch


def test_the_first_step_is_named_though_later_ones_break_too() -> None:
    watch = lazy(epoch=4)
    for number, value in enumerate([1.0, 1.0, math.nan, 1.0, math.inf]):
        watch.note(number, [torch.tensor(value)], logits(0 if number == 2 else 1), Y)
    with pytest.raises(InputError, match="epoch 5, batch 3 with its largest loss on images of cat:") as caught:
        watch.check()
    assert "the checkpoint of epoch 4 is kept" in str(caught.value)


def test_finite_steps_are_no_divergence() -> None:
    watch = lazy()
    for number in range(3):
        watch.note(number, [torch.tensor(1e30), torch.tensor([-1e30])], logits(), Y)
    watch.check()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_loss_and_gradients_are_looked_at_alike(value: float, position: int) -> None:
    values = [torch.ones(()), torch.ones(2)]
    values[position] = values[position] * value
    watch = lazy()
    watch.note(0, values, logits(), Y)
    with pytest.raises(InputError, match="epoch 1, batch 1"):
        watch.check()


def test_weights_that_break_at_the_end_are_blamed_on_the_last_batch() -> None:
    watch = lazy()
    watch.note(0, [torch.tensor(1.0)], logits(1), Y)
    watch.note(1, [torch.tensor(1.0)], logits(0), Y)
    watch.note(1, [torch.tensor(math.nan)], None, Y)
    with pytest.raises(InputError, match="batch 2 with its largest loss on images of cat"):
        watch.check()


def test_on_the_cpu_every_step_is_looked_at() -> None:
    watch = DivergenceMonitor(0, CLASSES, torch.clone, torch.device("cpu"))
    with pytest.raises(InputError):
        watch.note(0, [torch.tensor(math.nan)], logits(), Y)


def test_elsewhere_it_looks_every_few_steps() -> None:
    watch = DivergenceMonitor(0, CLASSES, torch.clone, torch.device("cpu"))
    watch._every = divergence._LOOK_EVERY
    watch.note(0, [torch.tensor(math.nan)], logits(), Y)
    with pytest.raises(InputError, match="batch 1"):
        watch.note(divergence._LOOK_EVERY - 1, [torch.tensor(1.0)], logits(), Y)


def test_a_process_stops_for_what_another_has_seen() -> None:
    watch = DivergenceMonitor(
        0, CLASSES, lambda value: value + torch.inf if value.dim() == 0 else value, torch.device("cpu")
    )
    with pytest.raises(InputError):
        watch.note(0, [torch.tensor(1.0)], logits(), Y)


def test_losses_are_summed_by_class() -> None:
    z = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    sums = class_losses(z, Y, 3)
    loss = torch.nn.functional.cross_entropy(z.double(), Y, reduction="none")
    torch.testing.assert_close(sums[0], torch.stack([loss[0], loss[1] + loss[2], torch.zeros_like(loss[0])]))
    assert sums[1].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([[1.0, 9.0, 0.0], [1.0, 3.0, 0.0]], " with its largest loss on images of dog"),
        ([[1.0, math.nan, 0.0], [1.0, 3.0, 0.0]], " on images of dog"),
        ([[math.inf, 1.0, math.nan], [1.0, 3.0, 2.0]], " on images of cat, owl"),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], ""),
    ],
)
def test_the_class_that_broke_is_named_or_the_one_of_largest_mean_loss(losses: list[list[float]], says: str) -> None:
    assert responsible_classes(torch.tensor(losses), CLASSES) == says
