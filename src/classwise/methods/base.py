"""What every training method shares: its call, what it gives back, and what it learns of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.metrics.stats import ClassStats
from classwise.noise import Noise


class Step(NamedTuple):
    """A method's loss on one batch, with the logits it made on the way, which class statistics are taken from.

    Attributes:
        loss: mean over the batch, a scalar with a graph.
        logits_adv: logits on the attacked images (N, K), None where the method attacks nothing.
        logits: logits on the clean images (N, K), None where the method does not see them.
    """

    loss: Tensor
    logits_adv: Tensor | None
    logits: Tensor | None = None


class Pass(NamedTuple):
    """Sums by class over one pass, clean and attacked; an empty one where nothing was measured."""

    clean: ClassStats
    robust: ClassStats


@dataclass(frozen=True)
class Epoch:
    """What happened in one epoch, summed over processes.

    Attributes:
        number: epochs finished before this one.
        train: sums over the training batches.
        valid: sums over the held-out images; None if nothing is held out.
    """

    number: int
    train: Pass
    valid: Pass | None


class Method(nn.Module):
    """A training method: settings in attributes, class state in buffers, the loss of a batch in forward.

    Attributes:
        attack: crafts the training images.
        num_classes: number of classes.
        head: the last layer that the network must have, as ``models.heads`` reads it, such as "cosine(scale=10)";
            None for whatever it has. ``classwise train`` puts it there.
    """

    head: str | None = None

    def __init__(self, num_classes: int, attack: PGD) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.attack = attack

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Return the loss of a batch.

        Args:
            model: in train mode.
            x: clean images (N, C, H, W) in [0, 1].
            y: true classes (N,).
            noise: random numbers of these images in this epoch.
        """
        raise NotImplementedError

    def end_epoch(self, epoch: Epoch) -> None:
        """Adapt the class state; nothing, unless the method says otherwise."""


def number(name: str, value: float, least: float = 0.0) -> float:
    """Return a setting that is a finite number of at least ``least``.

    Raises:
        InputError: it is something else.
    """
    if type(value) not in (int, float) or not least <= value < math.inf:
        raise InputError(f"The setting {name} is {value!r}, but must be a finite number of at least {least:g}.")
    return float(value)


def whole(name: str, value: int, least: int = 0) -> int:
    """Return a setting that is a whole number of at least ``least``.

    Raises:
        InputError: it is something else.
    """
    if type(value) is not int or value < least:  # True is an int to isinstance
        raise InputError(f"The setting {name} is {value!r}, but must be a whole number of at least {least}.")
    return value


def over_processes(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over the processes that train together: for what a loss divides by.

    Each process sees its share of a batch only, and dividing by the sum of a share would weigh images by the process
    that they happen to be in.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value


def sums_by_class(value: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return how many images of each class the batch of all processes has, and the sum of their values, in float64.

    Args:
        value: one number an image, (N,); detached here.
        y: true classes (N,).
        num_classes: number of classes C.

    Returns:
        Counts (C,) and sums (C,).
    """
    rows = torch.stack([torch.ones_like(value, dtype=torch.float64), value.detach().double()])
    count, total = over_processes(rows.new_zeros(2, num_classes).index_add_(1, y, rows))
    return count, total
