"""What a pass to the images costs when the gradient of the first convolution is PyTorch's, and when it is ours.

    OMP_NUM_THREADS=1 python benchmarks/training/input_gradient.py

128 images forwards in eval mode and back to the images, channels last, BatchNorm folded in both kinds, random weights.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from classwise import files, load_model
from classwise.models import input_gradient
from classwise.models.rewriting import faster, rewritten
from classwise.provenance import environment
from classwise.runtime.memory import freed_memory_kept

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
from side_by_side import cpu_seconds, interleaved, ratios, spread, table

NETWORKS = {"small_resnet": (3, 32, 32), "small_cnn": (1, 28, 28), "digits_cnn": (1, 28, 28)}
IMAGES, CALLS = 128, 10


@freed_memory_kept()
def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    content, rows = {}, []
    for name in NETWORKS:
        model = load_model(name, num_classes=10, shape=NETWORKS[name], seed=0).eval()
        model.to(memory_format=torch.channels_last)
        run = passes(model, NETWORKS[name])
        kinds = {"pytorch": partial(usual, run), "ours": run}
        for kind in kinds.values():
            kind()
        found = interleaved(kinds, args.repeat, cpu_seconds)
        times = ratios(found["pytorch"], found["ours"])
        content[name] = {"faster_by": times, **{kind: each.record() for kind, each in found.items()}}
        rows.append((name, found["pytorch"], found["ours"], spread(times, ".2f")))
    settings = {"batch": IMAGES, "calls": CALLS, "seed": 0, "environment": environment()}
    files.write_json(args.out / "input-gradient.json", {**settings, "networks": content})
    print(table(("network", f"PyTorch, CPU s of {CALLS}", "ours", "faster by"), rows))


def passes(model: nn.Module, shape: tuple[int, int, int]) -> Callable[[], None]:
    """Return what passes a batch forwards and back, several times."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(IMAGES, *shape, generator=generator).to(memory_format=torch.channels_last).requires_grad_(True)
    y = torch.randint(10, (IMAGES,), generator=generator)
    forwards = faster(model)

    def run() -> None:
        for _ in range(CALLS):
            with rewritten(forwards):
                loss = cross_entropy(model(x), y, reduction="sum")
            torch.autograd.grad(loss, x)

    return run


def usual(run: Callable[[], None]) -> None:
    """Run with PyTorch's own gradient."""
    window, input_gradient._WINDOW = input_gradient._WINDOW, 0
    try:
        run()
    finally:
        input_gradient._WINDOW = window


if __name__ == "__main__":
    main()
