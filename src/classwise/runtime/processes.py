"""Sums over the processes of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def total(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes of Fabric; the tensor itself stays as it is."""
    if fabric.world_size == 1:  # whatever processes there are besides
        return value.clone()
    return over_processes(value.to(fabric.device)).to(value.device)


def over_processes(value: Tensor, *, largest: bool = False) -> Tensor:
    """Return the sum, or the maximum, of ``value`` over the processes that work together: for what a loss divides by.

    Each process sees its share of a batch only, and dividing by the sum of a share would weigh images by the process
    that they happen to be in.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    value = value.clone()
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM)
    return value
