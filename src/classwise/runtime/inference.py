"""How a model is asked: in a mode that is put back, and for verdicts in eval mode and float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classwise.runtime.classifier import Classifier, as_classifier


def device_of(model: nn.Module) -> torch.device:
    """Return where the weights of a model are; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits (N, K) in float32, without a graph."""
    with torch.no_grad():
        logits: Tensor = as_classifier(model)(x)
    return logits.float()


@contextmanager
def judging(model: nn.Module, device: torch.device | str) -> Iterator[Classifier]:
    """Put a model as verdicts want it, in eval mode and float32 whatever is switched on outside; then put it back."""
    with attacking(model) as called, exact_float32(), torch.autocast(torch.device(device).type, enabled=False):
        yield called


@contextmanager
def exact_float32() -> Iterator[None]:
    """Switch TensorFloat-32 and bfloat16 inside float32 off, too coarse for a verdict, and back to what they were."""
    backends: Any = torch.backends
    parts = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    parts += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    before, older = [part.fp32_precision for part in parts], _older_precision()
    try:
        _set_older_precision(("highest", False))
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        _set_older_precision(older)
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


def _older_precision() -> tuple[str | None, bool | None]:
    """Return the same as PyTorch's older switches have it; None where newer ones were used, which makes them raise."""
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul = None
    try:
        return matmul, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return matmul, None


def _set_older_precision(precision: tuple[str | None, bool | None]) -> None:
    matmul, allow_tf32 = precision
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if allow_tf32 is not None:
        torch.backends.cudnn.allow_tf32 = allow_tf32


@contextmanager
def attacking(model: nn.Module, mode: Literal["eval", "train"] = "eval") -> Iterator[Classifier]:
    """Put the model in a mode and enable gradients; then put everything back as it was.

    In train mode the running statistics of BatchNorm are put back too, so an attack never leaves a trace.

    Yields:
        The model as it is to be called, see :class:`classwise.runtime.classifier.Classifier`.
    """
    model = as_classifier(model)
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    default = torch.get_default_dtype()
    statistics = [buffer.clone() for buffer in model.buffers()] if mode == "train" else []
    model.train(mode == "train")
    torch.set_default_dtype(torch.float32)  # of images, verdicts and noise, whatever scripts around have set
    try:
        # Inside torch.inference_mode, enable_grad alone records nothing, and every gradient would silently be zero.
        with torch.inference_mode(False), torch.enable_grad():
            yield model
    finally:
        torch.set_default_dtype(default)
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), statistics, strict=False):
                buffer.copy_(before)
