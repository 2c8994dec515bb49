"""Efficiency of the attacks: the time that their passes need by themselves, over the time that they take.

A bare pass is the model called on a full batch, forwards alone or with the gradient of the summed logits in the
images, at the batch size and memory layout where it is fastest, freed memory kept by the process. 1 means that nothing
but passes takes time; folded BatchNorm can bring it above.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import (
    Case,
    by_classwise,
    cpu_seconds,
    open_case,
    options,
    save,
    spread,
    table,
    title,
)
from torch import Tensor

from classwise.evaluation.engine import channels_last
from classwise.runtime.inference import forward
from classwise.runtime.memory import freed_memory_kept

ATTACKS = ("upper-bound", "nearest-pgd(steps=60, targets=9)", "pgd", "apgd-ce", "square(queries=500)")
SIZES = (32, 64, 128, 250, 500)
LEAST = 0.3  # CPU seconds that one timing of a bare pass takes, so that the clock's steps do not matter


@dataclass(frozen=True)
class Bare:
    """How a bare pass is made.

    Attributes:
        size: images in a batch.
        weights_last: whether the weights of convolutions have their channels last.
        images_last: whether the images do.
    """

    size: int
    weights_last: bool
    images_last: bool

    def __str__(self) -> str:
        layout = {True: "channels last", False: "channels first"}
        return f"{self.size} images, weights {layout[self.weights_last]}, images {layout[self.images_last]}"

    @freed_memory_kept()
    def seconds(self, case: Case, passing: Callable[[Case, Tensor], None]) -> float:
        """Return the CPU seconds that one image takes in a pass."""
        x = case.x.repeat(-(-self.size // len(case.x)), 1, 1, 1)[: self.size]
        x = x.contiguous(memory_format=torch.channels_last if self.images_last else torch.contiguous_format)
        with channels_last(case.model, case.x[:2]) if self.weights_last else nullcontext():
            passing(case, x)  # warms up
            times, start = 0, time.process_time()
            while (spent := time.process_time() - start) < LEAST:
                passing(case, x)
                times += 1
        return spent / times / self.size


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__ or "", n=500, repeat=3)
    parser.add_argument("--attack", action="append", help="may be given several times; five of ours if not")
    args = parser.parse_args()
    case = open_case(args)
    ways = [Bare(*way) for way in itertools.product(SIZES, (True, False), (True, False))]
    bare = [{way: 1e6 * way.seconds(case, passing) for way in ways} for passing in (forwards, back)]
    one, both = (min(seconds, key=seconds.__getitem__) for seconds in bare)
    found: dict[str, dict[str, Any]] = {attack: {} for attack in args.attack or ATTACKS}
    for _, (attack, record) in itertools.product(range(args.repeat), found.items()):
        measure(case, attack, one, both, record)
    every = [{str(way): round(value, 2) for way, value in seconds.items()} for seconds in bare]
    content = {"forward_pass": str(one), "both_passes": str(both), "attacks": found}
    content |= {"microseconds_an_image": dict(zip(("forward", "both"), every, strict=True))}
    path = save(args, case, "engine", content)
    print(title(case, path))
    print(f"Best bare passes: forwards {one}; with gradient {both}.\n")
    print(
        table(
            ("attack", "efficiency", "CPU s", "passes alone, s", "forward + forward-and-backward images"), rows(found)
        )
    )


def measure(case: Case, attack: str, one: Bare, both: Bare, record: dict[str, Any]) -> None:
    """Time bare passes and then an evaluation with the attack; take note in ``record``."""
    forward_seconds, both_seconds = one.seconds(case, forwards), both.seconds(case, back)
    seconds, found = cpu_seconds(lambda: by_classwise(case, attack))
    passes = found.passes
    bare = (passes.forward - passes.backward) * forward_seconds + passes.backward * both_seconds
    record |= {"forward_images": passes.forward, "backward_images": passes.backward, "robust": int(found.robust.sum())}
    new = {
        "efficiency": bare / seconds,
        "cpu_seconds": seconds,
        "bare_seconds": bare,
        "forward_microseconds": 1e6 * forward_seconds,
        "both_microseconds": 1e6 * both_seconds,
    }
    for name, value in new.items():
        record.setdefault(name, []).append(value)


def forwards(case: Case, x: Tensor) -> None:
    """Pass images through the model."""
    forward(case.model, x)


def back(case: Case, x: Tensor) -> None:
    """Pass images through the model, and back."""
    point = x.requires_grad_(True)
    torch.autograd.grad(case.model(point).sum(), point)


def rows(found: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the table's rows."""
    return [
        (
            f"`{attack}`",
            spread(record["efficiency"], ".2f"),
            spread(record["cpu_seconds"], ".2f"),
            spread(record["bare_seconds"], ".2f"),
            f"{record['forward_images'] - record['backward_images']:,} + {record['backward_images']:,}",
        )
        for attack, record in found.items()
    ]


if __name__ == "__main__":
    main()
