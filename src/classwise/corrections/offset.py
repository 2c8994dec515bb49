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


def raised(offset: Tensor, label: int, by: float) -> Tensor:
    """Return b + by·(e_label − 1/C), which raises one class above the others and keeps the sum.

    Example:
        >>> raised(torch.zeros(2), 1, 0.5)
        tensor([-0.2500,  0.2500])
    """
    one = F.one_hot(torch.tensor(label), len(offset)).to(offset)
    return offset + by * (one - 1 / len(offset))


@dataclass(frozen=True)
class _Raising:
    """A rule that starts without offsets and raises a class by a step in every round: abstract, as to which class.

    Attributes:
        rule: its name.
    """

    step: float = 0.1
    rounds: int = 20
    module: ClassVar[type[nn.Module]] = Offset
    rule: ClassVar[str]

    def __post_init__(self) -> None:
        check_settings(self.rule, self.step, self.rounds)

    def begin(self, pool: Pool) -> Offset:
        """Return offsets of 0."""
        return _none(pool)


@register("correction", "iv-offset", source="our design")
@dataclass(frozen=True)
class IVOffset(_Raising):
    """An offset for the one class that is the weakest before any correction, larger in every round.

    Attributes:
        step: how much larger, in units of the median gap between the two largest clean logits.
        rounds: steps at most.

    Raises:
        InputError: a setting outside its range.
    """

    rule: ClassVar[str] = "iv-offset"

    def follow(self, correction: Offset, pool: Pool) -> Offset:
        """Raise the same class as ever by one more step."""
        label = weakest(pool.before().accuracy(_none(pool)))
        return Offset(raised(correction.offset, label, self.step * pool.gap))


@register("correction", "iv-offsets", source="our design")
@dataclass(frozen=True)
class IVOffsets(_Raising):
    """An offset for each class: every round raises the class that is then the weakest.

    b ← b + η·(e_c − 1/C) with c = argmin R_c under attacks on the model as corrected so far.

    Attributes:
        step: η, in units of the median gap between the two largest clean logits.
        rounds: steps at most.

    Raises:
        InputError: a setting outside its range.
    """

    rule: ClassVar[str] = "iv-offsets"

    def follow(self, correction: Offset, pool: Pool) -> Offset:
        """Raise the class that is the weakest now by one step."""
        return Offset(raised(correction.offset, weakest(pool.accuracy(correction)), self.step * pool.gap))


def _none(pool: Pool) -> Offset:
    return Offset(torch.zeros(pool.num_classes))
