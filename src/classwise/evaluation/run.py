"""Evaluation: attacks and plans over a data set, to the outcome of every image, as one result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from classwise.attacks.base import input_gradient
from classwise.attacks.named import members
from classwise.attacks.plan import AttackOrPlan, Plan
from classwise.data.images import ImageSet
from classwise.errors import InputError
from classwise.evaluation import flags, plan, records
from classwise.evaluation.engine import Engine, EvaluationProgress, ViewRun, exclusive_folder
from classwise.evaluation.examples import SHOWN, recraft
from classwise.evaluation.header import result_header, search_record, view_header
from classwise.evaluation.job import Evaluated, EvaluationSettings, Job, as_attack, check
from classwise.evaluation.plan import PlanResult
from classwise.evaluation.preflight import PREFLIGHT_IMAGES
from classwise.evaluation.probe import probe_survivors
from classwise.evaluation.records import CleanVerdicts, Records, ViewVerdicts
from classwise.evaluation.under_test import ModelUnderTest, under_test
from classwise.files.difference import first_difference
from classwise.losses import cross_entropy
from classwise.metrics.examples import EXAMPLES_FILE, Examples
from classwise.metrics.outcomes import CLEAN, Outcomes
from classwise.metrics.result import RESULT_FILE, Result
from classwise.metrics.training import RUN_FILE
from classwise.models.fingerprint import refuse_changed
from classwise.models.fixed_shape import FixedShape
from classwise.models.searched import Precision, Searched
from classwise.noise import Noise
from classwise.runtime.classifier import as_module
from classwise.runtime.inference import device_of
from classwise.runtime.memory import freed_memory_kept

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["AUDIT", "EvaluationProgress", "evaluate"]
_COMPARED = 16  # images that what attacks search on is compared with the model on, at three points of each ball
AUDIT = 1.0
"""Misses that the audit of a plan excludes unless told otherwise, in per cent of all images."""


@freed_memory_kept()
def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    data: ImageSet,
    attacks: Mapping[str, AttackOrPlan],
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
    watch: Callable[[EvaluationProgress], None] | None = None,
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
    where = torch.device(device or (fabric.device if fabric else device_of(model)))
    folder, watch = None if directory is None else Path(directory), watch or (lambda snapshot: None)
    settings = EvaluationSettings(seed, audit, batch_size, fixed_shape, search_precision, examples, where, name)
    job = Job(model, data, attacks, settings, folder, fabric, watch)
    check(job)
    with exclusive_folder(folder, fabric):
        return _evaluated(job, command)


def _evaluated(job: Job, command: str | None) -> Result:
    """Return the result that the folder holds, or go on until it does."""
    earlier = _earlier(job)
    if earlier is not None and list(earlier.outcomes.attacks) == list(job.attacks):
        return earlier
    start = time.perf_counter()
    with _ready(job) as (engine, raised):
        evaluated = _run(job, engine, raised, earlier)
        examples = _examples(job, engine, evaluated.outcomes)
        search = search_record(engine)
    spent = {"seconds": time.perf_counter() - start, "batch_size": engine.batch_size, "command": command}
    result = Result(header={**result_header(job, evaluated), "search": search, **spent}, outcomes=evaluated.outcomes)
    _write(job, result, examples, added=earlier is not None)
    return result


@contextmanager
def _ready(job: Job) -> Iterator[tuple[Engine, list[flags.Flag]]]:
    """Put the model in order, look at it, and yield the engine with what was noticed; put the model back."""
    settings, ranks = job.settings, 1 if job.fabric is None else job.fabric.world_size
    shape = {"batch_size": settings.batch_size, "fixed_shape": settings.fixed_shape}
    threat = next((attack.threat for attack in job.attacks.values()), None)
    asked = under_test(job.model, job.data, settings.device, name=settings.name, ranks=ranks, threat=threat, **shape)
    with asked as test:
        around = _around(job, test, settings.fixed_shape or min(_COMPARED, test.batch_size))
        inner = Searched(test.called, test.trial, settings.search_precision, around)
        test.flags.extend([] if inner.note is None else [flags.Flag("plain_search", inner.note)])
        searched = inner if settings.fixed_shape is None else FixedShape(inner, settings.fixed_shape)
        saved = Records.open(len(job.data), job.partial, job.identity, job.claim, job.identities(job.attacks, {}))
        saved.save()  # a folder that cannot be written is noticed now, not hours later
        size, place = test.batch_size, (settings.device, job.fabric, job.watch)
        yield Engine(test.model, searched, job.data, saved, settings.seed, size, *place), test.flags


def _around(job: Job, test: ModelUnderTest, rows: int) -> list[Tensor]:
    """Return batches of so many images to compare what attacks search on with the model.

    They are clean images, random points on the border of the ball, and points there that the gradient leads to, since
    what limits activations may limit none of clean images.
    """
    positions = test.sample
    chosen = positions[torch.arange(rows) * max(1, len(positions) // rows) % len(positions)]
    device, threat = job.settings.device, next(iter(job.attacks.values())).threat
    x, y = job.data.fetch(chosen).to(device), job.data.y[chosen].to(device)
    noise = Noise(job.settings.seed, job.data.index[chosen].to(device)).fold("rewriting")
    point = x.clone().requires_grad_(True)
    directions = noise.normal(x.shape[1:], device), input_gradient(cross_entropy(test.model(point.clone()), y), point)
    return [x, *(threat.project(x + threat.eps * threat.ascend(direction, x), x) for direction in directions)]


_OF_THE_MODEL = (
    "batch_dependent",
    "gradient_dependent",
    "in_forward_optimisation",
    "misleading_gradient",
    "non_deterministic",
    "zero_gradient",
)


def _run(job: Job, engine: Engine, raised: list[flags.Flag], earlier: Result | None) -> Evaluated:
    """Settle every verdict that an earlier result does not hold already."""
    clean = engine.judge_clean()
    if earlier is not None:
        clean = _as_before(clean, earlier)
        raised += [flags.Flag(**{**flag, "classes": tuple(flag["classes"])}) for flag in earlier.header["flags"]]
    done = () if earlier is None else earlier.outcomes.attacks
    fields, headers = dict[str, ViewRun](), dict[str, Any]()
    for name, contender in job.attacks.items():
        if name not in done:
            field = fields[name] = ViewRun(engine, name, _first_row(clean, earlier))
            ending = _attack(job, field, contender, raised)
            headers[name] = view_header(contender, field, ending, done, job.settings.search_precision)
            raised += _black_box(field, job.data.classes)
    stages = {name: field.names for name, field in fields.items() if "stages" in headers[name]}
    outcomes = records.outcomes(job.data, clean, {name: field.row for name, field in fields.items()}, stages)
    if earlier is not None:
        outcomes = earlier.outcomes.extended(outcomes)
        headers = {**earlier.header["attacks"], **headers}
    if not any(isinstance(attack, Plan) and attack.full for attack in job.attacks.values()):
        raised += _probe(job, engine, torch.from_numpy(outcomes.correct()))  # else the plan had to know before
    rejected = {name: sum(int(turn.rejected) for turn in field.turns) for name, field in fields.items()}
    attacks = {name: as_attack(contender) for name, contender in job.attacks.items()}
    raised += flags.of_outcomes(outcomes, attacks, [rejected.get(name, 0) for name in attacks])
    return Evaluated(clean, outcomes, headers, raised)


def _attack(job: Job, field: ViewRun, contender: AttackOrPlan, raised: list[flags.Flag]) -> PlanResult:
    """Run a plan, or an attack as the plan that it is, and take note of the flags that come up."""
    # What other attacks of this evaluation brought up must not decide how this one goes on.
    of_model = [flag for flag in raised if flag.attack is None and flag.flag in _OF_THE_MODEL]

    def suspicions(survivors: Tensor) -> list[str]:
        new = _probe(job, field.engine, survivors)
        raised.extend(new)
        names = [flag.flag for flag in flags.distinct([*of_model, *new]) if flag.flag in flags.SERIOUS]
        return field.engine.broadcast([f"the flag {name}" for name in names])

    return plan.run(
        contender if isinstance(contender, Plan) else Plan(members(field.view, contender)),
        field,
        field.view,
        suspicions=suspicions,
        points=job.settings.audit,
        noise=Noise(job.settings.seed, job.data.index).fold(field.view),
        num_classes=len(job.data.classes),
    )


def _probe(job: Job, engine: Engine, survivors: Tensor) -> list[flags.Flag]:
    """Climb once more with a few survivors, and say what looks odd; the same in every process."""
    threat = next(iter(job.attacks.values())).threat
    return probe_survivors(
        engine.model, job.data, survivors, threat, job.settings.seed, min(PREFLIGHT_IMAGES, engine.batch_size)
    )


def _as_before(clean: CleanVerdicts, earlier: Result) -> CleanVerdicts:
    """Return the clean verdicts of an earlier evaluation, on which the new attacks build."""
    prediction = torch.from_numpy(earlier.outcomes.clean.copy())
    margin = torch.from_numpy(earlier.outcomes.margins[CLEAN].copy())
    return replace(clean, prediction=prediction, margin=margin)


def _black_box(field: ViewRun, classes: tuple[str, ...]) -> Iterator[flags.Flag]:
    """Ask of a view of several stages whether random search found what gradients had missed."""
    kinds = [flags.is_black_box(stage.attack) for stage in field.stages]
    if True in kinds and False in kinds:
        of_kind = (torch.tensor([kind is black for kind in kinds] + [False]) for black in (False, True))
        by_gradient, by_search = (among[field.row.stage].numpy() for among in of_kind)  # -1 where nothing broke it
        yield from flags.black_box_gain(by_gradient, by_search, field.y.numpy(), classes)


def _first_row(clean: CleanVerdicts, earlier: Result | None) -> ViewVerdicts:
    """Return the verdicts that an attack begins with; after an earlier evaluation, those of its worst case."""
    row = ViewVerdicts.begin(clean)
    if earlier is None:
        return row
    broken = torch.from_numpy(earlier.outcomes.adversarial_prediction().copy())
    return ViewVerdicts(broken, row.margin, row.distance, row.stage, row.tried)


def _earlier(job: Job) -> Result | None:
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


def _refuse_other(job: Job, header: Mapping[str, Any], done: Sequence[str]) -> None:
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


def _examples(job: Job, engine: Engine, outcomes: Outcomes) -> Examples | None:
    """Return broken images to look at, where they are to be written and this process writes them."""
    if job.folder is None or job.rank or not job.settings.examples:
        return None
    return recraft(engine, outcomes, job.attacks, job.settings.examples, job.identity)


def _write(job: Job, result: Result, examples: Examples | None, added: bool) -> None:
    if job.folder is not None and job.rank == 0:
        # Before the result, with which a folder is complete. They carry its identity, so none stand beside another.
        if examples is not None:
            examples.save(job.folder / EXAMPLES_FILE)
        result.write(job.folder, added=added)
        records.clear(job.folder)
    if job.fabric is not None:
        job.fabric.barrier()
