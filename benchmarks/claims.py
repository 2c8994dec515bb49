"""Simulate how often the rule of each claim errs, and how often it sees an effect (docs/analysis.md).

    python benchmarks/claims.py [--times 400] [--out benchmarks/results/claims.json]

Outcomes are drawn where the truth is known, and the analyses are asked as by `classwise analyse`. Size is the share of
data sets with a verdict that the truth does not bear out, power the share with the one that it does. Twenty minutes on
one core; ``--claims H1,H4`` asks some.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import classwise
from classwise.analysis import Subject
from classwise.analysis.consistency import consistency
from classwise.analysis.disparity import disparity
from classwise.analysis.epochs import ERROR, converge_alike
from classwise.analysis.gain import decompose
from classwise.analysis.homing import Selected, Verdicts, verdict
from classwise.analysis.temperature import temperature
from classwise.analysis.weight_norm import weight_norm
from classwise.metrics import Outcomes, Result

Random = np.random.Generator
HEADER: dict[str, Any] = {
    "model": {"name": "simulated", "sha256": "0" * 64, "parameters": 0},
    "data": {"name": "simulated", "split": "test", "sha256": "0" * 64, "note": ""},
    "threat": {"norm": "Linf", "eps": 0.1, "eps_text": "0.1"},
    "logits": {"median_top_two_gap": 1.0, "median_std": 1.0},
    "seed": 0,
    "batch_size": 1,
    "device": "cpu",
    "command": "",
    "seconds": 0.0,
    "environment": {},
    "flags": [],
    "groups": {},
}
CLASSES = 10
LADDER = np.linspace(0.1, 0.8, CLASSES)
ORDER = [5, 0, 2, 1, 3, 4, 7, 6, 8, 9]  # Spearman's correlation with its positions is 1 - 6*34/990 = 0.794
EVEN = "PGD(steps=20, loss='cross_entropy', restarts=10, targets=0)"
GRID = "TemperaturePGD(pgd=PGD(steps=20, restarts=1, targets=0), inverse_temperatures=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))"


def subject(y: np.ndarray, **right: np.ndarray) -> Subject:
    """Wrap up which images are right under each attack."""
    size, settings = int(y.max()) + 1, {"pgd": EVEN, "temperature-pgd": GRID}
    named = {name.replace("_", "-"): np.where(each, y, (y + 1) % size) for name, each in right.items()}
    outcomes = Outcomes(tuple(f"class {c}" for c in range(size)), np.arange(len(y)), y, y, named, {}, {})
    attacks = {name: {"settings": settings.get(name, "")} for name in named}
    return Subject("simulated", Result({**HEADER, "attacks": attacks}, outcomes), ())


def labels(n: int | list[int]) -> np.ndarray:
    """Return labels of n images of each class."""
    return np.repeat(np.arange(CLASSES if isinstance(n, int) else len(n)), n)


def h1(random: Random, rates: list[float], n: int | list[int]) -> str:
    """Draw one set of class accuracies."""
    y = labels(n)
    return disparity(subject(y, pgd=random.random(y.size) < np.array(rates)[y]))[0].verdict


def h2(random: Random, order: list[int], n: int, spread: float) -> str:
    """Draw two attacks on the same images, the second with the accuracies of the first in another order."""
    y, level = labels(n), random.random(n * CLASSES)
    rates = 0.45 + spread * (LADDER - LADDER.mean()) / np.ptp(LADDER)
    return consistency(subject(y, pgd=level < rates[y], square=level < rates[order][y] - 0.05)).verdict


def h4(random: Random, weak: float, strong: float, n: int) -> str:
    """Let the stronger attack break shares of what is left of the weak half and of the strong one."""
    y = labels(n)
    still = random.random(y.size) < np.linspace(0.2, 0.8, CLASSES)[y]
    kept = still & (random.random(y.size) >= np.where(y < CLASSES // 2, weak, strong))
    return decompose(subject(y, pgd=still, fgsm=kept).result.outcomes, "pgd", "fgsm").verdict


def h5(random: Random, extra: float, n: int) -> str:
    """Let either attack miss a twentieth of what can be broken at random, and Temperature-PGD break more of class 0."""
    y = labels([n] * 4)
    base = random.random(y.size) < np.array([0.3, 0.4, 0.6, 0.8])[y]
    ours = base & (random.random(y.size) < 0.95 - extra * (y == 0))
    return temperature(subject(y, pgd=base & (random.random(y.size) < 0.95), temperature_pgd=ours)).verdict


def h7(random: Random, share: float, n: int) -> str:
    """Draw which of n images are safe without their class, and which 30 % in each control."""
    treated, another, again, fewer = (random.random(n) < rate for rate in (share, 0.3, 0.3, 0.3))
    other = np.full((3, 3), -1)
    other[0, 1] = 2
    verdicts = Verdicts(np.stack([np.zeros(n, bool), treated, another]), again, fewer)
    return verdict(Selected(np.zeros(n, int), np.ones(n, int)), verdicts, other)


def h8(random: Random, r: float, classes: int, skewed: bool) -> str:
    """Draw lengths of weights, and accuracies that follow them with such a correlation."""
    length = random.exponential(size=classes) if skewed else random.normal(5, 1, classes)
    if skewed:
        rates = np.clip(0.1 + 0.2 * random.exponential(size=classes), 0, 1)
    else:
        rates = np.clip(0.5 + 0.1 * (r * (length - 5) + np.sqrt(1 - r**2) * random.normal(size=classes)), 0, 1)
    y = labels([100] * classes)
    return weight_norm(subject(y, pgd=random.random(y.size) < rates[y]), np.diag(length)).verdict


def h9(random: Random, rates: list[float], n: int) -> str:
    """Draw one set of class accuracies."""
    y = labels([n] * len(rates))
    return disparity(subject(y, pgd=random.random(y.size) < np.array(rates)[y]))[1].verdict


def h10(random: Random, final: list[float], lag: float, epochs: int) -> str:
    """Draw curves of 100 images a class over epochs; weights move by another three points from epoch to epoch."""
    ends = np.array(final)
    speed = (4 + lag * (ends - ends.mean()) / max(1e-9, np.ptp(ends))) / epochs
    rates = ends * (1 - np.exp(-np.arange(1, epochs + 1)[:, None] * speed))
    rates = np.clip(rates + random.normal(0, 0.03, rates.shape), 0, 1)
    less, greater = converge_alike(random.binomial(100, rates) / 100, np.full(CLASSES, 100.0), permutations=1000)
    return "supported" if less < ERROR / 2 else "refuted" if greater < ERROR / 2 else "undecided"


UNEVEN = [1000, 1000, 600, 600, 300, 300, 100, 100, 20, 20]
SAME = list(range(CLASSES))
CASES: dict[str, tuple[Callable[..., str], dict[str, tuple[Any, ...]]]] = {
    "H1": (
        h1,
        {
            "size: equal classes at .5, n 100": ([0.5] * CLASSES, 100),
            "size: equal classes at .9, n 20 to 1,000": ([0.9] * CLASSES, UNEVEN),
            "power: .45 and .55 in turn, n 20 to 1,000": ([0.45, 0.55] * 5, UNEVEN),
            "power: one class 20 points below, n 100": ([0.3] + [0.5] * 9, 100),
            "refuted: equal classes, n 10,000": ([0.9] * CLASSES, 10_000),
        },
    ),
    "H2": (
        h2,
        {
            "size: true .794, 70 points apart, n 100": (ORDER, 100, 0.7),
            "size: true .794, 20 points apart, n 100": (ORDER, 100, 0.2),
            "size: true .794, 40 points apart, n 1,000": (ORDER, 1000, 0.4),
            "power: same order, 70 points apart, n 100": (SAME, 100, 0.7),
            "power: same order, 20 points apart, n 100": (SAME, 100, 0.2),
            "refuted: true -.515, 70 points apart, n 100": ([5, 6, 7, 8, 9, 0, 1, 2, 3, 4], 100, 0.7),
        },
    ),
    "H4": (
        h4,
        {
            "size: a tenth of what is left everywhere, n 60": (0.1, 0.1, 60),
            "size: 40 % of what is left everywhere, n 100": (0.4, 0.4, 100),
            "power: 40 % of the weak half, 10 % of the other, n 60": (0.4, 0.1, 60),
            "refuted: 10 % of the weak half, 40 % of the other, n 60": (0.1, 0.4, 60),
        },
    ),
    "H5": (
        h5,
        {
            "size: both do the same, n 250": (0.0, 250),
            "power: 10 points more of the weakest of four, n 250": (0.35, 250),
            "power: 20 points more of the weakest of four, n 250": (0.65, 250),
        },
    ),
    "H7": (
        h7,
        {
            "size: 30 % safe everywhere, 100 images": (0.3, 100),
            "size: 30 % safe everywhere, 30 images": (0.3, 30),
            "power: 50 % safe without the class, 100 images": (0.5, 100),
            "refuted: 10 % safe without the class, 100 images": (0.1, 100),
        },
    ),
    "H8": (
        h8,
        {
            "size: nothing to do with each other, normal, 10 classes": (0.0, 10, False),
            "size: nothing to do with each other, exponential, 10 classes": (0.0, 10, True),
            "power: r = .7, 10 classes": (0.7, 10, False),
            "power: r = .6, 100 classes": (0.6, 100, False),
        },
    ),
    "H9": (
        h9,
        {
            "size: share .5 of one of five, n 100": ([0.4] + [0.85] * 4, 100),
            "size: share .5 of two of ten, n 60": ([0.4, 0.44] + [0.85] * 4 + [0.86] * 4, 60),
            "power: share .69 of one of five, n 100": ([0.1] + [0.9] * 4, 100),
            "refuted: share .33 of one of five, n 300": ([0.8] + [0.9] * 4, 300),
            "not applicable: equal classes at .5, n 100": ([0.5] * CLASSES, 100),
        },
    ),
    "H10": (
        h10,
        {
            "size: one curve, 15 epochs": ([0.5] * CLASSES, 0.0, 15),
            "size: one curve, 6 epochs": ([0.5] * CLASSES, 0.0, 6),
            "size: heights .05 to .6, 15 epochs": (np.linspace(0.05, 0.6, CLASSES).tolist(), 0.0, 15),
            "size: heights .05 to .6, 6 epochs": (np.linspace(0.05, 0.6, CLASSES).tolist(), 0.0, 6),
            "power: easy classes three times as fast, 15 epochs": (np.linspace(0.3, 0.9, CLASSES).tolist(), 4.0, 15),
            "power: easy classes three times as fast, 6 epochs": (np.linspace(0.3, 0.9, CLASSES).tolist(), 4.0, 6),
        },
    ),
}


def shares(function: Callable[..., str], settings: tuple[Any, ...], times: int, seed: int) -> dict[str, float]:
    """Return how often each verdict falls."""
    counts = Counter(function(random, *settings) for random in streams(times, seed))
    return {said: count / times for said, count in sorted(counts.items())}


def streams(times: int, seed: int) -> Iterator[Random]:
    """Return random numbers for each data set."""
    yield from (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(times))


def main() -> None:
    """Simulate, print a line a case and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--claims", default=",".join(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "claims.json")
    given = parser.parse_args()
    found = json.loads(given.out.read_text())["claims"] if given.out.is_file() else {}
    for claim in given.claims.split(","):
        function, cases = CASES[claim]
        found[claim] = {}
        for name, settings in cases.items():
            found[claim][name] = shares(function, settings, given.times, given.seed)
            print(claim, name, found[claim][name], flush=True)
        about = {"times": given.times, "seed": given.seed, "classwise": classwise.__version__}
        ordered = {claim: found[claim] for claim in CASES if claim in found}
        given.out.write_text(json.dumps({**about, "claims": ordered}, indent=2) + "\n")


if __name__ == "__main__":
    main()
