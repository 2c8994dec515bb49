"""The gradient of a convolution in its input, where the input has one channel: a matrix product and a few sums.

Attacks need the gradient of the first convolution in the images, and oneDNN computes it as if these had sixteen
channels. With one channel a whole pass of ``digits_cnn`` is 1.15 times as fast this way
(``benchmarks/training/input_gradient.py``, one CPU core); with three nothing was gained.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from classwise.models.ordinary import ordinary

Size = tuple[int, int]

# Numbers of a window, all of which are held for each output pixel.
_WINDOW = 36


def forwards(model: nn.Module) -> dict[nn.Module, Callable[[Tensor], Tensor]]:
    """Return another forward pass for each convolution of one channel: the same, its gradient computed here."""
    convs = [layer for layer in model.modules() if convolves(layer) and _fits(layer)]
    return {conv: partial(_forward, conv) for conv in convs}


def convolves(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tell whether a layer is the convolution that it looks like; see :func:`ordinary`."""
    return ordinary(layer, (nn.Conv2d,))


def convolved(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with weights of one's own, otherwise as ``conv`` does.

    Args:
        conv: its stride, padding and the like are used.
        x: (N, C, H, W).
        weight: (K, C, h, w).
        bias: (K,), or None.

    Returns:
        (N, K, H', W'). Its gradient in ``x`` is that of :func:`input_gradient` in float32 on a CPU, where the input has
        one channel; all other gradients are PyTorch's.
    """
    ours = x.requires_grad and torch.is_grad_enabled() and x.dim() == 4 and _fits(conv) and _in_float32(x, weight)
    result: Tensor = conv._conv_forward(x.detach() if ours else x, weight, bias)
    if not ours:
        return result
    linked: Tensor = _Linked.apply(result, x, weight, bias, conv.stride, conv.padding, conv.dilation)
    return linked


def input_gradient(
    gradient: Tensor, weight: Tensor, size: Size, stride: Size = (1, 1), padding: Size = (0, 0), dilation: Size = (1, 1)
) -> Tensor:
    """Return the gradient of a convolution in its input, by its gradient in the output.

    Every window of the input gets the gradient of its output pixel times the weights. Windows overlap: what they get is
    added up where they lie.

    Args:
        gradient: in the output, (N, K, H', W').
        weight: (K, C, h, w).
        size: height and width (H, W) of the input.
        stride: of the convolution, as the two that follow: vertical, horizontal.
        padding: with zeros, at either side.
        dilation: distance of the weights.

    Returns:
        (N, C, H, W), channels last.
    """
    images, _, rows, columns = gradient.shape
    # A product for each image, so that its gradient does not depend on the others in the batch.
    windows = torch.bmm(weight.flatten(1).T.expand(images, -1, -1), gradient.flatten(2))
    windows = windows.view(images, *weight.shape[1:], rows, columns)
    padded = gradient.new_zeros(images, weight.shape[1], size[0] + 2 * padding[0], size[1] + 2 * padding[1])
    for i in range(weight.shape[2]):
        down = _places(i * dilation[0], stride[0], rows)
        for j in range(weight.shape[3]):
            padded[:, :, down, _places(j * dilation[1], stride[1], columns)] += windows[:, :, i, j]
    whole = padded[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    return whole.contiguous(memory_format=torch.channels_last)


class _Linked(torch.autograd.Function):
    """The result of a convolution, with a gradient in the input that the convolution itself did not see."""

    @staticmethod
    def forward(result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Size) -> Tensor:
        return result.detach()  # a view of it could not be changed in place, as ReLU may want to

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, x, weight, bias, *ctx.settings = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        in_x = input_gradient(gradient, weight, tuple(x.shape[2:]), *ctx.settings)
        if not torch.is_grad_enabled():
            return gradient, in_x, None, None, None, None, None
        # The gradient will be differentiated. Those in the weights depend on x, of which the convolution knows nothing.
        sizes, known = [len(weight)] if ctx.biased else None, (False, True, ctx.biased)
        _, in_weight, in_bias = torch.ops.aten.convolution_backward(
            gradient, x, weight, sizes, *ctx.settings, False, (0, 0), 1, known
        )
        return None, in_x, in_weight, in_bias, None, None, None


def _forward(conv: nn.Conv2d, input: Tensor) -> Tensor:
    return convolved(conv, input, conv.weight, conv.bias)


def _fits(conv: nn.Conv2d) -> bool:
    plain = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return plain and conv.in_channels == 1 and conv.kernel_size[0] * conv.kernel_size[1] <= _WINDOW


def _in_float32(x: Tensor, weight: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _places(first: int, step: int, count: int) -> slice:
    return slice(first, first + step * (count - 1) + 1, step)
