"""What identifies a training run, and the record of it that a run folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import classwise
from classwise import schemas, wrappers
from classwise.attacks.pgd import PGD
from classwise.data.augment import Augment, augmentation
from classwise.data.images import Images
from classwise.errors import InputError
from classwise.evaluation import environment
from classwise.methods.base import Method
from classwise.metrics.result import RESULT_FILE
from classwise.metrics.training import RUN_FILE
from classwise.models.checkpoint import weights_note
from classwise.recipes import LATER, Recipe
from classwise.texts import portable_record
from classwise.threat import ThreatModel
from classwise.wrappers import Wrappers

CHECKPOINT_VERSION = 2


@dataclass(frozen=True)
class Run:
    """What identifies a training run: resuming it with anything else is refused.

    Attributes:
        model: loader text of the network, such as "preact_resnet18".
        method: name of the training method, settings included.
        recipe: how it is trained.
        threat: what the training attack and the selection attack may do.
        seed: of order, augmentation, attacks and dropout.
        wrappers: what goes around the method, such as "awp(gamma=0.005), ema"; "" for nothing.

    Raises:
        InputError: a radius of 0, no such augmentation or wrapper, or a training attack that cannot be.
    """

    model: str
    method: str
    recipe: Recipe
    threat: ThreatModel
    seed: int = 0
    wrappers: str = ""

    def __post_init__(self) -> None:
        if self.threat.eps <= 0:
            raise InputError("The radius to train at is 0, where no attack exists; give --eps above 0, such as 8/255.")
        _ = self.augment, self.attack, self.wrapped  # refused here, before anything is written

    @property
    def augment(self) -> Augment:
        """What is done to the images of a batch before they are trained on."""
        return augmentation(self.recipe.augment)

    @property
    def attack(self) -> PGD:
        """The attack that the method is built with; a method may change its loss and its start."""
        recipe, step_size = self.recipe, self.recipe.step_size
        length = self.threat.eps / 4 if step_size is None else step_size
        return PGD(self.threat, steps=recipe.steps, step_size=length, mode=recipe.attack_mode)

    @property
    def wrapped(self) -> Wrappers:
        """What goes around the method."""
        return wrappers.build(self.wrappers)


def describe(
    run: Run, method: Method, train: Images, held_out: Tensor, model: nn.Module, processes: int, precision: str
) -> dict[str, Any]:
    """Return what run.json holds; everything but the environment must agree for a run to be resumed."""
    note = weights_note(model)
    size = min(run.recipe.batch_size, len(train) - len(held_out))
    if size % processes:
        raise InputError(f"A batch of {size} does not divide over {processes} processes; change one.")
    return {
        "checkpoint_version": CHECKPOINT_VERSION,
        "classwise": classwise.__version__,
        # Causes before their effects: the first difference is the one that is named when a run is refused.
        "seed": run.seed,
        "data": {
            "name": train.name,
            "split": train.split,
            "n": len(train),
            "sha256": train.sha256(),
            "note": train.note,
        },
        "classes": list(train.classes),
        "shape": list(train.shape),
        "recipe": asdict(run.recipe),
        "threat": asdict(run.threat),
        "method": run.method,
        "attack": repr(method.attack),
        "teacher": None if method.teacher is None else method.teacher.record(),
        "wrappers": run.wrappers,
        "model": run.model,
        "held_out": train.index[held_out].tolist(),
        "processes": processes,
        "sync_batchnorm": any(isinstance(layer, nn.SyncBatchNorm) for layer in model.modules()),
        "precision": precision,
        "environment": environment(),
        **({"weights_note": note} if note else {}),
    }


def refuse_other_uses(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a folder that holds an evaluation, or a run with other settings."""
    if (folder / RESULT_FILE).exists() or any(folder.glob("partial-*.npz")):
        raise InputError(f"{folder} holds an evaluation; choose another --out for the training run.")
    path = folder / RUN_FILE
    if path.exists():
        stored = schemas.read(path, schemas.RECORD, "choose another --out")
        refuse_other_settings(path, stored, record)


def refuse_other_settings(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to mix runs, naming the first setting that differs."""
    here = path.parent
    stored, wanted = portable_record(stored, here), portable_record(json.loads(json.dumps(wanted)), here)
    stored = {**stored, "recipe": {**LATER, **stored.get("recipe", {})}}
    for name in wanted:
        if name not in ("environment", "weights_note") and stored.get(name) != wanted[name]:
            old, new = _difference(name, stored.get(name), wanted[name])
            raise InputError(
                f"{path.parent} holds a run with {old}, and now {new} is asked for; choose another --out, or the same "
                "settings to resume it."
            )


def _difference(name: str, old: Any, new: Any) -> tuple[str, str]:
    if isinstance(old, dict) and isinstance(new, dict):
        key = next((k for k in new if old.get(k) != new[k]), None)
        if key is not None:
            return _difference(f"{name}.{key}", old.get(key), new[key])
    return f"{name} = {_short(old)}", f"{name} = {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
