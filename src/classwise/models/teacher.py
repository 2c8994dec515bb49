"""A frozen network that another one learns from."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from classwise.models.checkpoint import weights_sha256
from classwise.runtime.classifier import as_classifier


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen copy of a network, in eval mode; call it for its logits, which have no gradient.

    It is no module, so that it is in no optimiser, no checkpoint and no average: run.json names it by its weights.

    Attributes:
        network: takes [0, 1], returns logits; copied, so that a student may start as its own teacher.
        name: for the record.
    """

    network: nn.Module = field(repr=False)
    name: str

    def __post_init__(self) -> None:
        frozen = copy.deepcopy(self.network).eval().requires_grad_(False)
        object.__setattr__(self, "network", frozen.to(memory_format=torch.channels_last))

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits (N, K) on images (N, C, H, W) in [0, 1], where the images are."""
        with torch.no_grad():
            logits: Tensor = as_classifier(self.network.to(x.device))(x.detach())
        return logits

    def record(self) -> dict[str, Any]:
        """Return what identifies it in run.json."""
        return {"name": self.name, "sha256": weights_sha256(self.network)}
