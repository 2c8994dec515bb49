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
from typing import Any

import torch
from torch import Tensor, fx, nn

from classwise.models.input_gradient import convolved, convolves
from classwise.models.ordinary import ordinary

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


@dataclass(frozen=True, eq=False)
class Pair:
    """A convolution whose output goes into one BatchNorm and nowhere else."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | nn.SyncBatchNorm

    def convolve(self, input: Tensor) -> Tensor:
        """Return what BatchNorm would make of the convolution in eval mode; else what the convolution returns."""
        if self.norm.training:
            return convolved(self.conv, input, self.conv.weight, self.conv.bias)
        # Anew in every pass, so it is right whatever has become of the weights; a pass costs far more. The gradient
        # flows on into the weights of both layers.
        weight, bias = folded_weights(self.conv, self.norm)
        return convolved(self.conv, input, weight, bias)

    def normalize(self, input: Tensor) -> Tensor:
        """Return the input in eval mode, where it is normalised already."""
        if not self.norm.training:
            return input
        normalized: Tensor = type(self.norm).forward(self.norm, input)  # type: ignore[arg-type]
        return normalized


def pairs(model: nn.Module) -> tuple[Pair, ...]:
    """Find the convolutions of a model that BatchNorm can be folded into.

    They are read off the graph that torch.fx records of the forward pass in eval mode, with gradients enabled and
    without. A model whose pass depends on more than its layers cannot be recorded, and has none. Nor has a layer that
    is called twice, whose tensors are read elsewhere in the pass, or that is not :func:`ordinary`. What may look on
    while the model runs is for :func:`classwise.models.ordinary.observed` to say.

    Args:
        model: any network; left as it is.
    """
    groups: list[list[Pair]] = []
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            groups.append(_recorded_pairs(model))
    twice = {(pair.conv, pair.norm) for pair in groups[1]}
    return tuple(pair for pair in groups[0] if (pair.conv, pair.norm) in twice)


def forwards(model: nn.Module) -> dict[nn.Module, Callable[[Tensor], Tensor]]:
    """Return forward passes with which convolutions do the work of their BatchNorm too, in eval mode.

    In train mode both layers do what they always do.

    Args:
        model: any network; left as it is.
    """
    functions: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for pair in pairs(model):
        functions |= {pair.conv: pair.convolve, pair.norm: pair.normalize}
    return functions


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
    """Records the layers of a pass, and which tensors of them are read by anything but the layers themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Note the tensor that code outside PyTorch's own layers asks for; they are recorded as one call each."""
        if isinstance(attr_val, Tensor):
            self.read.add(id(attr_val))
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def _recorded_pairs(model: nn.Module) -> list[Pair]:
    tracer = _Tracer()
    try:
        with torch.random.fork_rng(devices=[]):
            recorded = copy.deepcopy(model).eval()
            graph = tracer.trace(recorded)
    except Exception:  # whatever the model's own code raises where it finds no tensor
        return []
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        source = node.args[0] if _is_simple_call(node) else None
        if isinstance(source, fx.Node) and _is_simple_call(source) and len(source.users) == 1:
            names = str(source.target), str(node.target)
            conv, norm = (model.get_submodule(name) for name in names)
            read = any(_reads(tracer, recorded.get_submodule(name)) for name in names)
            if calls[source.target] == calls[node.target] == 1 and not read and _fits(conv, norm):
                pairs.append(Pair(conv, norm))  # type: ignore[arg-type]
    return pairs


def _is_simple_call(node: fx.Node) -> bool:
    """Tell whether a node of the graph calls a layer with one input."""
    return node.op == "call_module" and len(node.args) == 1 and not node.kwargs


def _reads(tracer: _Tracer, layer: nn.Module) -> bool:
    return any(id(value) in tracer.read for value in (*layer.parameters(), *layer.buffers()))


def _fits(conv: nn.Module, norm: nn.Module) -> bool:
    """Tell whether both are the layers that they look like, with statistics to fold."""
    known = ordinary(norm, _NORMS) and norm.running_var is not None and norm.running_mean is not None
    return convolves(conv) and known
