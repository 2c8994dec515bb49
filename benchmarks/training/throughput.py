"""Adversarial training by ``fit`` against plain loops: images per CPU second, PGD-10 at 8/255, batches of 128.

The plain loops are written the way released scripts are: float32, channels first, a DataLoader, the attack in eval mode
step by step, then one step of SGD in train mode. One takes its attack from torchattacks. All take turns, each time in a
process of its own, since the memory of the C library adapts to what it has seen.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchattacks
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from classwise import ThreatModel, files, fit, load_data, load_model
from classwise.data.images import Images
from classwise.data.splits import stratified_sample
from classwise.evaluation import environment
from classwise.recipes import Recipe
from classwise.registry import build
from classwise.runs import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
from side_by_side import Timed, alone, cpu_seconds, ratios, spread, table

EPS, STEP, STEPS, BATCH = 8 / 255, 2 / 255, 10, 128
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-10 in its official format")
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--n", type=int, default=1024, help="training images, one epoch each round (default 1024)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    data = load_data("cifar10", args.data_dir, "train")
    if not isinstance(data, Images):
        raise TypeError("CIFAR-10 does not fit into memory")
    data = data.subset(stratified_sample(data.y, args.n, 0))
    contenders = {
        "classwise, 32-true": partial(by_classwise, args.model, data, "32-true"),
        "classwise, bf16-mixed": partial(by_classwise, args.model, data, "bf16-mixed"),
        "plain loop": partial(by_plain_loop, args.model, data, pgd),
        "plain loop, torchattacks": partial(by_plain_loop, args.model, data, by_torchattacks),
    }
    rounds = [
        {name: alone(partial(cpu_seconds, run))[0] for name, run in contenders.items()} for _ in range(args.repeat)
    ]
    found = {name: Timed(None, [seconds[name] for seconds in rounds]) for name in contenders}
    plain = found["plain loop"]
    rows = []
    for name, timed in found.items():
        rates = [args.n / seconds for seconds in timed.seconds]
        rows.append((name, timed, spread(rates, ".0f"), spread(ratios(plain, timed), ".2f")))
    content = {name: {**timed.record(), "faster_by": ratios(plain, timed)} for name, timed in found.items()}
    settings = {
        "model": args.model,
        "data": "cifar10 train",
        "n": args.n,
        "batch": BATCH,
        "eps": "8/255",
        "steps": STEPS,
    }
    path = args.out / f"throughput-{args.model}.json"
    files.write_json(path, {**settings, "seed": 0, "environment": environment(), "contenders": content})
    print(f"`{args.model}`, {args.n} images, {torch.get_num_threads()} thread(s); {path}\n")
    print(table(("loop", "CPU s", "images a CPU second", "faster than the plain loop by"), rows))


def by_classwise(name: str, data: Images, precision: str) -> None:
    """Train for one epoch with ``fit``, checkpoint and log included."""
    recipe = Recipe(epochs=1, batch_size=BATCH, augment="none", holdout=0.0, steps=STEPS, step_size=STEP)
    run = Run(name, "at", recipe, ThreatModel("Linf", EPS), 0)
    method = build("method", "at", len(data.classes), run.attack)
    model = load_model(name, num_classes=len(data.classes), shape=data.shape, seed=0)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        fit(fabric, model, method, data, run, Path(folder) / "run")


def by_plain_loop(name: str, data: Images, attack: Attack) -> None:
    """Train for one epoch the plain way."""
    model = load_model(name, num_classes=len(data.classes), shape=data.shape, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    images = TensorDataset(data.fetch(torch.arange(len(data))), data.y)
    for x, y in DataLoader(images, batch_size=BATCH, shuffle=True, drop_last=True):
        model.eval()
        x_adv = attack(model, x, y)
        model.train()
        optimizer.zero_grad()
        cross_entropy(model(x_adv), y).backward()
        optimizer.step()


def pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Take ten steps of 2/255 on the cross-entropy from a random start."""
    x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_(True)
        gradient = torch.autograd.grad(cross_entropy(model(x_adv), y), x_adv)[0]
        moved = x_adv.detach() + STEP * gradient.sign()
        x_adv = torch.min(torch.max(moved, x - EPS), x + EPS).clamp(0, 1)
    return x_adv.detach()


def by_torchattacks(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Attack with torchattacks' PGD."""
    x_adv: Tensor = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS)(x, y)
    return x_adv


if __name__ == "__main__":
    main()
