"""Whether bfloat16 makes convolutions faster on this CPU: time of each against float32, forwards and back.

    OMP_NUM_THREADS=1 python benchmarks/convolutions.py --out benchmarks/results/convolutions.json

The shapes are those of ``small_resnet`` and ``small_cnn``, 128 images with channels last. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from classwise import files
from classwise.provenance import environment

SHAPES = ((24, 24, 32), (48, 48, 16), (96, 96, 8), (32, 32, 26), (64, 64, 10))  # channels in, channels out, side
KINDS = (torch.float32, torch.bfloat16)
LEAST = 0.2  # CPU seconds that one timing takes


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/convolutions.json"))
    args = parser.parse_args()
    found = []
    for channels, filters, side in SHAPES:
        rounds = [[seconds(channels, filters, side, kind) for kind in KINDS] for _ in range(args.repeat)]
        one, half = (median(times) for times in zip(*rounds, strict=True))
        slower = median(there / here for here, there in rounds)
        found.append({"shape": [channels, filters, side], "float32": one, "bfloat16": half, "ratio": slower})
        print(f"{channels:3} -> {filters:3} at {side:2}x{side:<2}: bfloat16 takes {slower:.2f} of float32's time")
    files.write_json(args.out, {"images": 128, "convolutions": found, "environment": environment()})
    print(json.dumps({"written": str(args.out)}))


def seconds(channels: int, filters: int, side: int, kind: torch.dtype) -> float:
    """Return the CPU seconds of a pass forwards and back to the images."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((128, channels, side, side), (filters, channels, 3, 3))
    drawn = (torch.rand(shape, generator=generator) for shape in shapes)
    x, weight = (each.to(kind, memory_format=torch.channels_last) for each in drawn)
    x.requires_grad_(True)
    return timed(lambda: torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), x))


def timed(work: Callable[[], object]) -> float:
    """Return the CPU seconds that it takes once."""
    work()
    times, start = 0, time.process_time()
    while (spent := time.process_time() - start) < LEAST:
        work()
        times += 1
    return spent / times


if __name__ == "__main__":
    main()
