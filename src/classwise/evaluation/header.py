"""What a result says of itself besides outcomes."""

from __future__ import annotations

from typing import Any

import torch

from classwise.attacks.base import described
from classwise.attacks.plan import AttackOrPlan, Plan
from classwise.evaluation import flags
from classwise.evaluation.engine import Engine, ViewRun
from classwise.evaluation.job import Evaluated, Job
from classwise.evaluation.plan import PlanResult
from classwise.evaluation.records import CleanVerdicts, StageResult
from classwise.metrics.autoattack import suite
from classwise.models.checkpoint import weights_note
from classwise.models.searched import Searched
from classwise.provenance import environment


def search_record(engine: Engine) -> dict[str, Any]:
    """Say how the model was computed while attacks searched."""
    return next(part.record for part in engine.searched.modules() if isinstance(part, Searched))


def result_header(job: Job, evaluated: Evaluated) -> dict[str, Any]:
    """Return what ``result.json`` says of an evaluation, besides counts."""
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
        "flags": [flag.record() for flag in flags.distinct(evaluated.flags)],
        "logits": _logit_scale(evaluated.clean),
        "groups": {group: list(members) for group, members in job.data.groups.items()},
        "attacks": evaluated.headers,
    }


def view_header(
    contender: AttackOrPlan, field: ViewRun, ending: PlanResult, earlier: tuple[str, ...], precision: str
) -> dict[str, Any]:
    """Say how a view came about: its settings, its stages, and how it ended."""
    header: dict[str, Any] = {
        "settings": repr(contender),
        "attack": described(contender),
        "seconds": sum(float(turn.seconds) for turn in field.turns),
    }
    if earlier:
        header["after"] = list(earlier)
    if field.names != [field.view] and field.names:
        header["stages"] = [_stage(name, turn, field) for name, turn in zip(field.names, field.turns, strict=True)]
    if isinstance(contender, Plan):
        header["full"] = [stage.name for stage in contender.full]
        header |= {"suite": suite(header, precision), "reasons": ending.reasons, "audit": ending.audit}
    return header


def _stage(name: str, turn: StageResult, field: ViewRun) -> dict[str, Any]:
    size, y = len(field.engine.data.classes), field.y
    tried = turn.tried == 1
    counts = (torch.bincount(y[mask], minlength=size).tolist() for mask in (tried, tried & (turn.prediction != y)))
    return {"name": name, **dict(zip(("attacked", "broken"), counts, strict=True)), "seconds": float(turn.seconds)}


def _logit_scale(clean: CleanVerdicts) -> dict[str, float]:
    return {"median_top_two_gap": float(clean.gap.median()), "median_std": float(clean.std.median())}
