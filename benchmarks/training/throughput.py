"""Adversarial training by ``fit`` against the loops of released scripts: images a second.

PGD-10 at 8/255, batches of 128 CIFAR-10 images; the loops are those of :mod:`loops`. All take turns, each time in a
process of its own, since the memory of the C library adapts to what it has seen. ``OMP_NUM_THREADS`` says on how many
cores each runs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import loops
import torch
from lightning_fabric import Fabric

from classwise import ThreatModel, files, fit, load_data, load_model
from classwise.data.images import Images
from classwise.data.splits import stratified_sample
from classwise.provenance import environment
from classwise.registry import build
from classwise.training.recipes import Recipe
from classwise.training.run import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
from side_by_side import Timed, alone, cpu_seconds, ratios, spread, table

RECIPE = Recipe(epochs=1, batch_size=128, augment="none", holdout=0.0, steps=loops.STEPS, step_size=loops.STEP)
SCRIPTS = {
    "at": {
        "as robust_overfitting": loops.robust_overfitting,
        "nothing passed twice": loops.lean,
        "nothing passed twice, torchattacks": loops.by_torchattacks,
    },
    "trades": {"as TRADES": loops.trades},
}
"""Method -> plain loops that train with it."""


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-10 in its official format")
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--n", type=int, default=1024, help="training images, one epoch each round (default 1024)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    data = images(args.data_dir, "train", args.n)
    contenders: dict[tuple[str, str], Callable[[], None]] = {}
    for method, scripts in SCRIPTS.items():
        for precision in ("32-true", "bf16-mixed"):
            contenders[method, f"classwise, {precision}"] = partial(by_classwise, args.model, method, data, precision)
        for name, step in scripts.items():
            contenders[method, name] = partial(by_script, args.model, step, data)
    rounds = []
    for _ in range(args.repeat):
        rounds.append({})
        for name, contender in contenders.items():
            print(f"# {': '.join(name)} …", file=sys.stderr, flush=True)
            rounds[-1][name] = alone(partial(timed, contender))
    found = {name: Timed(None, [each[name]["wall_seconds"] for each in rounds]) for name in contenders}
    content: dict[str, dict[str, Any]] = {method: {} for method in SCRIPTS}
    rows = []
    for (method, name), one in found.items():
        ours = found[method, "classwise, 32-true"]
        slower = ratios(one, ours)
        each = [round_[method, name] for round_ in rounds]
        content[method][name] = {"rounds": each, "images_a_second": [args.n / s for s in one.seconds], "slower": slower}
        rows.append((method, name, spread([args.n / s for s in one.seconds], ".1f"), spread(slower, ".2f")))
    settings = {"model": args.model, "data": "cifar10 train", "n": args.n, "recipe": RECIPE.__dict__, "eps": "8/255"}
    threads = torch.get_num_threads()
    path = args.out / f"throughput-{args.model}-{threads}.json"
    files.write_json(path, {**settings, "seed": 0, "environment": environment(), "methods": content})
    print(f"`{args.model}`, {args.n} images, {threads} thread(s); {path}\n")
    print(table(("method", "loop", "images a second", "time over that of classwise, 32-true"), rows))


def timed(run: Callable[[], None]) -> dict[str, float]:
    """Return the seconds that a call takes, by the clock on the wall and of the CPU."""
    start = time.perf_counter()
    cpu, _ = cpu_seconds(run)
    return {"wall_seconds": time.perf_counter() - start, "cpu_seconds": cpu}


def images(folder: Path | None, split: str, n: int) -> Images:
    """Load a stratified sample of CIFAR-10."""
    data = load_data("cifar10", folder, split)
    if not isinstance(data, Images):
        raise TypeError("CIFAR-10 does not fit into memory")
    return data.subset(stratified_sample(data.y, n, 0))


def by_classwise(name: str, method: str, data: Images, precision: str) -> None:
    """Train for one epoch with ``fit``, checkpoint and log included."""
    run = Run(name, method, RECIPE, ThreatModel("Linf", loops.EPS), 0)
    made = build("method", method, len(data.classes), run.attack)
    model = load_model(name, num_classes=len(data.classes), shape=data.shape, seed=0)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        fit(fabric, model, made, data, run, Path(folder) / "run")


def by_script(name: str, step: loops.Step, data: Images) -> None:
    """Train for one epoch the plain way."""
    model = load_model(name, num_classes=len(data.classes), shape=data.shape, seed=0)
    loops.train(step, model, data, RECIPE, 0)


if __name__ == "__main__":
    main()
