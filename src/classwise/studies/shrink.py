"""The same study in seconds: fewer images and epochs, a tiny network, weak attacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from classwise import registry, resolve
from classwise.errors import InputError
from classwise.studies.spec import Study

SHRUNK_MODEL = "digits_cnn"
"""What a shrunk study trains in place of its models: small, and made for images of any size."""
STAND_IN = "digits"
"""What a shrunk study looks at in place of data that are not there."""
_SHRUNK_TRAIN, _SHRUNK_TEST = 10, 2  # images a class
_SHRUNK_ATTACKS = "fgsm,pgd(steps=2)"
_SHRUNK_MOST = 200  # test images, where there are many classes


def _there(data: str, directory: Path | None, trained: bool) -> bool:
    """Tell whether the images of a data set can be loaded, its training images too where they are needed."""
    try:
        for split in ("test", "train")[: 1 + trained]:
            resolve.images(data, directory, split, None, 0)
    except InputError:
        return False
    return True


def _short(recipe: str) -> str:
    """Return a recipe of two epochs and an attack of two steps, with what else it says."""
    name, settings = registry.parse(recipe)
    short = {"epochs": 2, "batch_size": 20, "steps": 2, "milestones": (), "eps_warmup": 0, "holdout": 0.2}
    return resolve.written(name, {**settings, **short})


def shrunk(study: Study, num_classes: int) -> Study:
    """Return the same grid in seconds: one seed, a tiny network, ten images a class, two epochs, weak attacks.

    Given models become such a network with fresh weights.
    """
    limit = min(_SHRUNK_TEST * num_classes, _SHRUNK_MOST)
    return replace(
        study,
        name=f"{study.name}-shrunk",
        model=(SHRUNK_MODEL,) if study.method else (),
        recipe=study.recipe and _short(study.recipe),
        method=tuple(replace(entry, recipe=entry.recipe and _short(entry.recipe)) for entry in study.method),
        given=tuple(replace(given, model=SHRUNK_MODEL, limit=None) for given in study.given),
        seeds=study.seeds[:1],
        homing=study.homing and replace(study.homing, attacks=_SHRUNK_ATTACKS, limit=limit, seeds=()),
        limit=_SHRUNK_TRAIN * num_classes if study.method else None,
        evaluate=replace(study.evaluate, limit=limit, attacks=_SHRUNK_ATTACKS, audit=0.0),
    )


def standing_in(study: Study, directory: Path | None) -> tuple[Study, list[str]]:
    """Put digits, which are always there, in the place of data sets that are not, and name those."""
    trained = {study.data} if study.method else set()
    absent = [data for data in study.all_data if not _there(data, directory, data in trained)]
    data = STAND_IN if study.data in absent else study.data
    given = tuple(replace(entry, data=STAND_IN) if entry.data in absent else entry for entry in study.given)
    return replace(study, data=data, given=given), absent
