"""What a study must have, as far as that can be seen without data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from classwise import registry, resolve
from classwise.analysis import QUESTIONS
from classwise.attacks.named import kinds
from classwise.errors import InputError
from classwise.studies.spec import Entry, Given, Homing, Study, average_of
from classwise.wrappers import build as build_wrappers

_WEIGHTS = r"(?:(\w+)-)?(?:best|last)"


def check(study: Study) -> Study:
    """Return a study if it can be done, as far as that can be seen without data.

    Raises:
        InputError: a name that is taken or unknown, or settings that cannot be.
    """
    _check_parts(study)
    for key in ("model", "seeds", "analyse"):
        _refuse_repeats(key, getattr(study, key))
    _refuse_repeats("method", [entry.name for entry in study.method])
    _refuse_repeats("given", study.names)
    if not re.fullmatch(r"[\w.-]+", study.name):
        raise InputError(f"name is {study.name!r}, but names a folder; use letters, digits and hyphens.")
    for data in study.all_data:
        registry.entry("data", registry.parse(data)[0])
    for model in study.model:
        if ":" not in model:
            registry.entry("model", registry.parse(model)[0])
    for entry in study.method:
        _check_entry(study, entry)
    _ = study.ordered  # a circle is refused here
    for given in study.given:
        _check_given(study, given)
    names = [entry.name for entry in study.method]
    if study.reference and study.reference not in names:
        raise InputError(registry.unknown("method", study.reference, names))
    _check_attack(study)
    for weights in study.evaluate.weights if study.method else ():
        _check_weights(study, weights)
    if study.homing is not None:
        _check_homing(study, study.homing)
    stranger = next((name for name in study.analyse if name not in QUESTIONS), None)
    if stranger is not None:
        raise InputError(registry.unknown("question", stranger, QUESTIONS))
    return study


def _check_parts(study: Study) -> None:
    """Refuse a study of nothing, and settings of a training that is lacking or that lacks them."""
    if not (study.method or study.given):
        raise InputError("method is missing, and given too; add a table [[method]] or [[given]].")
    for key in ("model", "recipe"):
        if bool(getattr(study, key)) != bool(study.method):
            complaint = (
                "is missing; add it" if study.method else "is for training, but there is no [[method]]; leave it out"
            )
            raise InputError(f"{key} {complaint}.")


def _refuse_repeats(key: str, values: Sequence[Any]) -> None:
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        remedy = "; give one of them a name" if key == "method" else "; leave one out"
        raise InputError(f"{key} has {twice!r} twice{remedy}.")


def _check_entry(study: Study, entry: Entry) -> None:
    """Refuse what can be seen to be wrong without data.

    Raises:
        InputError: the entry has an unknown name in it, or names weights that another does not have.
    """
    name, settings = registry.parse(entry.method)
    takes = registry.entry("method", name)
    try:
        study.recipe_of(entry), build_wrappers(study.wrappers_of(entry))
    except InputError as error:
        raise InputError(f"method {entry.name!r}: {error}") from error
    if "teacher" in settings:
        raise InputError(f'method {entry.name!r} names a teacher in its settings; make it a key, teacher = "…".')
    if bool(entry.teacher) != ("teacher" in registry.taken_by(takes)):
        wants = "learns from a teacher; add teacher" if not entry.teacher else "has no teacher; leave out teacher"
        raise InputError(f"method {entry.name!r} {wants}.")
    fresh = [model for model in study.model if resolve.fresh(model)]
    if resolve.fine_tunes(takes) and not entry.start and fresh:
        raise InputError(
            f"method {entry.name!r} goes on with a robust network, and {fresh[0]} has fresh weights; add start, the "
            "name of another method."
        )
    for text in (entry.start, entry.teacher):
        if other := study.named(text):
            _check_source(study, entry, text, other)


def _check_attack(study: Study) -> None:
    """Refuse a radius that cannot be, and attacks that there are none of."""
    if study.method:
        resolve.threat(study.data, study.eps, study.norm)
    known = ["transfer", *kinds()]
    for text in registry.split(study.evaluate.attacks):
        if not text.endswith(".toml") and (name := registry.parse(text)[0]) not in known:
            raise InputError(f"evaluate.attacks: {registry.unknown('attack', name, known)}")


def _check_homing(study: Study, homing: Homing) -> None:
    """Refuse a method that the study has not, or that a network without a class could not be trained with."""
    entry = next((entry for entry in study.method if entry.name == homing.method), None)
    if entry is None:
        raise InputError(registry.unknown("method", homing.method, [entry.name for entry in study.method]))
    if entry.start or entry.teacher:
        raise InputError(
            f"homing.method is {homing.method!r}, which takes another network, with all classes; name a method without."
        )
    if missing := [seed for seed in homing.seeds if seed not in study.seeds]:
        raise InputError(f"homing.seeds has {missing[0]}, which is not among the seeds of the study; add it there.")


def _check_given(study: Study, given: Given) -> None:
    try:
        study.threat_of(given)
    except InputError as error:
        raise InputError(f"given {given.name!r}: {error}") from error


def _check_source(study: Study, entry: Entry, text: str, name: str) -> None:
    """Refuse weights that the entry called ``name`` will not have."""
    which = text[len(name) + 1 :] or "best"
    source = next(entry for entry in study.method if entry.name == name)
    averages = {"", *build_wrappers(study.wrappers_of(source)).averages}
    if not re.fullmatch(_WEIGHTS, which) or average_of(which) not in averages:
        raise InputError(f"method {entry.name!r} takes {text!r}, but {name!r} has no weights {which!r}.")


def _check_weights(study: Study, weights: str) -> None:
    if not re.fullmatch(_WEIGHTS, weights):
        raise InputError(f"evaluate.weights has {weights!r}; write best, last, or those of an average as in ema-best.")
    if not any(weights in study.weights_of(entry) for entry in study.method):
        raise InputError(f"evaluate.weights has {weights!r}, but no method has that average; add it to wrappers.")
