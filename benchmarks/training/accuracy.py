"""Whether networks that ``fit`` trains are as robust as those of the loops of released scripts.

PGD-10 adversarial training of ``small_resnet`` at 8/255 on a stratified sample of CIFAR-10, the same recipe for every
loop, one training of each kind a seed; then test images are attacked with PGD-20 by ``evaluate``.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import loops
import torch
from lightning_fabric import Fabric
from throughput import images
from torch import nn

from classwise import ThreatModel, build_attacks, evaluate, files, fit, load_model
from classwise.data.images import Images
from classwise.provenance import environment
from classwise.registry import build
from classwise.training.recipes import Recipe
from classwise.training.run import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
from side_by_side import spread, table

THREAT = ThreatModel("Linf", loops.EPS)


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-10 in its official format")
    parser.add_argument("--n", type=int, default=5000, help="training images (default 5000)")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--test", type=int, default=2000, help="test images (default 2000)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    data, test = images(args.data_dir, "train", args.n), images(args.data_dir, "test", args.test)
    recipe = Recipe(
        epochs=args.epochs,
        schedule="cyclic",
        augment="none",
        holdout=0.0,
        normalize=False,
        steps=loops.STEPS,
        step_size=loops.STEP,
    )
    ways: dict[str, Callable[[nn.Module, int], None]] = {
        "classwise": partial(by_classwise, data, recipe),
        "as robust_overfitting": partial(by_script, loops.robust_overfitting, data, recipe),
        "nothing passed twice": partial(by_script, loops.lean, data, recipe),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for seed in range(args.seeds):
        for name, way in ways.items():
            print(f"# seed {seed}, {name} …", file=sys.stderr, flush=True)
            model = load_model("small_resnet", num_classes=len(data.classes), shape=data.shape, seed=seed)
            way(model, seed)
            runs[name].append({"seed": seed, **accuracies(model, test)})
    settings = {"model": "small_resnet", "data": "cifar10", "n": args.n, "test": args.test, "recipe": recipe.__dict__}
    attack = {"threat": str(THREAT), "attack": "pgd", "attack_seed": 0}
    path = args.out / "accuracy.json"
    files.write_json(path, {**settings, **attack, "environment": environment(), "runs": runs})
    print(f"`small_resnet`, {args.epochs} epochs of {args.n} images, {args.test} test images; {path}\n")
    rows = [
        (name, *(spread([100 * run[what] for run in found], ".1f") for what in ("clean", "robust")))
        for name, found in runs.items()
    ]
    print(table(("loop", "clean %", "PGD-20 %"), rows))


def by_classwise(data: Images, recipe: Recipe, model: nn.Module, seed: int) -> None:
    """Train with ``fit``, and leave the weights of the last epoch."""
    run = Run("small_resnet", "at", recipe, THREAT, seed)
    method = build("method", "at", len(data.classes), run.attack)
    with tempfile.TemporaryDirectory() as folder:
        fit(Fabric(accelerator="cpu", devices=1), model, method, data, run, Path(folder) / "run")


def by_script(step: loops.Step, data: Images, recipe: Recipe, model: nn.Module, seed: int) -> None:
    """Train the plain way."""
    loops.train(step, model, data, recipe, seed)


def accuracies(model: nn.Module, test: Images) -> dict[str, float]:
    """Return clean and robust accuracy."""
    outcomes = evaluate(model.eval(), test, build_attacks("pgd", THREAT), seed=0).outcomes
    views = {"clean": "clean", "robust": outcomes.attacks[0]}
    return {name: float(torch.from_numpy(outcomes.correct(view)).double().mean()) for name, view in views.items()}


if __name__ == "__main__":
    main()
