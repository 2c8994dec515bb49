"""Scales: the logit of each class, taken from the mean of all, is stretched or shrunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from classwise.corrections.base import Pool, check_settings
from classwise.registry import register


class Scale(nn.Module):
    """g_c = a_c·(z_c − z̄), z̄ being the mean of an image's logits.

    Args:
        scale: a (C,), above 0.

    Example:
        >>> Scale(torch.tensor([1.0, 2.0]))(torch.tensor([[0.0, 2.0]]))
        tensor([[-1.,  2.]])
    """

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits (…, C) to logits of the same shape."""
        return self.scale * (logits - logits.mean(-1, keepdim=True))


@register("correction", "iv-scale", source="our design")
@dataclass(frozen=True)
class IVScale:
    """A scale for each class: a = 2^θ, θ (C,) in [−1, 1].

    Attributes:
        step: how far θ moves in a step of the search at most, above 0 and at most 1.
        rounds: how often the correction is attacked and fitted again at most.

    Raises:
        InputError: a setting outside its range.
    """

    step: float = 0.05
    rounds: int = 6
    module: ClassVar[type[nn.Module]] = Scale

    def __post_init__(self) -> None:
        check_settings("iv-scale", self.step, self.rounds, most=1.0)

    def start(self, pool: Pool) -> Tensor:
        """Return θ = 0, (C,)."""
        return torch.zeros(pool.num_classes)

    def limited(self, theta: Tensor) -> Tensor:
        """Keep scales between 1/2 and 2."""
        return theta.clamp(-1, 1)

    def at(self, theta: Tensor, pool: Pool) -> Scale:
        """Stretch the logits by 2^θ."""
        return Scale(2**theta)
