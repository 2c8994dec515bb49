"""Evaluation: attacks and plans over a data set, to the outcome of every image, as one result."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import classwise
from classwise import flags, ladder, records
from classwise.attacks.base import Attack, described, input_gradient
from classwise.attacks.ensemble import Ensemble
from classwise.attacks.plan import Contender, Plan, members
from classwise.attacks.square import Square
from classwise.attacks.transfer import Transfer
from classwise.classifier import Classifier, as_classifier, as_module
from classwise.data.images import ImageSet, refuse_batch_size
from classwise.data.splits import evenly
from classwise.engine import Engine, Field, Snapshot, alone, channels_last
from classwise.errors import InputError
from classwise.identity import first_difference
from classwise.judging import judging
from classwise.losses import cross_entropy
from classwise.memory import batch_that_fits, freed_memory_kept
from classwise.metrics.autoattack import suite
from classwise.metrics.examples import EXAMPLES_FILE, Examples
from classwise.metrics.outcomes import CLEAN, Outcomes
from classwise.metrics.result import RESULT_FILE, Result
from classwise.metrics.training import RUN_FILE
from classwise.models.checkpoint import weights_note, weights_sha256
from classwise.models.fingerprint import fingerprint, refuse_changed
from classwise.models.fixed_shape import FixedShape, refuse_fixed_shape
from classwise.models.searched import Precision, Searched
from classwise.noise import Noise
from classwise.preflight import LOOK, check_sizes, preflight, standing, taken_from
from classwise.probe import probe
from classwise.records import Clean, Records, Row, Turn
from classwise.recraft import SHOWN, recraft
from classwise.texts import portable
from classwise.threat import ThreatModel

__all__ = ["AUDIT", "Snapshot", "evaluate"]

_MODEL = "the model"
_PRINTED = 16  # images that say what a model computes
_COMPARED = 16  # images that what attacks search on is compared with the model on, at three points of each ball
AUDIT = 1.0
"""Misses that the audit of a plan excludes unless told otherwise, in per cent of all images."""


@freed_memory_kept()
def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    data: ImageSet,
    attacks: Mapping[str, Contender],
    *,
    seed: int = 0,
    audit: float = AUDIT,
    batch_size: int | None = None,
    fixed_shape: int | None = None,
    search_precision: Precision = "float32",
    examples: int = SHOWN,
    device: torch.device | str | None = None,
    directory: Path | str | None = None,
    fabric: Fabric | None = None,
    watch: Callable[[Snapshot], None] | None = None,
    name: str | None = None,
    command: str | None = None,
) -> Result:
    """Attack every image that the model gets right, with every attack and plan.

    Args:
        model: a module or function that takes images in [0, 1] and returns logits; left in the mode it came in.
        data: images with labels 0 … C − 1; the model must return C logits.
        attacks: by name, all with one threat model; see :func:`classwise.build_attacks`.
        seed: of the attacks' random numbers.
        audit: of plans: misses of the full suite that a random sample of the survivors must exclude, in per cent of
            all images; 0 for no audit.
        batch_size: images attacked at once; does not change a verdict. None for what memory holds.
        fixed_shape: pass exactly so many images at a time, the last ones filled up, so that verdicts stay the same
            to the last bit where kernels round differently by the number of images; None for any number.
        search_precision: what the attacks compute in: "float32", or "bfloat16" on hardware that is faster with it. A
            candidate counts only if it fools the model in float32.
        examples: broken images of the weakest class whose pixels are written to ``examples.npz`` for the report; 0 for
            none.
        device: where to compute; the model's own device if None.
        directory: where ``result.json`` and ``outcomes.npz`` are written; an interrupted evaluation with the same
            settings goes on from there, and a finished one is returned as it is. Where the folder holds a finished
            evaluation by the first of these attacks, the others are run on its survivors alone.
        fabric: several processes, each of which takes its share of the images; one process if None.
        watch: called after each batch with what is known so far.
        name: the model's name in the result; its class if None.
        command: the command line that makes this result, for the record.

    Returns:
        Outcomes and their header, the same in every process.

    Raises:
        InputError: no attack or image, attacks with different threats, a model whose output is no matrix of
            finite logits for these classes, or a directory that holds something else.
    """
    model = as_module(model)
    where = torch.device(device or (fabric.device if fabric else _device(model)))
    folder, watch = None if directory is None else Path(directory), watch or (lambda snapshot: None)
    settings = _Settings(seed, audit, batch_size, fixed_shape, search_precision, examples, where, name)
    job = _Job(model, data, attacks, settings, folder, fabric, watch)
    _check(job)
    with alone(folder, fabric):
        return _evaluated(job, command)


def _evaluated(job: _Job, command: str | None) -> Result:
    """Return the result that the folder holds, or go on until it does."""
    earlier = _earlier(job)
    if earlier is not None and list(earlier.outcomes.attacks) == list(job.attacks):
        return earlier
    start = time.perf_counter()
    with _ready(job) as (engine, seen):
        found = _run(job, engine, seen, earlier)
        shown = _examples(job, engine, found.outcomes)
        search = _search_record(engine)
    spent = {"seconds": time.perf_counter() - start, "batch_size": engine.batch_size, "command": command}
    result = Result(header={**_header(job, found), "search": search, **spent}, outcomes=found.outcomes)
    _write(job, result, shown, added=earlier is not None)
    return result


@dataclass(frozen=True)
class _Settings:
    """The settings of an evaluation, by the names of :func:`evaluate`."""

    seed: int
    audit: float
    batch_size: int | None
    fixed_shape: int | None
    search_precision: Precision
    examples: int
    device: torch.device
    name: str | None


@dataclass(frozen=True)
class _Job:
    """What is to be evaluated, and how."""

    model: nn.Module
    data: ImageSet
    attacks: Mapping[str, Contender]
    settings: _Settings
    folder: Path | None
    fabric: Fabric | None
    watch: Callable[[Snapshot], None]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What every result of this model on these images says alike, whatever the attacks."""
        threat = next(iter(self.attacks.values())).threat
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        model = {"name": self.settings.name or type(self.model).__name__, "sha256": weights_sha256(self.model)}
        data = {key: getattr(self.data, key) for key in ("name", "split", "note")}
        return {
            "classwise": classwise.__version__,
            "model": {**model, "parameters": parameters},
            "data": data | {"n": len(self.data), "sha256": self.data.sha256()},
            "threat": {"norm": threat.norm, "eps": threat.eps, "eps_text": threat.eps_text},
            "seed": self.settings.seed,
        }

    @cached_property
    def functions(self) -> dict[str, Any]:
        """Fingerprints of the model and of the sources of transfer attacks, on images of the data, for JSON."""
        device, rows = self.settings.device, self.settings.fixed_shape
        x = self.data.fetch(evenly(self.data.index, _PRINTED)).to(device)
        found: dict[str, Any] = {}
        for name, model in {_MODEL: self.model, **_sources(self.attacks)}.items():
            model.to(device)  # whatever it returns
            with judging(called := as_classifier(model), device):
                seen = fingerprint(called if rows is None or name != _MODEL else FixedShape(called, rows), x)
            found[name] = seen and seen.record
        return found

    @cached_property
    def claim(self) -> dict[str, Any]:
        """What a folder must agree with, in words that can be named where it does not, and fingerprints."""
        attacks = {name: {"settings": repr(attack)} for name, attack in self.attacks.items()}
        settings = {key: getattr(self.settings, key) for key in ("fixed_shape", "search_precision")}
        plan = {"audit": self.settings.audit} if _audited(self.attacks) else {}
        return {**self.about, **plan, **settings, "attacks": attacks, "functions": self.functions}

    @cached_property
    def identity(self) -> str:
        """Hash of everything that verdicts depend on."""
        return self.identity_of(self.attacks)

    def identities(self, attacks: Mapping[str, Contender], stored: Mapping[str, Any]) -> list[str]:
        """Return the identities that a record of this model under these attacks may have.

        Earlier versions hashed the model's name as it was typed. What it was is on record; it is believed where a
        fingerprint beside it says what the model computes.

        Args:
            attacks: by name.
            stored: what the record says of itself.
        """
        names = [None, self.about["model"]["name"]]
        if (stored.get("functions") or {}).get(_MODEL) is not None:
            names.append((stored.get("model") or {}).get("name"))
        return [self.identity_of(attacks, name) for name in names]

    def identity_of(self, attacks: Mapping[str, Contender], name: str | None = None) -> str:
        """Return what the identity would be with these attacks.

        How the model is called is no part of it where a fingerprint tells what it computes: a path may be written in
        many ways.

        Args:
            attacks: by name.
            name: of the model, where it is a part of the identity.
        """
        if self.functions[_MODEL] is None:
            name = self.about["model"]["name"]
        model = {key: value for key, value in {**self.about["model"], "name": name}.items() if value is not None}
        parts: list[Any] = [{**self.about, "model": model}, {each: repr(attacks[each]) for each in attacks}]
        # Only what is used takes part, so that results without a plan keep the identity they always had.
        if _audited(attacks):
            parts.append({"audit": self.settings.audit})
        if self.settings.fixed_shape is not None:
            parts.append({"fixed_shape": self.settings.fixed_shape})
        if self.settings.search_precision != "float32":
            parts.append({"search_precision": self.settings.search_precision})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def rank(self) -> int:
        return 0 if self.fabric is None else self.fabric.global_rank

    @property
    def partial(self) -> Path | None:
        ranks = 1 if self.fabric is None else self.fabric.world_size
        return None if self.folder is None else self.folder / f"partial-{self.rank}-of-{ranks}.npz"


@dataclass
class _Found:
    """What an evaluation found out."""

    clean: Clean
    outcomes: Outcomes
    headers: dict[str, Any]
    flags: list[flags.Flag]


def _check(job: _Job) -> None:
    if not isinstance(job.attacks, Mapping):
        raise InputError(
            f"The attacks go by names, as in what classwise.build_attacks('pgd', threat) returns, not {job.attacks!r}."
        )
    if len({attack.threat for attack in job.attacks.values()}) != 1:
        raise InputError("Name at least one attack, and give all attacks of an evaluation the same threat model.")
    if not hasattr(job.data, "fetch"):
        raise InputError(
            f"The data of an evaluation are classwise.Images or the like, not a {type(job.data).__name__}."
        )
    if not len(job.data):
        raise InputError("An evaluation needs at least one image.")
    if job.settings.batch_size is not None:
        refuse_batch_size(job.settings.batch_size)
    if not 0 <= job.settings.seed < 2**63:
        raise InputError(f"The seed is {job.settings.seed}, but must be a whole number from 0 to 2^63 - 1.")
    _refuse_boundless(next(iter(job.attacks.values())).threat, job.data.shape)
    if job.settings.examples < 0:
        raise InputError(f"The number of examples cannot be {job.settings.examples}; 0 stores none.")
    if job.settings.fixed_shape is not None:
        refuse_fixed_shape(job.settings.fixed_shape)
    if not 0 <= job.settings.audit <= 100:
        raise InputError(
            f"The audit of {job.settings.audit:g} points must be between 0 and 100 per cent of the images."
        )


def _refuse_boundless(threat: ThreatModel, shape: Sequence[int]) -> None:
    """Refuse a radius within which every image becomes any other; an Linf radius of 1 says so by itself."""
    white = torch.ones(1, *shape, dtype=torch.float64)
    if threat.norm != "Linf" and threat.eps >= float(threat.distance(white, torch.zeros_like(white))):
        sides = "x".join(str(side) for side in shape)
        raise InputError(
            f"Within the {threat.norm} radius {threat.eps:g} every image of {sides} becomes any other: pixels are in "
            f"[0, 1], so write for example {threat.eps:g}/255."
        )


@contextmanager
def _ready(job: _Job) -> Iterator[tuple[Engine, list[flags.Flag]]]:
    """Put the model in order, look at it, and yield the engine with what was noticed; put the model back."""
    device, rows, seen = job.settings.device, job.settings.fixed_shape, list(standing(job.model))
    job.model.to(device)  # whatever it returns
    called = Classifier(job.model, job.settings.name, len(job.data.classes))
    with judging(called, device):
        sample = evenly(job.data.index, LOOK)
        x, y = job.data.fetch(sample).to(device), job.data.y[sample].to(device)
        trial = x[:2] if rows is None else x.repeat(-(-rows // len(x)), 1, 1, 1)[:rows]  # a size that the model takes
        model: nn.Module = called if rows is None else FixedShape(called, rows)
        check_sizes(model, x[:2])
        seen += taken_from(called, trial)
        with channels_last(called, trial):
            ranks = 1 if job.fabric is None else job.fabric.world_size
            two = x[:2] if rows is None else torch.cat([trial, trial])
            size = job.settings.batch_size or batch_that_fits(model, two, ranks)
            look, few = max(2, min(LOOK, size)), max(1, min(LOOK, size))
            looked = preflight(model, x[:look], y[:look], job.data.classes, min(size, len(job.data)))
            seen += looked.flags
            seen += flags.look(model, x[:few], y[:few], job.data.classes)
            around = _around(job, model, sample, rows or min(_COMPARED, size))
            found = Searched(called, trial, job.settings.search_precision, around)
            seen += [] if found.note is None else [flags.Flag("plain_search", found.note)]
            searched = found if rows is None else FixedShape(found, rows)
            known = Records.open(len(job.data), job.partial, job.identity, job.claim, job.identities(job.attacks, {}))
            known.save()  # a folder that cannot be written is noticed now, not hours later
            yield Engine(model, searched, job.data, known, job.settings.seed, size, device, job.fabric, job.watch), seen
            seen += looked.again(model)


def _around(job: _Job, model: nn.Module, positions: Tensor, rows: int) -> list[Tensor]:
    """Return batches of so many images to compare what attacks search on with the model.

    They are clean images, random points on the border of the ball, and points there that the gradient leads to, since
    what limits activations may limit none of clean images.
    """
    chosen = positions[torch.arange(rows) * max(1, len(positions) // rows) % len(positions)]
    device, threat = job.settings.device, next(iter(job.attacks.values())).threat
    x, y = job.data.fetch(chosen).to(device), job.data.y[chosen].to(device)
    noise = Noise(job.settings.seed, job.data.index[chosen].to(device)).fold("rewriting")
    point = x.clone().requires_grad_(True)
    directions = noise.normal(x.shape[1:], device), input_gradient(cross_entropy(model(point.clone()), y), point)
    return [x, *(threat.project(x + threat.eps * threat.ascend(each, x), x) for each in directions)]


def _audited(attacks: Mapping[str, Contender]) -> bool:
    """Tell whether the audit plays a part."""
    return any(isinstance(attack, Plan) and attack.full for attack in attacks.values())


def _sources(attacks: Mapping[str, Contender]) -> dict[str, nn.Module]:
    """Return the models that transfer attacks craft on, by what they are called."""
    held: list[Any] = [_as_attack(attack) for attack in attacks.values()]
    found = {}
    while held:
        attack = held.pop()
        if isinstance(attack, Transfer):
            found[f"the source {portable(attack.name)}"] = attack.source
        held += [*getattr(attack, "attacks", ()), *([attack.attack] if hasattr(attack, "attack") else ())]
    return found


def _search_record(engine: Engine) -> dict[str, Any]:
    """Say how the model was computed while attacks searched."""
    return next(part.record for part in engine.searched.modules() if isinstance(part, Searched))


_OF_THE_MODEL = (
    "batch_dependent",
    "gradient_dependent",
    "in_forward_optimisation",
    "non_deterministic",
    "zero_gradient",
)


def _run(job: _Job, engine: Engine, seen: list[flags.Flag], earlier: Result | None) -> _Found:
    """Settle every verdict that an earlier result does not hold already."""
    clean = engine.look()
    if earlier is not None:
        clean = _as_before(clean, earlier)
        seen += [flags.Flag(**{**flag, "classes": tuple(flag["classes"])}) for flag in earlier.header["flags"]]
    known = () if earlier is None else earlier.outcomes.attacks
    fields, headers = dict[str, Field](), dict[str, Any]()
    for name, contender in job.attacks.items():
        if name not in known:
            field = fields[name] = Field(engine, name, _first_row(clean, earlier))
            ending = _attack(job, field, contender, seen)
            headers[name] = _view_header(contender, field, ending, known, job.settings.search_precision)
            seen += _black_box(field, job.data.classes)
    stages = {name: field.names for name, field in fields.items() if "stages" in headers[name]}
    outcomes = records.outcomes(job.data, clean, {name: field.row for name, field in fields.items()}, stages)
    if earlier is not None:
        outcomes = earlier.outcomes.extended(outcomes)
        headers = {**earlier.header["attacks"], **headers}
    if not any(isinstance(attack, Plan) and attack.full for attack in job.attacks.values()):
        seen += _probe(job, engine, torch.from_numpy(outcomes.correct()))  # else the plan had to know before
    rejected = {name: sum(int(turn.rejected) for turn in field.turns) for name, field in fields.items()}
    attacks = {name: _as_attack(contender) for name, contender in job.attacks.items()}
    seen += flags.after(outcomes, attacks, [rejected.get(name, 0) for name in attacks])
    return _Found(clean, outcomes, headers, seen)


def _attack(job: _Job, field: Field, contender: Contender, seen: list[flags.Flag]) -> ladder.Ending:
    """Run a plan, or an attack as the plan that it is, and take note of the flags that come up."""
    # What other attacks of this evaluation brought up must not decide how this one goes on.
    of_model = [flag for flag in seen if flag.attack is None and flag.flag in _OF_THE_MODEL]

    def suspicions(survivors: Tensor) -> list[str]:
        found = _probe(job, field.engine, survivors)
        seen.extend(found)
        names = [flag.flag for flag in flags.distinct([*of_model, *found]) if flag.flag in flags.SERIOUS]
        return field.engine.agreed([f"the flag {name}" for name in names])

    return ladder.run(
        contender if isinstance(contender, Plan) else Plan(members(field.view, contender)),
        field,
        field.view,
        suspicions=suspicions,
        points=job.settings.audit,
        noise=Noise(job.settings.seed, job.data.index).fold(field.view),
        num_classes=len(job.data.classes),
    )


def _probe(job: _Job, engine: Engine, survivors: Tensor) -> list[flags.Flag]:
    """Climb once more with a few survivors, evenly spread, and say what looks odd; the same in every process."""
    which = evenly(job.data.index, max(1, min(LOOK, engine.batch_size)), among=survivors)
    x, y = job.data.fetch(which).to(engine.device), job.data.y[which].to(engine.device)
    noise = Noise(job.settings.seed, job.data.index[which].to(engine.device)).fold("probe")
    threat = next(iter(job.attacks.values())).threat
    return list(probe(engine.model, x, y, threat, noise, job.data.classes)) if len(which) else []


def _as_attack(contender: Contender) -> Attack:
    """Return what a plan is made of as one attack, to be looked at."""
    if not isinstance(contender, Plan):
        return contender
    return Ensemble(tuple(stage.attack for stage in (*contender.stages, *contender.full)))


def _as_before(clean: Clean, earlier: Result) -> Clean:
    """Return the clean verdicts of an earlier evaluation, on which the new attacks build."""
    prediction = torch.from_numpy(earlier.outcomes.clean.copy())
    margin = torch.from_numpy(earlier.outcomes.margins[CLEAN].copy())
    return replace(clean, prediction=prediction, margin=margin)


def _black_box(field: Field, classes: tuple[str, ...]) -> Iterator[flags.Flag]:
    """Ask of a view of several stages whether random search found what gradients had missed."""
    square = torch.tensor([isinstance(stage.attack, Square) for stage in field.stages] + [False])
    if square.any() and not square[:-1].all():
        by_square, broken = square[field.row.stage], field.row.stage >= 0
        by_gradient, by_search = (broken & ~by_square).numpy(), (broken & by_square).numpy()
        yield from flags.black_box_gain(by_gradient, by_search, field.y.numpy(), classes)


def _first_row(clean: Clean, earlier: Result | None) -> Row:
    """Return the verdicts that an attack begins with; after an earlier evaluation, those of its worst case."""
    row = Row.begin(clean)
    if earlier is None:
        return row
    broken = torch.from_numpy(earlier.outcomes.adversarial_prediction().copy())
    return Row(broken, row.margin, row.distance, row.stage, row.tried)


def _header(job: _Job, found: _Found) -> dict[str, Any]:
    note = weights_note(job.model)
    return {
        **job.about,
        # Not part of the identity: what counts is the weights, not how they were found in their file.
        "model": {**job.about["model"], **({"note": note} if note else {})},
        "identity": job.identity,
        "audit": job.settings.audit,
        "functions": job.functions,
        "fixed_shape": job.settings.fixed_shape,
        "search_precision": job.settings.search_precision,
        "device": str(job.settings.device),
        "environment": environment(),
        "flags": [flag.record() for flag in flags.distinct(found.flags)],
        "logits": _logit_scale(found.clean),
        "groups": {group: list(members) for group, members in job.data.groups.items()},
        "attacks": found.headers,
    }


def _view_header(
    contender: Contender, field: Field, ending: ladder.Ending, known: tuple[str, ...], precision: str
) -> dict[str, Any]:
    """Say how a view came about: its settings, its stages, and how it ended."""
    header: dict[str, Any] = {
        "settings": repr(contender),
        "attack": described(contender),
        "seconds": sum(float(turn.seconds) for turn in field.turns),
    }
    if known:
        header["after"] = list(known)
    if field.names != [field.view] and field.names:
        header["stages"] = [_stage(name, turn, field) for name, turn in zip(field.names, field.turns, strict=True)]
    if isinstance(contender, Plan):
        header["full"] = [stage.name for stage in contender.full]
        header |= {"suite": suite(header, precision), "reasons": ending.reasons, "audit": ending.audit}
    return header


def _stage(name: str, turn: Turn, field: Field) -> dict[str, Any]:
    size, y = len(field.engine.data.classes), field.y
    tried = turn.tried == 1
    counts = (torch.bincount(y[mask], minlength=size).tolist() for mask in (tried, tried & (turn.prediction != y)))
    return {"name": name, **dict(zip(("attacked", "broken"), counts, strict=True)), "seconds": float(turn.seconds)}


def environment() -> dict[str, Any]:
    """Describe the machine and the versions that a number was made with."""
    gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        # Not platform.platform(), which has the name of the kernel, and that may be of a firm or a machine.
        "platform": "-".join([platform.system(), platform.machine(), "with", "".join(platform.libc_ver())]),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": torch.backends.cudnn.version() if gpu else None,  # type: ignore[no-untyped-call]
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_verdicts": False,
    }


def _earlier(job: _Job) -> Result | None:
    """Return the result that the folder holds already, of these attacks or of the first of them.

    Raises:
        InputError: the folder holds the result of something else, or a training run.
    """
    if job.folder is None or not job.folder.exists():
        return None
    if not job.folder.is_dir():
        raise InputError(f"{job.folder} is a file; give --out a folder.")
    if (job.folder / RUN_FILE).exists():
        raise InputError(f"{job.folder} holds a training run; choose another --out for its evaluation.")
    if not (job.folder / RESULT_FILE).exists():
        return None
    result = Result.read(job.folder)
    done = result.outcomes.attacks
    first = {name: attack for name, attack in job.attacks.items() if name in done}
    begun = list(done) == list(job.attacks)[: len(done)]
    if not begun or result.header.get("identity") not in [
        *job.identities(job.attacks, result.header),
        *job.identities(first, result.header),
    ]:
        _refuse_other(job, result.header, done)
    refuse_changed(result.header.get("functions"), job.functions, f"{job.folder} holds the result")
    if job.rank == 0:  # where a process was killed between its last two acts
        records.clear(job.folder, str(result.header.get("identity")))
    if job.fabric is not None:
        job.fabric.barrier()
    return result


def _refuse_other(job: _Job, header: Mapping[str, Any], done: Sequence[str]) -> None:
    """Refuse the result of something else, and name what differs.

    Raises:
        InputError: always.
    """
    wanted = {name: value for name, value in job.claim.items() if name != "functions"}
    reason = first_difference(header, wanted)
    if reason is None and list(done) != list(job.attacks)[: len(done)]:
        reason = f"the attacks = {', '.join(done)}, and now {', '.join(job.attacks)} are asked for"
    raise InputError(
        f"{job.folder} holds the result of other settings{'' if reason is None else ': ' + reason}; choose another "
        "--out, or delete it."
    )


def _examples(job: _Job, engine: Engine, outcomes: Outcomes) -> Examples | None:
    """Return broken images to look at, where they are to be written and this process writes them."""
    if job.folder is None or job.rank or not job.settings.examples:
        return None
    return recraft(engine, outcomes, job.attacks, job.settings.examples, job.identity)


def _write(job: _Job, result: Result, shown: Examples | None, added: bool) -> None:
    if job.folder is not None and job.rank == 0:
        # Before the result, with which a folder is complete. They carry its identity, so none stand beside another.
        if shown is not None:
            shown.save(job.folder / EXAMPLES_FILE)
        result.write(job.folder, added=added)
        records.clear(job.folder)
    if job.fabric is not None:
        job.fabric.barrier()


def _logit_scale(clean: Clean) -> dict[str, float]:
    return {"median_top_two_gap": float(clean.gap.median()), "median_std": float(clean.std.median())}


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
