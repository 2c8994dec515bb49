"""What the tests of training methods share: a small network with state, and labelled images that it can learn."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from classwise import registry
from classwise.attacks import PGD
from classwise.methods import Method
from classwise.models import put_head
from classwise.models.teacher import Teacher
from classwise.noise import Noise
from classwise.threat import ThreatModel

SHAPE = (1, 4, 4)


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
    """Return a network that has been trained on other images of the same kind."""
    y = torch.arange(64 * num_classes) % num_classes
    x, _ = batch(y)
    model = network(num_classes, seed=1)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return Teacher(model, "a tiny teacher")


def groups(num_classes: int) -> tuple[tuple[int, ...], ...]:
    """Return two superclasses: the even and the odd classes."""
    return tuple(range(0, num_classes, 2)), tuple(range(1, num_classes, 2))
