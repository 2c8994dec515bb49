"""The gradient of a convolution in one input channel is PyTorch's, whatever the convolution and the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from classwise.models import load_model
from classwise.models.input_gradient import convolved, forwards, input_gradient
from classwise.models.rewriting import faster, rewritten

side = st.integers(1, 3)
sides = st.tuples(side, side)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def conv(channels: int = 1, outputs: int = 5, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(channels, outputs, kernel, **settings)


@given(st.integers(1, 4), st.integers(1, 6), sides, sides, st.tuples(side, side), sides)
def test_input_gradient_is_that_of_pytorch(
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    x, weight = drawn(2, channels, 9, 8, seed=1).requires_grad_(True), drawn(outputs, channels, *kernel, seed=2)
    settings = {"stride": stride, "padding": padding, "dilation": dilation}
    result = F.conv2d(x, weight, **settings)  # type: ignore[arg-type]
    gradient = drawn(*result.shape, seed=3)
    (expected,) = torch.autograd.grad(result, x, gradient)
    torch.testing.assert_close(input_gradient(gradient, weight, (9, 8), **settings), expected)  # type: ignore[arg-type]


def test_input_gradient_of_one_window_is_its_weights() -> None:
    weight = drawn(1, 2, 3, 3)
    assert torch.equal(input_gradient(torch.ones(1, 1, 1, 1, dtype=torch.float64), weight, (3, 3)), weight)


def test_the_gradient_of_an_image_does_not_depend_on_its_batch() -> None:
    gradient, weight = drawn(64, 16, 28, 28, dtype=torch.float32), drawn(16, 3, 3, 3, dtype=torch.float32)
    together = input_gradient(gradient, weight, (28, 28), padding=(1, 1))
    for size in (1, 7, 32):
        apart = [input_gradient(part, weight, (28, 28), padding=(1, 1)) for part in gradient.split(size)]
        assert torch.equal(torch.cat(apart), together), size


@pytest.mark.parametrize("bias", [True, False])
def test_all_gradients_and_those_of_gradients_stay(bias: bool) -> None:
    layer = conv(1, bias=bias, padding=1)
    weights = list(layer.parameters())

    def passed(forward: Any) -> list[Tensor]:
        x = drawn(2, 1, 8, 8, dtype=torch.float32).requires_grad_(True)
        result = forward(x)
        first = torch.autograd.grad(result.pow(3).sum(), [x, *weights], create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), [x, *weights])
        return [result, *first, *second]

    own = forwards(layer)[layer]
    assert "_Linked" in type(own(torch.ones(1, 1, 8, 8, requires_grad=True)).grad_fn).__name__
    here = passed(own)
    torch.testing.assert_close(here, passed(layer), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        conv(3),
        conv(1, kernel=7),
        conv(4, 4, groups=2),
        conv(padding=1, padding_mode="reflect"),
        conv(padding="same"),
    ],
    ids=str,
)
def test_other_convolutions_keep_their_own_forward_pass(layer: nn.Conv2d) -> None:
    assert forwards(nn.Sequential(layer)) == {}
    x = drawn(2, layer.in_channels, 9, 9, dtype=torch.float32).requires_grad_(True)
    assert "_Linked" not in type(convolved(layer, x, layer.weight, layer.bias).grad_fn).__name__


def test_a_convolution_that_is_replaced_or_does_more_is_left_alone() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    replaced = conv()
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    assert forwards(nn.Sequential(Doubled(1, 2, 3), replaced)) == {}


@pytest.mark.parametrize("kind", ["float64", "no gradient", "autocast", "one image without batch"])
def test_where_it_is_not_meant_for_the_pass_is_that_of_pytorch_to_the_bit(kind: str) -> None:
    layer = conv().to(torch.float64 if kind == "float64" else torch.float32)
    x = drawn(2, 1, 8, 8).to(layer.weight.dtype).requires_grad_(kind != "no gradient")
    x = x[0] if kind == "one image without batch" else x
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        results = [layer(x), convolved(layer, x, layer.weight, layer.bias)]
    assert torch.equal(*results)
    assert type(results[0].grad_fn) is type(results[1].grad_fn)


@pytest.mark.parametrize("name", ["digits_cnn", "small_cnn", "small_resnet"])
def test_gradients_of_networks_stay_in_eval_and_in_train_mode(name: str) -> None:
    model = load_model(name, num_classes=3, shape=(1, 16, 16), seed=0)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    if name == "small_cnn":
        nn.init.normal_(model.get_submodule("classifier.fc3").weight)  # type: ignore[arg-type]
    for mode in (True, False):
        model.train(mode)
        found = []
        ours = faster(model)
        first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        assert first in ours
        for forwards_now in ({}, ours):
            x = drawn(4, 1, 16, 16, dtype=torch.float32).requires_grad_(True)
            with rewritten(forwards_now):
                found.append(torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()]))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", [True, False])
def test_a_layer_may_change_the_result_in_place(norm: bool) -> None:
    layers = [conv(outputs=4, padding=1), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU(inplace=True), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(256, 3)).eval()
    found = []
    for ours in ({}, faster(model)):
        x = drawn(2, 1, 8, 8, dtype=torch.float32).requires_grad_(True)
        with rewritten(ours):
            found.append(torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()]))
    assert ours
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
