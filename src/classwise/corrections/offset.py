"""Offsets: a number added to the logit of a class, of the weakest one or of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classwise.corrections.base import Pool, check_settings, weakest
from classwise.registry import register


class Offset(nn.Module):
    """g = z + b.

    Args:
        offset: b (C,). Only differences matter, so that rules keep its sum at 0.

    Example:
        >>> Offset(torch.tensor([1.0, -1.0]))(torch.tensor([[0.0, 1.0]]))
        tensor([[1., 0.]])
    """

    offset: Tensor

    def __init__(self, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("offset", offset)

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits (…, C) to logits of the same shape."""
        return logits + self.offset


@dataclass(frozen=True)
class _Shifting:
    """A rule that adds numbers to logits: abstract, as to which classes.

    Attributes:
        rule: its name.
    """

    step: float = 0.1
    rounds: int = 6
    module: ClassVar[type[nn.Module]] = Offset
    rule: ClassVar[str]

    def __post_init__(self) -> None:
        check_settings(self.rule, self.step, self.rounds)


@register("correction", "iv-offset", source="our design")
@dataclass(frozen=True)
class IVOffset(_Shifting):
    """An offset for the one class that is the weakest before any correction.

    b = θ·gap·(e_v − 1/C), θ ≥ 0, gap being the median distance between the two largest clean logits.

    Attributes:
        step: how far θ moves in a step of the search at most.
        rounds: how often the correction is attacked and fitted again at most.

    Raises:
        InputError: a setting outside its range.
    """

    rule: ClassVar[str] = "iv-offset"

    def start(self, pool: Pool) -> Tensor:
        """Return θ = 0, (1,)."""
        return torch.zeros(1)

    def limited(self, theta: Tensor) -> Tensor:
        """Keep θ at or above 0."""
        return theta.clamp_min(0)

    def at(self, theta: Tensor, pool: Pool) -> Offset:
        """Raise the class that is the weakest before any correction."""
        label = weakest(pool.before().accuracy(lambda logits: logits))
        one = F.one_hot(torch.tensor(label), pool.num_classes)
        return Offset(theta * pool.gap * (one - 1 / pool.num_classes))


@register("correction", "iv-offsets", source="our design")
@dataclass(frozen=True)
class IVOffsets(_Shifting):
    """An offset for each class.

    b = gap·(θ − mean θ), θ (C,), gap being the median distance between the two largest clean logits.

    Attributes:
        step: how far θ moves in a step of the search at most.
        rounds: how often the correction is attacked and fitted again at most.

    Raises:
        InputError: a setting outside its range.
    """

    rule: ClassVar[str] = "iv-offsets"

    def start(self, pool: Pool) -> Tensor:
        """Return θ = 0, (C,)."""
        return torch.zeros(pool.num_classes)

    def limited(self, theta: Tensor) -> Tensor:
        """Keep the sum of θ at 0, since only differences matter."""
        return theta - theta.mean()

    def at(self, theta: Tensor, pool: Pool) -> Offset:
        """Shift the logits by θ, in units of the gap."""
        return Offset(pool.gap * (theta - theta.mean()))
