"""Tiny models with known answers, and models that make trouble."""

from __future__ import annotations

import os
from functools import cache

import torch
from sklearn.datasets import load_digits
from tests.strategies import DUAL
from torch import Tensor, nn

from classwise.models import load_model


class Affine(nn.Module):
    """Logits W·x + b: every margin, and what an attack can do to it, is known."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def rise(self, y: Tensor, rival: Tensor, norm: str) -> Tensor:
        """Return how much z_rival − z_y rises by for a perturbation of length 1 in the steepest direction, (N,)."""
        difference = (self.weight[rival] - self.weight[y]).detach()
        return torch.linalg.vector_norm(difference, ord=DUAL[norm], dim=1)


def affine(num_classes: int, pixels: int, seed: int = 0, scale: float = 2.0) -> Affine:
    """Return random weights whose classes are balanced at the image 1/2."""
    weight = scale * torch.randn(num_classes, pixels, generator=torch.Generator().manual_seed(seed))
    return Affine(weight, -0.5 * weight.sum(1))


def pair(num_classes: int, pixels: int, seed: int = 0) -> Affine:
    """Return an affine model where only classes 0 and 1 ever win, as mirror images: the others are 50 logits behind."""
    half = affine(1, pixels, seed)
    weight = torch.zeros(num_classes, pixels)
    bias = torch.full((num_classes,), -50.0)
    weight[0], weight[1] = half.weight[0].detach(), -half.weight[0].detach()
    bias[0], bias[1] = half.bias[0].detach(), -half.bias[0].detach()
    return Affine(weight, bias)


class Tallest(nn.Module):
    """The class is the brightest pixel: an image whose own pixel leads by g breaks once 2·eps reaches g (Linf)."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * x.flatten(1)


def planted(leads: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 1, C) of class c whose pixel c leads the others by each of ``leads[c]``."""
    y = torch.tensor([c for c, group in enumerate(leads) for _ in group])
    x = torch.full((len(y), len(leads)), 0.4)
    x[torch.arange(len(y)), y] += torch.tensor([lead for group in leads for lead in group])
    return x[:, None, None], y


class Smooth(nn.Module):
    """A random network of one tanh layer, computed in float64 so that the size of a batch changes no bit that counts.

    Attributes:
        factor: multiplies the logits.
        shift: is added to all logits of an image, in proportion to its first pixel.
    """

    def __init__(
        self,
        num_classes: int,
        pixels: int,
        seed: int = 0,
        factor: float = 4.0,
        shift: float = 0.0,
        hidden: int = 16,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner = nn.Parameter(torch.randn(pixels, hidden, generator=generator, dtype=torch.float64))
        self.outer = nn.Parameter(torch.randn(hidden, num_classes, generator=generator, dtype=torch.float64))
        self.factor, self.shift = factor, shift

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).double() - 0.5
        logits = self.factor * (flat @ self.inner / flat.shape[1] ** 0.5).tanh() @ self.outer
        return (logits + self.shift * flat[:, :1].detach()).float()


def labelled(model: nn.Module, n: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random images that the model itself labels, so that all are right."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return x, model(x).argmax(1)


class Stateful(nn.Module):
    """Convolution, BatchNorm and dropout: a model with a mode, statistics and random numbers of its own."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(4, num_classes)
        nn.init.normal_(self.norm.running_mean, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).tanh().mean((2, 3))))


class Rounded(nn.Module):
    """Sees black and white only: its gradient is zero everywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.round())


class Cut(Rounded):
    """Cuts the graph between the image and the logits, which still need a gradient for the weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach())


class Frozen(Rounded):
    """Computes its logits without any graph."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x)


class NotANumber(Rounded):
    """Has the gradient 0·∞, not a number, in every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + (0 * x).sqrt().flatten(1).sum(1, keepdim=True)


class Steep(Rounded):
    """Has an infinite gradient in every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + (x - x.detach()).sqrt())


MASKS = (Rounded, Cut, Frozen, NotANumber, Steep)


@cache
def trained_on_digits() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small network trained for a second, and digits that are new to it and that it gets right: x, y."""
    bunch = load_digits()
    x = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(bunch.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        loss = nn.functional.cross_entropy(model(x[900:]), y[900:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = model.eval()(x[:900]).argmax(1) == y[:900]
    return model, x[:900][right], y[:900][right]


def network_by_others(name: str) -> nn.Module:
    """Return a real robust network from the folder that CLASSWISE_SHARED names."""
    return load_model(f"{os.environ['CLASSWISE_SHARED']}/models/{name}/load.py:load_model")
