"""Hypothesis strategies and small builders for the tests of metrics."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from classwise.attacks import build_attacks
from classwise.attacks.base import described
from classwise.errors import InputError
from classwise.metrics import INVALID, Outcomes
from classwise.threat import ThreatModel

# Time limits of single examples fail at random on a busy machine.
QUICK = settings(max_examples=50, deadline=None)

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


def make(y: Any, clean: Any, num_classes: int | None = None, **predictions: Any) -> Outcomes:
    """Build outcomes from labels, clean predictions and one list of predictions an attack."""
    size = num_classes or int(max(y, default=0)) + 1
    classes = tuple(f"class {c}" for c in range(size))
    return Outcomes(classes, np.arange(len(y)), y, clean, predictions, {}, {})


@cache
def recorded(name: str) -> dict[str, Any]:
    """Return what result.json says of the attack of a name; of no attack where the name is of none."""
    try:
        (attack,) = build_attacks([name], ThreatModel("Linf", 8 / 255)).values()
    except (InputError, ValueError):
        return {"settings": "Noop()"}
    return {"settings": repr(attack), "attack": described(attack)}


def header(outcomes: Outcomes, **changes: Any) -> dict[str, Any]:
    """Return a full header of a result that fits some outcomes."""
    return {
        "model": {"name": "small_cnn", "sha256": "0" * 64, "parameters": 1000},
        "data": {
            "name": "digits",
            "split": "test",
            "n": 3,
            "sha256": "1" * 64,
            "note": "",
        },
        "threat": {"norm": "Linf", "eps": 8 / 255, "eps_text": "8/255"},
        "seed": 0,
        "batch_size": 256,
        "device": "cpu",
        "command": "classwise evaluate small_cnn",
        "seconds": 1.5,
        "environment": {"python": "3.12", "numpy": np.__version__},
        "flags": [{"flag": "zero_gradient", "attack": "pgd", "message": "…", "classes": ["class 0"], "value": 0.5}],
        "logits": {"median_top_two_gap": 2.0, "median_std": 1.0},
        "groups": {},
        "attacks": {name: {**recorded(name), "seconds": 0.5} for name in outcomes.attacks},
        **changes,
    }


@st.composite
def outcomes(draw: st.DrawFn, min_images: int = 0, max_attacks: int = 3) -> Outcomes:
    """Draw outcomes of up to 40 images with invalid predictions, absent classes and awkward names."""
    num_classes = draw(st.integers(1, 6))
    size = draw(st.integers(min_images, 40))
    attacks = draw(
        st.lists(NAMES.filter(lambda name: name not in {"clean", "worst_case"}), unique=True, max_size=max_attacks)
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = random.integers(0, num_classes, size)
    clean = np.where(random.random(size) < 0.7, y, random.integers(INVALID, num_classes, size))
    broken = {
        name: np.where((random.random(size) < 0.6) & (clean == y), y, random.integers(INVALID, num_classes, size))
        for name in attacks
    }
    return Outcomes(
        classes=tuple(draw(st.lists(NAMES, min_size=num_classes, max_size=num_classes))),
        index=random.permutation(size),
        y=y,
        clean=clean,
        predictions={name: np.where(clean == y, values, clean) for name, values in broken.items()},
        margins={name: random.normal(size=size) for name in ["clean", *attacks]},
        distances={name: random.random(size) for name in attacks},
    )


def counts(min_classes: int = 1, min_images: int = 0) -> st.SearchStrategy[tuple[list[int], list[int]]]:
    """Draw counts of right images and of images, by class."""
    one = st.integers(min_images, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
    return st.lists(one, min_size=min_classes, max_size=8).map(
        lambda pairs: ([k for k, _ in pairs], [n for _, n in pairs])
    )
