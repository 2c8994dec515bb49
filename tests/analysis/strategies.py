"""Subjects with planted outcomes, for the tests of analyses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tests.metrics.strategies import header

from classwise.analysis import Subject
from classwise.metrics import Outcomes
from classwise.metrics.result import Result


def planted(robust: dict[str, list[float]], n: int = 100, shared: bool = True, seed: int = 0, **about: Any) -> Outcomes:
    """Plant class accuracies under each attack: an image survives an attack if its own random number is low enough.

    With ``shared`` numbers a weaker attack breaks a subset of what a stronger one breaks; otherwise each attack draws
    anew. Broken images go to the next class.
    """
    size = len(next(iter(robust.values())))
    y = np.repeat(np.arange(size), n)
    # Evenly spaced ranks give each class its accuracy exactly.
    random = np.random.default_rng([7, seed])  # none that the analyses draw from

    def levels() -> np.ndarray:
        return np.concatenate([random.permutation((np.arange(n) + 0.5) / n) for _ in range(size)])

    first = levels()
    predictions = {
        name: np.where((first if shared else levels()) < np.array(rates)[y], y, (y + 1) % size)
        for name, rates in robust.items()
    }
    classes = about.pop("classes", tuple(f"class {c}" for c in range(size)))
    return Outcomes(classes, np.arange(len(y)), y, y, predictions, {}, {})


def subject(outcomes: Outcomes, label: str = "model", **changes: Any) -> Subject:
    """Wrap outcomes up as the evaluation of a model."""
    return Subject(label, Result(header(outcomes, **changes), outcomes), (Path(label),))


def model(name: str) -> dict[str, Any]:
    """Return the header's entry of a model with weights of its own."""
    return {"name": name, "sha256": name.encode().hex().ljust(64, "0")[:64], "parameters": 10}
