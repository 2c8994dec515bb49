"""Normalisation inside the model, so that every model takes [0, 1] and an attack sees the whole function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from classwise.errors import InputError

Statistic = float | Sequence[float] | None


class Normalize(nn.Module):
    """First layer of a model: ``(x - mean) / std`` by channel, or nothing at all without statistics.

    The statistics are buffers, so they travel with the weights and are part of their hash.

    Args:
        mean: one number, or one a channel, in the units of x (that is, in [0, 1]); None leaves x alone.
        std: likewise, above 0; given exactly when ``mean`` is.
        channels: number of channels of x.

    Raises:
        InputError: only one of the two is given, their length is not ``channels``, or a std is not positive.

    Example:
        >>> Normalize(0.5, (0.25, 0.5), channels=2)(torch.ones(1, 2, 1, 1)).flatten()
        tensor([2., 1.])
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, mean: Statistic, std: Statistic, channels: int) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise InputError("Normalisation needs both mean and std; give the other one too, or neither.")
        self.register_buffer("mean", None if mean is None else _column("mean", mean, channels))
        self.register_buffer("std", None if std is None else _column("std", std, channels))
        if self.std is not None and not bool((self.std > 0).all()):
            raise InputError(f"Normalisation needs a std above 0 for every channel, not {std}.")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to normalised images of the same shape."""
        if self.mean is None or self.std is None:
            return x
        return (x - self.mean) / self.std


def _column(name: str, values: float | Sequence[float], channels: int) -> Tensor:
    """Return one value a channel as (C, 1, 1)."""
    column = torch.as_tensor(values, dtype=torch.float32).flatten()
    if len(column) not in (1, channels):
        raise InputError(
            f"Normalisation by {len(column)} values of {name} does not fit images of {channels} channels; "
            f"give one number, or {channels}."
        )
    return column.expand(channels).clone().view(channels, 1, 1)
