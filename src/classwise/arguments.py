"""What the words of a command line mean: from names and folders to data, models, threats, attacks and Fabric."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from classwise import critical, registry, schemas
from classwise.analysis.evidence import Evidence
from classwise.analysis.network import last_layer
from classwise.attacks import PGD, Transfer, contenders, transfer
from classwise.attacks.base import Attack
from classwise.attacks.ensemble import Ensemble
from classwise.attacks.plan import Contender, Plan, joined
from classwise.data import Images, ImageSet, default_threat, load, stratified_sample
from classwise.data.sources import facts
from classwise.errors import InputError
from classwise.metrics.outcomes import Floats
from classwise.metrics.training import RUN_FILE
from classwise.models import Teacher, load_model
from classwise.models.checkpoint import weights_sha256
from classwise.models.corrected import RECORD, read_record
from classwise.models.load import RUN_FOLDER, record_file
from classwise.recipes import Recipe
from classwise.runs import Run, named_method
from classwise.texts import portable
from classwise.threat import ThreatModel, parse_eps, parse_norm

_RECIPES = {"digits": "digits", "mnist": "mnist", "svhn": "svhn"}
_DEFAULT_RECIPE = "pang2021"
_DEEPEST = 8  # corrections of one another
_MOST_DEVICES, _MOST_NODES = 16, 10_000
_TO_FIT = 1000  # images that a correction is fitted on where no run says which


def images(
    data: str, directory: Path | None, split: str, limit: int | None, seed: int, download: bool = False
) -> ImageSet:
    """Load a split, or a stratified sample of ``limit`` of its images."""
    whole: ImageSet = load(data, directory, split, download)
    return whole if limit is None else whole.subset(stratified_sample(whole.y, limit, seed))


def training_images(
    data: str, directory: Path | None, limit: int | None, seed: int, download: bool, split: str = "train"
) -> Images:
    """Load a split to train on, or to hold in memory beside it.

    Raises:
        InputError: it is too large to be held in memory.
    """
    found = images(data, directory, split, limit, seed, download)
    if not isinstance(found, Images):
        raise InputError(f"{data} is streamed from files, and training needs images in memory; use a smaller set.")
    return found


def data_of_run(model: str) -> str:
    """Return the data set that a ``run:FOLDER`` was trained on, or that a ``corrected:FOLDER`` was fitted on.

    Raises:
        InputError: the model is neither, so the data set must be named; or its folder holds none.
    """
    if not model.startswith(("run:", "corrected:")):
        raise InputError("Name the data set with --data; `classwise list data` shows which there are.")
    path, record = _record(model)
    try:
        return str(record["data"]["name"])
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged; name the data set with --data.") from error


def held_out(
    model: str, data: str, directory: Path | None, split: str, limit: int | None, seed: int, download: bool = False
) -> tuple[ImageSet, str]:
    """Load images to fit a correction on, and say in words which they are.

    Of a run those training images that it held out; for any other model a stratified sample of the split.

    Raises:
        InputError: the run was trained on other data, or held out nothing.
    """
    whole = images(data, directory, split, None, seed, download)
    # Where there is no folder "test", that of "val" is what results are reported on.
    if split != "train" and load(data, directory, "test", download).split == whole.split:
        whole = replace(whole, split="test")  # type: ignore[type-var]
    for _ in range(_DEEPEST):
        if model.startswith("corrected:"):
            model = str(_record(model)[1]["model"])
    if split == "train" and model.startswith("run:"):
        found, which = _held_out_of_run(model, whole), "training images that the run held out"
    else:
        found, limit = whole, _TO_FIT if limit is None else limit
        trained = "; the model may have been trained on them" if split == "train" else ""
        which = f"a stratified sample of the split {split}{trained}"
    return (found if limit is None else found.subset(stratified_sample(found.y, limit, seed))), which


def _held_out_of_run(model: str, whole: ImageSet) -> ImageSet:
    path, record = _record(model)
    try:
        name, size, sha256, index = *(record["data"][key] for key in ("name", "n", "sha256")), record["held_out"]
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} does not say what was held out; train again, or restore the file.") from error
    if name != whole.name or (size == len(whole) and sha256 != whole.sha256()):
        raise InputError(f"{model} was trained on other images of {name} than these; leave out --data, or give those.")
    if not index:
        raise InputError(f"{model} held out no images to fit on; train with holdout above 0, or name another --split.")
    held: ImageSet = whole.subset(torch.isin(whole.index, torch.tensor(index)).nonzero().squeeze(1))
    return held


def _record(model: str) -> tuple[Path, Any]:
    """Return the file that says how a ``run:FOLDER`` or a ``corrected:FOLDER`` was made, and what it says."""
    kind, _, rest = model.partition(":")
    if kind == "corrected":
        return Path(rest).expanduser() / RECORD, read_record(Path(rest).expanduser())
    match = re.fullmatch(RUN_FOLDER, rest)
    path = record_file(Path(match[1] if match else "").expanduser())
    return path, schemas.read(path, schemas.RUN, "name the data set with --data, or train again")


def start(model: str) -> str:
    """Return architecture and weights file of a run to go on from, ``ARCH@FILE`` in place of ``run:FOLDER``.

    What is trained from it can then be loaded without its folder. A run of a network that no text with a file can
    name, such as one made by a Python file, stays as it is.
    """
    match = re.fullmatch(f"run:{RUN_FOLDER}", model)
    path = Path(match[1] if match else "").expanduser() / RUN_FILE
    try:
        arch = schemas.read(path, schemas.RUN, "")["model"].partition("@")[0] if match else ""
    except InputError:
        return model  # the loader says what is wrong
    if match is None or arch.startswith(("run:", "export:")) or ".py" in arch:
        return model
    return f"{arch}@{path.parent / (match[2] or 'best')}.safetensors"


def threat(data: str, eps: str | float | None, norm: str | int | None) -> ThreatModel:
    """Return the threat model asked for, or the usual one of the data set.

    Raises:
        InputError: a norm without a radius, or a data set without a usual threat.
    """
    if eps is not None:
        return ThreatModel(parse_norm("Linf" if norm is None else norm), parse_eps(eps))
    if norm is not None:
        raise InputError("A norm needs a radius; give --eps too.")
    return default_threat(registry.parse(data)[0])


def widest(data: str, eps_max: str | float | None, norm: str | int | None) -> ThreatModel:
    """Return the largest set that critical eps are looked for in: as asked, or four times the usual radius of the data.

    Raises:
        InputError: a norm without a radius, a radius of 0, or a data set without a usual threat.
    """
    if eps_max is not None:
        return critical.widest("Linf" if norm is None else norm, eps_max)
    usual = facts(data).threat
    if norm is not None or usual is None:
        raise InputError("Say how far to look: give --eps-max, such as --eps-max 32/255.")
    return ThreatModel(usual.norm, min(1.0, 4 * usual.eps) if usual.norm == "Linf" else 4 * usual.eps)


def radii(text: str) -> list[float]:
    """Read radii separated by commas, such as 2/255,4/255."""
    return [parse_eps(part.strip()) for part in text.split(",") if part.strip()]


def recipe(text: str | None, data: str) -> Recipe:
    """Return the recipe asked for, or the usual one of the data set."""
    found: Recipe = registry.build("recipe", text or _RECIPES.get(registry.parse(data)[0], _DEFAULT_RECIPE))
    return found


def normalised(model: str, train: Images, plan: Recipe) -> str:
    """Add the channel statistics of the training images to an architecture that names none."""
    if not plan.normalize or "@" in model or ":" in model:
        return model
    name, settings = registry.parse(model)
    if {"mean", "std"} & settings.keys():
        return model
    pixels = train.x.transpose(0, 1).flatten(1).double() / 255
    settings["mean"] = [round(value, 4) for value in pixels.mean(1).tolist()]
    settings["std"] = [round(value, 4) for value in pixels.std(1).tolist()]
    return written(name, settings)


def headed(model: str, head: str | None) -> str:
    """Add the last layer that a training method needs to an architecture that names none.

    Raises:
        InputError: the architecture names another.
    """
    arch, at, file = model.partition("@")
    if head is None or ":" in arch:  # where a network comes from elsewhere, the method looks for its head itself
        return model
    name, settings = registry.parse(arch)
    wanted, given = registry.parse(head), registry.parse(str(settings.get("head", head)))
    if given not in (wanted, (wanted[0], {})):
        raise InputError(f"The training method needs the head {head!r}, and {model!r} names another; leave it out.")
    return written(name, {**settings, "head": head}) + at + file


def written(name: str, settings: Mapping[str, Any]) -> str:
    """Return ``name(key=value, …)``, which :func:`classwise.registry.parse` reads."""
    inside = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    return f"{name}({inside})" if inside else name


def model(text: str, data: ImageSet, seed: int, fixed_shape: int | None = None) -> nn.Module:
    """Load a model and check that it fits the data, in batches of a fixed shape if there is one."""
    return load_model(text, num_classes=len(data.classes), shape=data.shape, seed=seed, fixed_shape=fixed_shape)


def method(text: str, data: ImageSet, attack: PGD, seed: int) -> Any:
    """Build a training method, and load the teacher that its settings name.

    Raises:
        InputError: no such method, setting or class, or a teacher that cannot teach these data.
    """
    name, settings = registry.parse(text)
    given = {}
    if "teacher" in settings and "teacher" in taken_by(registry.entry("method", name)):
        given["teacher"] = teacher(settings["teacher"], data, seed)
    return named_method(text, data, attack, **given)


def taken_by(entry: registry.Entry) -> set[str]:
    """Return the names of the settings that something registered can be built with."""
    return set(inspect.signature(entry.build).parameters)


def fine_tunes(entry: registry.Entry) -> bool:
    """Tell whether a registered method goes on with a trained network."""
    return bool(getattr(registry.made_by(entry.build), "fine_tunes", False))


class Training(NamedTuple):
    """What :func:`classwise.fit` is called with."""

    run: Run
    method: Any
    network: nn.Module


def training(
    method_text: str,
    model_text: str,
    train: Images,
    plan: Recipe,
    threat: ThreatModel,
    seed: int,
    wrappers: str = "",
) -> Training:
    """Build what the words of a training run name, and check that it goes together.

    Raises:
        InputError: something is unknown, or does not fit the data or the method.
    """
    text = normalised(start(model_text), train, plan)
    run = Run(text, method_text, plan, threat, seed, wrappers)
    built = method(method_text, train, run.attack, seed)
    run = replace(run, model=headed(run.model, built.head))
    return Training(run, built, model(run.model, train, seed))


def fresh(model: str) -> bool:
    """Tell whether a model text names an architecture without weights."""
    return "@" not in model and registry.parse(model)[0] in registry.names("model")


def teacher(text: Any, data: ImageSet, seed: int) -> Teacher:
    """Load the network that a student is to learn from.

    Raises:
        InputError: it has no weights, cannot be had, or was trained on other classes.
    """
    if not isinstance(text, str) or fresh(text):
        raise InputError(f"The teacher {text!r} has no weights; write teacher='run:FOLDER' or teacher='ARCH@FILE'.")
    network = model(text, data, seed)
    if text.startswith("run:"):
        classes = tuple(_record(text)[1]["classes"])
        if classes != data.classes:
            other = next(pair for pair in zip(classes, data.classes, strict=True) if pair[0] != pair[1])
            raise InputError(
                f"The teacher {text} has a class {other[0]!r} where the data have {other[1]!r}; give one that was "
                "trained on the same data set."
            )
    return Teacher(network, text)


def attacks(text: str, threat: ThreatModel, data: ImageSet, seed: int) -> Mapping[str, Contender]:
    """Build attacks, suites and plans by name, and ``transfer(source='MODEL', attack='NAME')``, which takes a model."""
    found = joined(
        {portable(name): _transfer(name, threat, data, seed)}
        if name.partition("(")[0].strip() == "transfer"
        else contenders([name], threat)
        for name in registry.split(text)
    )
    return found or contenders(text, threat)  # which says what is wrong where nothing was named


def single(text: str, threat: ThreatModel, data: ImageSet, seed: int) -> Attack:
    """Build one attack that can be called on a batch: several become an ensemble; AutoAttack stands for the default.

    Raises:
        InputError: another plan than the default, since plans are run over a whole data set.
    """
    found = attacks("autoattack" if text == "fast" else text, threat, data, seed)
    called = [attack for attack in found.values() if not isinstance(attack, Plan)]
    if len(called) < len(found):
        raise InputError("A plan is run over all images; with --until, name attacks, such as autoattack or apgd-t.")
    return called[0] if len(called) == 1 else Ensemble(tuple(called))


def _transfer(text: str, threat: ThreatModel, data: ImageSet, seed: int) -> Transfer:
    settings = registry.parse(text)[1]
    chosen = {"attack": "pgd(keep='last')", **settings}
    if set(chosen) != {"attack", "source"} or not all(isinstance(value, str) for value in chosen.values()):
        raise InputError("A transfer takes a source and an attack, as in transfer(source='run:FOLDER', attack='fgsm').")
    if fresh(chosen["source"]):
        raise InputError(f"The source {chosen['source']!r} has fresh weights; give run:FOLDER or ARCH@FILE.")
    source = model(chosen["source"], data, seed)
    name = f"{chosen['source']} with weights {weights_sha256(source)[:12]}"
    return transfer(registry.build("attack", chosen["attack"], threat), source, name)


def last_layers(models: Iterable[str], evidence: Evidence) -> dict[str, Floats]:
    """Load models that were evaluated; return the rows of their last layers (C, F) by the SHA-256 of their weights.

    Raises:
        InputError: a model is none of those that were evaluated.
    """
    classes = {
        str(subject.result.header["model"]["sha256"]): len(subject.result.outcomes.classes)
        for subject in evidence.subjects
    }
    rows = {}
    for text in models:
        network = load_model(text, num_classes=next(iter(classes.values()), None))
        sha = weights_sha256(network)
        if sha not in classes:
            raise InputError(f"{text} has the weights {sha[:12]}, which none of these evaluations is of.")
        rows[sha] = last_layer(network)
    return rows


def synchronised(network: nn.Module, made: Fabric) -> nn.Module:
    """Let BatchNorm see the batches of all processes.

    Raises:
        InputError: there is no GPU, for which alone PyTorch has it.
    """
    if made.device.type != "cuda":
        raise InputError("--sync-batchnorm needs GPUs, as PyTorch has it for no other device; leave it out.")
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def processes(devices: int, num_nodes: int, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return processes on each machine, and machines: what torchrun has started, else what was asked for.

    Raises:
        InputError: another number was asked for than torchrun has started.
    """
    if not {"LOCAL_WORLD_SIZE", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"} <= environment.keys():
        return devices, num_nodes
    here, everywhere = int(environment["LOCAL_WORLD_SIZE"]), int(environment["WORLD_SIZE"])
    started = here, everywhere // here
    for option, wanted, found in zip(("devices", "num-nodes"), (devices, num_nodes), started, strict=True):
        if wanted not in (1, found):
            raise InputError(f"torchrun has started {here} x {started[1]} processes, but --{option} is {wanted}.")
    return started


def _refuse_too_many(devices: int, num_nodes: int) -> None:
    """Refuse more processes than can be meant, before they are started.

    Raises:
        InputError: there are none, or more than ``_MOST_DEVICES`` or four a core on a machine, or too many machines.
    """
    most = max(_MOST_DEVICES, 4 * (os.cpu_count() or 1))
    for option, number, limit in (("devices", devices, most), ("num-nodes", num_nodes, _MOST_NODES)):
        if not 1 <= number <= limit:
            raise InputError(f"--{option} is {number}, but must be from 1 to {limit:,}.")


def fabric(
    accelerator: str,
    devices: int,
    num_nodes: int = 1,
    precision: str = "32-true",
    loggers: Sequence[Logger] = (),
    strategy: str = "auto",
) -> Fabric:
    """Make and launch Fabric; it recognises torchrun, SLURM and other launchers by their environment.

    Raises:
        InputError: the accelerator or the number of devices is not to be had.
    """
    _refuse_too_many(devices, num_nodes)
    devices, num_nodes = processes(devices, num_nodes)
    if accelerator == "auto":  # other accelerators than these two cannot sum in float64
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    settings: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes}
    if strategy == "auto" and devices * num_nodes > 1:
        strategy = "ddp"
    try:
        made = Fabric(**settings, strategy=strategy, precision=precision, loggers=list(loggers))  # type: ignore[arg-type]
    except (ValueError, RuntimeError, TypeError, MisconfigurationException) as error:
        reason = re.split(r"\.\s", str(error))[0].rstrip(".")
        raise InputError(f"Cannot use {devices} x {accelerator}: {reason}.") from error
    made.launch()
    return made
