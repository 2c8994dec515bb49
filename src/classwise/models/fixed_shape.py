"""A model that always passes the same number of images at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FixedShape(nn.Module):
    """A model whose kernels never see how many images they are called with.

    Matrix products and convolutions may choose another algorithm for another number of images, and round differently.
    Passed ``rows`` at a time, the last ones filled up with zeros, an image gets the same logits to the last bit in
    any company, as long as the model does not mix images.

    Args:
        model: takes [0, 1], returns logits (N, K).
        rows: images of each pass.
    """

    def __init__(self, model: nn.Module, rows: int) -> None:
        super().__init__()
        self.model, self.rows = model, rows
        self.training = model.training  # wrapping a model does not put it into train mode

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, C, H, W) -> (N, K)."""
        filled = torch.cat([x, x.new_zeros(-len(x) % self.rows, *x.shape[1:])])
        return torch.cat([self.model(part) for part in torch.split(filled, self.rows)])[: len(x)]
