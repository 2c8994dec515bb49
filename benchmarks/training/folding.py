"""Robust accuracy of networks trained with BatchNorm folded into convolutions during the attack, and without.

``small_resnet`` on the embedded digits, recipe ``digits`` with fewer epochs, one training of each kind a seed; then
every test image is attacked with PGD-20. The two kinds differ by rounding, and so by what training makes of rounding.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from classwise import ThreatModel, build_attacks, evaluate, files, fit, load_data, load_model
from classwise.data.images import Images
from classwise.models import folding
from classwise.provenance import environment
from classwise.registry import build
from classwise.training.run import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
from side_by_side import cpu_seconds, table

THREAT = ThreatModel("Linf", 0.15)


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    content, rows = [], []
    for seed in range(args.seeds):
        print(f"# seed {seed} …", file=sys.stderr, flush=True)
        found = {"folded": trained(args.epochs, seed)}
        with unfolded():
            found["plain"] = trained(args.epochs, seed)
        content.append({"seed": seed, **found})
        rows.append((seed, *(f"{100 * each[what]:.1f}" for what in ("clean", "robust") for each in found.values())))
    path = args.out / "folding.json"
    settings = {"model": "small_resnet", "data": "digits", "recipe": f"digits(epochs={args.epochs})"}
    attack = {"threat": str(THREAT), "attack": "pgd", "n": len(digits("test"))}
    files.write_json(path, {**settings, **attack, "environment": environment(), "runs": content})
    print(f"{args.epochs} epochs, {len(digits('test'))} test images; {path}\n")
    print(table(("seed", "clean %, folded", "clean %, plain", "robust %, folded", "robust %, plain"), rows))


def trained(epochs: int, seed: int) -> dict[str, Any]:
    """Train, attack the test images, and return accuracies and the CPU seconds of training."""
    recipe, data = build("recipe", f"digits(epochs={epochs})"), digits("train")
    run = Run("small_resnet", "at", recipe, THREAT, seed)
    method = build("method", "at", len(data.classes), run.attack)
    model = load_model("small_resnet", num_classes=len(data.classes), shape=data.shape, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        fabric = Fabric(accelerator="cpu", devices=1)
        seconds, _ = cpu_seconds(lambda: fit(fabric, model, method, data, run, Path(folder) / "run"))
    outcomes = evaluate(model.eval(), digits("test"), build_attacks("pgd", THREAT), seed=seed).outcomes
    robust = torch.from_numpy(outcomes.correct(outcomes.attacks[0]).copy())
    clean = torch.from_numpy(outcomes.correct("clean").copy())
    return {"clean": float(clean.double().mean()), "robust": float(robust.double().mean()), "cpu_seconds": seconds}


def digits(split: str) -> Images:
    """Load a split of the digits."""
    found = load_data("digits", None, split)
    if not isinstance(found, Images):
        raise TypeError("the digits do not fit into memory")
    return found


@contextmanager
def unfolded() -> Iterator[None]:
    """Let training find nothing to fold."""
    pairs = folding.pairs
    folding.pairs = lambda model: ()
    try:
        yield
    finally:
        folding.pairs = pairs


if __name__ == "__main__":
    main()
