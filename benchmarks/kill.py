"""Kill evaluations with SIGKILL at random moments, go on until they end, and compare every bit with an unbroken run.

    OMP_NUM_THREADS=1 python benchmarks/kill.py --kills 120 --out results/kill-campaign.json

Each attempt is a process of its own that runs ``classwise.cli.main``: a fork of this one, which has imported PyTorch
but never used it, so that an attempt does not begin with seconds of imports. Records are saved after every batch
instead of every ten seconds, and half of the kills wait for a moment at which a file is being written.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # a fork takes no threads along

import argparse
import json
import platform
import random
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import classwise
from classwise.cli.main import main as classwise_main
from classwise.cli.show import results  # noqa: F401  # so that the children need not
from classwise.evaluation import records
from classwise.metrics.result import Result

NETWORK = """
import torch
from sklearn.datasets import load_digits
from torch import nn


class Centres(nn.Module):
    \"\"\"The class whose mean image is nearest, seen through a convolution.\"\"\"

    def __init__(self):
        super().__init__()
        self.blur = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            nn.init.normal_(self.blur.weight)
        x, y = load_digits(return_X_y=True)
        x = torch.from_numpy(x).float().view(-1, 1, 8, 8) / 16
        with torch.no_grad():
            seen = self.blur(x).tanh().flatten(1)
            means = torch.stack([seen[torch.from_numpy(y) == c].mean(0) for c in range(10)])
        self.register_buffer("means", means)

    def forward(self, x):
        return -torch.cdist(self.blur(x).tanh().flatten(1), self.means).square() / 8


net = Centres
"""
PLAN = """
full = "autoattack(steps=4, queries=20)"

[[stage]]
attack = "nearest-pgd(steps=3, targets=2)"

[[stage]]
attack = "nearest-pgd(steps=4, targets=3, start='uniform')"
closest = 0.4
go_on = 0.4

[[stage]]
attack = "square(queries=20)"
closest = 0.2
"""
FIRST = "pgd(steps=3)"
FILES = {"examples.npz", "outcomes.npz", "result.json"}
FAULTS = ("different_outcomes", "files_left_over", "older_results_lost")


@dataclass(frozen=True)
class Case:
    """An evaluation to be killed.

    Attributes:
        name: what it is called in the result.
        attacks: of the command line.
        first: an attack that the folder holds the finished result of before; "" for none.
    """

    name: str
    attacks: str
    first: str = ""


CASES = (
    Case("plan", "plan.toml"),
    Case("suite", f"{FIRST},autoattack(steps=4, queries=20)"),
    Case("added", f"{FIRST},plan.toml", FIRST),
)


def words(attacks: str, folder: Path) -> list[str]:
    """Return the command line of an evaluation."""
    settings = ["--data", "digits", "--limit", "160", "--eps", "0.12", "--batch-size", "16", "--audit", "2"]
    return ["evaluate", "network.py:net", *settings, "--attacks", attacks, "--out", str(folder)]


def attempt(command: list[str], after: float | None, folder: Path | None = None) -> bool:
    """Run a command line in a process of its own, and kill it; tell whether it finished before.

    Args:
        command: without the program's name.
        after: seconds until the kill; None to let it finish.
        folder: wait for the next moment at which a file is being written there.

    Raises:
        RuntimeError: it failed by itself.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            torch.set_num_threads(1)
            records._SAVE_EVERY = 0.0
            status = classwise_main(command)
            sys.stdout.flush()
        finally:
            os._exit(status)
    if after is not None:
        time.sleep(after)
        deadline = time.monotonic() + (0.0 if folder is None else 0.5)
        while time.monotonic() < deadline and folder is not None and not list(folder.glob(".*.partial")):
            pass
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"{shlex.join(command)} failed:\n{Path('log.txt').read_text()}")
    return os.WIFEXITED(status)


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything in a result that must not depend on kills: every array, stages, reasons and audit."""
    arrays = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            arrays |= {(path.name, name): (stored[name].dtype.str, stored[name].tobytes()) for name in stored.files}
    views = json.loads((folder / "result.json").read_text())["attacks"]
    for view in views.values():
        view.pop("seconds", None)
        for stage in view.get("stages", []):
            stage.pop("seconds")
    return {"arrays": arrays, "views": views}


def state(folder: Path) -> str:
    """Say what a kill left behind."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if any(name.endswith(".partial") for name in names):
        return "a file half written"
    if "result.json" in names and not any(name.startswith("partial-") for name in names):
        return "a result alone"
    return " and ".join(sorted(name for name in names if not name.startswith("partial-"))) or (
        "records alone" if names else "nothing yet"
    )


def run(
    case: Case, folder: Path, reference: dict[str, Any], seconds: float, dice: random.Random, most: int
) -> tuple[Counter[str], Counter[str]]:
    """Kill one evaluation, at most so often, until it ends; returns what the kills left, and what was wrong."""
    left, wrong = Counter[str](), Counter[str](dict.fromkeys(FAULTS, 0))
    older = None
    if case.first:
        attempt(words(case.first, folder), None)
        older = Result.read(folder).document
    command = words(case.attacks, folder)
    while not attempt(command, dice.uniform(0, seconds) if left.total() < most else None, dice.choice([None, folder])):
        left[state(folder)] += 1
        if older is not None:
            found = Result.read(folder)
            wrong["older_results_lost"] += len(found.outcomes.attacks) == 1 and found.document != older
    wrong["different_outcomes"] += outcome(folder) != reference
    wrong["files_left_over"] += not {path.name for path in folder.iterdir()} <= FILES
    return left, wrong


def campaign(kills: int, seed: int, cases: list[Case], most: int) -> dict[str, Any]:
    """Run cases by turns until there were so many kills."""
    Path("network.py").write_text(NETWORK)
    Path("plan.toml").write_text(PLAN)
    dice, start = random.Random(seed), time.monotonic()
    references, seconds = dict[str, dict[str, Any]](), dict[str, float]()
    for case in cases:
        folder = Path(f"whole-{case.name}")
        if case.first:
            attempt(words(case.first, folder), None)
        begin = time.monotonic()
        attempt(words(case.attacks, folder), None)
        seconds[case.name] = time.monotonic() - begin
        references[case.name] = outcome(folder)
    killed, runs, left, wrong = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    while killed.total() < kills:
        case = cases[runs.total() % len(cases)]
        name, folder = case.name, Path(f"run-{runs.total()}")
        found, faults = run(case, folder, references[name], seconds[name], dice, most)
        wrong.update(faults)
        killed[case.name] += found.total()
        runs[case.name] += 1
        left += found
        print(f"{killed.total()} kills in {runs.total()} runs", file=sys.stderr)
    return {
        "kills": killed.total(),
        "kills_by_case": dict(killed),
        "runs_by_case": dict(runs),
        "left_behind": dict(sorted(left.items())),
        **{name: wrong[name] for name in FAULTS},
        "attacks_by_case": {case.name: case.attacks for case in cases},
        "seconds_of_an_unbroken_run": {name: round(value, 2) for name, value in seconds.items()},
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> None:
    """Run the campaign and write what it found; the exit status is 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=120, help="end after the run that reaches this number")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--most", type=int, default=15, help="kills of one run, which may then end")
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], help="all if not given")
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    settings = parser.parse_args()
    out = None if settings.out is None else settings.out.resolve()
    home, chosen = Path.cwd(), [case for case in CASES if case.name in (settings.cases or case.name)]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            found = campaign(settings.kills, settings.seed, chosen, settings.most)
        finally:
            os.chdir(home)
    record = {
        "command": f"python benchmarks/kill.py {shlex.join(sys.argv[1:])}",
        "seed": settings.seed,
        **found,
        "versions": {
            "classwise": classwise.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "platform": platform.platform(),
        },
    }
    text = json.dumps(record, indent=2) + "\n"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
    print(text, end="")
    sys.exit(int(any(record[name] for name in FAULTS)))


if __name__ == "__main__":
    main()
