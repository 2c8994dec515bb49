"""Scales: the logit of each class, taken from the mean of all, is stretched or shrunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from classwise.corrections.base import Pool, check_settings, weakest
from classwise.registry import register

_LEAST, _MOST = 0.5, 2.0


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
    """A scale for each class, between 1/2 and 2, found class by class.

    A round goes through the classes once, the weakest first. Each scale is multiplied or divided by 1 + step where
    that raises the lowest class accuracy on the pool, or keeps it and raises the average; the attacks that follow see
    to it that the pool holds what breaks the new scales.

    Attributes:
        step: by how much a scale may change in a round, above 0 and at most 1.
        rounds: at most; fewer where no change helps any more.

    Raises:
        InputError: a setting outside its range.
    """

    step: float = 0.05
    rounds: int = 20
    module: ClassVar[type[nn.Module]] = Scale

    def __post_init__(self) -> None:
        check_settings("iv-scale", self.step, self.rounds, most=1.0)

    def begin(self, pool: Pool) -> Scale:
        """Return scales of 1."""
        return Scale(torch.ones(pool.num_classes))

    def follow(self, correction: Scale, pool: Pool) -> Scale | None:
        """Go through the classes once; None where no scale changed."""
        scale = swept(correction.scale, pool, 1 + self.step)
        return None if torch.equal(scale, correction.scale) else Scale(scale)


def swept(scale: Tensor, pool: Pool, factor: float) -> Tensor:
    """Return scales (C,) after one pass over the classes, each of which keeps, multiplies or divides its own.

    Args:
        scale: before the pass.
        pool: images in which every class occurs.
        factor: above 1.
    """
    best, reached = scale, _score(scale, pool)
    # Not in the order of their numbers, so that relabelling the classes relabels the scales.
    for label in pool.accuracy(Scale(scale)).argsort(stable=True).tolist():
        before = best
        for change in (factor, 1 / factor):
            tried = before.clone()
            tried[label] = (tried[label] * change).clamp(_LEAST, _MOST)
            if (score := _score(tried, pool)) > reached:
                best, reached = tried, score
    return best


def _score(scale: Tensor, pool: Pool) -> tuple[float, float]:
    """Return the lowest class accuracy and the average one."""
    rule = Scale(scale)
    accuracy = pool.accuracy(rule)
    return float(accuracy[weakest(accuracy)]), float(pool.right(rule).double().mean())
