"""A model behind a fixed shape: the same function, whatever the number of images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from classwise.models.fixed_shape import FixedShape


class Watched(nn.Module):
    """Remembers how many images each pass had; doubles the size of its logits in train mode."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(12, 3)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.linear(x.flatten(1)) * (2 if self.training else 1)


def images(n: int) -> Tensor:
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [0, 1, 4, 5, 9])
def test_the_logits_are_those_of_the_model(n: int) -> None:
    model, x = Watched(), images(n)
    logits = FixedShape(model, 4)(x)
    assert logits.shape == (n, 3)
    torch.testing.assert_close(logits, model(x))


@pytest.mark.parametrize(("n", "passes"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_every_pass_has_the_same_number_of_images(n: int, passes: int) -> None:
    model = Watched()
    FixedShape(model, 4)(images(n))
    assert model.sizes == [4] * passes


def test_an_image_has_the_same_logits_to_the_last_bit_in_any_company() -> None:
    model, x = FixedShape(Watched(), 4), images(11)
    whole = model(x)
    for first, last in ((0, 1), (3, 4), (2, 11), (10, 11), (5, 8)):
        assert torch.equal(model(x[first:last]), whole[first:last])


def test_the_gradient_flows_to_the_images_and_the_weights() -> None:
    model, x = Watched().eval(), images(5).requires_grad_(True)
    FixedShape(model, 4)(x)[:, 1].sum().backward()
    torch.testing.assert_close(x.grad, model.linear.weight[1].detach().view(3, 2, 2).expand(5, 3, 2, 2))
    torch.testing.assert_close(model.linear.bias.grad, torch.tensor([0.0, 5.0, 0.0]), msg="blanks take no part")


@pytest.mark.parametrize("training", [True, False])
def test_wrapping_leaves_the_mode_as_it_is(training: bool) -> None:
    model = Watched().train(training)
    wrapped = FixedShape(model, 4)
    assert (wrapped.training, model.training, model.linear.training) == (training, training, training)


def test_the_mode_of_the_wrapper_is_that_of_the_model() -> None:
    wrapped = FixedShape(Watched().train(), 4)
    wrapped.eval()
    assert not wrapped.model.linear.training
    wrapped.train()
    assert wrapped.model.linear.training


def test_the_layout_and_the_type_of_the_images_are_kept() -> None:
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, dtype=torch.float64))
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    FixedShape(model, 4)(images(5).double())
    assert {x.dtype for x in seen} == {torch.float64}
