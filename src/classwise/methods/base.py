"""What every training method shares: its call, what it gives back, and what it learns of an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from classwise.attacks.pgd import PGD
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
    """

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
