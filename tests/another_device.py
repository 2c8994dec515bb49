"""Tensors that say they lie on another device and compute on the CPU: mistakes about devices show without a GPU.

Within :func:`another_device` an operation on tensors of both devices fails, as it would with a GPU: what lies on the
other device is an :class:`Elsewhere`, and only numbers (tensors without dimensions) and positions of an index may mix.
The device is called "meta", the one that every build of PyTorch knows and that needs no driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_SELECTS = ("aten::index.Tensor", "aten::index_put", "aten::_index_put")
Module = TypeVar("Module", bound=nn.Module)


class Elsewhere(torch.Tensor):
    """A tensor on the other device; ``here`` is what it holds."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        about = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, **about, device=DEVICE)

    def __init__(self, here: Tensor) -> None:
        self.here = here

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _Computing():
            return function(*args, **(kwargs or {}))


def here(value: Any) -> Any:
    """Return what a tensor holds, wherever it lies."""
    return value.here if isinstance(value, Elsewhere) else value


def moved(module: Module) -> Module:
    """Move the parameters and buffers of a module, in place."""
    for each in module.modules():
        for name, value in each._parameters.items():
            if value is not None:
                each._parameters[name] = nn.Parameter(Elsewhere(value.detach().clone()), value.requires_grad)
        for name, value in each._buffers.items():
            if value is not None:
                each._buffers[name] = Elsewhere(value.detach().clone())
    return module


class FabricElsewhere(Fabric):
    """One process, on the other device, whose modules are there already."""

    @property
    def device(self) -> torch.device:
        return DEVICE

    def to_device(self, obj: Any) -> Any:
        return obj


@contextmanager
def another_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let tensors be made on the other device, and fail where they meet tensors of this one."""
    with monkeypatch.context() as patch, _Making(), _Computing():
        patch.setattr(torch, "autocast", _without(torch.autocast))
        yield


def _without(autocast: Callable[..., Any]) -> Callable[..., Any]:
    """Leave out what the device "meta" does not have."""

    def chosen(device_type: str, *args: Any, **settings: Any) -> Any:
        return nullcontext() if device_type == DEVICE.type else autocast(device_type, *args, **settings)

    return chosen


class _Computing(TorchDispatchMode):
    """Computes on the CPU what is asked of the other device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        there = [each for each in tensors if isinstance(each, Elsewhere)]
        selects = function.name().startswith(_SELECTS) and isinstance(args[0], Elsewhere)
        checked = tree_leaves((args[0], args[2:], kwargs) if selects else (args, kwargs))
        stays = any(isinstance(each, torch.Tensor) and each.dim() and each.device != DEVICE for each in checked)
        if there and stays and function not in _MOVES:
            raise RuntimeError(f"Expected all tensors to be on the same device, in {function.name()}.")
        goes = bool(there) if function is not torch.ops.aten.copy_.default else isinstance(args[0], Elsewhere)
        if kwargs.get("device") is not None:
            goes = torch.device(kwargs["device"]).type == DEVICE.type
            kwargs["device"] = "cpu"
        result = function(*tree_map(here, args), **tree_map(here, kwargs))
        if not goes:
            return result
        result = tree_map(lambda each: Elsewhere(each) if isinstance(each, torch.Tensor) else each, result)
        return return_and_correct_aliasing(function, args, kwargs, result) if there else result


class _Making(TorchFunctionMode):
    """Makes tensors of numbers on the other device, which no operation is dispatched for."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return Elsewhere(args[0].here.new_tensor(*args[1:], **kwargs))
        if function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], torch.Tensor):
            device = torch.device(kwargs.pop("device", None) or "cpu")
            made = function(*args, **kwargs)
            return Elsewhere(made) if device.type == DEVICE.type else made
        return function(*args, **kwargs)
