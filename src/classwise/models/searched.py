"""A model as attacks see it while they search: the same function, computed in the way that is fastest.

What an attack finds is judged on the model itself, in float32, so that rounding here can cost a success but never feign
one. That it is the same function is compared on images before the search; where it is not, attacks see the model as it
is. bfloat16 is an approximation by its name, so it is used as asked and how far it is from the model is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classwise.errors import InputError
from classwise.models.rewriting import checked, compare, faster, rewritten, unobserved

Precision = Literal["float32", "bfloat16"]


class Searched(nn.Module):
    """A model whose layers pass images in the faster ways of :mod:`rewriting`, in bfloat16 where that is asked for.

    In bfloat16 the last linear layer stays in float32: logits of eight bits move in steps of 1/32 around 5, and many
    margins would be exactly 0. The other layers take half the memory traffic and, on hardware with matrix units for
    bfloat16, a part of the time; on a CPU without them they are slower.

    Attributes:
        difference: from the model, in float32, with the layers rewritten; None where none could be.
        half_difference: from the model, in bfloat16; None in float32.
        layers: how many are rewritten; 0 where the two differ beyond rounding.

    Args:
        model: in eval mode; takes [0, 1], returns logits (N, K).
        x: a few images (n, C, H, W), which show which linear layer is the last.
        precision: "float32" or "bfloat16".
        batches: of images that it is compared on, best some off the data too, as at the border of the ball; ``x`` if
            there are none.

    Raises:
        InputError: another precision.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, precision: Precision = "float32", batches: Sequence[Tensor] = ()
    ) -> None:
        super().__init__()
        if precision not in get_args(Precision):
            raise InputError(f"Attacks search in {' or '.join(get_args(Precision))}, not in {precision!r}.")
        self.model, self.training = model, model.training
        self._faster, self.difference = checked(model, faster(model), batches or (x,))
        self.layers = len(self._faster)
        self._half = precision == "bfloat16"
        self._last = _last_linear(model, x) if self._half else None
        self.half_difference = compare(model, self, batches or (x,)) if self._half else None

    @property
    def record(self) -> dict[str, Any]:
        """What a record of the search says, for JSON."""
        return {
            "precision": "bfloat16" if self._half else "float32",
            "rewritten_layers": self.layers,
            "rewriting": self.difference and asdict(self.difference),
            "bfloat16": self.half_difference and asdict(self.half_difference),
        }

    @property
    def note(self) -> str | None:
        """What whoever reads the result must know: that layers were not rewritten since it made a difference."""
        if self.difference is None or not self.difference.beyond_rounding:
            return None
        return (
            f"Computed faster, the model is another function ({self.difference}), so the attacks searched on the model "
            "as it is; the numbers are those of the model, and only time was lost."
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits in float32, (N, C, H, W) -> (N, K)."""
        half = torch.autocast(x.device.type, torch.bfloat16) if self._half else nullcontext()
        forwards = unobserved(self.model, self._faster)
        if self._last is not None:
            forwards = {**forwards, self._last: partial(_in_float32, self._last)}
        with rewritten(forwards), half:
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
