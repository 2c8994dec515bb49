"""Training: a stopped run goes on as if nothing had happened, and nothing else is taken for the same run."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from safetensors.torch import load_file
from tests.methods import strategies
from tests.methods.strategies import As, in_action
from torch import Tensor, nn

from classwise import files, registry
from classwise.attacks import PGD
from classwise.data import Images
from classwise.errors import InputError
from classwise.methods import Epoch, Method, Pass, Standard, Step
from classwise.metrics.stats import ClassStats
from classwise.models import Teacher, cosine_head, put_head, weights_sha256
from classwise.noise import Noise
from classwise.threat import ThreatModel
from classwise.training import divergence, loop, selection
from classwise.training import state as training_state
from classwise.training.log import class_state
from classwise.training.loop import TrainingProgress, fit
from classwise.training.recipes import Recipe
from classwise.training.run import CHECKPOINT_VERSION, Run

THREAT = ThreatModel("Linf", 0.05)
RECIPE = Recipe(epochs=4, batch_size=16, lr=0.1, milestones=(2,), augment="crop-flip", steps=2, holdout=0.2)
# With settings by which each acts on the classes within these few epochs.
WARM = replace(RECIPE, eps_warmup=3)
METHODS = [in_action(name) for name in registry.names("method")]
AROUND = "ema(decay=0.9)"  # around every method
IN_PROCESSES = [
    *METHODS,
    "faal(decay=0.5)",
    "faal(official=True)",
    "fair-ard(base='rslad')",
    "kl-instance-dro(rate=0.1)",
]
FEW = ["at", in_action("fat"), "wat", "cfol(rate=0.01)"]
WRAPPERS = [
    "awp(gamma=0.05, start=1)",
    "ema(decay=0.9)",
    "ema(each='epoch', decay=0.5, warmup=0.5)",
    "swa(start=0.5)",
    "fawa(threshold=0.5, decay=0.5)",
    "awp,swa,ema(decay=0.9)",
]
TIMES = ("seconds", "images_per_second", "peak_memory_bytes")


def network(num_classes: int = 3, seed: int = 0) -> nn.Module:
    """Return a network with all kinds of state: weights, BatchNorm statistics, and dropout, which draws."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, num_classes)]
        return nn.Sequential(nn.Flatten(), *layers)


def smooth(num_classes: int = 3) -> nn.Module:
    """Return a network whose step does not depend on how a batch is divided, on any processor.

    In float32 the sums of a batch and of its halves round differently, by an amount that the processor decides, and a
    pixel whose gradient is nearly 0 then goes the other way. In float64 they agree to 1e-16.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Flatten(), As(torch.float64), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, num_classes)
        return nn.Sequential(*layers).double()


def pictures(n: int = 60, num_classes: int = 3, first: int = 100) -> Images:
    """Return images (n, 1, 4, 4) whose brightest pixel tells the class; positions start at ``first``."""
    y = torch.arange(n) % num_classes
    x = (Noise(1, torch.arange(n)).uniform((1, 4, 4)) * 150).to(torch.uint8)
    x.view(n, 16)[torch.arange(n), y % 16] += 100
    return Images(x, y, tuple(f"class {c}" for c in range(num_classes)), first + torch.arange(n), split="train")


@cache
def cpu(precision: str = "32-true") -> Fabric:
    made = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    made.launch()
    return made


def go(
    folder: Path,
    *,
    method: str = "standard",
    recipe: Recipe = RECIPE,
    threat: ThreatModel = THREAT,
    seed: int = 0,
    name: str = "network@start.pt",
    data: Images | None = None,
    model: nn.Module | None = None,
    watch: Callable[[TrainingProgress], None] | None = None,
    fabric: Fabric | None = None,
    made: Method | None = None,
    wrappers: str = "",
) -> list[dict[str, Any]]:
    """Train a small network in a folder; what is not given is the same every time."""
    data = pictures() if data is None else data
    run = Run(name, "one of its own" if made and method == "standard" else method, recipe, threat, seed, wrappers)
    defence = made or strategies.method(method, len(data.classes), run.attack)
    model = network(len(data.classes)) if model is None else model
    if defence.head is not None and cosine_head(model) is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            put_head(model, defence.head)
        model.to(next(model.parameters()).dtype)
    return fit(fabric or cpu(), model, defence, data, run, folder, watch)


def build(method: str) -> Method:
    return strategies.method(method, 3, Run("network", method, RECIPE, THREAT).attack)


class Crash(Exception):
    """Stands for a power cut."""


def crash_at(epoch: int, step: int) -> Callable[[TrainingProgress], None]:
    def watch(seen: TrainingProgress) -> None:
        if (seen.epoch, seen.step) == (epoch, step):
            raise Crash

    return watch


def untimed(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in log]


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in (folder / "log.jsonl").read_text().splitlines()]


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested dicts and lists with its path."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{name}/{key}")
    else:
        yield name, value


def state(folder: Path) -> dict[str, Any]:
    """Return all that a run leaves behind, but for times."""
    found = dict(flat(torch.load(folder / "checkpoint.pt", weights_only=True)))
    found["/log"] = untimed(json.loads(found["/log"]))
    found["/settings"] = {k: v for k, v in json.loads(found["/settings"]).items() if k != "environment"}
    found["log.jsonl"] = untimed(read_log(folder))
    for path in (*folder.rglob("*.safetensors"), folder / "summary.json"):
        found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def assert_same(one: Path, other: Path) -> None:
    left, right = state(one), state(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        same = torch.equal(value, right[name]) if isinstance(value, Tensor) else value == right[name]
        assert same, name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of an uninterrupted run, which many tests read and none may change."""

    @cache
    def run(method: str, wrappers: str = "", recipe: Recipe = RECIPE) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        log = go(folder, method=method, wrappers=wrappers, recipe=recipe)
        assert read_log(folder) == log
        return folder

    return run


@pytest.fixture
def finished(tmp_path: Path, whole: Callable[..., Path]) -> Path:
    return Path(shutil.copytree(whole("standard"), tmp_path / "run"))


# Resumption


@pytest.mark.parametrize(
    ("method", "wrappers", "recipe"),
    [
        *((method, AROUND, WARM) for method in METHODS),
        *(("at", wrappers, RECIPE) for wrappers in WRAPPERS),
        ("trades", "awp", WARM),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_stopped_inside_epochs_goes_on_to_the_same_end_bit_for_bit(
    method: str, wrappers: str, recipe: Recipe, whole: Callable[..., Path], tmp_path: Path
) -> None:
    # Before anything is saved, while the radius grows where it does, and later: what is lost at one stop stays lost.
    for stop in [(0, 1), (1, 2), (2, 1), *([(3, 3)] if method == "at" else [])]:
        with pytest.raises(Crash):
            go(tmp_path, method=method, wrappers=wrappers, recipe=recipe, watch=crash_at(*stop))
    go(tmp_path, method=method, wrappers=wrappers, recipe=recipe)
    assert_same(tmp_path, whole(method, wrappers, recipe))


def test_a_resumed_run_starts_at_the_epoch_it_was_stopped_in(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        go(tmp_path, watch=crash_at(2, 2))
    seen: list[TrainingProgress] = []
    log = go(tmp_path, watch=seen.append)
    assert {(s.epoch, s.step) for s in seen} == {(e, s) for e in (2, 3) for s in (1, 2, 3)}
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    assert seen[0].last == log[1]


@pytest.mark.parametrize(
    ("wrappers", "number"), [*(("", n) for n in range(13)), *(("ema", n) for n in (7, 8, 10, 11, 13, 16))]
)
def test_a_run_stopped_before_any_of_its_writes_goes_on_to_the_same_end(
    wrappers: str, number: int, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def power_cut(path: Path, content: bytes) -> None:
        if len(written) == number:
            raise Crash
        written.append(path.name)
        write(path, content)

    write = files.write_bytes
    for module in ("classwise.files", "classwise.files.writing", "classwise.models.checkpoint"):
        monkeypatch.setattr(f"{module}.write_bytes", power_cut)
    with pytest.raises(Crash):
        go(tmp_path, wrappers=wrappers)
    monkeypatch.undo()
    go(tmp_path, wrappers=wrappers)
    assert_same(tmp_path, whole("standard", wrappers))


@pytest.mark.parametrize("number", range(4))
def test_a_run_stopped_before_it_drops_weights_goes_on_to_the_same_end(
    number: int, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def power_cut(*arguments: Any) -> None:
        if len(calls) == number:
            raise Crash
        calls.append(arguments)
        drop(*arguments)

    drop = training_state.drop_candidates
    monkeypatch.setattr(training_state, "drop_candidates", power_cut)
    with pytest.raises(Crash):
        go(tmp_path)
    monkeypatch.undo()
    go(tmp_path)
    assert_same(tmp_path, whole("standard"))
    assert not (tmp_path / "candidates").exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    # A few stand for all methods: what a kill adds to the stops above is where it strikes, not what is saved.
    ("method", "wrappers"),
    [*((method, "") for method in FEW), *(("at", wrappers) for wrappers in WRAPPERS)],
)
def test_a_run_killed_again_and_again_ends_the_same(
    method: str, wrappers: str, whole: Callable[..., Path], tmp_path: Path
) -> None:
    draw = random.Random(f"kill {method} {wrappers}")
    slowly = {"method": method, "wrappers": wrappers, "watch": lambda seen: time.sleep(0.02)}
    exits = []
    for _ in range(4):
        process = multiprocessing.get_context("fork").Process(target=go, args=(tmp_path,), kwargs=slowly)
        process.start()
        process.join(draw.uniform(0.02, 0.2))
        process.kill()
        process.join()
        exits.append(process.exitcode)
    assert exits[0] == -signal.SIGKILL
    go(tmp_path, method=method, wrappers=wrappers)
    assert_same(tmp_path, whole(method, wrappers))


@pytest.mark.parametrize("method", FEW)
def test_a_finished_run_is_not_trained_again(method: str, tmp_path: Path) -> None:
    log = go(tmp_path, method=method)
    before = contents(tmp_path)
    again = go(tmp_path, method=method, watch=lambda seen: pytest.fail("trained again"))
    assert again == log
    assert contents(tmp_path) == before


def test_a_model_handed_to_a_finished_run_gets_its_last_weights(finished: Path) -> None:
    model = network(seed=9)
    go(finished, model=model)
    last = load_file(finished / "last.safetensors")
    assert all(torch.equal(value, last[name]) for name, value in model.state_dict().items())


class Adaptive(Method):
    """Weighs classes by how often they were wrong so far: a method with class state."""

    weight: Tensor

    def __init__(self, num_classes: int, attack: Any) -> None:
        super().__init__(num_classes, attack)
        self.register_buffer("weight", torch.ones(num_classes))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        logits = model(x)
        return Step((self.weight[y] * loop.cross_entropy(logits, y)).mean(), None, logits)

    def end_epoch(self, epoch: Epoch) -> None:
        assert epoch.valid is not None
        self.weight += (1 - epoch.valid.robust.accuracy) + (1 - epoch.train.clean.accuracy) * (epoch.number + 1)


def test_class_state_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    def adaptive() -> Adaptive:
        return Adaptive(3, Run("network", "adaptive", RECIPE, THREAT).attack)

    go(tmp_path / "whole", method="adaptive", made=adaptive())
    with pytest.raises(Crash):
        go(tmp_path / "stopped", method="adaptive", made=adaptive(), watch=crash_at(2, 2))
    go(tmp_path / "stopped", method="adaptive", made=adaptive())
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    assert not torch.equal(state(tmp_path / "whole")["/method/weight"], torch.ones(3))


class Waiting(Adaptive):
    """Knows nothing of a class until it has seen it."""

    def __init__(self, num_classes: int, attack: Any) -> None:
        super().__init__(num_classes, attack)
        self.register_buffer("seen", torch.full((num_classes,), torch.nan))


def test_class_state_that_is_undefined_is_no_divergence(tmp_path: Path) -> None:
    log = go(tmp_path, method="waiting", made=Waiting(3, Run("network", "waiting", RECIPE, THREAT).attack))
    assert len(log) == 4


# Refusals


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"threat": ThreatModel("Linf", 0.06)}, r"threat.eps = 0.05, and now threat.eps = 0.06"),
        ({"threat": ThreatModel("L2", 0.05)}, 'threat.norm = "Linf", and now threat.norm = "L2"'),
        ({"seed": 1}, "seed = 0, and now seed = 1"),
        ({"recipe": replace(RECIPE, epochs=5)}, "recipe.epochs = 4, and now recipe.epochs = 5"),
        ({"recipe": replace(RECIPE, lr=0.2)}, "recipe.lr = 0.1, and now recipe.lr = 0.2"),
        ({"recipe": replace(RECIPE, milestones=(3,))}, r"recipe.milestones = \[2\], and now recipe.milestones = \[3\]"),
        ({"recipe": replace(RECIPE, holdout=0.3)}, "recipe.holdout = 0.2"),
        ({"method": "at"}, 'method = "standard", and now method = "at"'),
        ({"name": "other"}, 'model = "network@start.pt", and now model = "other"'),
        ({"wrappers": "ema"}, 'wrappers = "", and now wrappers = "ema"'),
        ({"data": pictures(45)}, "data.n = 60, and now data.n = 45"),
        ({"data": pictures(60, first=7)}, "held_out"),
        ({"fabric": cpu("bf16-mixed")}, 'precision = "32-true", and now precision = "bf16-mixed"'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("lost", ["", "run.json"])
def test_another_setting_is_refused_by_name_and_changes_nothing(
    finished: Path, change: dict[str, Any], setting: str, lost: str
) -> None:
    if lost:
        (finished / lost).unlink()
    before = contents(finished)
    with pytest.raises(InputError, match=setting) as caught:
        go(finished, **change, watch=lambda seen: pytest.fail("trained"))
    assert str(caught.value).startswith(f"{finished} holds a run with")
    assert contents(finished) == before


def test_another_teacher_is_refused_by_its_weights_and_the_same_one_goes_on(tmp_path: Path) -> None:
    def taught(by: nn.Module) -> Method:
        return registry.build(
            "method", "rslad", 3, Run("", "", RECIPE, THREAT).attack, teacher=Teacher(by, "same/path")
        )

    with pytest.raises(Crash):
        go(tmp_path, method="rslad(teacher='same/path')", made=taught(network(seed=1)), watch=crash_at(2, 1))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["teacher"] == {"name": "same/path", "sha256": weights_sha256(network(seed=1))}
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"holds a run with teacher\.sha256 = "):
        go(tmp_path, method="rslad(teacher='same/path')", made=taught(network(seed=2)))
    assert contents(tmp_path) == before
    go(tmp_path, method="rslad(teacher='same/path')", made=taught(network(seed=1)))
    go(tmp_path / "whole", method="rslad(teacher='same/path')", made=taught(network(seed=1)))
    for name in ("best", "last"):
        assert contents(tmp_path)[f"{name}.safetensors"] == contents(tmp_path)[f"whole/{name}.safetensors"]


def test_what_the_teacher_achieves_on_held_out_images_is_written_down_by_class(tmp_path: Path) -> None:
    go(tmp_path / "taught", method="rslad")
    found = json.loads((tmp_path / "taught/teacher.json").read_text(), parse_constant=pytest.fail)
    teacher, data = strategies.teacher(3), pictures()
    record = json.loads((tmp_path / "taught/run.json").read_text())
    assert {name: found[name] for name in ("name", "sha256")} == record["teacher"] == teacher.record()
    held_out = torch.tensor(record["held_out"]) - 100
    right = teacher(data.fetch(held_out)).argmax(1) == data.y[held_out]
    assert found["valid"]["clean"]["correct"] == [int(right[data.y[held_out] == c].sum()) for c in range(3)]
    assert sum(found["valid"]["robust"]["n"]) == len(held_out)
    go(tmp_path / "nothing held out", method="rslad", recipe=replace(RECIPE, holdout=0))
    assert json.loads((tmp_path / "nothing held out/teacher.json").read_text())["valid"] is None


def test_a_run_from_before_there_were_teachers_goes_on(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record.pop("teacher") is None
    (finished / "run.json").write_text(json.dumps(record))
    go(finished, watch=lambda seen: pytest.fail("trained"))


def test_a_checkpoint_of_distillation_holds_the_student_alone(tmp_path: Path) -> None:
    go(tmp_path / "taught", method="rslad")
    go(tmp_path / "plain", method="trades")
    taught, plain = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("taught", "plain"))
    assert taught["model"].keys() == plain["model"].keys()
    assert taught["method"] == {}
    assert len(taught["optimizer"]["state"]) == len(plain["optimizer"]["state"])


def test_other_pixels_are_refused(finished: Path) -> None:
    data = pictures()
    data.x[3] += 1
    with pytest.raises(InputError, match=r"data\.sha256"):
        go(finished, data=data)


@pytest.mark.parametrize("file", ["run.json", "checkpoint.pt"])
@pytest.mark.parametrize("damage", [b"", b"[1, 2]", b"{", b"\x80\x04nonsense"])
def test_a_damaged_file_is_named(finished: Path, file: str, damage: bytes) -> None:
    (finished / file).write_bytes(damage)
    before = contents(finished)
    with pytest.raises(InputError, match=rf"{file} (is damaged|cannot be read)"):
        go(finished)
    assert contents(finished) == before


def test_a_truncated_checkpoint_is_named(finished: Path) -> None:
    path = finished / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"checkpoint.pt is damaged; delete it"):
        go(finished)


@pytest.mark.parametrize("part", ["model", "optimizer"])
@pytest.mark.parametrize(
    "made",
    [
        lambda value: torch.empty(10**12, device="meta"),
        lambda value: value.to_sparse(),
        lambda value: value.new_zeros(1).expand(10**6, 10**6),
        lambda value: torch.zeros(7),
        lambda value: "text",
    ],
    ids=["without values", "sparse", "terabytes", "another shape", "text"],
)
def test_a_checkpoint_of_other_tensors_is_one_sentence(finished: Path, part: str, made: Callable[..., Any]) -> None:
    stored = torch.load(finished / "checkpoint.pt", weights_only=True)
    owner = stored["model"] if part == "model" else stored["optimizer"]["state"][0]
    name = next(name for name, value in owner.items() if isinstance(value, torch.Tensor))
    owner[name] = made(owner[name])
    torch.save(stored, finished / "checkpoint.pt")
    before = contents(finished)
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged.*; delete it to train from the start\.$"):
        go(finished)
    assert contents(finished) == before


def test_a_checkpoint_that_would_run_code_is_not_read(finished: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (finished / "executed",))

    torch.save({"settings": "{}", "model": Payload()}, finished / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint.pt is damaged"):
        go(finished)
    assert not (finished / "executed").exists()


@pytest.mark.parametrize("file", ["result.json", "partial-0-of-1.npz"])
def test_the_folder_of_an_evaluation_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(InputError, match="holds an evaluation"):
        go(tmp_path)
    assert contents(tmp_path) == {file: b"{}"}


def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="Cannot write"):
        go(tmp_path / "file" / "run", watch=lambda seen: pytest.fail("trained"))


def test_fewer_images_than_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There are 2 training images for 3 classes"):
        go(tmp_path / "run", data=pictures(3).subset(torch.tensor([0, 1])))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_a_class_without_training_images_is_refused(tmp_path: Path, holdout: float) -> None:
    data = pictures()
    with pytest.raises(InputError, match="Class 'class 1' has no training images"):
        go(tmp_path / "run", data=data.subset((data.y != 1).nonzero()[:, 0]), recipe=replace(RECIPE, holdout=holdout))
    assert not (tmp_path / "run").exists()


def test_a_class_too_small_to_hold_an_image_out_is_refused(tmp_path: Path) -> None:
    data = pictures()
    one = data.subset(torch.cat([(data.y != 1).nonzero()[:, 0], torch.tensor([1])]))
    with pytest.raises(InputError, match=r"Class 'class 1' has no held-out images; .*holdout=0"):
        go(tmp_path / "run", data=one)
    assert len(go(tmp_path / "run", data=one, recipe=replace(RECIPE, holdout=0))) == 4


def test_a_method_whose_attacks_warm_up_would_miss_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    hidden = build("at")
    hidden.late = (hidden.attack,)
    with pytest.raises(InputError, match="AT keeps an attack in 'late'"):
        go(tmp_path / "run", method="at", made=hidden)
    unknown = build("at")
    unknown.attacks["own"] = Unscaled()
    with pytest.raises(InputError, match="The attack Unscaled cannot be given a smaller radius"):
        go(tmp_path / "run", method="at", made=unknown, recipe=replace(RECIPE, eps_warmup=1))
    assert not (tmp_path / "run").exists()


class Unscaled:
    """An attack that cannot be weakened."""

    threat = THREAT

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        return x


def test_a_radius_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The radius to train at is 0"):
        go(tmp_path / "run", threat=ThreatModel("Linf", 0.0))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", sorted(name for name in METHODS if build(name).validates))
def test_a_method_that_needs_held_out_images_is_refused_without(method: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{re.escape(method)} needs held-out images, and the recipe has holdout=0"):
        go(tmp_path / "run", method=method, recipe=replace(RECIPE, holdout=0))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", sorted(name for name in METHODS if build(name).fine_tunes))
def test_a_method_that_goes_on_with_a_robust_network_is_refused_with_fresh_weights(method: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{re.escape(method)} goes on with a robust network"):
        go(tmp_path / "run", method=method, name="network")
    assert not (tmp_path / "run").exists()


def test_an_average_that_needs_held_out_images_is_refused_without(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fawa needs held-out images"):
        go(tmp_path / "run", wrappers="fawa", recipe=replace(RECIPE, holdout=0))


def test_the_log_holds_what_each_method_knows_of_the_classes_and_it_is_not_what_it_began_with(
    whole: Callable[..., Path],
) -> None:
    # The radius alone need not change: s-at's never does.
    adaptive = [method for method in METHODS if class_state(build(method)).keys() - {"radius"}]
    assert "cfa" in adaptive
    for method in adaptive:
        log = read_log(whole(method, AROUND, WARM))
        assert log[-1]["class_state"].keys() == class_state(build(method)).keys(), method
        assert log[-1]["class_state"] != class_state(build(method)), method


def test_the_log_holds_the_radius_of_each_class(whole: Callable[..., Path]) -> None:
    dafa = read_log(whole("dafa(warmup=1)", AROUND, WARM))[-1]["class_state"]
    assert dafa["radius"] == dafa["weight"]
    wat = read_log(whole("wat", AROUND, WARM))[-1]["class_state"]
    assert "radius" not in wat, "all are alike"


def test_a_lost_candidate_is_named(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=8)
    with pytest.raises(Crash):
        go(tmp_path, recipe=recipe, watch=crash_at(6, 1))
    for path in (tmp_path / "candidates").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"candidates/epoch-\d.safetensors is missing; delete .*checkpoint.pt"):
        go(tmp_path, recipe=recipe)


@pytest.mark.parametrize("number", [4, 6, 8])
def test_a_full_disk_is_said_and_leaves_the_last_checkpoint_whole(
    number: int, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) > number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("classwise.files.writing.os.fsync", full)
    with pytest.raises(InputError, match=r"Cannot write .*: No space left on device"):
        go(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.partial"))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["version"] == CHECKPOINT_VERSION
    go(tmp_path)
    assert_same(tmp_path, whole("standard"))


def test_an_unknown_augmentation_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="augmentation 'crop-flop': did you mean 'crop-flip'"):
        go(tmp_path / "run", recipe=replace(RECIPE, augment="crop-flop"))
    assert not (tmp_path / "run").exists()


# Data: what is trained on, and what is not


class Spy(Standard):
    """Standard training that writes down which images it was given, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__(3, Run("", "", RECIPE, THREAT).attack)
        self.seen: dict[int, list[Tensor]] = {}
        self.pixels: list[Tensor] = []

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        self.seen.setdefault(int(noise.path[1]), []).append(noise.index)
        self.pixels.append(x)
        return super().forward(model, x, y, noise)


def test_held_out_images_are_recorded_and_never_trained_on(tmp_path: Path) -> None:
    spy = Spy()
    go(tmp_path, made=spy)
    held_out = json.loads((tmp_path / "run.json").read_text())["held_out"]
    trained = {int(i) for batches in spy.seen.values() for batch in batches for i in batch}
    assert len(held_out) == 12
    assert trained == set(range(100, 160)) - set(held_out)
    assert read_log(tmp_path)[0]["valid"]["clean"]["n"] == [4, 4, 4]


def test_each_image_is_drawn_at_most_once_an_epoch_in_another_order_every_epoch(tmp_path: Path) -> None:
    spy = Spy()
    go(tmp_path, made=spy)
    orders = [torch.cat(spy.seen[epoch]).tolist() for epoch in range(4)]
    assert all(len(order) == len(set(order)) == 48 for order in orders)
    assert len({tuple(order) for order in orders}) == 4


class Picky(Spy):
    """Draws one class alone, the next one in every batch, and writes down the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[list[int]] = []

    def class_probs(self) -> Tensor:
        return torch.eye(3)[len(self.labels) % 3]

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        self.labels.append(y.tolist())
        return super().forward(model, x, y, noise)


def test_a_method_that_says_how_to_draw_is_asked_before_every_batch(tmp_path: Path) -> None:
    picky = Picky()
    log = go(tmp_path, made=picky)
    assert picky.labels == [[number % 3] * 16 for number in range(12)]
    assert log[0]["train"]["clean"]["n"] == [16, 16, 16]


def test_an_image_that_is_drawn_twice_is_augmented_and_attacked_anew(tmp_path: Path) -> None:
    picky, plain = Picky(), Picky()
    go(tmp_path / "crop", made=picky)
    go(tmp_path / "plain", made=plain, recipe=replace(RECIPE, augment="none"))
    for epoch in range(4):
        assert torch.cat(picky.seen[epoch]).tolist() == list(range(48)), "noise goes by the draw"
    same, cropped = (s.pixels[0].flatten(1)[:, None] == s.pixels[0].flatten(1) for s in (plain, picky))
    twice = same.all(2) & ~torch.eye(16, dtype=torch.bool)
    assert twice.any(), "16 draws among the 16 images of a class"
    assert not cropped.all(2)[twice].all(), "crops of the same image differ"


def test_augmentation_differs_from_epoch_to_epoch_and_training_alone_sees_it(tmp_path: Path) -> None:
    spy, plain = Spy(), Spy()
    go(tmp_path / "crop", made=spy)
    go(tmp_path / "plain", made=plain, recipe=replace(RECIPE, augment="none"))
    sorted_pixels = [torch.cat(s.pixels[:3])[torch.cat(s.seen[0]).argsort()] for s in (spy, plain)]
    later = torch.cat(spy.pixels[3:6])[torch.cat(spy.seen[1]).argsort()]
    data = pictures()
    kept = torch.cat(plain.seen[0]).sort().values - 100
    assert torch.equal(sorted_pixels[1], data.fetch(kept))
    assert not torch.equal(sorted_pixels[0], sorted_pixels[1])
    assert not torch.equal(sorted_pixels[0], later)


def test_an_incomplete_last_batch_is_dropped(tmp_path: Path) -> None:
    spy = Spy()
    log = go(tmp_path, made=spy, recipe=replace(RECIPE, batch_size=20))
    assert [len(batch) for batch in spy.seen[0]] == [20, 20]
    assert sum(log[0]["train"]["clean"]["n"]) == 40


def test_fewer_images_than_a_batch_are_one_batch(tmp_path: Path) -> None:
    spy = Spy()
    go(tmp_path, made=spy, recipe=replace(RECIPE, batch_size=1000))
    assert [len(batch) for batch in spy.seen[0]] == [48]


def test_without_held_out_images_the_last_epoch_stands_for_the_best(tmp_path: Path) -> None:
    log = go(tmp_path, recipe=replace(RECIPE, holdout=0))
    assert [line["valid"] for line in log] == [None] * 4
    assert (tmp_path / "best.safetensors").read_bytes() == (tmp_path / "last.safetensors").read_bytes()
    assert json.loads((tmp_path / "run.json").read_text())["held_out"] == []


def test_classes_of_one_image_hold_nothing_out(tmp_path: Path) -> None:
    log = go(tmp_path, data=pictures(3), recipe=replace(RECIPE, batch_size=3))
    assert log[-1]["valid"] is None
    assert (tmp_path / "best.safetensors").exists()


# Learning rate, divergence, selection


class OneWeight(nn.Module):
    """Holds the sum of all steps taken: its gradient is 1 under the method below."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight + x.new_zeros(len(x), 3)


class Descend(Standard):
    """The loss is the weight itself."""

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        return Step(model.get_parameter("weight").clone(), None, model(x).detach())


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(epochs=4, lr=0.3, milestones=(1, 3)),
        Recipe(epochs=4, lr=0.3, schedule="cosine"),
        Recipe(epochs=4, lr=0.3, schedule="cyclic"),
    ],
    ids=lambda recipe: recipe.schedule,
)
def test_every_step_takes_the_rate_of_its_own_progress(tmp_path: Path, recipe: Recipe) -> None:
    recipe = replace(recipe, batch_size=16, momentum=0.0, weight_decay=0.0, augment="none", holdout=0.2)
    model = OneWeight()
    log = go(tmp_path, model=model, made=Descend(3, Run("", "", recipe, THREAT).attack), recipe=recipe)
    moved = sum(recipe.rate(epoch + step / 3) for epoch in range(4) for step in range(3))
    assert float(model.weight.detach()) == pytest.approx(-moved, rel=1e-12)
    assert [line["lr"] for line in log] == [recipe.rate(epoch) for epoch in range(4)]


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_and_weight_decay_are_those_of_the_recipe(tmp_path: Path, nesterov: bool) -> None:
    settings = {"momentum": 0.5, "nesterov": nesterov, "weight_decay": 0.1, "augment": "none", "holdout": 0.2}
    recipe = Recipe(epochs=1, batch_size=16, lr=0.1, **settings)  # type: ignore[arg-type]
    model = OneWeight()
    go(tmp_path, model=model, made=Descend(3, Run("", "", recipe, THREAT).attack), recipe=recipe)
    weight, velocity = 0.0, 0.0
    for number in range(3):
        gradient = 1 + 0.1 * weight
        velocity = gradient if number == 0 else 0.5 * velocity + gradient
        weight -= 0.1 * (gradient + 0.5 * velocity if nesterov else velocity)
    assert float(model.weight.detach()) == pytest.approx(weight, rel=1e-12)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(InputError, match="nesterov is True"):
        Recipe(epochs=1, momentum=0.0, nesterov=True)


def test_a_run_from_before_nesterov_was_a_setting_goes_on_without_it(finished: Path) -> None:
    path = finished / "run.json"
    record = json.loads(path.read_text())
    assert record["recipe"].pop("nesterov") is False
    path.write_text(json.dumps(record))
    go(finished)
    with pytest.raises(InputError, match=r"recipe\.nesterov = false, and now recipe\.nesterov = true"):
        go(finished, recipe=replace(RECIPE, nesterov=True))


class Poisoned(Standard):
    """Returns a planted loss from a given step on."""

    def __init__(self, at: int, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__(3, Run("", "", RECIPE, THREAT).attack)
        self._at, self._calls, self._planted = at, 0, loss

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        step = super().forward(model, x, y, noise)
        self._calls += 1
        return step if self._calls < self._at else step._replace(loss=self._planted(step.loss))


class _Overflow(torch.autograd.Function):
    """A finite value with an infinite gradient, as a root at zero has."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * torch.inf


@pytest.mark.parametrize(
    "planted",
    [lambda loss: loss * torch.nan, lambda loss: loss + torch.inf, _Overflow.apply],
    ids=["nan", "infinity", "infinite gradient"],
)
@pytest.mark.parametrize(("calls", "epoch", "batch"), [(1, 1, 1), (5, 2, 2), (6, 2, 3), (7, 3, 1)])
def test_divergence_stops_naming_epoch_and_batch_and_keeps_the_last_checkpoint(
    tmp_path: Path, planted: Callable[[Tensor], Tensor], calls: int, epoch: int, batch: int
) -> None:
    model = network()
    with pytest.raises(InputError, match=rf"in epoch {epoch}, batch {batch}\b") as caught:
        go(tmp_path, model=model, made=Poisoned(calls, planted))
    assert str(caught.value).count(". ") == 0, "one sentence"
    assert (tmp_path / "checkpoint.pt").exists() == (epoch > 1)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    go(tmp_path, made=Poisoned(1_000, planted))
    assert [line["epoch"] for line in read_log(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    # With one batch an epoch there is something saved when it comes to its end; with several, it ends between two.
    ("method", "batch_size"),
    [*((method, 48) for method in METHODS), *((method, 8) for method in FEW)],
)
def test_a_huge_learning_rate_ends_in_one_sentence_and_no_broken_checkpoint(
    tmp_path: Path, method: str, batch_size: int
) -> None:
    recipe = replace(RECIPE, lr=1e6, epochs=40, batch_size=batch_size, milestones=(), weight_decay=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # In float32, whose largest number is reached within these epochs.
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    with pytest.raises(InputError, match=r"in epoch \d+, batch \d+.*lower learning rate"):
        go(tmp_path, method=method, model=model, recipe=recipe)
    if (tmp_path / "checkpoint.pt").exists():
        kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert all(value.isfinite().all() for value in kept["model"].values())
        read_log(tmp_path)


def test_classes_whose_logits_break_are_named(tmp_path: Path) -> None:
    class Cracked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.linear(x.flatten(1))
            return torch.where(x.flatten(1)[:, 1:2] > 0.6, torch.nan, logits)

    data = pictures()
    data.x.view(60, 16)[:, 1].clamp_(max=120)
    data.x.view(60, 16)[data.y == 1, 1] = 255
    with pytest.raises(InputError, match="epoch 1, batch 1 on images of class 1:"):
        go(tmp_path, model=Cracked(), data=data, recipe=replace(RECIPE, augment="none"))


def planted_validation(monkeypatch: pytest.MonkeyPatch, right: list[list[int]], n: int = 10) -> None:
    """Make validation find ``right[epoch][class]`` of ``n`` images right under attack, whatever the model."""
    epochs = iter(right)

    def validate(*_: Any) -> Pass:
        counts = torch.tensor(next(epochs), dtype=torch.float64)
        confusion = torch.diag(counts)
        confusion[:, 0] += n - counts
        confusion[0, :1] = counts[:1]
        stats = ClassStats(torch.full_like(counts, n), confusion, confusion / n, counts)
        return Pass(stats, stats)

    monkeypatch.setattr(loop._Job, "validate", validate)


def captured(folder: Path, classes: int, epochs: int) -> list[dict[str, Tensor]]:
    """Train, and return the weights at the end of every epoch."""
    model, weights = network(classes), []

    def keep(seen: TrainingProgress) -> None:
        if seen.step == seen.steps:
            weights.append({name: value.clone() for name, value in model.state_dict().items()})

    go(folder, model=model, data=pictures(60, classes), recipe=replace(RECIPE, epochs=epochs), watch=keep)
    return weights


def is_of_epoch(file: Path, weights: list[dict[str, Tensor]]) -> list[int]:
    """Return the epochs, from 1, whose weights a file holds."""
    stored = load_file(file)
    return [e for e, w in enumerate(weights, 1) if all(torch.equal(stored[name], w[name]) for name in w)]


@pytest.mark.parametrize(
    ("right", "best"),
    [
        # The first half does not count, however good; average and worst count alike.
        ([[9, 9, 9], [9, 9, 9], [2, 5, 5], [4, 5, 5], [3, 3, 3], [0, 9, 9]], 4),
        # A higher average with a lower worst class: 0.5 + 0.3 against 0.4 + 0.4, and 0.6 + 0.1.
        ([[0, 0, 0], [0, 0, 0], [9, 9, 9], [3, 6, 6], [4, 4, 4], [1, 8, 9]], 4),
        # Of equals the first; the last is no better.
        ([[9, 9, 9], [0, 0, 0], [0, 0, 0], [1, 1, 1], [5, 5, 5], [5, 5, 5]], 5),
        # Where nothing is ever right, the first of the second half.
        ([[0, 0, 0]] * 6, 4),
    ],
)
def test_the_best_epoch_is_that_of_the_second_half_with_the_largest_average_plus_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: list[list[int]], best: int
) -> None:
    monkeypatch.setattr(selection, "_REACH", 0)
    planted_validation(monkeypatch, right)
    weights = captured(tmp_path, 3, 6)
    assert is_of_epoch(tmp_path / "best.safetensors", weights) == [best]
    assert is_of_epoch(tmp_path / "last.safetensors", weights) == [6]
    scores = [sum(counts) / 30 + min(counts) / 10 for counts in right]
    assert [line["score"] for line in read_log(tmp_path)] == pytest.approx(scores)


@pytest.mark.parametrize(
    ("right", "best"),
    [
        ([0, 0, 0, 9, 0, 0, 3, 5, 5, 5], 10),  # windows of 9/5, 17/5, 13/5, 18/5, 18/4, 15/3
        ([0, 0, 0, 0, 0, 9, 6, 6, 0, 0], 6),  # of 21/5, 21/5, 21/5, 12/4, 6/3: the first of equals
        ([9, 9, 9, 9, 0, 0, 0, 4, 0, 0], 6),  # what lies before the second half counts for its neighbours alone
    ],
)
def test_scores_are_smoothed_over_five_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: list[int], best: int
) -> None:
    planted_validation(monkeypatch, [[count] * 3 for count in right])
    weights = captured(tmp_path, 3, 10)
    assert is_of_epoch(tmp_path / "best.safetensors", weights) == [best]
    summary = json.loads((tmp_path / "summary.json").read_text())["plain"]
    assert summary["best"]["epoch"] == best
    assert summary["mean_of_last_5"]["robust"]["accuracy"] == pytest.approx(sum(right[-5:]) / 50)
    assert summary["last"]["robust"]["worst"] == pytest.approx(right[-1] / 10)


def test_weights_wait_in_candidates_until_their_epoch_can_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_validation(monkeypatch, [[5, 5, 5]] * 10)
    seen: list[set[str]] = []

    def check(at: TrainingProgress) -> None:
        if at.step == 1:
            seen.append({path.stem for path in (tmp_path / "candidates").glob("*")})

    go(tmp_path, recipe=replace(RECIPE, epochs=10), watch=check)
    nothing: set[str] = set()
    # Epoch 6 is judged after epoch 8; from then on only a better one is of use, which 7 and 8 may still be.
    assert seen == [*[nothing] * 6, {"epoch-6"}, {"epoch-6", "epoch-7"}, {"epoch-7", "epoch-8"}, {"epoch-8", "epoch-9"}]
    assert not (tmp_path / "candidates").exists()


def test_an_averaged_model_is_selected_by_its_own_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_REACH", 0)
    plain, averaged = [1, 1, 5, 3], [1, 1, 2, 4]
    planted_validation(monkeypatch, [[k] * 3 for pair in zip(plain, averaged, strict=True) for k in pair])
    log = go(tmp_path, wrappers="ema(decay=0)", recipe=replace(RECIPE, epochs=4))
    assert [line["averages"]["ema"]["score"] for line in log] == pytest.approx([0.2, 0.2, 0.4, 0.8])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [summary[name]["best"]["epoch"] for name in ("plain", "ema")] == [3, 4]
    # Without decay it is the model itself, so that its files tell the epoch.
    last = (tmp_path / "last.safetensors").read_bytes()
    assert (tmp_path / "ema-last.safetensors").read_bytes() == (tmp_path / "ema-best.safetensors").read_bytes() == last
    assert (tmp_path / "best.safetensors").read_bytes() != last


def test_swa_ends_with_the_mean_of_the_weights_of_its_epochs_and_statistics_of_the_training_images(
    tmp_path: Path,
) -> None:
    model, weights = network(), []

    def keep(seen: TrainingProgress) -> None:
        if seen.step == seen.steps:
            weights.append({name: value.clone() for name, value in model.state_dict().items()})

    log = go(tmp_path, wrappers="swa(start=0.5)", model=model, watch=keep)
    found = load_file(tmp_path / "swa-last.safetensors")
    for name in dict(model.named_parameters()):
        torch.testing.assert_close(found[name], (weights[2][name] + weights[3][name]) / 2)
    assert found["2.num_batches_tracked"] == 3, "batches of one epoch"
    assert not torch.allclose(found["2.running_mean"], weights[3]["2.running_mean"])
    assert [set(line["averages"]) for line in log] == [set(), set(), {"swa"}, {"swa"}]


def test_awp_changes_nothing_before_its_start_and_something_after(tmp_path: Path) -> None:
    plain = go(tmp_path / "plain", method="at")
    wrapped = go(tmp_path / "awp", method="at", wrappers="awp(gamma=0.1, start=2)")
    same = [a["train"] == b["train"] for a, b in zip(plain, wrapped, strict=True)]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("wrappers", ["ema,swa", "ema(each='epoch')"])
def test_averages_leave_the_trained_model_alone(tmp_path: Path, whole: Callable[..., Path], wrappers: str) -> None:
    go(tmp_path, wrappers=wrappers)
    for name in ("best", "last"):
        plain = (whole("standard") / f"{name}.safetensors").read_bytes()
        assert (tmp_path / f"{name}.safetensors").read_bytes() == plain


@pytest.mark.parametrize("wrappers", WRAPPERS)
def test_wrapped_training_learns(tmp_path: Path, wrappers: str) -> None:
    recipe = replace(RECIPE, epochs=5, augment="none", milestones=())
    log = go(tmp_path, method="at", wrappers=wrappers, recipe=recipe, data=pictures(120))
    averaged = [entry["valid"] for entry in log[-1]["averages"].values()]
    assert all(valid["clean"]["accuracy"] > 0.8 for valid in (log[-1]["valid"], *averaged))


def test_wrapped_training_in_mixed_precision_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "at", "wrappers": "awp,ema,swa"}
    go(tmp_path / "whole", fabric=cpu("bf16-mixed"), **settings)
    with pytest.raises(Crash):
        go(tmp_path / "stopped", fabric=cpu("bf16-mixed"), watch=crash_at(2, 2), **settings)
    go(tmp_path / "stopped", fabric=cpu("bf16-mixed"), **settings)
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_divergence_that_is_read_late_names_its_step_and_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU, where a look would make the host wait.
    made = Poisoned(5, lambda loss: loss * torch.nan)
    start = divergence.DivergenceMonitor.__init__

    def lazily(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        self._every = 1000

    monkeypatch.setattr(divergence.DivergenceMonitor, "__init__", lazily)
    with pytest.raises(InputError, match=r"in epoch 2, batch 2 .*on images of class"):
        go(tmp_path, made=made, wrappers="ema")
    assert made._calls == 6, "it went on to the end of the epoch"
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(json.loads(kept["log"])) == 1
    for weights in (kept["model"], kept["averages"]["ema"]["model"]):
        assert all(value.isfinite().all() for value in weights.values())


def test_the_memory_in_use_is_logged(finished: Path) -> None:
    assert all(line["peak_memory_bytes"] > 1e6 for line in read_log(finished))


def test_convolutions_are_trained_with_channels_last_and_saved_without(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(4, 3))
    go(tmp_path, model=model)
    weight, saved = model[1].weight.detach(), load_file(tmp_path / "last.safetensors")["1.weight"]
    assert (weight.stride(1), saved.stride(1)) == (1, 4)
    assert torch.equal(saved, weight)


def test_an_odd_number_of_epochs_counts_the_middle_one_to_the_second_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_validation(monkeypatch, [[9, 9, 9], [5, 5, 5], [1, 1, 1]])
    assert is_of_epoch(tmp_path / "best.safetensors", captured(tmp_path, 3, 3)) == [2]


def test_with_many_classes_the_worst_tenth_takes_the_place_of_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = [8] * 28
    monkeypatch.setattr(selection, "_REACH", 0)
    planted_validation(monkeypatch, [[*base, 0, 0], [*base, 1, 1], [*base, 0, 6], [*base, 2, 2]])
    weights = captured(tmp_path, 30, 4)
    # The worst three classes of thirty: 1/3 of (0 + 0.6 + 0.8), against 1/3 of (0.2 + 0.2 + 0.8).
    assert is_of_epoch(tmp_path / "best.safetensors", weights) == [3]
    assert read_log(tmp_path)[2]["score"] == pytest.approx((28 * 0.8 + 0.6) / 30 + 1.4 / 3)


def test_the_best_survives_a_stop_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = [[1, 1, 1], [1, 1, 1], [9, 9, 9], [8, 8, 8]]
    planted_validation(monkeypatch, right)
    go(tmp_path / "whole")
    planted_validation(monkeypatch, right)
    with pytest.raises(Crash):
        go(tmp_path / "stopped", watch=crash_at(3, 2))
    planted_validation(monkeypatch, right[3:])
    go(tmp_path / "stopped")
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_validation_measures_the_model_in_eval_mode_against_pgd10(tmp_path: Path) -> None:
    # Both a replay of the published selection attack and a check that dropout and BatchNorm rest meanwhile.
    model, data = network(), pictures()
    log = go(tmp_path, model=model, data=data, recipe=replace(RECIPE, epochs=1))
    held_out = torch.tensor(json.loads((tmp_path / "run.json").read_text())["held_out"]) - 100
    x, y = data.fetch(held_out), data.y[held_out]
    attack = loop.PGD(THREAT, steps=10, step_size=THREAT.eps / 4, keep="success")
    x_adv = attack(model.eval(), x, y, noise=Noise(0, data.index[held_out]).fold("validate"))
    clean = model(x).argmax(1) == y
    # An image that is wrong already cannot be robust, even where a step would put it right.
    robust = clean & (model(x_adv).argmax(1) == y)
    for view, right in (("clean", clean), ("robust", robust)):
        assert log[0]["valid"][view]["correct"] == torch.bincount(y, right.long(), minlength=3).long().tolist()


def test_robust_never_exceeds_clean_in_any_class_of_any_epoch(tmp_path: Path) -> None:
    for line in go(tmp_path, data=pictures(120)):
        clean, robust = (line["valid"][view]["correct"] for view in ("clean", "robust"))
        assert all(r <= c for r, c in zip(robust, clean, strict=True))


def test_validation_that_is_not_finite_is_written_as_null_and_never_as_nan(tmp_path: Path) -> None:
    class Fragile(nn.Module):
        """Overflows in eval mode only, as a model with ruined BatchNorm statistics does."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.linear(x.flatten(1))
            return logits if self.training else logits * torch.inf

    log = go(tmp_path, model=Fragile())
    assert read_log(tmp_path) == log
    assert log[-1]["valid"]["clean"]["loss"] is None
    assert log[-1]["valid"]["clean"]["correct"] == [0, 0, 0]
    assert (tmp_path / "best.safetensors").exists()


# What is written


def test_the_checkpoint_is_plain_data_with_its_settings(finished: Path) -> None:
    stored = torch.load(finished / "checkpoint.pt", weights_only=True)
    assert set(stored) == {"version", "settings", "model", "method", "optimizer", "averages", "log", "function"}
    assert json.loads(stored["settings"])["seed"] == 0
    assert len(json.loads(stored["log"])) == 4


def test_run_json_says_what_was_trained_how_and_on_what(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text(), parse_constant=pytest.fail)
    assert record["model"] == "network@start.pt"
    assert record["method"] == "standard"
    assert record["recipe"]["milestones"] == [2]
    assert record["threat"] == {"norm": "Linf", "eps": 0.05}
    assert record["classes"] == ["class 0", "class 1", "class 2"]
    assert record["shape"] == [1, 4, 4]
    assert record["data"]["n"] == 60
    assert record["data"]["sha256"] == pictures().sha256()
    assert (record["processes"], record["precision"]) == (1, "32-true")
    assert record["environment"]["torch"] == torch.__version__
    assert eval(record["attack"], {"PGD": loop.PGD, "ThreatModel": ThreatModel}) == Run("", "", RECIPE, THREAT).attack


def test_a_run_leaves_exactly_its_six_files(finished: Path) -> None:
    names = ["best.safetensors", "checkpoint.pt", "last.safetensors", "log.jsonl", "run.json", "summary.json"]
    assert sorted(contents(finished)) == names


@pytest.mark.parametrize("method", METHODS)
def test_the_log_has_a_line_an_epoch_with_counts_confusion_and_speed(whole: Callable[..., Path], method: str) -> None:
    log = read_log(whole(method, AROUND, WARM))
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    view = "clean" if method == "standard" else "robust"
    for line in log:
        for entry, n in ((line["train"][view], 48), (line["valid"]["clean"], 12), (line["valid"]["robust"], 12)):
            confusion = np.array(entry["confusion"])
            assert sum(entry["n"]) == n
            assert confusion.sum(1).tolist() == entry["n"]
            assert confusion.diagonal().tolist() == entry["correct"]
            assert entry["accuracy"] == pytest.approx(confusion.trace() / n)
            assert entry["worst"] == pytest.approx((confusion.diagonal() / entry["n"]).min())
            assert np.average(entry["loss_by_class"], weights=entry["n"]) == pytest.approx(entry["loss"])
        assert line["images_per_second"] == pytest.approx(48 / line["seconds"])


def test_an_adversarial_run_logs_attacked_images_and_a_standard_one_clean_ones(tmp_path: Path) -> None:
    assert set(go(tmp_path / "a", method="standard")[0]["train"]) == {"clean"}
    assert set(go(tmp_path / "b", method="at")[0]["train"]) == {"robust"}


def test_a_class_without_images_in_the_batches_has_no_loss(tmp_path: Path) -> None:
    data = pictures(40, 2)
    data.y[:2] = 2
    data = Images(data.x, data.y, ("a", "b", "rare"), data.index, split="train")
    # The only training image of the last class is now in the batch of an epoch, now in the rest that is dropped.
    log = go(tmp_path, data=data, recipe=replace(RECIPE, batch_size=20, epochs=8))
    entries = [line["train"]["clean"] for line in log]
    assert {entry["n"][2] for entry in entries} == {0, 1}
    assert all((entry["loss_by_class"][2] is None) == (entry["n"][2] == 0) for entry in entries)
    read_log(tmp_path)


def test_tensorboard_holds_every_epoch(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = Fabric(accelerator="cpu", devices=1, loggers=[TensorBoardLogger(tmp_path, name="board")])
    board.launch()
    log = go(tmp_path / "run", fabric=board)
    (file,) = (tmp_path / "board").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert {"train/clean/accuracy", "valid/robust/worst", "valid/clean/loss"} <= set(events.Tags()["scalars"])
    scalars = events.Scalars("valid/robust/accuracy")
    assert [event.step for event in scalars] == [1, 2, 3, 4]
    assert [event.value for event in scalars] == pytest.approx([line["valid"]["robust"]["accuracy"] for line in log])


# What a run depends on, and what it leaves alone


def test_a_run_depends_on_its_seed_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    go(tmp_path / "one")
    torch.manual_seed(2)
    go(tmp_path / "other")
    go(tmp_path / "seeded", seed=1)
    assert_same(tmp_path / "one", tmp_path / "other")
    last = "last.safetensors"
    assert state(tmp_path / "one")[last] != state(tmp_path / "seeded")[last]


def test_dropout_draws_anew_in_every_epoch(tmp_path: Path) -> None:
    dropped: list[Tensor] = []
    model = network()
    model[4].register_forward_hook(lambda layer, _, out: dropped.append(out == 0) if layer.training else None)
    go(tmp_path, model=model)
    del dropped[0]  # of the look at the model before training
    assert len(dropped) == 12
    assert not torch.equal(dropped[0], dropped[3])
    assert not torch.equal(dropped[0], dropped[1])


@pytest.mark.parametrize("method", FEW)
def test_global_random_state_is_left_alone(tmp_path: Path, method: str) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    go(tmp_path, method=method)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_global_random_state_is_left_alone_by_a_run_that_is_stopped(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(Crash):
        go(tmp_path, watch=crash_at(1, 1))
    assert torch.equal(torch.random.get_rng_state(), before)


def unbalanced() -> Images:
    """Return 60 images of three classes, of which most batches of 8 lack one."""
    y = torch.tensor([0] * 42 + [1] * 14 + [2] * 4)
    whole = pictures(180)
    return whole.subset(torch.cat([(whole.y == c).nonzero().flatten()[: int((y == c).sum())] for c in range(3)]))


@pytest.mark.parametrize("method", [method for method in METHODS if class_state(build(method))])
@pytest.mark.parametrize("kind", ["unbalanced", "a hundred classes"])
def test_it_trains_where_batches_lack_classes(tmp_path: Path, method: str, kind: str) -> None:
    data, size = (unbalanced(), 8) if kind == "unbalanced" else (pictures(200, num_classes=100), 25)
    log = go(tmp_path, method=method, data=data, recipe=replace(RECIPE, epochs=2, batch_size=size, steps=1))
    for path, value in flat(read_log(tmp_path)[-1]["class_state"]):
        assert value is not None, path
    assert log[-1]["valid"]["clean"]["loss"] is not None


# Where the loss is that of TRADES divided by 1 + beta.
LEARNING = {"cfa": 0.7, "cfa-ccr": 0.7}


@pytest.mark.parametrize("method", registry.names("method"))
def test_it_learns(tmp_path: Path, method: str) -> None:
    recipe = replace(RECIPE, epochs=5, augment="none", milestones=(), lr=LEARNING.get(method, 0.1))
    log = go(tmp_path, method=method, recipe=recipe, data=pictures(120))
    assert log[-1]["valid"]["clean"]["accuracy"] > 0.8
    assert log[-1]["valid"]["clean"]["loss"] < np.log(3), "that of chance"


@pytest.mark.parametrize("method", METHODS)
def test_mixed_precision_runs_and_learns_alike(tmp_path: Path, whole: Callable[..., Path], method: str) -> None:
    exact = read_log(whole(method, AROUND, WARM))
    mixed = go(tmp_path, method=method, wrappers=AROUND, recipe=WARM, fabric=cpu("bf16-mixed"))
    losses = [[line["valid"]["clean"]["loss"] for line in log] for log in (exact, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[1] != losses[0]
    weights = load_file(tmp_path / "last.safetensors")
    assert all(value.dtype == torch.float32 for value in weights.values() if value.is_floating_point())


def test_a_mixed_precision_run_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    def mixed() -> Fabric:
        return cpu("bf16-mixed")

    go(tmp_path / "whole", method="at", fabric=mixed())
    with pytest.raises(Crash):
        go(tmp_path / "stopped", method="at", fabric=mixed(), watch=crash_at(2, 2))
    go(tmp_path / "stopped", method="at", fabric=mixed())
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_a_training_attack_uses_the_steps_and_the_mode_of_the_recipe() -> None:
    run = Run("m", "at", replace(RECIPE, steps=7, attack_mode="train"), ThreatModel("Linf", 8 / 255))
    assert (run.attack.steps, run.attack.mode, run.attack.start, run.attack.keep) == (7, "train", "uniform", "last")
    assert run.attack.length == pytest.approx(2 / 255)
    assert replace(run, recipe=replace(RECIPE, step_size=0.01)).attack.length == 0.01


# BatchNorm in training attacks


def convolutional() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)]
        return nn.Sequential(*layers)


@pytest.mark.parametrize(("mode", "passes"), [("eval", 1), ("train", 3)])
def test_an_attack_in_eval_mode_makes_no_pass_over_batchnorm_and_the_step_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, passes: int
) -> None:
    calls, batch_norm = [], nn.functional.batch_norm

    def spy(*given: Any, **settings: Any) -> Tensor:
        calls.append(given[0])
        return batch_norm(*given, **settings)

    monkeypatch.setattr(nn.functional, "batch_norm", spy)
    monkeypatch.setattr(training_state, "fingerprint", lambda model, x: None)  # which takes passes of its own
    recipe = replace(RECIPE, epochs=1, attack_mode=mode, holdout=0.0)
    go(tmp_path, method="at", model=convolutional(), recipe=recipe)
    compared = 8  # passes of the plain network, in steps 1 and 2: two batches, with a graph and without
    looked = 4  # before training: one without a gradient, two with, one in train mode
    assert len(calls) == looked + compared + 3 * passes  # of three steps, whose attack has two gradients each


@pytest.mark.parametrize("method", ["at", "trades", "fat"])
@pytest.mark.parametrize("wrappers", ["", "awp(gamma=0.05)"])
def test_folding_batchnorm_changes_a_run_by_rounding_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, wrappers: str
) -> None:
    logs = [go(tmp_path / "folded", method=method, wrappers=wrappers, model=convolutional())]
    monkeypatch.setattr("classwise.models.folding.pairs", lambda model: ())
    logs += [go(tmp_path / "plain", method=method, wrappers=wrappers, model=convolutional())]
    folded, plain = ([line["train"]["robust"]["loss"] for line in log] for log in logs)
    assert folded[0] == pytest.approx(plain[0], rel=1e-5)
    # The sign of a gradient near 0 turns on rounding, and what is trained on it drifts.
    assert folded == pytest.approx(plain, rel=0.01)


def test_a_hook_between_convolution_and_batchnorm_is_trained_against(tmp_path: Path) -> None:
    def clamped() -> nn.Module:
        model = convolutional()
        conv = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        conv.register_forward_hook(lambda layer, given, made: made.clamp(-0.1, 0.1))
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.fill_(0.3)  # type: ignore[union-attr]
        return model

    recipe = replace(RECIPE, epochs=2)
    found = go(tmp_path / "found", method="at", model=clamped(), recipe=recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classwise.training.step.faster", lambda model: {})
        plain = go(tmp_path / "plain", method="at", model=clamped(), recipe=recipe)
    losses, expected = ([line["train"]["robust"]["loss"] for line in log] for log in (found, plain))
    assert losses == expected
    assert all("note" not in line for line in found)
    with pytest.MonkeyPatch.context() as patch:  # only the comparison is left to see it
        patch.setattr("classwise.models.rewriting.observed", lambda model: False)
        noted = go(tmp_path / "noted", method="at", model=clamped(), recipe=recipe)
    assert [line["train"]["robust"]["loss"] for line in noted] == expected
    assert all("attacks used it as it is" in line["note"] for line in noted)


class Scaled(nn.Module):
    """The same weights, with other code before them."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = network(), scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x * self.scale)
        return logits


def test_a_run_of_the_same_weights_in_other_code_is_not_gone_on_with(tmp_path: Path) -> None:
    go(tmp_path, model=Scaled(1.0))
    assert len(go(tmp_path, model=Scaled(1.0))) == RECIPE.epochs
    with pytest.raises(InputError, match="holds a run of other code: the weights of the network are the same"):
        go(tmp_path, model=Scaled(1.1))
    path = tmp_path / "checkpoint.pt"
    stored = torch.load(path)
    del stored["function"]  # as older versions wrote it
    torch.save(stored, path)
    assert len(go(tmp_path, model=Scaled(1.1))) == RECIPE.epochs


def test_a_run_whose_teacher_has_the_same_weights_in_other_code_is_not_gone_on_with(tmp_path: Path) -> None:
    def learn(scale: float) -> int:
        attack = Run("", "", RECIPE, THREAT).attack
        made = registry.build("method", "ard", 3, attack, teacher=Teacher(Scaled(scale), "same/path"))
        return len(go(tmp_path, method="ard(teacher='same/path')", made=made))

    assert learn(1.0) == learn(1.0) == RECIPE.epochs
    with pytest.raises(InputError, match="holds a run of other code: the weights of the teacher are the same, but its"):
        learn(1.1)
    path = tmp_path / "checkpoint.pt"
    stored = torch.load(path)
    function = json.loads(stored["function"])
    del function["the teacher"]  # as older versions wrote it
    torch.save({**stored, "function": json.dumps(function)}, path)
    assert learn(1.1) == RECIPE.epochs


# Warm-up of the radius


def test_radius_and_step_grow_with_every_step_and_validation_has_the_whole_radius(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, list[tuple[float, float]]] = {"last": [], "success": []}
    attack = PGD.__call__

    def spy(self: PGD, *arguments: Any, **settings: Any) -> Tensor:
        used[self.keep].append((self.threat.eps, self.length))
        return attack(self, *arguments, **settings)

    monkeypatch.setattr(PGD, "__call__", spy)
    go(tmp_path, method="at", recipe=WARM)
    shares = [min(1.0, number / 9) for number in range(1, 13)]  # three steps an epoch
    np.testing.assert_allclose(used["last"], [(share * 0.05, share * 0.0125) for share in shares], rtol=1e-12)
    assert set(used["success"]) == {(0.05, 0.0125)}


# Several processes

DDP = replace(RECIPE, batch_size=16, epochs=3)
# Sums in float64 agree to 1e-15, and the few that a method keeps in float32 to 1e-9.
AGREE = 1e-8
WRAPPED = "awp(gamma=0.05),ema(decay=0.9),swa,fawa(threshold='median')"


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test", GROUP_RANK="0")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", plugins=[TorchElasticEnvironment()])
    fabric.launch()
    path = Path(folder)
    for method in IN_PROCESSES:
        go(path / method, method=method, recipe=DDP, model=smooth(), fabric=fabric)
    go(path / "wrapped", method="at", recipe=DDP, model=smooth(), fabric=fabric, wrappers=WRAPPED)
    go(path / "normed", method="at", recipe=DDP, fabric=fabric, wrappers="swa(start=0)")
    with contextlib.suppress(Crash):
        go(path / "stopped", method="at", recipe=DDP, model=smooth(), fabric=fabric, watch=crash_at(1, 2))
    go(path / "stopped", method="at", recipe=DDP, model=smooth(), fabric=fabric)
    try:
        go(path / "odd", recipe=replace(DDP, batch_size=15), model=smooth(), fabric=fabric)
    except InputError as error:
        (path / f"odd-{rank}").write_text(str(error))
    try:
        go(path / "few", recipe=replace(DDP, holdout=0), data=pictures(9), model=smooth(), fabric=fabric)
    except InputError as error:
        (path / f"few-{rank}").write_text(str(error))
    # Only the first process meets the loss that is not finite; the other must not wait for it for ever.
    try:
        made = Poisoned(2 if rank == 0 else 99, lambda loss: loss + torch.inf)  # of finite gradient
        go(path / "poisoned", recipe=DDP, model=smooth(), fabric=fabric, made=made)
    except InputError as error:
        (path / f"poisoned-{rank}").write_text(str(error))
    fabric.barrier()
    torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, port = tmp_path_factory.mktemp("two"), _free_port()
    # Forked, since a spawned process spends ten seconds on imports; test_evaluation.py has spawned ones.
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        workers = [context.Process(target=_rank, args=(rank, port, str(folder))) for rank in range(2)]
        for worker in workers:
            worker.start()
    deadline = time.monotonic() + 120
    for worker in workers:
        worker.join(max(0.1, deadline - time.monotonic()))
        if worker.exitcode is None:
            worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    return folder


@pytest.mark.parametrize(
    ("folder", "method", "wrappers"), [*((method, method, "") for method in IN_PROCESSES), ("wrapped", "at", WRAPPED)]
)
def test_two_processes_train_as_one_does(
    two_processes: Path, tmp_path: Path, folder: str, method: str, wrappers: str
) -> None:
    one = go(tmp_path, method=method, recipe=DDP, model=smooth(), wrappers=wrappers)
    two = read_log(two_processes / folder)
    for left, right in zip(untimed(one), untimed(two), strict=True):
        for (name, a), (_, b) in zip(flat(left), flat(right), strict=True):
            assert a == (pytest.approx(b, rel=AGREE, abs=AGREE) if isinstance(a, float) else b), name
    for file in tmp_path.glob("*.safetensors"):
        weights, other = load_file(file), load_file(two_processes / folder / file.name)
        for name, value in weights.items():
            torch.testing.assert_close(value, other[name], atol=AGREE, rtol=0)


def test_one_image_counted_twice_in_one_step_would_show_in_two_processes(tmp_path: Path) -> None:
    """The least that two processes could get wrong is ten thousand times what they may differ by."""

    class Twice(Poisoned):
        def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
            step = super().forward(model, x, y, noise)
            twice = nn.functional.cross_entropy(model(x[:1]), y[:1]) / len(x)
            return step._replace(loss=step.loss + twice) if self._calls == 2 else step

    go(tmp_path / "right", recipe=DDP, model=smooth(), made=Poisoned(99, lambda loss: loss))
    go(tmp_path / "wrong", recipe=DDP, model=smooth(), made=Twice(99, lambda loss: loss))
    right, wrong = (load_file(tmp_path / name / "last.safetensors") for name in ("right", "wrong"))
    assert max(float((right[name] - wrong[name]).abs().max()) for name in right) > 1e4 * AGREE


@pytest.mark.parametrize("name", ["last", "swa-last"])
def test_two_processes_measure_the_very_model_that_they_save(two_processes: Path, name: str) -> None:
    # With BatchNorm, whose statistics each process gathers from its own images.
    model, data, folder = network(), pictures(), two_processes / "normed"
    model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    held_out = torch.tensor(json.loads((folder / "run.json").read_text())["held_out"]) - 100
    with torch.no_grad():
        loss = loop.cross_entropy(model.eval()(data.fetch(held_out)), data.y[held_out]).mean()
    line = read_log(folder)[-1]
    measured = line if name == "last" else line["averages"]["swa"]
    assert measured["valid"]["clean"]["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_two_processes_that_were_stopped_go_on_to_the_same_end(two_processes: Path) -> None:
    assert_same(two_processes / "stopped", two_processes / "at")


def test_a_batch_that_does_not_divide_over_processes_is_refused_by_all(two_processes: Path) -> None:
    for rank in range(2):
        assert "batch of 15 does not divide over 2 processes" in (two_processes / f"odd-{rank}").read_text()
    assert not (two_processes / "odd").exists()


def test_fewer_images_than_a_batch_must_divide_over_processes_too(two_processes: Path) -> None:
    for rank in range(2):
        assert "batch of 9 does not divide over 2 processes" in (two_processes / f"few-{rank}").read_text()


def test_divergence_in_one_process_stops_all(two_processes: Path) -> None:
    for rank in range(2):
        assert "in epoch 1, batch 2" in (two_processes / f"poisoned-{rank}").read_text()


def test_a_run_of_one_process_is_not_gone_on_with_by_two(two_processes: Path) -> None:
    with pytest.raises(InputError, match="processes = 2, and now processes = 1"):
        go(two_processes / "standard", recipe=DDP, model=smooth())
