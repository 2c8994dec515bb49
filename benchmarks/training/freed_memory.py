"""What a pass costs when freed memory goes back to the system, and when the process keeps it: CPU time, page faults.

    OMP_NUM_THREADS=1 python benchmarks/training/freed_memory.py

A pass goes forwards and back to the images, 128 of them, with random weights and channels last. Every timing runs in a
process of its own, since the C library adapts to what it has seen; the two kinds take turns.
"""

from __future__ import annotations

import resource
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

from classwise import files, load_model
from classwise.provenance import environment
from classwise.runtime.memory import freed_memory_kept

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
from side_by_side import alone, spread, table

NETWORKS = {"small_resnet": (3, 32, 32), "small_cnn": (1, 28, 28), "digits_cnn": (1, 28, 28)}
IMAGES, WARM_UP = 128, 5


class Pass(NamedTuple):
    """CPU milliseconds and page faults of one pass."""

    milliseconds: float
    faults: float


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--passes", type=int, default=30, help="in each timing (default 30)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    content, rows = {}, []
    for name in NETWORKS:
        rounds = [
            [alone(partial(timed, name, kept, args.passes)) for kept in (False, True)] for _ in range(args.repeat)
        ]
        back, kept = ([each[number] for each in rounds] for number in (0, 1))
        saved = [1 - there.milliseconds / here.milliseconds for here, there in rounds]
        content[name] = {
            "given_back": [each._asdict() for each in back],
            "kept": [each._asdict() for each in kept],
            "saved": saved,
        }
        times = (spread([each.milliseconds for each in kind], ".1f") for kind in (back, kept))
        faults = (f"{median(each.faults for each in kind):,.0f}" for kind in (back, kept))
        rows.append((name, *times, *faults, spread([100 * share for share in saved], ".0f")))
    path = args.out / "freed-memory.json"
    files.write_json(path, {"images": IMAGES, "passes": args.passes, "environment": environment(), "networks": content})
    print(f"{IMAGES} images, {torch.get_num_threads()} thread(s); {path}\n")
    print(table(("network", "ms, given back", "ms, kept", "faults, given back", "faults, kept", "saved %"), rows))


def timed(name: str, kept: bool, passes: int) -> Pass:
    """Time passes in this process, after a few that do not count."""
    once = one_pass(name)
    with freed_memory_kept() if kept else nullcontext():
        for _ in range(WARM_UP):
            once()
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        for _ in range(passes):
            once()
        spent = time.process_time() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return Pass(1000 * spent / passes, faults / passes)


def one_pass(name: str) -> Callable[[], object]:
    """Return a pass of random images through a network and back."""
    shape, generator = NETWORKS[name], torch.Generator().manual_seed(0)
    model = load_model(name, num_classes=10, shape=shape, seed=0).to(memory_format=torch.channels_last)
    model.requires_grad_(False)
    x = torch.rand((IMAGES, *shape), generator=generator).contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (IMAGES,), generator=generator)

    def once() -> object:
        moved = x.clone().requires_grad_(True)
        return torch.autograd.grad(cross_entropy(model(moved), y), moved)

    return once


if __name__ == "__main__":
    main()
