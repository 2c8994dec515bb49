"""A network whose layers compute the same in a faster way for a while, as attacks and training use it.

That it is the same is made sure of twice. Layers are rewritten only where nothing could see the difference
(:mod:`classwise.models.ordinary`, :mod:`classwise.models.folding`), and whoever rewrites them compares logits and input
gradients on real images first (:func:`compare`), and leaves them as they are where they differ beyond rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from classwise.models import folding, input_gradient
from classwise.models.ordinary import observed
from classwise.models.seeded import same_draws

Forwards = Mapping[nn.Module, Callable[[Tensor], Tensor]]

LOGITS, GRADIENT = 1e-4, 1e-2
"""Differences above which two ways to compute a network are two functions: of logits, as a share of the largest, and of
input gradients, as a share of their length, mean of the images. Rounding came to 8e-7 and 2e-4 for the networks of this
package (32 images, BatchNorm with random statistics, one CPU core; ``tests/models/test_rewriting.py`` looks at it
again). A gradient may jump where rounding moves a ReLU over 0, so it is given more room."""


@dataclass(frozen=True)
class Difference:
    """How far a network that is computed in another way is from the network itself.

    Attributes:
        logits: largest difference of a logit, as a share of the largest logit.
        gradient: length of the difference of input gradients, as a share of the gradient's, mean of the images; 1 for
            an image for which only one of them vanishes.
        images: that were looked at.
    """

    logits: float
    gradient: float
    images: int

    @property
    def beyond_rounding(self) -> bool:
        """Tell whether the two are not the same function; where a number is undefined they are not."""
        return not (self.logits <= LOGITS and self.gradient <= GRADIENT)

    def __str__(self) -> str:
        return (
            f"logits by up to {self.logits:.2g} of the largest and input gradients by {self.gradient:.2g} of their "
            f"length, on {self.images} images"
        )


def faster(model: nn.Module) -> Forwards:
    """Return forward passes for layers of a model that compute the same, up to rounding, in less time.

    Args:
        model: any network; left as it is.
    """
    return {} if observed(model) else {**input_gradient.forwards(model), **folding.forwards(model)}


@contextmanager
def rewritten(forwards: Forwards) -> Iterator[None]:
    """Let layers pass images by other functions than their own."""
    for layer, forward in forwards.items():
        vars(layer)["forward"] = forward
    try:
        yield
    finally:
        for layer in forwards:
            del vars(layer)["forward"]


def unobserved(model: nn.Module, forwards: Forwards) -> Forwards:
    """Return the forward passes, or none where hooks have come in since they were made."""
    return {} if forwards and observed(model) else forwards


def compare(model: nn.Module, other: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> Difference:
    """Compare a network with another way to compute it, on logits with and without a graph and on input gradients.

    Random numbers that the network draws are the same in both. Where either raises an error, as where it has no
    gradient, every difference is infinite.

    Args:
        model: in the mode that it will be used in.
        other: takes the same images, returns logits.
        batches: of images (n, C, H, W), best some off the data as well, since what clips may clip nothing on them.
    """
    images, logits, gradients = sum(map(len, batches)), 0.0, 0.0
    for x in batches:
        try:
            with warnings.catch_warnings(action="ignore"):  # of the network's own, which it gives in every pass
                mine, others = _seen(model, x), _seen(other, x)
        except Exception:  # whatever a network says that cannot be computed so
            return Difference(torch.inf, torch.inf, images)
        logits = max(logits, _apart(others.logits, mine.logits), _apart(others.plain, mine.plain))
        gradients += _turned(others.gradient, mine.gradient) * len(x) / images
    return Difference(logits, gradients, images)


def checked(model: nn.Module, forwards: Forwards, batches: Sequence[Tensor]) -> tuple[Forwards, Difference | None]:
    """Return the forward passes if the model computes the same with them, else none; and how far it differs.

    Args:
        model: in the mode that it will be used in.
        forwards: see :func:`faster`.
        batches: of images (n, C, H, W); see :func:`compare`.
    """
    forwards = unobserved(model, forwards)
    if not forwards:
        return {}, None

    def other(x: Tensor) -> Tensor:
        with rewritten(forwards):
            logits: Tensor = model(x)
        return logits

    difference = compare(model, other, batches)
    return ({} if difference.beyond_rounding else forwards), difference


class _Seen(NamedTuple):
    """Logits with a graph and without, and the input gradient of a sum of them, None where there is none."""

    logits: Tensor
    plain: Tensor
    gradient: Tensor | None


def _seen(function: Callable[[Tensor], Tensor], x: Tensor) -> _Seen:
    """Pass images; each pass is given a copy, which the network may write to."""
    x, gradient = x.detach().clone().requires_grad_(True), None
    with same_draws(x.device), torch.enable_grad():
        logits = function(x.clone()).float()
        if logits.requires_grad:
            weights = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(0)).to(logits)
            gradient = torch.autograd.grad((logits * weights).sum(), x, allow_unused=True)[0]
    with same_draws(x.device), torch.no_grad():
        plain = function(x.clone()).float()
    return _Seen(logits.detach(), plain, gradient)


def _apart(others: Tensor, logits: Tensor) -> float:
    """Return the largest difference as a share of the largest logit; infinite where only one of them is finite."""
    if others.shape != logits.shape or not torch.equal(others.isfinite(), logits.isfinite()):
        return torch.inf
    gap = (others - logits)[logits.isfinite()].abs()
    largest = logits[logits.isfinite()].abs()
    if not len(gap) or not gap.max() > 0:
        return 0.0
    return float(gap.max() / largest.max())


def _turned(others: Tensor | None, gradient: Tensor | None) -> float:
    """Return the mean over images of the difference of two gradients as a share of the second."""
    if others is None or gradient is None:
        return 0.0 if others is gradient else torch.inf
    gap = (others - gradient).nan_to_num().flatten(1).norm(dim=1)
    length = gradient.nan_to_num().flatten(1).norm(dim=1)
    return float(torch.where(gap > 0, gap / length, 0.0).clamp_max(1).mean())
