"""Folding BatchNorm into the convolution before it changes how a network is computed, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from classwise.models import folding, load_model
from classwise.models.rewriting import rewritten

SHAPE = (2, 9, 11)


def lively(model: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and weights of its own, in float64."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.running_var, module.weight, module.bias):
                if value is not None:
                    value.data.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model.double().eval()


def conv_and_norm(**settings: bool) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(3, **settings)
        return lively(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), norm, nn.Tanh(), nn.Flatten(), nn.Linear(297, 4)))


def images(n: int = 4) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def passed(model: nn.Module) -> list[Tensor]:
    """Return logits, and gradients of their squares in the images and in every weight."""
    x = images().requires_grad_(True)
    logits = model(x)
    return [logits, *torch.autograd.grad(logits.square().sum(), [x, *model.parameters()], allow_unused=True)]


class Twice(nn.Module):
    """The convolution's output goes on past BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x)
        return self.norm(hidden) + hidden


class ConvAgain(Twice):
    """The convolution is called once with and once without BatchNorm after it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x)))


class NormAgain(Twice):
    """BatchNorm is called once after the convolution and once elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(self.conv(x)))


class Choosing(Twice):
    """What is done depends on the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.sum() > 0 else x


class Standardised(nn.Conv2d):
    """A convolution that does more with its weights than to multiply by them."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


class OfAnotherKind(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Standardised(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class WithoutStatistics(OfAnotherKind):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)


class Replaced(OfAnotherKind):
    """The pass of the convolution has been replaced in this very object."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)
        self.conv.forward = lambda x: 2 * x  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("name", "count"), [("small_resnet", 9), ("resnet18", 20), ("preact_resnet18", 8), ("small_cnn", 0)]
)
def test_pairs_of_the_architectures_are_found_and_logits_and_all_gradients_stay(name: str, count: int) -> None:
    shape = (2, 16, 16) if name == "small_cnn" else SHAPE
    model = lively(load_model(name, num_classes=3, shape=shape))
    found = folding.pairs(model)
    assert len(found) == count
    if not found:
        return
    plain = passed(model)
    with rewritten(folding.forwards(model)):
        assert vars(found[0].norm)["forward"](plain[0]) is plain[0]
        torch.testing.assert_close(passed(model), plain, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_with_and_without_bias_and_weights_give_the_same(affine: bool, bias: bool) -> None:
    model = conv_and_norm(affine=affine)
    if not bias:
        model[0].bias = None
    plain = passed(model)
    with rewritten(folding.forwards(model)):
        # Folded, a pass does not call the BatchNorm of PyTorch any more.
        with torch.profiler.profile() as seen:
            model(images())
        assert not any("batch_norm" in event.key for event in seen.key_averages())
        torch.testing.assert_close(passed(model), plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Twice, ConvAgain, NormAgain, Choosing, OfAnotherKind, WithoutStatistics, Replaced])
def test_where_folding_would_change_the_function_nothing_is_found(kind: type[nn.Module]) -> None:
    assert folding.pairs(kind()) == ()


class Inheriting(nn.Conv2d):
    """A convolution that leaves the pass as it is."""


def halved(conv: nn.Conv2d) -> nn.Module:
    """Let the weight be half of what is trained."""

    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    return parametrize.register_parametrization(conv, "weight", Half())


@pytest.mark.parametrize("conv", [Inheriting(2, 3, 3, padding=1), halved(nn.Conv2d(2, 3, 3, padding=1))])
def test_convolutions_of_other_classes_are_left_alone_though_they_convolve_alike(conv: nn.Module) -> None:
    model = conv_and_norm()
    model[0] = conv.double()
    assert folding.pairs(model) == ()


def test_weights_that_change_meanwhile_are_followed() -> None:
    model, other = conv_and_norm(), conv_and_norm()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    with rewritten(folding.forwards(model)):
        model(images())
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model(images()), other(images()), rtol=1e-12, atol=1e-12)


def test_passes_in_train_mode_stay_to_the_bit_and_move_the_statistics() -> None:
    model = conv_and_norm().train()
    plain = copy.deepcopy(model)
    with rewritten(folding.forwards(model)):
        for one, other in zip(passed(model), passed(plain), strict=True):
            assert torch.equal(one, other)
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert int(model[1].num_batches_tracked) == 1


def test_a_layer_that_is_frozen_in_eval_mode_is_folded_in_a_model_in_train_mode() -> None:
    model = conv_and_norm().train()
    model[1].eval()
    plain = passed(model)
    with rewritten(folding.forwards(model)):
        torch.testing.assert_close(passed(model), plain, rtol=1e-12, atol=1e-12)


def test_afterwards_the_model_is_as_it_was_even_after_an_error() -> None:
    model = conv_and_norm().train()
    before = copy.deepcopy(model.state_dict())
    random = torch.random.get_rng_state()
    forwards = folding.forwards(model)

    def fail() -> None:
        with rewritten(forwards):
            model(images()[:, :1])

    with pytest.raises(RuntimeError, match="to have 2 channels"):
        fail()
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
