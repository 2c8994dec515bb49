"""What the sums by class cost a training step: steps with and without them, in turn, in one run of ``fit``.

Without them a step counts nothing and does not note the loss of each class in case it diverges. Each ratio is of two
steps that follow each other, in CPU seconds; the first two are left out.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from classwise import ThreatModel, files, fit, load_data, load_model
from classwise.data.images import Images
from classwise.data.splits import stratified_sample
from classwise.provenance import environment
from classwise.registry import build
from classwise.training import loop
from classwise.training.divergence import Watch
from classwise.training.loop import TrainingProgress
from classwise.training.recipes import Recipe
from classwise.training.run import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
from side_by_side import table

CASES = {
    ("small_resnet", "at"): ("cifar10", 8 / 255),
    ("small_cnn", "at"): ("mnist", 0.3),
    ("small_cnn", "standard"): ("mnist", 0.3),  # the shortest step there is
}


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-10 and MNIST in their official formats")
    parser.add_argument("--steps", type=int, default=42, help="steps of each case (default 42)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    content, rows = {}, []
    for (model, method), (data, eps) in CASES.items():
        print(f"# {model}, {method} …", file=sys.stderr, flush=True)
        counting, plain = measured(model, method, images(data, args.data_dir, 128 * args.steps), eps)
        content[f"{model}, {method}"] = {
            "data": f"{data} train",
            "eps": eps,
            "with": summary(counting),
            "without": summary(plain),
            "ratio": summary([one / other for one, other in zip(counting, plain, strict=True)]),
        }
        ratio = content[f"{model}, {method}"]["ratio"]
        both = f"{1000 * statistics.median(counting):.1f}", f"{1000 * statistics.median(plain):.1f}"
        rows.append((f"{model}, {method}", *both, "{median:.3f} ({lower:.3f}–{upper:.3f})".format(**ratio)))
    path = args.out / "tracking.json"
    settings = {"steps": args.steps, "batch": 128, "attack": "PGD-10", "seed": 0}
    files.write_json(path, {**settings, "environment": environment(), "cases": content})
    print(f"{args.steps} steps of 128 images, {torch.get_num_threads()} thread(s); {path}\n")
    print(table(("network, method", "CPU ms with", "CPU ms without", "ratio: median (quartiles)"), rows))


def images(data: str, directory: Path | None, n: int) -> Images:
    """Load a stratified sample of the training images."""
    found = load_data(data, directory, "train")
    if not isinstance(found, Images):
        raise TypeError(f"{data} does not fit into memory")
    return found.subset(stratified_sample(found.y, n, 0))


def measured(name: str, method: str, data: Images, eps: float) -> tuple[list[float], list[float]]:
    """Train for an epoch; return the CPU seconds of steps with and of steps without sums by class, in order."""
    recipe = Recipe(epochs=1, batch_size=128, augment="none", holdout=0.0, steps=10, lr=0.01)
    run = Run(name, method, recipe, ThreatModel("Linf", eps), 0)
    defence = build("method", method, len(data.classes), run.attack)
    model = load_model(name, num_classes=len(data.classes), shape=data.shape, seed=0)
    ends: list[float] = []
    with every_other_step(ends), tempfile.TemporaryDirectory() as folder:
        fit(Fabric(accelerator="cpu", devices=1), model, defence, data, run, Path(folder) / "run", stamp(ends))
    seconds = [end - start for start, end in pairwise(ends[1:])]  # from the third step on
    even = len(seconds) // 2 * 2
    return seconds[0:even:2], seconds[1:even:2]


def stamp(ends: list[float]) -> Any:
    """Return what notes the CPU time at the end of every step."""

    def watch(_: TrainingProgress) -> None:
        ends.append(time.process_time())

    return watch


@contextmanager
def every_other_step(ends: list[float]) -> Iterator[None]:
    """Leave the sums by class out of steps 2, 4, …; ``ends`` has as many entries as steps are finished."""
    count, note = loop._count, Watch.note

    def counted(*given: Any) -> None:
        if len(ends) % 2 == 0:
            count(*given)

    def noted(self: Watch, number: int, values: list[torch.Tensor], logits: Any, y: torch.Tensor) -> None:
        note(self, number, values, logits if len(ends) % 2 == 0 else None, y)

    loop._count, Watch.note = counted, noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop._count, Watch.note = count, note  # type: ignore[method-assign]


def summary(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    lower, median, upper = statistics.quantiles(values, n=4)
    return {"median": median, "lower": lower, "upper": upper}


if __name__ == "__main__":
    main()
