"""Statistics of BatchNorm for weights that no batch has ever gone through, as an average of weights is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from classwise.runtime.inference import attacking

_Norm = nn.modules.batchnorm._NormBase


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Iterable[Tensor], total: Callable[[Tensor], Tensor]) -> None:
    """Set the running mean and variance of every BatchNorm layer to their means over batches of images.

    Dropout rests meanwhile; nothing but BatchNorm's buffers is changed, and a model without them is not run.

    Args:
        model: takes [0, 1].
        batches: images (N, C, H, W), those of this process.
        total: sums a tensor over processes.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _Norm) and layer.running_mean is not None]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    with attacking(model) as model:  # eval mode, put back afterwards
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's word for the plain mean over batches
            layer.train()
        with torch.no_grad():
            count = sum(1 for x in batches if model(x) is not None)
    weight = total(torch.tensor(float(count)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        for name in ("running_mean", "running_var"):
            own = layer.get_buffer(name)
            own.copy_(total(own * count) / weight.to(own.device))
