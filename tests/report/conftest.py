from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.metrics.strategies import recorded

from classwise.metrics.examples import Examples, worth_showing
from classwise.metrics.outcomes import Outcomes
from classwise.metrics.result import Result
from classwise.metrics.training import Curve, curve

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GROUPS = {
    "vehicles": ["airplane", "automobile", "ship", "truck"],
    "animals": ["bird", "cat", "deer", "dog", "frog", "horse"],
}
THREAT = "threat=ThreatModel(norm='Linf', eps=0.03)"
AUTOATTACK = (
    f"Ensemble(attacks=(APGD({THREAT}, steps=100, loss='cross_entropy', restarts=1, targets=0), "
    f"APGD({THREAT}, steps=100, loss='dlr', restarts=1, targets=9), FAB({THREAT}, steps=100, restarts=1, targets=9), "
    f"Square({THREAT}, queries=5000, restarts=1)))"
)
ATTACKS = ("pgd", "margin-pgd", "temperature-pgd")


def make_result(
    classes: Sequence[str] = CIFAR10,
    per_class: int = 100,
    weak: int = 3,
    attacks: Sequence[str] = ATTACKS,
    groups: dict[str, list[str]] | None = None,
    absent: Sequence[int] = (),
    equal: bool = False,
    **header: Any,
) -> Result:
    """Plant a model whose class `weak` is the easiest to break, each attack a little stronger than the last."""
    random = np.random.default_rng(0)
    size = len(classes)
    y = np.repeat([c for c in range(size) if c not in absent], per_class)
    strength = np.full(size, 0.6) if equal else random.uniform(0.45, 0.75, size)
    strength[weak] = 0.6 if equal else 0.15
    # A class is mostly taken for its neighbour, which makes a flow with a pattern.
    rival = np.where(random.random(len(y)) < 0.7, y ^ 1, random.integers(0, size, len(y))) % size
    rival = np.where(rival == y, (y + 1) % size, rival)
    hardness = random.random(len(y))
    clean = np.where((hardness > 0.92) & (size > 1), rival, y)
    predictions = {}
    for a, name in enumerate(attacks):
        # The jitter lets each attack break some images that the others do not.
        threshold = strength[y] + 0.03 * (len(attacks) - 1 - a) + random.normal(0, 0.03, len(y))
        predictions[name] = np.where((hardness > threshold) & (size > 1), rival, y)
    predictions = {name: np.where(clean != y, clean, p) for name, p in predictions.items()}
    index = np.arange(len(y))
    fields: dict[str, Any] = {
        "classwise": "0.1.0",
        "model": {"name": "preact_resnet18@weights.safetensors", "sha256": "ab" * 32, "parameters": 11_171_146},
        "data": {"name": "cifar10", "split": "test", "n": 2000, "sha256": "cd" * 32, "note": ""},
        "threat": {"norm": "Linf", "eps": 8 / 255, "eps_text": "8/255"},
        "seed": 0,
        "batch_size": 250,
        "device": "cpu",
        "command": "classwise evaluate --model preact_resnet18@weights.safetensors --data cifar10",
        "seconds": 321.5,
        "environment": {"python": "3.11.9", "torch": "2.15.0", "numpy": "2.4.6", "tf32": False},
        "flags": [],
        "logits": {"median_top_two_gap": 1.25, "median_std": 2.5},
        "groups": groups or {},
        "identity": "planted",
        "attacks": {
            name: {
                **({"settings": AUTOATTACK} if name == "autoattack" else recorded(name)),
                "seconds": 10.0 + a,
            }
            for a, name in enumerate(attacks)
        },
        **header,
    }
    return Result(fields, Outcomes(tuple(classes), index, y, clean, predictions, {}, {}))


def make_examples(result: Result, side: int = 12, channels: int = 3) -> Examples:
    """Draw pixels for six broken images; the first pixel of each becomes darker by 0.1, the last lighter by 0.05."""
    index = result.outcomes.index[worth_showing(result.outcomes)[:6]]
    x = np.random.default_rng(0).integers(60, 200, (len(index), channels, side, side), dtype=np.uint8)
    x_adv = (x / 255).astype(np.float32)
    x_adv[:, :, 0, 0] -= 0.1
    x_adv[:, :, -1, -1] += 0.05
    return Examples("planted", index, x, x_adv)


def make_curve(size: int) -> Curve:
    """Plant a run of five epochs in which class c ends at (c + 5) of 20 held-out images, 200 images a class."""
    rise = [[10 * (c + 5) * (e + 1) // 5 for c in range(size)] for e in range(5)]
    return curve([{"valid": {"robust": {"n": [200] * size, "correct": correct}}, "train": None} for correct in rise])


@pytest.fixture(scope="session")
def stored(result: Result) -> Examples:
    return make_examples(result)


@pytest.fixture(scope="session")
def training() -> Curve:
    return make_curve(len(CIFAR10))


@pytest.fixture(scope="session")
def result() -> Result:
    return make_result(groups=GROUPS)


@pytest.fixture(scope="session")
def make() -> Callable[..., Result]:
    return make_result


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, result: Result) -> Path:
    directory = tmp_path_factory.mktemp("result")
    result.write(directory)
    return directory
