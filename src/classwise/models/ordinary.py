"""Whether a layer is no more than its class in PyTorch says, and whether anything looks on while a model runs.

Only then can a layer be computed in another way without anything seeing the difference: a hook is given what a layer
returns and may change it, a parametrisation computes weights anew in every pass, a subclass or a replaced method does
what its author likes.
"""

from __future__ import annotations

from collections.abc import Collection
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)
_CALLS = ("__call__", "_call_impl", "_wrapped_call_impl")
_PASSES = ("forward", "_conv_forward", "_check_input_dim")


def ordinary(layer: nn.Module, kinds: Collection[type[nn.Module]]) -> bool:
    """Tell whether a layer is of one of these classes of PyTorch, none derived from them, and nothing of it replaced.

    Its parameters and buffers must be plain tensors of one type, since a subclass of tensor may compute what it likes,
    and without hooks of their own. Weights that a parametrisation or ``weight_norm`` makes are no parameters.
    """
    if type(layer) not in kinds or any(callable(getattr(type(layer), name, None)) for name in vars(layer)):
        return False
    tensors = [value for value in (*layer._parameters.values(), *layer._buffers.values()) if value is not None]
    real = {value.dtype for value in tensors if value.is_floating_point()}
    return (
        not any(name in vars(layer) for name in ("weight", "bias", "running_mean", "running_var"))
        and all(_by_pytorch(getattr(type(layer), name)) for name in _PASSES if hasattr(type(layer), name))
        and all(type(value) in (nn.Parameter, Tensor) and not value._backward_hooks for value in tensors)
        and len(real) <= 1
    )


def observed(model: nn.Module) -> bool:
    """Tell whether something may look on as the model runs, or runs it in a way of its own.

    That are hooks, of any module in it or of all modules, as the hook of an enclosing module may call the layers
    inside; calls that are overridden; and compiled or exported programs, which need not ask the layers at all.
    """
    if any(getattr(torch_module, name, None) for name in _GLOBAL_HOOKS):
        return True
    return any(_hooked(module) or not _called_as_usual(module) for module in model.modules())


def _hooked(module: nn.Module) -> bool:
    return any(getattr(module, name, None) for name in _HOOKS)


def _called_as_usual(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule) or getattr(module, "_compiled_call_impl", None) is not None:
        return False
    kind, own = type(module), vars(module)
    return all(name not in own and getattr(kind, name) is getattr(nn.Module, name) for name in _CALLS)


def _by_pytorch(function: object) -> bool:
    """Tell whether a method is the one that PyTorch defines, rather than one put into its class by somebody else."""
    files = {torch.nn.modules.conv.__file__, torch.nn.modules.batchnorm.__file__}
    return isinstance(function, FunctionType) and function.__code__.co_filename in files
