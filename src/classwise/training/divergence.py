"""Divergence: the first step that is not finite, noted on the device and read only now and then."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from classwise.errors import InputError
from classwise.losses import cross_entropy

_LOOK_EVERY = 32
"""Steps between two looks on a device that works on its own: a look makes the host wait for it."""


class DivergenceMonitor:
    """Looks out for loss, gradients and weights that are not finite, over one epoch.

    On the CPU every step is looked at; on other devices the steps go on until the next look, but none of what they
    did is ever kept, since the epoch's last look comes before anything is written.

    Attributes:
        epoch: epochs finished before this one.
        classes: names of the classes.
        total: sums a tensor over processes, so that all of them stop or none.
        first: number of the first step that was not finite, -1 if all were, a tensor ().
        losses: sum of losses and number of images of each class in that step, or in the last one, (2, C).
    """

    def __init__(
        self, epoch: int, classes: Sequence[str], total: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        self.epoch, self.classes, self.total = epoch, classes, total
        self.first = torch.full((), -1, device=device)
        self.losses = torch.zeros(2, len(classes), dtype=torch.float64, device=device)
        self._every = 1 if device.type == "cpu" else _LOOK_EVERY

    @torch.no_grad()
    def note(self, number: int, values: list[Tensor], logits: Tensor | None, y: Tensor) -> None:
        """Note whether the values of a step are finite in every process, and look if it is time.

        Args:
            number: of the step, from 0.
            values: loss and gradients.
            logits: (N, C), for the loss of each class; None where there are none.
            y: true classes (N,).

        Raises:
            InputError: this step or one since the last look was not finite.
        """
        unknown = self.first < 0
        finite = self.total(torch.nn.utils.get_total_norm(values, norm_type=math.inf)).isfinite()
        if logits is not None:
            self.losses = torch.where(unknown, class_losses(logits.detach(), y, len(self.classes)), self.losses)
        self.first = torch.where(unknown & ~finite, number, self.first)
        if (number + 1) % self._every == 0:
            self.check()

    def check(self) -> None:
        """Read what was noted.

        Raises:
            InputError: a step was not finite; names epoch, batch and class.
        """
        number = int(self.first)
        if number >= 0:
            raise InputError(self._sentence(number))

    def _sentence(self, number: int) -> str:
        checkpoint = f"the checkpoint of epoch {self.epoch} is kept, and " if self.epoch else ""
        where = responsible_classes(self.total(self.losses).cpu(), self.classes)
        return (
            f"Training diverged in epoch {self.epoch + 1}, batch {number + 1}{where}: loss, gradient or weights are no "
            f"longer finite; {checkpoint}a lower learning rate in another --out may help."
        )


def class_losses(logits: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the sum of the cross-entropies and the number of the images of each class, (2, C), float64."""
    loss = cross_entropy(logits.float(), y).double()
    empty = torch.zeros(num_classes, dtype=torch.float64, device=y.device)
    return torch.stack([empty.index_add(0, y, loss), empty.index_add(0, y, torch.ones_like(loss))])


def responsible_classes(losses: Tensor, classes: Sequence[str]) -> str:
    """Name the classes whose mean loss is not finite, at most three, or else the one where it is largest.

    Args:
        losses: sums and counts, (2, C).
        classes: their names.
    """
    mean, present = losses[0] / losses[1], losses[1] > 0
    broken = (present & ~mean.isfinite()).nonzero().flatten().tolist()
    if broken:
        return f" on images of {', '.join(classes[c] for c in broken[:3])}"
    if not present.any():
        return ""
    return f" with its largest loss on images of {classes[int(torch.where(present, mean, -torch.inf).argmax())]}"
