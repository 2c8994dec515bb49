"""BatchNorm in eval mode as part of the convolution before it: the same function, with fewer passes over memory.

With its statistics fixed, BatchNorm multiplies each channel by a number and adds another, which the weights and the
bias of the convolution can do as well (Jacob et al., CVPR 2018, section 3.2). Training attacks a network ten times in
eval mode for each step, and spent a fifth of that time in BatchNorm (``small_resnet``, one CPU core).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from classwise.models.input_gradient import convolved, convolves

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


@dataclass(frozen=True, eq=False)
class Pair:
    """A convolution whose output goes into one BatchNorm and nowhere else."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | nn.SyncBatchNorm

    def convolve(self, x: Tensor) -> Tensor:
        """Return what BatchNorm would make of the convolution in eval mode; else what the convolution returns."""
        if self.norm.training:
            return convolved(self.conv, x, self.conv.weight, self.conv.bias)
        # Anew in every pass, so it is right whatever has become of the weights; a pass costs far more. The gradient
        # flows on into the weights of both layers.
        weight, bias = folded_weights(self.conv, self.norm)
        return convolved(self.conv, x, weight, bias)

    def normalize(self, x: Tensor) -> Tensor:
        """Return x in eval mode, where it is normalised already."""
        if not self.norm.training:
            return x
        normalized: Tensor = type(self.norm).forward(self.norm, x)  # type: ignore[arg-type]
        return normalized


def pairs(model: nn.Module) -> tuple[Pair, ...]:
    """Find the convolutions of a model that BatchNorm can be folded into.

    They are read off the graph that torch.fx records of the forward pass in eval mode. A model whose pass depends on
    more than its layers cannot be recorded, and has none.

    Args:
        model: any network; left as it is.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            graph = _Tracer().trace(copy.deepcopy(model).eval())
    except Exception:  # whatever the model's own code raises where it finds no tensor
        return ()
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    found = []
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if isinstance(source, fx.Node) and source.op == "call_module" and len(source.users) == 1:
            conv, norm = model.get_submodule(str(source.target)), model.get_submodule(str(node.target))
            if calls[source.target] == calls[node.target] == 1 and _fits(conv, norm):
                found.append(Pair(conv, norm))  # type: ignore[arg-type]
    return tuple(found)


def forwards(model: nn.Module) -> dict[nn.Module, Callable[[Tensor], Tensor]]:
    """Return forward passes with which convolutions do the work of their BatchNorm too, in eval mode.

    In train mode both layers do what they always do.

    Args:
        model: any network; left as it is.
    """
    found: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for pair in pairs(model):
        found |= {pair.conv: pair.convolve, pair.norm: pair.normalize}
    return found


def folded_weights(conv: nn.Conv2d, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that equals ``conv`` and then ``norm`` in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    bias = -mean * scale + norm.bias if norm.affine else -mean * scale
    return conv.weight * scale[:, None, None, None], bias


class _Tracer(fx.Tracer):
    """Records a convolution of another class as one layer too; whether it may be folded is judged afterwards."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def _fits(conv: nn.Module, norm: nn.Module) -> bool:
    """Tell whether both are the layers that they look like, and nothing has replaced their forward."""
    untouched = type(norm) in _NORMS and "forward" not in vars(norm)
    return convolves(conv) and untouched and norm.running_var is not None
