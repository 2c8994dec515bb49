"""A network whose layers compute the same in a faster way for a while, as attacks and training use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from classwise.models import folding, input_gradient

Forwards = Mapping[nn.Module, Callable[[Tensor], Tensor]]


def faster(model: nn.Module) -> Forwards:
    """Return forward passes for layers of a model that compute the same, up to rounding, in less time.

    Args:
        model: any network; left as it is.
    """
    return {**input_gradient.forwards(model), **folding.forwards(model)}


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
