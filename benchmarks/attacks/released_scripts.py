"""The public scripts of AutoAttack and RobustBench, run with the released class and with the drop-in.

Nothing in a script changes but its import. What is around it makes it run offline: the model of ``--shared`` stands for
the checkpoint that a script downloads, and on a machine without a GPU ``.cuda()`` returns what it was called on.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import traceback
from argparse import ArgumentParser, Namespace
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from side_by_side import HERE, alone, table

from classwise import files, load_model
from classwise.files.texts import portable
from classwise.provenance import environment

_IMPORTS = {
    "from autoattack import AutoAttack": "from classwise.interop.autoattack import AutoAttack",
    "from autoattack.state import EvaluationState": "from classwise.interop.autoattack import EvaluationState",
}
_NAME = "Carmon2019Unlabeled"  # the model that RobustBench's README loads
_BENCHMARK = "from robustbench import benchmark, load_model\n" + f"model = load_model('{_NAME}')\n"
_CALL = "print(benchmark(model, n_examples={n}, threat_model={norm!r}, eps={eps}, {more}))"


@dataclass(frozen=True)
class Script:
    """A script, and the arguments it is called with.

    Attributes:
        name: what the table calls it.
        path: relative to the folder of the run; a module's name if it ends in no ``.py``.
        arguments: of its command line.
    """

    name: str
    path: str
    arguments: tuple[str, ...] = ()


def scripts(n: int) -> list[Script]:
    """Return the scripts, each at n images."""
    images = ("--n_ex", str(n), "--batch_size", "100")
    every = [
        Script(f"eval.py --version {version} --norm {norm}", "examples/eval.py", (*images, *options))
        for version, norm, epsilon in [
            ("standard", "Linf", "0.0079"),
            ("standard", "L2", "0.25"),
            ("standard", "L1", "6"),
            ("plus", "Linf", "0.0079"),
            ("rand", "Linf", "0.0079"),
            ("custom", "Linf", "0.0079"),
        ]
        for options in [("--version", version, "--norm", norm, "--epsilon", epsilon)]
    ]
    return [
        *every,
        Script(
            "eval.py --state-path", "examples/eval.py", (*images, "--epsilon", "0.0079", "--state-path", "state.json")
        ),
        Script("eval.py --individual", "examples/eval.py", (*images, "--epsilon", "0.0079", "--individual")),
        Script("RobustBench, README example", "readme.py"),
        Script("RobustBench, benchmark() in Linf", "benchmark_linf.py"),
        Script("RobustBench, benchmark() in L2", "benchmark_l2.py"),
        Script("RobustBench, benchmark() with aa_state_path", "benchmark_state.py"),
        Script("RobustBench, the same again, resumed", "benchmark_state.py"),
        Script(
            "python -m robustbench.eval",
            "robustbench.eval",
            ("--n_ex", str(n), "--model_name", _NAME, "--eps", "0.0079", "--device", "cpu", "--threat_model", "Linf"),
        ),
        Script("RobustBench, tests/test_eval.py", "tests/test_eval.py"),
    ]


def main() -> None:
    """Run every script both ways, and write what it printed of accuracies, or raised."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--auto-attack", type=Path, required=True, help="files of fra31/auto-attack")
    parser.add_argument("--robustbench", type=Path, required=True, help="files of RobustBench/robustbench")
    parser.add_argument("--commits", nargs=2, default=("", ""), help="of the two, for the record")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of cifar-10-batches-py")
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/cifar_resnet2b_adv/load.py")
    parser.add_argument("--n", type=int, default=16, help="images (default 16)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "released_scripts.json")
    args = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        for who in ("released", "here"):
            _lay_out(Path(folder, who), args, ours=who == "here")
            for script in scripts(args.n):
                print(f"# {who}: {script.name} …", file=sys.stderr, flush=True)
                found.setdefault(script.name, {})[who] = alone(partial(_run, Path(folder, who), args, script))
                files.write_json(args.out, _document(args, found))  # what is known so far, should the rest be stopped
    print(rows(_document(args, found)))


def _document(args: Namespace, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": portable(shlex.join(["python", "benchmarks/attacks/released_scripts.py", *sys.argv[1:]])),
        "commits": dict(zip(("fra31/auto-attack", "RobustBench/robustbench"), args.commits, strict=True)),
        "model": "cifar_resnet2b_adv",
        "data": "CIFAR-10 test, the first images",
        "n": args.n,
        "environment": environment(),
        "scripts": found,
    }


def rows(document: dict[str, Any]) -> str:
    """Return the table of the docs."""
    whole = {name: both for name, both in document["scripts"].items() if len(both) == 2}
    cells = [(name, *(_cell(both[who]) for who in ("released", "here"))) for name, both in whole.items()]
    return table(("script", "released class", "here"), cells)


def _cell(run: dict[str, Any]) -> str:
    shown = ", ".join(run["accuracies"]) or "passes"
    return f"{shown}, then `{run['raised']}`" if run["raised"] else shown


def _lay_out(folder: Path, args: Namespace, *, ours: bool) -> None:
    """Copy the scripts into a folder, with the imports of the drop-in or as they are."""
    for source, name in (
        (args.auto_attack / "autoattack" / "examples", "examples"),
        (args.robustbench / "robustbench", "robustbench"),
        (args.robustbench / "tests", "tests"),
    ):
        shutil.copytree(source, folder / name)
    (folder / "examples" / "resnet.py").write_text(
        "from classwise import load_model\n"
        f"def ResNet18(): return load_model('{args.shared}/models/cifar_resnet2b_adv/load.py:load_model', "
        "num_classes=10, shape=(3, 32, 32))\n"
    )
    blocks = re.findall(r"```python\n(.*?)```", (args.robustbench / "README.md").read_text(), flags=re.DOTALL)
    wanted = ("load_cifar10(n_examples=50)", f"load_model(model_name='{_NAME}', dataset=", "from autoattack import")
    (folder / "readme.py").write_text("".join(next(block for block in blocks if each in block) for each in wanted))
    for name, norm, eps, more in (
        ("linf", "Linf", 2 / 255, f"model_name='{_NAME}', to_disk=True"),
        ("l2", "L2", 0.25, "dataset='cifar10', batch_size=7"),
        ("state", "Linf", 2 / 255, "aa_state_path=__import__('pathlib').Path('rb-state.json')"),
    ):
        call = _CALL.format(n=args.n, norm=norm, eps=eps, more=more)
        (folder / f"benchmark_{name}.py").write_text(_BENCHMARK + call + "\n")
    (folder / "data").symlink_to(args.data_dir.resolve())
    for path in [*folder.rglob("*.py")] if ours else []:
        text = path.read_text()
        for theirs, here in _IMPORTS.items():
            text = text.replace(theirs, here)
        path.write_text(text)


def _run(folder: Path, args: Namespace, script: Script) -> dict[str, Any]:
    """Run a script in a process of its own; returns the accuracies that it printed and the error that it ended with."""
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "examples"), str(args.auto_attack.resolve())]
    printed, raised = io.StringIO(), ""
    with redirect_stdout(printed), redirect_stderr(io.StringIO()) as aside:
        _offline(args)
        sys.argv = [script.path, *script.arguments]
        try:
            if script.path.startswith("tests/"):
                _unittest(script.path)
            elif script.path.endswith(".py"):
                runpy.run_path(script.path, run_name="__main__")
            else:
                runpy.run_module(script.path, run_name="__main__", alter_sys=True)
        except BaseException as error:
            raised = f"{type(error).__name__}: {error}"
            traceback.print_exc(file=aside)
    return {"accuracies": _accuracies(printed.getvalue()), "raised": raised}


def _accuracies(printed: str) -> list[str]:
    """Return the robust accuracy of each attack by itself, where a script measures that, or else of all of them."""
    alone = re.findall(r"robust accuracy by (\S+)\s+([\d.]+%)", printed)
    together = re.findall(r"(?:robust|Adversarial) accuracy: ([\d.]+%)", printed)
    return [f"{name} {share}" for name, share in alone] or list(dict.fromkeys(together[-2:]))


def _unittest(path: str) -> None:
    import unittest

    found = unittest.TextTestRunner(stream=io.StringIO()).run(
        unittest.defaultTestLoader.loadTestsFromName(path.removesuffix(".py").replace("/", "."))
    )
    if not found.wasSuccessful():
        raise AssertionError([line.strip().splitlines()[-1] for _, line in [*found.errors, *found.failures]])


def _offline(args: Namespace) -> None:
    """Put the model of ``--shared`` where the scripts look for theirs, and let them do without a GPU."""
    source = f"{args.shared}/models/cifar_resnet2b_adv/load.py:load_model"
    load = partial(load_model, source, num_classes=10, shape=(3, 32, 32))
    torch.save(load().state_dict(), "model_test.pt")
    if not torch.cuda.is_available():
        torch.nn.Module.cuda = lambda self, *_: self  # type: ignore[method-assign,assignment]
        released = importlib.import_module("autoattack").AutoAttack
        released.__init__.__defaults__ = tuple(
            "cpu" if value == "cuda" else value for value in released.__init__.__defaults__
        )
    zoo = importlib.import_module("robustbench.model_zoo").model_dicts
    norm = importlib.import_module("robustbench.model_zoo.enums")
    models = zoo[norm.BenchmarkDataset.cifar_10][norm.ThreatModel.Linf]
    models[_NAME] = {"model": load, "gdrive_id": "none"}
    Path("models/cifar10/Linf").mkdir(parents=True, exist_ok=True)
    shutil.copy("model_test.pt", f"models/cifar10/Linf/{_NAME}.pt")


if __name__ == "__main__":
    main()
