"""Whether ``torch.compile`` makes the passes of adversarial training faster on this CPU: small_resnet, 128 images.

    OMP_NUM_THREADS=1 python benchmarks/training/compiled.py

The pass of the attack is forwards in eval mode and back to the images, BatchNorm folded; that of the step is forwards
in train mode and back to the weights. Weights go into the compiled pass of the attack without gradient, or it would
compute those too. Both kinds are called in turn; the time of compiling is not counted.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from classwise import files, load_model
from classwise.models.rewriting import faster, rewritten
from classwise.provenance import environment

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
from side_by_side import cpu_seconds, interleaved, ratios, spread, table

SHAPE, BATCH, CALLS = (3, 32, 32), 128, 10


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, *SHAPE, generator=generator).to(memory_format=torch.channels_last)
    y = torch.randint(10, (BATCH,), generator=generator)
    content, rows = {}, []
    for name, kind in {"attack": attack_pass, "step": step_pass}.items():
        eager, compiled = kind(x, y, lambda work: work), kind(x, y, lambda work: torch.compile(work, dynamic=False))
        for run in (eager, compiled):
            run()  # compiles it
        found = interleaved({"eager": many(eager), "compiled": many(compiled)}, args.repeat, cpu_seconds)
        faster = ratios(found["eager"], found["compiled"])
        content[name] = {"faster_by": faster, **{k: v.record() for k, v in found.items()}}
        rows.append((name, found["eager"], found["compiled"], spread(faster, ".2f")))
    settings = {"model": "small_resnet", "batch": BATCH, "calls": CALLS, "seed": 0, "environment": environment()}
    files.write_json(args.out / "compiled.json", {**settings, "passes": content})
    print(table(("pass", "eager, CPU s", "compiled, CPU s", "faster by"), rows))


def attack_pass(x: Tensor, y: Tensor, made: Callable[..., Callable[..., Tensor]]) -> Callable[[], Tensor]:
    """Return the pass of the attack, ``made`` into what is called."""
    model = load_model("small_resnet", num_classes=10, shape=SHAPE, seed=0).eval().to(memory_format=torch.channels_last)
    forwards = faster(model)
    weights = {name: value.detach() for name, value in model.state_dict().items()}

    def forward(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        with rewritten(forwards):
            logits: Tensor = functional_call(model, weights, (x,))
        return logits

    called = made(forward)

    def run() -> Tensor:
        images = x.clone().requires_grad_(True)
        return torch.autograd.grad(cross_entropy(called(weights, images), y, reduction="sum"), images)[0]

    return run


def step_pass(x: Tensor, y: Tensor, made: Callable[..., Callable[..., Tensor]]) -> Callable[[], Tensor]:
    """Return the pass of the training step, ``made`` into what is called."""
    model = load_model("small_resnet", num_classes=10, shape=SHAPE, seed=0).train()
    model.to(memory_format=torch.channels_last)
    called = made(model)

    def run() -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = cross_entropy(called(x), y)
        loss.backward()
        return loss.detach()

    return run


def many(work: Callable[[], Tensor]) -> Callable[[], None]:
    """Return what calls it several times."""

    def run() -> None:
        for _ in range(CALLS):
            work()

    return run


if __name__ == "__main__":
    main()
