"""Class-wise robustness as torchmetrics classes, for loops that keep their metrics there (extra `torchmetrics`).

State is integer counts only, so batches and processes merge by adding. A class without images is NaN and never 0, where
torchmetrics gives 0 and so a worst class that does not exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from classwise.errors import InputError

try:
    from torchmetrics import Metric
except ModuleNotFoundError as missing:
    raise InputError("torchmetrics is not installed; run pip install 'classwise[torchmetrics]'.") from missing


class _Counts(Metric):
    """Images of each class, and those right on every version that was shown, (C,) each."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    n: Tensor
    correct: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_classes(num_classes)
        for name in ("n", "correct"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor, clean_logits: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            logits: on the adversarial images, (N, C) of any floating type; or predictions, (N,) integers.
            y: labels (N,) in 0 … C − 1.
            clean_logits: on the clean images, alike; an image is robust only if both are right. None where the
                adversarial image of a wrong image is that image itself.

        Raises:
            InputError: shapes that do not fit, or labels out of range.
        """
        right = _right(logits, y, len(self.n))
        if clean_logits is not None:
            right = right & _right(clean_logits, y, len(self.n))
        self.n += torch.bincount(y, minlength=len(self.n))
        self.correct += torch.bincount(y[right], minlength=len(self.n))

    def by_class(self) -> Tensor:
        """Return the share of right images of each class so far, (C,); NaN for a class without images."""
        return torch.where(self.n > 0, self.correct / self.n, torch.nan)


class ClasswiseRobustAccuracy(_Counts):
    """Robust accuracy of each class, (C,): the share of its images that are right under attack, and clean if given.

    Agrees with torchmetrics' ``MulticlassAccuracy(average=None)`` on classes that have images.

    Args:
        num_classes: C, at least 1.
        kwargs: of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = ClasswiseRobustAccuracy(num_classes=3)
        >>> metric.update(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        tensor([0.5000, 0.5000,    nan])
    """

    def compute(self) -> Tensor:
        """Return the accuracies, (C,)."""
        return self.by_class()


class WorstClassAccuracy(_Counts):
    """The lowest of the class accuracies, (); classes without images are skipped, NaN if all are.

    With the largest class sizes of a training batch it is mostly noise: compute it over an epoch. Arguments as
    :class:`ClasswiseRobustAccuracy`.
    """

    def compute(self) -> Tensor:
        """Return the lowest accuracy, ()."""
        lowest = self.by_class().nan_to_num(nan=torch.inf).amin()
        return torch.where(lowest.isinf(), torch.nan, lowest)


class ConfusionFlow(Metric):
    """Φ_ij, the share of the images of class i that are right when clean and taken for class j under attack, (C, C).

    The diagonal is 0, and row sums are what the attack costs each class. A class without images has a row of NaN.

    Args:
        num_classes: C, at least 1.
        kwargs: of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = ConfusionFlow(num_classes=2)
        >>> metric.update(torch.tensor([1, 0, 0]), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]))
        >>> metric.compute()
        tensor([[0.0000, 0.5000],
                [1.0000, 0.0000]])
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    n: Tensor
    moved: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_classes(num_classes)
        self.add_state("n", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("moved", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor, clean_logits: Tensor) -> None:
        """Count a batch.

        Args:
            logits: on the adversarial images, (N, C) of any floating type; or predictions, (N,) integers.
            y: labels (N,) in 0 … C − 1.
            clean_logits: on the clean images, alike.

        Raises:
            InputError: shapes that do not fit, or labels out of range.
        """
        size = len(self.n)
        broken = _right(clean_logits, y, size) & ~_right(logits, y, size)
        cell = y[broken] * size + _mistakes(logits, y)[broken]
        # Logits that are not finite name no class, so they flow nowhere.
        cell = cell[_named(logits)[broken]]
        self.n += torch.bincount(y, minlength=size)
        self.moved += torch.bincount(cell, minlength=size**2).view(size, size)

    def compute(self) -> Tensor:
        """Return the rates, (C, C)."""
        return torch.where(self.n[:, None] > 0, self.moved / self.n[:, None], torch.nan)


def _check_classes(num_classes: int) -> None:
    if num_classes < 1:
        raise InputError(f"A metric over {num_classes} classes makes no sense; give the number of classes.")


def _mistakes(logits: Tensor, y: Tensor) -> Tensor:
    """Return the class that each image is taken for if it is wrong, (N,); of equal logits not the true one."""
    return logits if logits.ndim == 1 else logits.float().scatter(1, y[:, None], -torch.inf).argmax(1)


def _named(logits: Tensor) -> Tensor:
    """Tell which rows name a class, (N,): all predictions, and logits that are finite."""
    return torch.ones_like(logits, dtype=torch.bool) if logits.ndim == 1 else logits.isfinite().all(1)


def _right(logits: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Tell which images are right, (N,); a tie with the true class and logits that are not finite count as wrong."""
    shape = (len(y),) if logits.ndim == 1 else (len(y), num_classes)
    if y.ndim != 1 or logits.shape != shape or (logits.ndim == 1 and logits.is_floating_point()):
        raise InputError(
            f"The metric takes logits (N, {num_classes}) or integer predictions (N,) with labels (N,), not "
            f"{tuple(logits.shape)} with {tuple(y.shape)}."
        )
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise InputError(f"Labels must lie in 0 … {num_classes - 1}, not {int(y.min())} … {int(y.max())}.")
    if logits.ndim == 1:
        return logits == y
    wide = logits.float()
    true = wide.gather(1, y[:, None])
    rivals = (wide >= true).sum(1) > 1
    return ~rivals & wide.isfinite().all(1)
