"""What the tests of training methods share: a small network with state, and labelled images that it can learn."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from classwise import registry
from classwise.attacks import PGD
from classwise.methods import Method, Pass
from classwise.metrics.stats import ClassStats
from classwise.models import put_head
from classwise.models.teacher import Teacher
from classwise.noise import Noise
from classwise.threat import ThreatModel

SHAPE = (1, 4, 4)
SOON = {
    "cfol": "cfol(rate=0.01)",
    "cfol-rw": "cfol-rw(rate=0.01)",
    "dafa": "dafa(warmup=1)",
    "fat": "fat(milestones=(1, 2))",
    "gairat": "gairat(begin=1)",
    "iad": "iad(begin=2)",
    **{f"tv-{what}": f"tv-{what}(warmup=1)" for what in ("weight", "margin", "radius", "beta")},
}
"""Settings by which a method acts on the classes after an epoch or two, where its defaults wait for longer."""


def in_action(name: str) -> str:
    """Return a method's name, with settings by which it acts in a short run."""
    return SOON.get(name, name)


def network(num_classes: int, seed: int = 0, dropout: float = 0.0, head: str | None = None) -> nn.Module:
    """Return a network whose state is weights and BatchNorm statistics, in train mode, with the head that is named."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(8, num_classes),
        )
        if head is not None:
            put_head(model, head)
        return model


class As(nn.Module):
    """Images or logits as another type of number."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def batch(y: Tensor) -> tuple[Tensor, Noise]:
    """Return images (N, 1, 4, 4) whose brightness depends on the class, and their noise."""
    noise = Noise(7, torch.arange(len(y)))
    x = 0.5 * noise.fold("images").uniform(SHAPE)
    x.view(len(y), 16)[torch.arange(len(y)), y % 16] += 0.4
    return x, noise.fold("attack", 0)


class Watched(nn.Module):
    """A model that keeps the images and the modes of its passes, in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, x.detach().clone()))
        return self.model(x)


def attack(eps: float = 0.1, steps: int = 3, mode: str = "eval") -> PGD:
    return PGD(ThreatModel("Linf", eps), steps=steps, step_size=eps / 2, mode=mode)  # type: ignore[arg-type]


def method(text: str, num_classes: int, attack: PGD) -> Method:
    """Build a method by name, with what it needs beyond numbers: a teacher, superclasses, or which classes."""
    name, given = registry.parse(text)
    makers: dict[str, Any] = {"teacher": teacher, "groups": groups, "classes": lambda num: groups(num)[0]}
    needed = {key: make(num_classes) for key, make in makers.items() if key in asked(name) and key not in given}
    built: Method = registry.build("method", text, num_classes, attack, **needed)
    return built


def asked(name: str) -> set[str]:
    """Return the settings that a method takes."""
    return set(inspect.signature(registry.entry("method", name).build).parameters)


@cache
def teacher(num_classes: int) -> Teacher:
    """Return a network that has been trained on other images of the same kind.

    It computes in float64, by which its logits in float32 are the same on every processor and in every batch.
    """
    y = torch.arange(64 * num_classes) % num_classes
    x, _ = batch(y)
    model = network(num_classes, seed=1)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return Teacher(nn.Sequential(As(torch.float64), model.double(), As(torch.float32)), "a tiny teacher")


def groups(num_classes: int) -> tuple[tuple[int, ...], ...]:
    """Return two superclasses: the even and the odd classes."""
    return tuple(range(0, num_classes, 2)), tuple(range(1, num_classes, 2))


def stats_of(accuracy: list[float], n: list[int] | int = 100) -> ClassStats:
    """Return sums in which each class has these images and this share of them right; NaN for a class without any.

    Wrong images are taken for the next class. The softmax is 1 for what is predicted.
    """
    stats = ClassStats.zeros(len(accuracy))
    share = torch.tensor(accuracy, dtype=torch.float64)
    count = torch.where(share.isnan(), 0, torch.as_tensor(n, dtype=torch.float64))
    right = (share * count).nan_to_num(0)
    stats.n += count
    stats.confusion += right.diag() + (count - right).diag().roll(1, 1)
    stats.probability += stats.confusion
    return stats


def pass_of(*, clean: list[float] | None = None, robust: list[float], n: list[int] | int = 100) -> Pass:
    """Return sums with these class accuracies; clean ones equal robust ones unless given."""
    return Pass(stats_of(robust if clean is None else clean, n), stats_of(robust, n))
