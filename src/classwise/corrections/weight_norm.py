"""Weight norms: the weights of the last layer are brought towards one length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from classwise.corrections.base import Pool, check_settings
from classwise.errors import InputError
from classwise.registry import register

_SHORTEST = 1e-12  # length that weights of nothing but zeros are taken to have


class WeightNorm(nn.Module):
    """What a network says whose last weights are w_c·(mean norm/‖w_c‖)^τ, biases left alone, read off its logits.

    As z_c = w_c·h + b_c, the logits of that network are g_c = s_c·(z_c − b_c) + b_c with s_c = (mean norm/‖w_c‖)^τ.

    Args:
        norm: ‖w_c‖ (C,).
        bias: b (C,).
        tau: τ in [0, 1], a scalar tensor: 0 changes nothing, 1 makes all weights equally long.

    Example:
        >>> rule = WeightNorm(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]), torch.tensor(1.0))
        >>> rule(torch.tensor([[1.0, 4.0]]))
        tensor([[2., 3.]])
    """

    norm: Tensor
    bias: Tensor
    tau: Tensor

    def __init__(self, norm: Tensor, bias: Tensor, tau: Tensor) -> None:
        super().__init__()
        self.register_buffer("norm", norm)
        self.register_buffer("bias", bias)
        self.register_buffer("tau", tau)

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits (…, C) to logits of the same shape."""
        scale = (self.norm.mean() / self.norm.clamp_min(_SHORTEST)) ** self.tau
        return scale * (logits - self.bias) + self.bias


@register("correction", "iv-weightnorm", source="our design")
@dataclass(frozen=True)
class IVWeightNorm:
    """Weights of the last layer brought towards their mean length: τ = θ, (1,) in [0, 1].

    Attributes:
        step: how far τ moves in a step of the search at most, above 0 and at most 1.
        rounds: how often the correction is attacked and fitted again at most.

    Raises:
        InputError: a setting outside its range.
    """

    step: float = 0.1
    rounds: int = 6
    module: ClassVar[type[nn.Module]] = WeightNorm

    def __post_init__(self) -> None:
        check_settings("iv-weightnorm", self.step, self.rounds, most=1.0)

    def start(self, pool: Pool) -> Tensor:
        """Return τ = 0.

        Raises:
            InputError: the model does not end in a linear layer.
        """
        if pool.head is None:
            raise InputError("iv-weightnorm needs a model that ends in a linear layer; use --rule iv-offsets.")
        return torch.zeros(1)

    def limited(self, theta: Tensor) -> Tensor:
        """Keep τ between 0 and 1."""
        return theta.clamp(0, 1)

    def at(self, theta: Tensor, pool: Pool) -> WeightNorm:
        """Bring the weights towards one length by τ.

        Raises:
            InputError: the model does not end in a linear layer.
        """
        if pool.head is None:
            raise InputError("iv-weightnorm needs a model that ends in a linear layer; use --rule iv-offsets.")
        return WeightNorm(pool.head.norm, pool.head.bias, theta.squeeze(0))
