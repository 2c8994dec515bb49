"""What analyses take from a network itself: the rows of its last layer, and the linear map behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from classwise.errors import InputError
from classwise.metrics.outcomes import Floats
from classwise.metrics.resampling import generator
from classwise.models.heads import CosineHead

_NON_LINEAR = {
    *(F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
    *(F.leaky_relu, F.leaky_relu_, F.elu, F.silu, F.gelu, F.softplus, F.hardswish, F.relu6),
    *(F.batch_norm, torch.batch_norm, F.dropout),
}


class _Linear(TorchFunctionMode):
    """Let activations, batch normalisation and dropout hand on what they were given."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in _NON_LINEAR:
            return args[0] if args else given["input"]
        return func(*args, **given)


def last_layer(model: nn.Module) -> Floats:
    """Return the rows of the last linear layer, (C, F) float64; rows of length 1 for a cosine head.

    Raises:
        InputError: the model has no linear layer.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, CosineHead))]
    if not layers:
        raise InputError("The model has no linear layer, so that its classes have no weights to measure.")
    weight = layers[-1].weight.detach().cpu().double()
    return np.asarray((F.normalize(weight) if isinstance(layers[-1], CosineHead) else weight).numpy())


def linearised(model: nn.Module, shape: tuple[int, int, int]) -> Floats:
    """Return the rows of the linear map that is left of a network without activations and BatchNorm, (C, d) float64.

    The linearised view of bymavis/Adv_Weight_NeurIPS2021: the weights in the same network without BatchNorm and
    non-linearities. Each row is the gradient of one logit in the image, at the image 0, where every activation, every
    batch normalisation and dropout hands on its input; maximum pooling is left as it is [ours].

    Args:
        model: takes (1, *shape); left as it was.
        shape: (C, H, W) of the images.

    Raises:
        InputError: the logits do not depend on the image then, as in compiled or exported programs.
    """
    training = model.training
    parameter = next(model.parameters(), torch.zeros(()))
    x = torch.zeros(1, *shape, device=parameter.device, requires_grad=True)
    try:
        with _Linear(), torch.enable_grad():
            logits = model.eval()(x)[0]
        rows = [torch.autograd.grad(logit, x, retain_graph=True)[0].flatten() for logit in logits]
    except RuntimeError as error:
        raise InputError(f"The linear map behind this network cannot be found: {error}") from error
    finally:
        model.train(training)
    return np.asarray(torch.stack(rows).double().cpu().numpy())


def block_test(rows: Floats, labels: np.ndarray, *, permutations: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Return how much alike rows are within groups: mean within less mean between of K = WWᵀ, rows of length 1.

    Args:
        rows: (C, d), as of `linearised`.
        labels: group of each class, (C,).
        permutations: random groupings of the same sizes.
        seed: of the groupings.

    Returns:
        the difference, and its one-sided p-value (1 + #{at least as large})/(1 + permutations); NaN and 1 for one group
        or for groups of one.
    """
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    alike, off = unit @ unit.T, ~np.eye(len(rows), dtype=bool)
    same = labels[:, None] == labels
    if not (same & off).any() or same.all():
        return float("nan"), 1.0
    random = generator(seed)
    observed = _difference(alike, labels, off)
    extreme = sum(_difference(alike, random.permutation(labels), off) >= observed - 1e-12 for _ in range(permutations))
    return observed, (1 + extreme) / (1 + permutations)


def _difference(alike: Floats, labels: np.ndarray, off: np.ndarray) -> float:
    same = labels[:, None] == labels
    return float(alike[same & off].mean() - alike[~same].mean())
