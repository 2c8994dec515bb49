"""A model that always passes the same number of images at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classwise.errors import InputError

_MOST = 2**20


class FixedShape(nn.Module):
    """A model whose kernels never see how many images they are called with.

    Matrix products and convolutions may choose another algorithm for another number of images, and round differently.
    Passed ``rows`` at a time, the last ones filled up with zeros, an image gets the same logits to the last bit in
    any company, as long as the model does not mix images.

    Args:
        model: takes [0, 1], returns logits (N, K).
        rows: images of each pass.

    Raises:
        InputError: that is no number of images from 1 to 2^20.
    """

    def __init__(self, model: nn.Module, rows: int) -> None:
        super().__init__()
        refuse_fixed_shape(rows)
        self.model, self.rows = model, rows
        self.training = model.training  # wrapping a model does not put it into train mode

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, C, H, W) -> (N, K)."""
        filled = torch.cat([x, x.new_zeros(-len(x) % self.rows, *x.shape[1:])])
        return torch.cat([self.model(part) for part in torch.split(filled, self.rows)])[: len(x)]


def refuse_fixed_shape(rows: int) -> None:
    """Refuse what is no number of images.

    Raises:
        InputError: it is below 1, or above 2^20.
    """
    if not 1 <= rows <= _MOST:
        raise InputError(f"The fixed shape is {rows}, but must be a number of images from 1 to {_MOST:,}.")
