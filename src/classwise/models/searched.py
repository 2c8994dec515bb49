"""A model as attacks see it while they search: the same function, computed in the way that is fastest.

What an attack finds is judged on the model itself, in float32, so that rounding here can cost a success but never feign
one.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classwise.errors import InputError
from classwise.models.rewriting import faster, rewritten

Precision = Literal["float32", "bfloat16"]


class Searched(nn.Module):
    """A model whose layers pass images in the faster ways of :mod:`rewriting`, in bfloat16 where that is asked for.

    In bfloat16 the last linear layer stays in float32: logits of eight bits move in steps of 1/32 around 5, and many
    margins would be exactly 0. The other layers take half the memory traffic and, on hardware with matrix units for
    bfloat16, a part of the time; on a CPU without them they are slower.

    Args:
        model: in eval mode; takes [0, 1], returns logits (N, K).
        x: a few images (n, C, H, W), which show which linear layer is the last.
        precision: "float32" or "bfloat16".

    Raises:
        InputError: another precision.
    """

    def __init__(self, model: nn.Module, x: Tensor, precision: Precision = "float32") -> None:
        super().__init__()
        if precision not in get_args(Precision):
            raise InputError(f"Attacks search in {' or '.join(get_args(Precision))}, not in {precision!r}.")
        self.model, self.training = model, model.training
        self._faster = faster(model)
        self._half = precision == "bfloat16"
        last = _last_linear(model, x) if self._half else None
        if last is not None:
            self._faster = {**self._faster, last: partial(_in_float32, last)}

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits in float32, (N, C, H, W) -> (N, K)."""
        half = torch.autocast(x.device.type, torch.bfloat16) if self._half else nullcontext()
        with rewritten(self._faster), half:
            logits: Tensor = self.model(x)
        return logits.float()


def _last_linear(model: nn.Module, x: Tensor) -> nn.Linear | None:
    """Return the linear layer that a pass calls last, if it has plain linear layers."""
    called: list[nn.Linear] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and "forward" not in vars(layer)]
    hooks = [layer.register_forward_hook(lambda layer, given, made: called.append(layer)) for layer in layers]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1] if called and type(called[-1]).forward is nn.Linear.forward else None


def _in_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    """Let a linear layer compute in float32 inside autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), layer.weight, layer.bias)
