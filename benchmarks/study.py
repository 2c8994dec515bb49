"""What a study costs beside its runs: overhead of the runner, memory of a streamed evaluation, two processes at once.

Each part can run alone: ``python benchmarks/study.py overhead``. The first counts CPU seconds of this process, since
wall time on a shared machine measures its neighbours; the last needs two idle cores, and its file says how busy they
were.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from classwise import evaluate, files, fit, resolve
from classwise.data import load
from classwise.provenance import environment
from classwise.studies import schedule
from classwise.studies.spec import Entry, Evaluation, Study
from classwise.studies.trials import Trial, Where, grid, prepared
from classwise.threat import ThreatModel

sys.path.insert(0, str(Path(__file__).parent / "attacks"))
from memory import forget_peak, peak

SIDE = 224  # pixels of an image of ImageNet
GOALS = {"overhead_seconds_a_run": 2.0, "peak_gib": 4.0, "throughput_ratio": 1.7}


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if left out")
    parser.add_argument("--epochs", type=int, default=3, help="of each run (default 3)")
    parser.add_argument("--steps", type=int, default=200, help="of PGD where throughput is measured (default 200)")
    parser.add_argument(
        "--images", type=int, nargs=2, default=[600, 2400], help="of the streamed evaluations; above a batch"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--child", type=Path, help="evaluate this folder here; what the script itself calls")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(streamed(args.child)))
        return
    path = args.out / "study.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for part in args.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            busy = os.getloadavg()[0]
            found = PARTS[part](args, Path(folder))
        known[part] = {**found, "load_before": busy, "cores": os.cpu_count(), "environment": environment()}
        print(part, json.dumps(found, indent=2))
    files.write_json(path, {**known, "goals": GOALS})


# Overhead


def overhead(args: Namespace, folder: Path) -> dict[str, Any]:
    """Time a study as the command does it, tables and page included, and the same trainings and evaluations alone."""
    from classwise.cli.main import main as classwise

    study = small(f"digits(epochs={args.epochs})", "pgd")
    file, out = folder / "study.toml", folder / "study"
    file.write_text(written(study))
    status, whole = clocked(lambda: classwise(["study", str(file), "--out", str(out), "--accelerator", "cpu"]))
    assert status == 0
    where = Where(folder / "alone", accelerator="cpu")
    trials = grid(study, where)
    alone = [alone_seconds(trial, where) for trial in trials]
    return {
        "runs": len(trials),
        "cpu_seconds_of_the_study": whole,
        "cpu_seconds_alone": alone,
        "overhead_seconds_a_run": (whole - sum(alone)) / len(trials),
    }


def alone_seconds(trial: Trial, where: Where) -> float:
    """Return the CPU seconds of fit and evaluate, everything that they need being there."""
    images, (run, method, network) = prepared(trial, where)
    about, fabric = trial.evaluation, resolve.launched("cpu", 1)
    test = resolve.images(trial.data, None, "test", about["limit"], about["seed"])
    attacks = resolve.named_attacks(trial.attacks, trial.threat, test, about["seed"])
    _, training = clocked(lambda: fit(fabric, network, method, images, run, trial.folder(where.out)))
    trained = resolve.model(trial.network(where.out, "best"), test, 0)
    place = trial.evaluation_folder(where.out, "best")
    _, evaluation = clocked(lambda: evaluate(trained, test, attacks, seed=0, directory=place, fabric=fabric))
    return training + evaluation


def clocked(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and its CPU seconds."""
    start = time.process_time()
    value = function()
    return value, time.process_time() - start


def small(recipe: str, attacks: str) -> Study:
    """Return two methods with two seeds on digits."""
    entries = (Entry("at"), Entry("trades"))
    return Study(
        "benchmark", "digits", ("digits_cnn",), recipe, entries, seeds=(0, 1), evaluate=Evaluation(attacks)
    )  # fmt: skip


def written(study: Study) -> str:
    """Return a study as TOML, as far as :func:`small` uses it."""
    tables = "".join(f'\n[[method]]\nmethod = "{entry.method}"\n' for entry in study.method)
    return (
        f'name = "{study.name}"\ndata = "{study.data}"\nmodel = "{study.model[0]}"\nrecipe = "{study.recipe}"\n'
        f'seeds = {list(study.seeds)}\n[evaluate]\nattacks = "{study.evaluate.attacks}"\n{tables}'
    )


# Memory


def memory(args: Namespace, folder: Path) -> dict[str, Any]:
    """Evaluate folders of images of ImageNet's size, read as they are attacked, each in a process of its own."""
    found = {}
    for count in args.images:
        draw(folder / str(count), count)
        command = [sys.executable, __file__, "--child", str(folder / str(count))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[count] = json.loads(done.stdout.splitlines()[-1])
    few, many = args.images
    return {
        "images": args.images,
        "gib_of_the_images": [count * 3 * SIDE * SIDE / 2**30 for count in args.images],
        "peak_gib": found[many]["peak_gib"],
        "growth_gib": found[many]["peak_gib"] - found[few]["peak_gib"],
        "runs": found,
    }


def draw(folder: Path, count: int) -> None:
    """Write noise as JPEG files into four class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / "test" / f"class {number % 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)


class Strided(nn.Module):
    """A convolution and a mean: the images, not the network, are what takes memory."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 16, 7, stride=4), nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.linear(self.convolution(x).relu().mean((2, 3)))
        return logits


def streamed(folder: Path) -> dict[str, Any]:
    """Evaluate a folder of images in this process, and return the peak of its memory and how it read."""
    torch.manual_seed(0)
    # Said sizes keep the files from being read into memory at once.
    images = load(f"folder(resize={SIDE}, crop={SIDE})", folder, split="test")
    threat = ThreatModel("Linf", 1 / 255)
    forget_peak()
    evaluate(Strided(len(images.classes)).eval(), images, resolve.named_attacks("pgd(steps=2)", threat, images, 0))
    return {"kind": type(images).__name__, "n": len(images), "peak_gib": peak() / 1024}


# Two processes


def processes(args: Namespace, folder: Path) -> dict[str, Any]:
    """Evaluate the same networks one after another and two at a time; only evaluations are timed."""
    study = small("digits(epochs=1)", "pgd(steps=1)")
    where = Where(folder, accelerator="cpu")
    schedule.run_all(grid(study, where), where)  # trains
    torch.set_num_threads(1)
    found: dict[int, dict[str, Any]] = {}
    for jobs in (1, 2):
        # Another seed of the attack is another evaluation of the same networks.
        again = Evaluation(f"pgd(steps={args.steps})", seed=jobs)
        trials = grid(Study(**{**vars(study), "evaluate": again}), where)
        start = time.perf_counter()
        schedule.run_all(trials, where, jobs)
        seconds = [trial.results(folder)["best"].header["seconds"] for trial in trials]
        images = trials[0].evaluation["images"]
        rate = jobs * images * len(trials) / sum(seconds)
        found[jobs] = {"wall_seconds": time.perf_counter() - start, "seconds": seconds, "images_a_second": rate}
    return {
        "throughput_ratio": found[2]["images_a_second"] / found[1]["images_a_second"],
        "wall_ratio_with_start_of_processes": found[1]["wall_seconds"] / found[2]["wall_seconds"],
        "runs": found,
    }


PARTS: dict[str, Callable[[Namespace, Path], dict[str, Any]]] = {
    "overhead": overhead,
    "memory": memory,
    "processes": processes,
}


if __name__ == "__main__":
    main()
