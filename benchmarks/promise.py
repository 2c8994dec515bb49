"""Measure whether a fit of `classwise correct` keeps what it promises; writes results/promise.json.

    python benchmarks/promise.py

Nothing is estimated: images are points whose class is the brightest of C pixels, so that the attack is exact, an image
breaks where its pixel leads by less than twice the radius, and the accuracy of a correction on new images is counted on
20,000 a class. Classes are unlike hard, in every trial in another way. `repair` is called as a user calls it, and its
promise of the weakest class, of the average and of the class that was the weakest is held against the truth.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classwise.corrections.fit import repair
from classwise.data import Images
from classwise.noise import Noise
from classwise.threat import ThreatModel

HERE = Path(__file__).parent
EPS, FRESH = 0.02, 20_000
THREAT = ThreatModel("Linf", EPS)


@dataclass(frozen=True)
class Darken:
    """The best attack where the class is the brightest pixel: its pixel falls, all others rise, by the radius."""

    threat: ThreatModel = THREAT

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Return the attacked images."""
        step = 1 - 2 * nn.functional.one_hot(y, x.shape[-1])[:, None, None].to(x)
        return (x + self.threat.eps * step).clamp(0, 1)


class Brightest(nn.Module):
    """The class is the brightest pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 1, C) to logits (N, C)."""
        return 10 * x.flatten(1)


class World(NamedTuple):
    """How bright the pixels of each class are on average (C, C)."""

    mean: Tensor

    @classmethod
    def of(cls, seed: int, classes: int) -> World:
        """Draw one in which some classes are harder than others."""
        generator = torch.Generator().manual_seed(seed)
        mean = torch.randn(classes, classes, generator=generator) + 3 * torch.eye(classes)
        return cls(0.5 + 0.04 * (mean + 0.7 * torch.randn(classes, generator=generator)))

    def images(self, n: int, seed: int) -> Images:
        """Draw ``n`` images a class."""
        classes = len(self.mean)
        y = torch.arange(classes).repeat(n)
        noise = torch.randn(len(y), classes, generator=torch.Generator().manual_seed(seed))
        x = (self.mean[y] + 0.06 * noise).clamp(EPS, 1 - EPS)
        return Images.from_arrays(x[:, None, None], y, classes=[f"class {k}" for k in range(classes)], split="train")


def truth(offset: Tensor, images: Images) -> Tensor:
    """Return the true accuracy of each class under attack (C,)."""
    x, y = images.fetch(torch.arange(len(images))), images.y
    logits = Brightest()(Darken()(nn.Identity(), x, y, noise=Noise(0, torch.arange(1)))) + offset
    return torch.bincount(y[logits.argmax(1) == y], minlength=len(offset)) / torch.bincount(y)


def trial(seed: int, classes: int, n: int) -> dict[str, Any]:
    """Fit once; return what was seen, promised and true."""
    world = World.of(seed, classes)
    fresh = world.images(FRESH, 10_000 + seed)
    result = repair(Brightest(), world.images(n, seed), "iv-offsets", {"darken": Darken()}, seed=seed)
    promise = result.promise
    assert promise is not None
    before, after = (truth(offset, fresh) for offset in (torch.zeros(classes), result.model.correction.offset))
    weakest = promise.before.worst.index
    return {
        "fitted": result.points[result.chosen].adaptive.worst.accuracy,
        "weakest": {
            "truth": float(after.min()),
            "value": promise.weakest.value,
            **promise.weakest.interval._asdict(),
        },
        "average": {"truth": float((after - before).mean()), **promise.change._asdict()},
        "fixed": {"truth": float((after - before)[weakest]), **promise.change_of_weakest._asdict()},
    }


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean bias in points and how often the truth lies below and above the interval."""
    rows: dict[str, Any] = {}
    for name in ("weakest", "average", "fixed"):
        entries = [trial[name] for trial in trials]
        rows[name] = {
            "bias": 100 * sum(entry["value"] - entry["truth"] for entry in entries) / len(entries),
            "below": sum(entry["truth"] < entry["low"] for entry in entries),
            "above": sum(entry["truth"] > entry["high"] for entry in entries),
        }
    too_high = [trial["fitted"] - trial["weakest"]["truth"] for trial in trials]
    level = [trial["weakest"]["truth"] for trial in trials]
    return {
        **rows,
        "truth": 100 * sum(level) / len(level),
        "fitted": {"bias": 100 * sum(too_high) / len(too_high)},
    }


@dataclass(frozen=True)
class Case:
    """How many classes, images of each, and trials."""

    classes: int
    images: int
    trials: int


def main() -> None:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 10, 2])
    parser.add_argument("--images", type=int, nargs="+", default=[300, 100, 300])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "promise.json")
    args = parser.parse_args()
    results = []
    for classes, images in zip(args.classes, args.images, strict=True):
        case = Case(classes, images, args.trials)
        results.append({**asdict(case), **summary([trial(seed, classes, images) for seed in range(args.trials)])})
        print(json.dumps(results[-1]), flush=True)
        args.out.write_text(json.dumps({"eps": EPS, "fresh": FRESH, "cases": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
