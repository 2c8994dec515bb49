"""What identifies a training run, and the record of it that a run folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from classwise import registry, wrappers
from classwise.attacks.base import described, kind_of
from classwise.attacks.pgd import PGD
from classwise.data.augment import Augment, augmentation
from classwise.data.images import Images, ImageSet
from classwise.errors import InputError
from classwise.files import schemas
from classwise.files.texts import portable_record
from classwise.methods.base import Method
from classwise.metrics.result import RESULT_FILE
from classwise.metrics.training import RUN_FILE
from classwise.models.checkpoint import weights_note
from classwise.provenance import __version__, environment
from classwise.threat import ThreatModel
from classwise.training.recipes import LATER, Recipe
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
        "classwise": __version__,
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
        "method_settings": settings_of(method),
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


def settings_of(method: Method) -> dict[str, Any]:
    """Return a method as its kind, settings and attacks, and those of methods inside it, for JSON."""
    given = {name: value for name, value in sorted(vars(method).items()) if not name.startswith("_")}
    apart = {"training", "attacks", "teacher"}  # the teacher has an entry of its own
    settings = {name: described(value) for name, value in given.items() if name not in apart}
    inside = {name: settings_of(module) for name, module in method.named_children() if isinstance(module, Method)}
    return {"kind": kind_of(method), **settings, "attacks": described(method.attacks), **inside}


def named_method(text: str, data: ImageSet, attack: PGD, **given: Any) -> Method:
    """Build a training method from its name and settings, and from what its data say: superclasses, numbers of classes.

    Args:
        text: such as "trades(beta=3)".
        data: the training images.
        attack: what the method attacks with.
        given: what no text says, such as the network that the setting ``teacher`` names.

    Raises:
        InputError: no such method, setting or class.
    """
    name, settings = registry.parse(text)
    asked = registry.taken_by(registry.entry("method", name))
    if "groups" in asked and "groups" not in settings:
        members = data.groups.values()
        settings["groups"] = tuple(tuple(data.classes.index(name) for name in names) for names in members)
    if "classes" in asked and "classes" in settings:
        settings["classes"] = _class_numbers(settings["classes"], data.classes)
    built: Method = registry.build("method", name, len(data.classes), attack, **settings | given)
    return built


def _class_numbers(classes: Any, known: Sequence[str]) -> Any:
    """Put numbers in the place of names in a list of classes.

    Raises:
        InputError: the data have no class of such a name.
    """
    if not isinstance(classes, list | tuple):
        return classes
    for label in classes:
        if isinstance(label, str) and label not in known:
            raise InputError(registry.unknown("class", label, list(known)))
    return tuple(known.index(label) if isinstance(label, str) else label for label in classes)


def refuse_other_method(run: Run, method: Method, train: Images) -> None:
    """Refuse a record that does not describe the method that is given with it.

    A name of a registered method stands for what it builds, down to the last setting. Any other name is the caller's
    own: the record then holds the method's settings, and its attack has the threat and the steps that the run says.

    Raises:
        InputError: the first setting that differs.
    """
    given = settings_of(method)
    if run.method.partition("(")[0].strip() in registry.names("method"):
        settings = registry.parse(run.method)[1]
        # What a name leaves to the data or to the caller; the record holds it by `settings_of`.
        own = {
            setting: getattr(method, setting)
            for setting in ("groups", "classes")
            if setting not in settings and hasattr(method, setting)
        }
        taught = {} if method.teacher is None else {"teacher": method.teacher}
        wanted = settings_of(named_method(run.method, train, run.attack, **own, **taught))
        if method.teacher and "teacher" in settings:
            given, wanted = given | {"teacher": method.teacher.name}, wanted | {"teacher": settings["teacher"]}
    else:
        same = ("kind", "threat", "steps", "step_size", "mode") if type(method.attack) is PGD else ("threat",)
        wanted = {"attack": {name: described(run.attack)[name] for name in same}}
        given = {"attack": {name: described(method.attack)[name] for name in same}}
    if given != wanted:
        named, held = _difference("method", wanted, given)
        raise InputError(
            f"The run is said to have {named}, and the method that fit was given has {held}; build the method as the "
            f"run names it ({run.method!r}), with run.attack, or give the run another name of the method."
        )


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
    # Records of older versions name the method alone.
    skipped = {"environment", "weights_note", *({"method_settings"} - set(stored))}
    for name in wanted:
        if name not in skipped and stored.get(name) != wanted[name]:
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
