"""What the words of a training run mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from classwise import registry
from classwise.attacks import PGD
from classwise.data import Images, ImageSet
from classwise.errors import InputError
from classwise.models import Teacher
from classwise.resolve.data import record_of
from classwise.resolve.models import fresh, model, start
from classwise.threat import ThreatModel
from classwise.training.recipes import Recipe
from classwise.training.run import Run, named_method

_RECIPES = {"digits": "digits", "mnist": "mnist", "svhn": "svhn"}
_DEFAULT_RECIPE = "pang2021"


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


def method(text: str, data: ImageSet, attack: PGD, seed: int) -> Any:
    """Build a training method, and load the teacher that its settings name.

    Raises:
        InputError: no such method, setting or class, or a teacher that cannot teach these data.
    """
    name, settings = registry.parse(text)
    given = {}
    if "teacher" in settings and "teacher" in registry.taken_by(registry.entry("method", name)):
        given["teacher"] = teacher(settings["teacher"], data, seed)
    return named_method(text, data, attack, **given)


def fine_tunes(entry: registry.Registration) -> bool:
    """Tell whether a registered method goes on with a trained network."""
    return bool(getattr(registry.made_by(entry.build), "fine_tunes", False))


class TrainingJob(NamedTuple):
    """What :func:`classwise.fit` is called with."""

    run: Run
    method: Any
    network: nn.Module


def training_job(
    method_text: str,
    model_text: str,
    train: Images,
    plan: Recipe,
    threat: ThreatModel,
    seed: int,
    wrappers: str = "",
) -> TrainingJob:
    """Build what the words of a training run name, and check that it goes together.

    Raises:
        InputError: something is unknown, or does not fit the data or the method.
    """
    text = normalised(start(model_text), train, plan)
    run = Run(text, method_text, plan, threat, seed, wrappers)
    built = method(method_text, train, run.attack, seed)
    run = replace(run, model=headed(run.model, built.head))
    return TrainingJob(run, built, model(run.model, train, seed))


def teacher(text: Any, data: ImageSet, seed: int) -> Teacher:
    """Load the network that a student is to learn from.

    Raises:
        InputError: it has no weights, cannot be had, or was trained on other classes.
    """
    if not isinstance(text, str) or fresh(text):
        raise InputError(f"The teacher {text!r} has no weights; write teacher='run:FOLDER' or teacher='ARCH@FILE'.")
    network = model(text, data, seed)
    if text.startswith("run:"):
        classes = tuple(record_of(text)[1]["classes"])
        if classes != data.classes:
            other = next(pair for pair in zip(classes, data.classes, strict=True) if pair[0] != pair[1])
            raise InputError(
                f"The teacher {text} has a class {other[0]!r} where the data have {other[1]!r}; give one that was "
                "trained on the same data set."
            )
    return Teacher(network, text)
