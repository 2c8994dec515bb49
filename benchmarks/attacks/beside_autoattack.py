"""The released AutoAttack and the drop-in on the same images: how many images each attack leaves, where they disagree.

Both are called as scripts call them, with the same arguments, in one process and on one thread. The released class runs
a second time with another seed: what changes then is chance, not a difference of code.
"""

from __future__ import annotations

import io
import json
import platform
import re
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from side_by_side import HERE, cpu_seconds, table
from torch import Tensor, nn

from classwise import files, load_data, load_model
from classwise.data.splits import stratified_sample
from classwise.files.texts import portable
from classwise.interop.autoattack import AutoAttack
from classwise.provenance import environment
from classwise.threat import parse_eps

OUT = HERE / "results" / "beside_autoattack.json"
SEED = 0


@dataclass(frozen=True)
class Case:
    """A network, n of its test images, how they are attacked, and whether the released class runs once more."""

    network: str
    data: str
    norm: str
    eps: str
    n: int
    version: str = "standard"
    again: bool = False

    @property
    def title(self) -> str:
        """The case in a table."""
        return f"{self.network}, {self.norm} {self.eps}, {self.version}"


CASES = (
    Case("cifar_resnet2b_adv", "cifar10", "Linf", "4/255", 100),
    Case("cifar_resnet2b_adv", "cifar10", "L2", "0.5", 100),
    Case("cifar_resnet2b_adv", "cifar10", "L1", "4", 100, again=True),
    Case("cifar_resnet2b_adv", "cifar10", "Linf", "4/255", 50, "plus"),
    Case("cifar_resnet2b_adv", "cifar10", "Linf", "4/255", 100, "rand"),
    Case("cifar100_resnet20_pgd", "cifar100", "Linf", "2/255", 50),
)


def main() -> None:
    """Run every case, and write and print what was found."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--auto-attack", type=Path, required=True, help="files of fra31/auto-attack")
    parser.add_argument("--commit", default="", help="of that repository, for the record")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/*/load.py")
    parser.add_argument("--n", type=int, help="at most so many images a case, to try this script")
    parser.add_argument(
        "--only", type=int, nargs="+", choices=range(len(CASES)), help="run only these cases; the others stay in --out"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(args.auto_attack))
    released = import_module("autoattack").AutoAttack
    found = _earlier(args.out) if args.only else {}
    for case in [CASES[number] for number in args.only or range(len(CASES))]:
        print(f"# {case.title} …", file=sys.stderr, flush=True)
        found[case.title] = _beside(case, args, released) | {"command": _command(), "environment": _environment()}
        files.write_json(args.out, _document(args, found))  # what is known so far, should the rest be stopped
    print(rows(_document(args, found)))


def _earlier(path: Path) -> dict[str, dict[str, Any]]:
    """Return the cases of an earlier run, by title."""
    return {case["case"]: case for case in json.loads(path.read_text())["cases"]} if path.exists() else {}


def _document(args: Namespace, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "commit": args.commit,
        "seed": SEED,
        "threads": 1,
        "time": "CPU seconds of this process",
        "cases": [found[case.title] for case in CASES if case.title in found],
    }


def _command() -> str:
    """Return the command of this run, without folders of this machine."""
    return portable(shlex.join(["python", "benchmarks/attacks/beside_autoattack.py", *sys.argv[1:]]))


def _environment() -> dict[str, Any]:
    return environment() | {"processor": _processor()}


def rows(document: dict[str, Any]) -> str:
    """Return the table of the docs."""
    head = (
        "case",
        "n",
        "robust after each attack: released",
        "here",
        "verdicts differ",
        "released, another seed",
        "time",
    )
    cells = [
        (
            case["case"],
            case["n"],
            ", ".join(map(str, case["released"]["robust"].values())),
            ", ".join(map(str, case["here"]["robust"].values())),
            len(case["robust_here_alone"]) + len(case["robust_there_alone"]),
            len(case["another_seed"]) if "another_seed" in case else "",
            f"{case['released']['cpu_seconds'] / case['here']['cpu_seconds']:.1f}",
        )
        for case in document["cases"]
    ]
    return table(head, cells)


def _beside(case: Case, args: Namespace, released: Callable[..., Any]) -> dict[str, Any]:
    model, x, y, index = _open(case, args)
    settings = {"norm": case.norm, "eps": parse_eps(case.eps), "version": case.version, "device": "cpu"}
    runs = {
        name: _run(partial(make, model, **settings, seed=seed), x, y)
        for name, make, seed in (
            ("released", released, SEED),
            ("here", AutoAttack, SEED),
            *[("again", released, SEED + 1)] * case.again,
        )
    }
    kept = {name: robust for name, (robust, _) in runs.items()}
    named = {
        "robust_here_alone": kept["here"] & ~kept["released"],
        "robust_there_alone": kept["released"] & ~kept["here"],
    }
    if case.again:
        named["another_seed"] = kept["released"] ^ kept["again"]
    return {
        "case": case.title,
        "n": len(x),
        **{name: runs[name][1] for name in ("released", "here")},
        **{name: index[which].tolist() for name, which in named.items()},
    }


def _open(case: Case, args: Namespace) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Return the network, images (n, C, H, W), labels (n,) and the images' indices in the split (n,)."""
    data = load_data(case.data, args.data_dir)
    data = data.subset(stratified_sample(data.y, min(case.n, args.n or case.n), SEED))
    source = f"{args.shared}/models/{case.network}/load.py:load_model"
    model = load_model(source, num_classes=len(data.classes), shape=data.shape)
    return model.eval(), data.fetch(torch.arange(len(data))), data.y, data.index


def _run(make: Callable[[], Any], x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Run an adversary; returns which images stay robust (n,), and the counts by attack that it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        seconds, (_, label) = cpu_seconds(
            lambda: make().run_standard_evaluation(x, y, bs=len(x), return_labels=True),
        )
    shares = re.findall(r"(initial|robust) accuracy(?: after ([\w-]+))?: ([\d.]+)%", printed.getvalue())
    counts = {name.lower() or kind: round(float(share) * len(x) / 100) for kind, name, share in shares}
    robust: Tensor = label == y
    assert counts.pop("robust") == int(robust.sum())
    return robust, {"robust": {"clean": counts.pop("initial"), **counts}, "cpu_seconds": round(seconds, 2)}


def _processor() -> str:
    """Return the processor's name and what PyTorch uses of it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
