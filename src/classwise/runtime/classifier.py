"""Any model as attacks and verdicts call it: images in, logits out, and the caller's images as they were.

Attacks keep the images that they pass on, so a model that writes to its input would change what is attacked. Every pass
of an attack, a verdict and a training step therefore goes through :class:`Classifier`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from classwise.errors import InputError
from classwise.runtime.memory import out_of_memory

WRAP = "wrap it in a module that returns the logits (N, classes)"


class Function(nn.Module):
    """A function as a model.

    Args:
        function: maps images (N, C, H, W) to logits (N, K).
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.training = function, False  # it has no modes

    def forward(self, x: Tensor) -> Tensor:
        """Return what the function returns."""
        return self.function(x)


class Classifier(nn.Module):
    """A model of any make, called in one way.

    It is handed a contiguous copy of the images, so that nothing it writes to its input, in place, through ``.data`` or
    through NumPy, reaches the caller. Of a dict, an object with ``logits`` or a tuple it returns the logits, see
    :func:`logits_of`. Gradients are on after a pass if they were before. Whatever it raises becomes one sentence.

    Args:
        model: takes [0, 1].
        name: what to call it in a sentence; its class if None.
        num_classes: logits that each image must get; any number if None.
    """

    def __init__(self, model: nn.Module, name: str | None = None, num_classes: int | None = None) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        self.name = name or name_of(model)
        self.training = getattr(model, "training", False)  # frozen TorchScript has no modes

    def train(self, mode: bool = True) -> Classifier:
        """Put the model in a mode, by the methods that it has for it, whatever they return."""
        self.training = mode
        if mode:
            self.model.train()
        else:
            self.model.eval()
        return self

    def forward(self, x: Tensor | fx.Proxy) -> Tensor:
        """Return the logits, (N, C, H, W) -> (N, K).

        Raises:
            InputError: the model raises or exits, or returns no logits of these images.
        """
        if not isinstance(x, Tensor):  # torch.fx records the layers
            with failures_said(f"While the layers of {self.name} are recorded"), _settings_kept():
                recorded: Tensor = self.model(x)
            return recorded
        return self.ask(x)[0]

    def ask(self, x: Tensor) -> tuple[Tensor, str]:
        """Return the logits (N, K), and how they were picked out of the model's output, see :func:`logits_of`.

        Raises:
            InputError: as in forward.
        """
        where = f"on images {tuple(x.shape)} {'with' if torch.is_grad_enabled() else 'without'} gradients"
        with failures_said(f"In the forward pass of {self.name}, {where}"), _settings_kept():
            output = self.model(x.clone(memory_format=torch.contiguous_format))
        logits, how = logits_of(output, len(x), self.num_classes)
        if (fault := _fault(logits, output, len(x), self.num_classes)) is not None:
            raise InputError(f"{self.name} returns {fault[0]} {where}; {fault[1]}.")
        assert logits is not None
        if _holds_its_values(logits):
            logits = logits.as_subclass(Tensor)
        # A copy as well: some models return the same buffer each time, and overwrite what they returned before.
        return logits.flatten(1).to(x.device, copy=True), how

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


def as_module(model: Any) -> nn.Module:
    """Return a model as a module; a function becomes one.

    Raises:
        InputError: it is neither, or a class.
    """
    if isinstance(model, type):
        raise InputError(f"The model is the class {model.__name__}; give an instance of it, as in {model.__name__}().")
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise InputError(f"The model is a {type(model).__name__}; give a torch.nn.Module, or a function of images.")
    return Function(model)


def as_classifier(model: Any, name: str | None = None, num_classes: int | None = None) -> Classifier:
    """Return a model or function as a classifier; one that is a classifier already stays as it is.

    Raises:
        InputError: see :func:`as_module`.
    """
    return model if isinstance(model, Classifier) else Classifier(as_module(model), name, num_classes)


def name_of(model: nn.Module) -> str:
    """Return the class of a module, or the name of the function that it is."""
    if isinstance(model, Function):
        return str(getattr(model.function, "__qualname__", type(model.function).__name__))
    return type(model).__name__


def logits_of(output: Any, rows: int, num_classes: int | None = None) -> tuple[Tensor | None, str]:
    """Pick the logits out of what a model returns.

    They are the tensor itself; ``output["logits"]`` of a mapping; ``output.logits`` of a ModelOutput or another object;
    and of a tuple or list the only tensor of the shape (rows, classes).

    Args:
        output: of one forward pass.
        rows: number of images.
        num_classes: number of classes, any if None.

    Returns:
        The logits, None where they cannot be told; and how they were picked, "" where they are the output itself.

    Example:
        >>> logits_of({"logits": torch.zeros(2, 3), "features": torch.zeros(2, 8)}, rows=2)[1]
        "the entry 'logits' of its dict"
    """
    if isinstance(output, Tensor):
        return output, ""
    if isinstance(output, Mapping):
        logits = output.get("logits")
        return (
            (logits, f"the entry 'logits' of its {type(output).__name__}") if isinstance(logits, Tensor) else (None, "")
        )
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return logits, f"the attribute logits of its {type(output).__name__}"
    if isinstance(output, tuple | list):
        fitting = [place for place, part in enumerate(output) if _fits(part, rows, num_classes)]
        if len(fitting) == 1:
            return output[fitting[0]], f"element {fitting[0]} of its {type(output).__name__}"
    return None, ""


@contextmanager
def failures_said(what: str) -> Iterator[None]:
    """Turn whatever a model's own code raises, exits included, into one sentence that begins with ``what``.

    Ctrl-C, our own sentences and memory that has run out pass through.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, Exception) and out_of_memory(error):
            raise
        lines = str(error).strip().splitlines()
        # TorchScript ends with the error itself, after a traceback of its own.
        message = lines[-1] if lines and lines[0].startswith("The following operation failed") else "".join(lines[:1])
        reason = f": {textwrap.shorten(message, 200)}" if message else ""
        raise InputError(f"{what}: {type(error).__name__}{reason}") from error


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Put back what a model may switch for the whole process: the grad mode and the type of new tensors.

    Without gradients every later attack would stand still, and records do not hold numbers of another type.
    """
    default = torch.get_default_dtype()
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            yield
    finally:
        torch.set_default_dtype(default)


def _fits(part: Any, rows: int, num_classes: int | None) -> bool:
    """Tell whether a part of an output may be the logits of these images."""
    shaped = isinstance(part, Tensor) and part.is_floating_point() and part.dim() == 2 and len(part) == rows
    return shaped and num_classes in (None, part.shape[1])


def _holds_its_values(tensor: Tensor) -> bool:
    """Tell whether a tensor means the same without its class, unlike those that do their own arithmetic."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


def _fault(logits: Tensor | None, output: Any, rows: int, num_classes: int | None) -> tuple[str, str] | None:
    """Say what is wrong with an output and what to do, None where nothing is."""
    if logits is None and isinstance(output, Mapping | tuple | list):
        return f"a {type(output).__name__}", f"which of its parts are the logits cannot be told: {WRAP}"
    if logits is None:
        return "None" if output is None else f"a {type(output).__name__}", f"attacks need a tensor: {WRAP}"
    valueless = logits.device.type == "meta" and _holds_its_values(logits)
    if logits.layout != torch.strided or logits.is_quantized or valueless:
        return f"a tensor without plain values ({logits.layout}, {logits.dtype}, {logits.device})", WRAP
    if logits.dim() < 2 or len(logits) != rows or any(side != 1 for side in logits.shape[2:]):
        return f"the shape {tuple(logits.shape)}", "it must return logits of shape (N, classes)"
    if not logits.is_floating_point():
        return str(logits.dtype), "it must return logits, which are floating point"
    if num_classes not in (None, logits.shape[1]):
        remedy = f"the data set has {num_classes} classes: choose the data set that the model was made for"
        return f"{logits.shape[1]} logits", remedy
    return None
