"""What the benchmarks of attacks share: a network with its images, an interleaved clock, counts of passes, the peers.

Every time is CPU time of this process (``time.process_time``), because wall time on a shared machine measures its
neighbours as well. Contenders run in turn, A B A B, so that a machine that slows down slows them all, and ratios are
formed within each round. Whole packages run in a process each (:func:`apart`).
"""

from __future__ import annotations

import gc
import shlex
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from classwise import build_attacks, evaluate, files, load_data, load_model
from classwise.attacks import predict
from classwise.cli.commands.train import train_model
from classwise.data.images import Images
from classwise.data.splits import stratified_sample
from classwise.losses import margin
from classwise.provenance import environment
from classwise.runtime.inference import forward
from classwise.threat import ThreatModel, parse_eps

BATCH = 250
"""Images that a peer gets at once: AutoAttack's own default, and the most that classwise takes on a CPU."""
HERE = Path(__file__).parent
PEERS = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "adversarial-robustness-toolbox": "art",
    "adv-lib": "adv_lib",
}
"""Other packages -> the module that each installs."""
Value = TypeVar("Value")
Contender = TypeVar("Contender")


# The networks.

NETWORKS = {
    "cifar_resnet2b_adv": ("cifar10", "8/255"),  # by others: PGD adversarial training at Linf 2/255
    "mnist_smallcnn_trades": ("mnist", "0.3"),  # by others: TRADES
    "digits_cnn": ("digits", "0.1"),  # trained here, as `classwise demo` does
    "small_resnet": ("cifar10", "8/255"),  # trained here, with BatchNorm: results/cifar10-small-resnet-at
    "mnist_rounded": ("mnist", "0.3"),  # masked on purpose: black and white only, its gradient is zero
    "preact_resnet18": ("cifar10", "0.01"),  # random weights, and the classes that it predicts: for its size alone
}
"""Network -> data set and radius (Linf) that it is attacked with unless told otherwise."""


class Rounded(nn.Module):
    """Sees black and white only, so that no gradient arrives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the rounded images (N, C, H, W)."""
        logits: Tensor = self.model(x.round())
        return logits


@dataclass(frozen=True, eq=False)
class Case:
    """What every contender of a benchmark attacks.

    Attributes:
        name: of the network, one of :data:`NETWORKS`.
        model: takes [0, 1], returns logits; in eval mode, its weights need no gradient.
        data: the images, a stratified sample.
        threat: Linf and its radius.
        seed: of sample and attacks.
    """

    name: str
    model: nn.Module
    data: Images
    threat: ThreatModel
    seed: int

    @cached_property
    def x(self) -> Tensor:
        """Clean images (N, C, H, W)."""
        return self.data.fetch(torch.arange(len(self.data)))

    @property
    def y(self) -> Tensor:
        """True classes (N,)."""
        return self.data.y


def options(description: str, *, n: int = 1000, repeat: int = 1, model: str = "cifar_resnet2b_adv") -> ArgumentParser:
    """Return the command line that every benchmark has."""
    parser = ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--model", choices=NETWORKS, default=model)
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets in their official formats")
    parser.add_argument("--shared", type=Path, help="folder with models/*/load.py, the networks by others")
    parser.add_argument("--eps", help="radius, such as 2/255; that of the network if not given")
    parser.add_argument("--n", type=int, default=n, help=f"images, a stratified sample (default {n})")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of every attack")
    parser.add_argument("--repeat", type=int, default=repeat, help=f"rounds, A B A B (default {repeat})")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the JSON file")
    return parser


def open_case(args: Namespace) -> Case:
    """Load the network and the images that the command line asks for."""
    source, eps = NETWORKS[args.model]
    data = load_data(source, args.data_dir)
    if not isinstance(data, Images):
        raise TypeError(f"{source} does not fit into memory, and these benchmarks want it there")
    data = data.subset(stratified_sample(data.y, args.n, args.seed))
    model = _network(args, data).eval().requires_grad_(False)
    if args.model == "preact_resnet18":
        found = forward(model, data.fetch(torch.arange(len(data)))).argmax(1)
        data = replace(data, y=found, note="labels are what the network predicts")
    return Case(args.model, model, data, ThreatModel("Linf", parse_eps(args.eps or eps)), args.seed)


def _network(args: Namespace, data: Images) -> nn.Module:
    classes, shape = len(data.classes), data.shape
    if args.model == "digits_cnn":
        folder = Path("runs/benchmarks/digits_cnn")  # trained once, about a minute
        if not (folder / "best.safetensors").exists():
            train_model("at", model="digits_cnn", data="digits", out=folder)
        return load_model(f"run:{folder}", num_classes=classes, shape=shape)
    if args.model == "small_resnet":
        return load_model(f"run:{HERE.parents[1]}/results/cifar10-small-resnet-at", num_classes=classes, shape=shape)
    if args.model == "preact_resnet18":
        return load_model("preact_resnet18", num_classes=classes, shape=shape, seed=args.seed)
    name = "mnist_smallcnn_trades" if args.model == "mnist_rounded" else args.model
    model = load_model(f"{args.shared}/models/{name}/load.py:load_model", num_classes=classes, shape=shape)
    return Rounded(model) if args.model == "mnist_rounded" else model


# Counting and timing.


@dataclass
class Passes:
    """Images that went through a network, forwards and backwards."""

    forward: int = 0
    backward: int = 0

    def __str__(self) -> str:
        return f"{self.forward - self.backward:,} + {self.backward:,}"


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count the images that pass through a model, in a block."""
    passes = Passes()

    def backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    def forwards(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        passes.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(backward)  # type: ignore[no-untyped-call]

    handle = model.register_forward_hook(forwards)
    try:
        yield passes
    finally:
        handle.remove()


@dataclass
class Timed(Generic[Value]):
    """What a contender returned in its first round, and the CPU seconds of each round."""

    value: Value
    seconds: list[float]

    @property
    def median(self) -> float:
        """Median CPU seconds."""
        return statistics.median(self.seconds)

    def record(self) -> dict[str, Any]:
        """Return the seconds for a JSON file."""
        return {"cpu_seconds": self.median, "least": min(self.seconds), "most": max(self.seconds)}

    def __str__(self) -> str:
        return spread(self.seconds, ".2f")


def interleaved(
    contenders: Mapping[str, Contender], repeat: int, clock: Callable[[Contender], tuple[float, Value]]
) -> dict[str, Timed[Value]]:
    """Run each contender in turn, ``repeat`` times round, by a clock that returns seconds and what came out."""
    found: dict[str, Timed[Value]] = {}
    for _ in range(repeat):
        for name, contender in contenders.items():
            print(f"# {name} …", file=sys.stderr, flush=True)
            seconds, value = clock(contender)
            found.setdefault(name, Timed(value, [])).seconds.append(seconds)
    return found


def alone(run: Callable[[], Value]) -> Value:
    """Call in a process of its own, which no earlier contender has left anything to, and return what that returns."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(run).result()


def apart(args: Namespace, contenders: Mapping[str, Callable[[Case], Value]], repeat: int) -> dict[str, Timed[Value]]:
    """Call each contender with the case in turn, ``repeat`` times round, and time it, each time in a new process.

    The memory of the C library adapts to what it has seen: in one process, a contender would run in what others left.
    """
    return interleaved(contenders, repeat, lambda contender: alone(partial(_timed, args, contender)))


def _timed(args: Namespace, contender: Callable[[Case], Value]) -> tuple[float, Value]:
    case = open_case(args)
    for module in PEERS.values():
        with suppress(ImportError):
            import_module(module)
    forward(case.model, case.x[:2])  # fetches the images and starts PyTorch's machinery
    return cpu_seconds(partial(contender, case))


def cpu_seconds(run: Callable[[], Value]) -> tuple[float, Value]:
    """Return the CPU seconds of all threads of this process that a call takes, and what it returns."""
    gc.collect()
    start = time.process_time()
    value = run()
    return time.process_time() - start, value


def ratios(slow: Timed[Any], quick: Timed[Any]) -> list[float]:
    """Return how many times longer the first took than the second, round by round."""
    return [first / second for first, second in zip(slow.seconds, quick.seconds, strict=True)]


def spread(values: Sequence[float], form: str) -> str:
    """Write a median, and the least and the most where there are several values."""
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}}–{max(values):{form}})"


# What the contenders find.


@dataclass
class Found:
    """What a contender found out.

    Attributes:
        robust: which images nothing broke, (N,) bool; the clean image counts.
        margin: largest wrong logit minus true logit on the best candidate, (N,); above or equal 0 where it broke.
        passes: through the network.
        parts: for each attack: name, images attacked and broken, seconds.
        header: of the view in classwise's ``result.json``; empty for a peer.
    """

    robust: Tensor
    margin: Tensor
    passes: Passes
    parts: list[dict[str, Any]]
    header: dict[str, Any]

    def record(self, case: Case) -> dict[str, Any]:
        """Return it for a JSON file."""
        by_class = torch.bincount(case.y[self.robust], minlength=len(case.data.classes)).tolist()
        counts: dict[str, Any] = {"robust": int(self.robust.sum()), "robust_by_class": by_class}
        passes: dict[str, Any] = {"forward_images": self.passes.forward, "backward_images": self.passes.backward}
        notes: dict[str, Any] = {key: self.header[key] for key in ("reasons", "audit") if key in self.header}
        return {**counts, **passes, "parts": self.parts, **notes}


def by_classwise(case: Case, attack: str, audit: float = 0.0) -> Found:
    """Evaluate with an attack or plan of classwise, as a user would; an audit in points, 0 for none."""
    with counted(case.model) as passes:
        result = evaluate(case.model, case.data, build_attacks(attack, case.threat), seed=case.seed, audit=audit)
    view = result.outcomes.attacks[0]
    header = result.header["attacks"][view]
    parts = [
        {**stage, "attacked": sum(stage["attacked"]), "broken": sum(stage["broken"])}
        for stage in header.get("stages", [])
    ]
    robust = torch.from_numpy(result.outcomes.correct(view).copy())
    return Found(robust, torch.from_numpy(result.outcomes.margins[view].copy()), passes, parts, header)


def by_torchattacks(case: Case, steps: int = 100, queries: int = 5000) -> Found:
    """Run AutoAttack standard, put together from torchattacks' parts as fra31/auto-attack does.

    Each part gets the survivors of those before, 250 at a time; every candidate is checked by running it again, with
    the verdict rule of classwise. ``torchattacks.AutoAttack`` itself would not do: it leaves Auto-PGD and FAB at their
    default of 10 steps where AutoAttack takes 100.
    """
    with counted(case.model) as passes, torch.random.fork_rng():
        logits = forward(case.model, case.x)
        robust, reached = predict(logits, case.y) == case.y, margin(logits, case.y)
        parts = []
        for name, attack in _torchattacks(case, steps, queries).items():
            before = int(robust.sum())
            seconds, _ = cpu_seconds(lambda attack=attack: _survive(case, attack, robust, reached))  # type: ignore[misc]
            broken = before - int(robust.sum())
            parts.append({"name": name, "attacked": before, "broken": broken, "seconds": seconds})
    return Found(robust, reached, passes, parts, {})


def _torchattacks(case: Case, steps: int, queries: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    import torchattacks

    common = {"norm": "Linf", "eps": case.threat.eps, "seed": case.seed}
    classes = min(10, len(case.data.classes))  # nine targets
    return {
        "APGD-CE": torchattacks.APGD(case.model, steps=steps, loss="ce", **common),
        "APGD-T": torchattacks.APGDT(case.model, steps=steps, n_classes=classes, **common),
        "FAB-T": torchattacks.FAB(case.model, steps=steps, multi_targeted=True, n_classes=classes, **common),
        "Square": torchattacks.Square(case.model, n_queries=queries, **common),
    }


def _survive(case: Case, attack: Callable[[Tensor, Tensor], Tensor], robust: Tensor, reached: Tensor) -> None:
    """Attack the survivors and take note, in ``robust`` and ``reached``, of what that changes."""
    for which in torch.split(robust.nonzero().squeeze(1), BATCH):
        x, y = case.x[which], case.y[which]
        x_adv = attack(x, y).detach()
        robust[which], value = verdict(case, x_adv, which)
        reached[which] = torch.maximum(reached[which], value)


def verdict(case: Case, x_adv: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Run candidates again: which images are still right (or outside the threat set), and the margins, (n,) each."""
    x, y = case.x[which], case.y[which]
    logits, inside = forward(case.model, x_adv), case.threat.contains(x_adv, x)
    return ~inside | (predict(logits, y) == y), margin(logits, y).masked_fill(~inside, -torch.inf)


def differences(case: Case, first: Found, second: Found) -> list[dict[str, Any]]:
    """Return the images that survive the first and not the second: index in the split, class, margin in the first."""
    positions = (first.robust & ~second.robust).nonzero().squeeze(1).tolist()
    return [
        {
            "index": int(case.data.index[position]),
            "class": case.data.classes[int(case.y[position])],
            "margin": round(float(first.margin[position]), 5),
        }
        for position in positions
    ]


# What is written.


def save(args: Namespace, case: Case, name: str, content: Mapping[str, Any]) -> Path:
    """Write one JSON file with the settings and versions that the numbers were made with; returns its path."""
    eps = case.threat.eps_text
    about = {
        "benchmark": name,
        "command": shlex.join(["python", *sys.argv]),
        "model": case.name,
        "data": {"name": case.data.name, "split": case.data.split, "note": case.data.note},
        "n": len(case.data),
        "seed": case.seed,
        "threat": {"norm": case.threat.norm, "eps": case.threat.eps, "eps_text": eps},
        "repeat": args.repeat,
        "time": "CPU seconds of this process",
        "environment": environment() | {peer: _version(peer) for peer in ("classwise", *PEERS)},
    }
    path = Path(args.out) / f"{name}-{case.name}-{eps.replace('/', '_')}.json"
    files.write_json(path, about | dict(content))
    return path


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def title(case: Case, path: Path) -> str:
    """Return the line above a table."""
    size = f"{len(case.data):,} images of {case.data.name}, seed {case.seed}"
    return f"`{case.name}`, {case.threat}, {size}, {torch.get_num_threads()} thread(s); {path}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)
