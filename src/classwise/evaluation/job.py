"""What an evaluation is asked to do, and by what it knows an earlier one again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from classwise.attacks.base import Attack
from classwise.attacks.ensemble import Ensemble
from classwise.attacks.plan import AttackOrPlan, Plan
from classwise.attacks.transfer_attack import Transfer
from classwise.data.images import ImageSet, refuse_batch_size
from classwise.data.splits import evenly
from classwise.errors import InputError
from classwise.evaluation import flags
from classwise.evaluation.engine import EvaluationProgress
from classwise.evaluation.records import CleanVerdicts
from classwise.files.texts import portable
from classwise.metrics.outcomes import Outcomes
from classwise.models.checkpoint import weights_sha256
from classwise.models.fingerprint import fingerprint
from classwise.models.fixed_shape import FixedShape, refuse_fixed_shape
from classwise.models.searched import Precision
from classwise.provenance import __version__
from classwise.runtime.classifier import as_classifier
from classwise.runtime.inference import judging
from classwise.threat import ThreatModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_MODEL = "the model"
_PRINTED = 16  # images that say what a model computes


@dataclass(frozen=True)
class EvaluationSettings:
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
class Job:
    """What is to be evaluated, and how."""

    model: nn.Module
    data: ImageSet
    attacks: Mapping[str, AttackOrPlan]
    settings: EvaluationSettings
    folder: Path | None
    fabric: Fabric | None
    watch: Callable[[EvaluationProgress], None]

    @cached_property
    def about(self) -> dict[str, Any]:
        """What every result of this model on these images says alike, whatever the attacks."""
        threat = next(iter(self.attacks.values())).threat
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        model = {"name": self.settings.name or type(self.model).__name__, "sha256": weights_sha256(self.model)}
        data = {key: getattr(self.data, key) for key in ("name", "split", "note")}
        return {
            "classwise": __version__,
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
        functions: dict[str, Any] = {}
        for name, model in {_MODEL: self.model, **_sources(self.attacks)}.items():
            model.to(device)  # whatever it returns
            with judging(called := as_classifier(model), device):
                mark = fingerprint(called if rows is None or name != _MODEL else FixedShape(called, rows), x)
            functions[name] = mark and mark.record
        return functions

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

    def identities(self, attacks: Mapping[str, AttackOrPlan], stored: Mapping[str, Any]) -> list[str]:
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

    def identity_of(self, attacks: Mapping[str, AttackOrPlan], name: str | None = None) -> str:
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
        parts: list[Any] = [{**self.about, "model": model}, {name: repr(attacks[name]) for name in attacks}]
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
        """The number of this process."""
        return 0 if self.fabric is None else self.fabric.global_rank

    @property
    def partial(self) -> Path | None:
        """The file that keeps what this process knows so far."""
        ranks = 1 if self.fabric is None else self.fabric.world_size
        return None if self.folder is None else self.folder / f"partial-{self.rank}-of-{ranks}.npz"


@dataclass
class Evaluated:
    """What an evaluation found out."""

    clean: CleanVerdicts
    outcomes: Outcomes
    headers: dict[str, Any]
    flags: list[flags.Flag]


def check(job: Job) -> None:
    """Refuse what cannot be evaluated, before time is spent on it.

    Raises:
        InputError: no attack or image, several threat models, or settings out of their range.
    """
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


def _audited(attacks: Mapping[str, AttackOrPlan]) -> bool:
    """Tell whether the audit plays a part."""
    return any(isinstance(attack, Plan) and attack.full for attack in attacks.values())


def _sources(attacks: Mapping[str, AttackOrPlan]) -> dict[str, nn.Module]:
    """Return the models that transfer attacks craft on, by what they are called."""
    held: list[Any] = [as_attack(attack) for attack in attacks.values()]
    sources = {}
    while held:
        attack = held.pop()
        if isinstance(attack, Transfer):
            sources[f"the source {portable(attack.name)}"] = attack.source
        held += [*getattr(attack, "attacks", ()), *([attack.attack] if hasattr(attack, "attack") else ())]
    return sources


def as_attack(contender: AttackOrPlan) -> Attack:
    """Return what a plan is made of as one attack, to be looked at."""
    if not isinstance(contender, Plan):
        return contender
    return Ensemble(tuple(stage.attack for stage in (*contender.stages, *contender.full)))
