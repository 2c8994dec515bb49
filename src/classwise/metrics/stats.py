"""Sums by class, for training: what a method reads at the end of an epoch, and what ranks add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class ClassStats:
    """Sums over images, by class, in float64, so that batches, ranks and resumed epochs merge by adding.

    Counts are exact up to 2⁵³. A mean is taken only when it is read, and is NaN for a class without images.

    Attributes:
        n: images of each class, (C,).
        confusion: images of class y predicted as k, (C, C) [y, k]; an image whose logits are not finite counts
            in n and in no column, so it is wrong.
        probability: sum of the softmax over the images of each class, (C, C) [y, k].
        loss: sum of the losses of the images of each class, (C,).

    Example:
        >>> stats = ClassStats.zeros(2)
        >>> stats.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]), torch.tensor([0.5, 1.5]))
        >>> stats.accuracy.tolist(), stats.mean_loss.tolist()
        ([0.5, nan], [1.0, nan])
    """

    n: Tensor
    confusion: Tensor
    probability: Tensor
    loss: Tensor

    @classmethod
    def zeros(cls, num_classes: int, device: torch.device | str | None = None) -> ClassStats:
        """Start with nothing counted, on a device."""

        def empty(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            empty(num_classes),
            empty(num_classes, num_classes),
            empty(num_classes, num_classes),
            empty(num_classes),
        )

    @torch.no_grad()
    def update(self, logits: Tensor, y: Tensor, loss: Tensor) -> None:
        """Add a batch in place, without waiting for the device.

        Args:
            logits: (N, C), of any floating type; detached here.
            y: labels (N,) int64.
            loss: loss of each image, (N,); detached here.

        Raises:
            ValueError: the shapes do not fit together.
        """
        size, num_classes = len(y), self.num_classes
        if logits.shape != (size, num_classes) or loss.shape != (size,):
            raise ValueError(
                f"logits {tuple(logits.shape)} and loss {tuple(loss.shape)} do not fit {size} images "
                f"of {num_classes} classes"
            )
        wide = logits.double()
        # A weight of 0 drops the images without a verdict; a mask would make the host wait for its size.
        finite = wide.isfinite().all(1).double()
        self.n.index_add_(0, y, torch.ones_like(finite))
        self.confusion.view(-1).index_add_(0, y * num_classes + wide.argmax(1), finite)
        self.probability.index_add_(0, y, wide.softmax(1))
        self.loss.index_add_(0, y, loss.double())

    def __add__(self, other: ClassStats) -> ClassStats:
        """Merge the sums of two disjoint sets of images."""
        if not isinstance(other, ClassStats):
            return NotImplemented
        return ClassStats(*(mine + theirs for mine, theirs in zip(self.tensors(), other.tensors(), strict=True)))

    def tensors(self) -> list[Tensor]:
        """Return the four tensors themselves, to be summed over ranks in place."""
        return [self.n, self.confusion, self.probability, self.loss]

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.n)

    @property
    def correct(self) -> Tensor:
        """Right images of each class, (C,)."""
        return self.confusion.diagonal()

    @property
    def accuracy(self) -> Tensor:
        """Share of right images in each class, (C,); NaN for a class without images."""
        return self.correct / self.n

    @property
    def average(self) -> Tensor:
        """Share of right images among all, (), NaN without images."""
        return self.correct.sum() / self.n.sum()

    @property
    def worst(self) -> Tensor:
        """Lowest class accuracy, (); absent classes are skipped, NaN if all are absent."""
        lowest = self.accuracy.nan_to_num(nan=torch.inf).amin()
        return torch.where(lowest.isinf(), torch.nan, lowest)

    @property
    def mean_loss(self) -> Tensor:
        """Mean loss of each class, (C,); NaN for a class without images."""
        return self.loss / self.n

    @property
    def mean_probability(self) -> Tensor:
        """Mean softmax of each class, (C, C), whose rows sum to 1; NaN for a class without images."""
        return self.probability / self.n[:, None]
