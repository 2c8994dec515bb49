"""Hostile command lines, study files and records, from a seed: each ends in one sentence and a status, never a fault.

    nice python benchmarks/fuzz.py --lines 2000 --studies 2000 --records 500 --out results/fuzz-campaign.json

Everything goes through ``classwise.cli.main`` in this process. Of each call four things are asked: the status is 0,
2 or 3; what it says on standard error is one line; no character in it drives a terminal; and no code ran that a file
named. A call that trains or attacks after a second is ended, and counted: its words were good. One that does neither
within ten seconds of CPU time, or a minute, hangs, and one that takes more than its share of memory blows up: both are
faults. The exit status is 1 where a promise was broken; the calls that broke it are in the result.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import pkgutil
import random
import resource
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import classwise
from classwise.cli.commands import COMMANDS
from classwise.cli.main import main
from classwise.files.texts import plain

MARKER = "ran"
LOOK = 1.0  # seconds between looks at what a call does
CPU, WALL = 10.0, 60.0  # seconds after which one that does not work hangs; others may keep this process waiting
EVIL = f"from pathlib import Path\nPath({MARKER!r}).write_text('')\n"
TEXTS = (
    "",
    " ",
    "\x1b[31m",
    "\x07",
    "a\nb",
    "\u202edog",
    "\u200b",
    "\udc80",
    "\0",
    "a" * 5000,
    "/" * 300,
    "../" * 200,
    "~",
    "-",
    "--",
    "=",
    "%s",
    "{}",
    "${HOME}",
    "[red]",
    "'",
    '"',
    "(",
    ")",
    ",",
    "None",
    "nan",
    "inf",
    "-inf",
    "-0",
    "1e400",
    "-1e400",
    "10**10000",
    "9" * 5000,
    "0x10",
    "1/0",
    "0/0",
    "8/255",
    "2**63",
    "true",
    "[]",
    "{",
    "!!python/object/apply:os.system [touch ran]",
    "é",
    "日本",
)
NAMES = (
    "digits_cnn",
    "run:sent",
    "run:",
    "run:.@last",
    "corrected:ring",
    "corrected:",
    "export:evil.py",
    "digits_cnn@no.pt",
    "digits_cnn@/dev/zero",
    "timm:hf-hub:a/b",
    "torchvision:x",
    "digits_cnn(head='cosine')",
    "digits_cnn(x=1)",
    "f(**{})",
    "(((",
    "at",
    "digits",
    "pgd(steps=-1)",
    "pgd(steps=10**9)",
    "fast",
    "nothing.toml",
    "transfer(source='run:sent')",
    "arrays",
    "folder",
    "worst=0.2",
    "class[x]=1e400",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 10_000,
    "\x1b]0;x\x07",
    "evil.py:net",
    "run:sent",
    [],
    [[]],
    {},
    {"a": {"b": []}},
    ["a", 1, None],
)
RECORDS = ("run.json", "corrected.json", "log.jsonl", "summary.json", "result.json", "trial.json", "trade_off.json")
WHOLE = {
    "model": "digits_cnn",
    "classes": [str(c) for c in range(10)],
    "shape": [1, 8, 8],
    "data": {"name": "digits", "n": 3, "sha256": "0"},
    "held_out": [1],
    "sha256": "0" * 64,
    "rule": "iv-offsets",
    "fitted_on_test": False,
    "schema_version": 1,
    "attacks": {},
    "clean": {},
    "flags": [],
    "threat": {"norm": "Linf", "eps": 0.1, "eps_text": "0.1"},
    "seed": 0,
    "n": [1] * 10,
    "groups": {},
    "epoch": 0,
}


WORK = (
    "evaluation/engine.py",
    "evaluation/preflight.py",
    "evaluation/flags.py",
    "training/",
    "studies/trials.py",
    "studies/homing.py",
    "corrections/fit.py",
    "attacks/",
    "fingerprint.py",
)
"""Files of classwise that are on the stack while a call trains or attacks, or looks at a model before."""
MEMORY = 512  # MiB that one call may add to the peak


class Enough(BaseException):
    """A call has worked long enough to see that its words were good."""


class Hang(BaseException):
    """A call neither trains nor attacks, and does not end."""


def _look(begun: tuple[float, float], frame: FrameType | None) -> None:
    files = []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    if any(f"classwise/{part}" in file for file in files for part in WORK):
        raise Enough
    if time.process_time() - begun[0] > CPU or time.monotonic() - begun[1] > WALL:
        raise Hang


def _peak() -> int:
    """Return the largest memory that this process has taken, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def line(dice: random.Random) -> list[str]:
    """Return a hostile command line, which never names the file with code: what is typed may run."""
    words = [dice.choice([*COMMANDS, dice.choice(TEXTS)])]
    options = (
        "data",
        "data-dir",
        "eps",
        "norm",
        "limit",
        "seed",
        "batch-size",
        "attacks",
        "audit",
        "split",
        "out",
        "fail-under",
    )
    for _ in range(dice.randrange(5)):
        value = dice.choice([*TEXTS, *NAMES])
        words += (
            [f"--{dice.choice([*options, 'recipe', 'config', 'radii', 'jobs', value])}"] if dice.random() < 0.6 else []
        )
        words.append(value)
    return words


def study(dice: random.Random) -> str:
    """Return a hostile study file."""
    keys = (
        "name",
        "data",
        "model",
        "recipe",
        "seeds",
        "wrappers",
        "limit",
        "eps",
        "norm",
        "reference",
        "analyse",
        "precision",
        "x",
    )
    said = [
        '"s"',
        "5",
        "-1",
        "1e400",
        "nan",
        "[]",
        "[[]]",
        "{}",
        '"evil.py:net"',
        '"run:sent"',
        "[0, 0]",
        '"\\u001b[31m"',
        '"digits"',
    ]
    lines = [f"{dice.choice(keys)} = {dice.choice(said)}" for _ in range(dice.randrange(6))]
    for _ in range(dice.randrange(3)):
        lines += [dice.choice(["[[method]]", "[[given]]", "[evaluate]", "[homing]", "[x", "[[", "\x1b"])]
        more = ("method", "name", "start", "teacher", "attacks", "weights", "model", "audit")
        lines += [f"{dice.choice(more)} = {dice.choice(said)}" for _ in range(dice.randrange(4))]
    return "\n".join(lines)


def poisoned(dice: random.Random) -> str:
    """Return a record with something wrong in it."""
    if dice.random() < 0.2:
        return dice.choice(
            ["", "{", "[]", "5", "[" * 100_000, '{"a":' * 5000, "\0", "NaN", '{"model": 1e400}', "\ufeff{}"]
        )
    record = dict(WHOLE)
    for key in dice.sample(sorted(record), dice.randrange(1, 4)):
        record[key] = dice.choice(VALUES)
        if dice.random() < 0.3:
            del record[key]
    return json.dumps(record)


def fault(words: list[str]) -> str:
    """Run a command line and say what was wrong with how it ended, "" for nothing."""
    out, err, before, begun = io.StringIO(), io.StringIO(), _peak(), (time.process_time(), time.monotonic())
    signal.signal(signal.SIGALRM, lambda _, frame: _look(begun, frame))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            signal.setitimer(signal.ITIMER_REAL, LOOK, LOOK)
            status = main(words)
        except Enough:
            return ""
        except Hang:
            return f"no end after {CPU:g} s, and no work"
        except BaseException as error:
            return f"raised {type(error).__name__}: {error}"[:300]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    said = err.getvalue()
    if _peak() - before > MEMORY:
        return f"took {_peak() - before} MiB"
    if Path(MARKER).exists():
        Path(MARKER).unlink()
        return "ran code"
    if status not in (0, 2, 3):
        return f"status {status}: {said}"[:300]
    if status == 2 and (said.count("\n") != 1 or not said.startswith("classwise: ")):
        return f"not one line: {said}"[:300]
    return "drove the terminal" if any(plain(text) != text for text in said.split("\n")) else ""


def sent() -> None:
    """Lay out what an attacker sends: a run whose record names code, a ring of corrections, a file with code."""
    Path("evil.py").write_text(EVIL)
    for folder, model in (("sent", "evil.py:net"), ("ring", "corrected:ring")):
        Path(folder).mkdir(exist_ok=True)
        for name in ("run.json", "corrected.json"):
            (Path(folder) / name).write_text(json.dumps({**WHOLE, "model": model}))
    save_file(nn.Linear(2, 2).state_dict(), "sent/best.safetensors")


def of_line(dice: random.Random) -> list[str]:
    """Return a command line."""
    return line(dice)


def of_study(dice: random.Random) -> list[str]:
    """Write a study and return the command that plans it."""
    Path("s.toml").write_text(study(dice), errors="surrogatepass")
    return ["study", "s.toml", "--out", "study", "--status"]


def of_record(dice: random.Random) -> list[str]:
    """Write a record and return a command that reads it."""
    folder = Path("poisoned")
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name in RECORDS:
        (folder / name).write_text(poisoned(dice) if dice.random() < 0.7 else json.dumps(WHOLE))
    commands = (
        ["evaluate", "run:poisoned", "--data", "digits", "--limit", "10", "--attacks", "fgsm"],
        ["evaluate", "run:poisoned", "--limit", "10", "--attacks", "fgsm"],
        ["evaluate", "corrected:poisoned", "--limit", "10", "--attacks", "fgsm"],
        ["correct", "run:poisoned", "--out", "fixed"],
        ["report", "poisoned"],
        ["analyse", "poisoned"],
        ["compare", "poisoned", "poisoned"],
        ["train", "at", "--model", "run:poisoned", "--limit", "20", "--recipe", "digits(epochs=1)", "--out", "trained"],
    )
    return dice.choice(commands)


KINDS: dict[str, Callable[[random.Random], list[str]]] = {"lines": of_line, "studies": of_study, "records": of_record}


def campaign(counts: dict[str, int], seed: int) -> dict[str, Any]:
    """Run so many calls of each kind in the working folder, and return counts and faults."""
    for module in pkgutil.walk_packages(classwise.__path__, "classwise."):  # an import must not be interrupted
        if module.name not in ("classwise.__main__", "classwise.studies.ray_cluster") and ".interop" not in module.name:
            importlib.import_module(module.name)
    for name in ("timm", "torchvision.models", "torch._dynamo"):
        with contextlib.suppress(ModuleNotFoundError):  # timm is an extra
            importlib.import_module(name)
    for words in (
        ["evaluate", "digits_cnn", "--data", "digits", "--limit", "10", "--attacks", "fgsm", "--out", "e"],
        ["report", "e"],
    ):
        with contextlib.redirect_stdout(io.StringIO()):
            main(words)
    sent()
    dice, faults, begun = random.Random(seed), list[dict[str, str]](), time.monotonic()
    done = Counter[str]()
    for kind, count in counts.items():
        for _ in range(count):
            words = KINDS[kind](dice)
            done[kind] += 1
            if wrong := fault(words):
                faults.append({"kind": kind, "words": plain(shlex.join(words))[:300], "fault": plain(wrong)})
    return {"calls": dict(done), "faults": faults, "seconds": round(time.monotonic() - begun, 1)}


def run() -> None:
    """Run the campaign in a folder of its own and write what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for kind, count in (("lines", 2000), ("studies", 2000), ("records", 500)):
        parser.add_argument(f"--{kind}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    settings = parser.parse_args()
    out, home = settings.out and settings.out.resolve(), Path.cwd()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            found = campaign({kind: getattr(settings, kind) for kind in KINDS}, settings.seed)
        finally:
            os.chdir(home)
    command = f"python benchmarks/fuzz.py {shlex.join(sys.argv[1:])}"
    versions = {"classwise": classwise.__version__, "torch": torch.__version__}
    text = json.dumps({"command": command, "seed": settings.seed, **found, "versions": versions}, indent=2) + "\n"
    if out is not None:
        out.write_text(text)
    print(text, end="")
    sys.exit(int(bool(found["faults"])))


if __name__ == "__main__":
    run()
