"""What the name of a data set means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from classwise.data import Images, ImageSet, load, stratified_sample
from classwise.errors import InputError
from classwise.files import schemas
from classwise.models.corrected import RECORD, FittedOn, fitted_on, read_record
from classwise.models.load import RUN_FOLDER, record_file

_DEEPEST = 8  # corrections of one another
_TO_FIT = 300  # images of each class that a correction is fitted on where no run says which


def images(
    data: str, directory: Path | None, split: str, limit: int | None, seed: int, download: bool = False
) -> ImageSet:
    """Load a split, or a stratified sample of ``limit`` of its images."""
    whole: ImageSet = load(data, directory, split, download)
    return whole if limit is None else whole.subset(stratified_sample(whole.y, limit, seed))


def unseen(
    model: str, data: str, directory: Path | None, split: str, limit: int | None, seed: int, download: bool = False
) -> ImageSet:
    """Load a split without the images that a correction of the model was fitted on; its note says how many these are.

    Raises:
        InputError: none are left.
    """
    whole: ImageSet = load(data, directory, split, download)
    fits = [fit for fit in _fits(model) if fit.data == whole.name and fit.split in (split, whole.split)]
    used = sorted(set().union(*(fit.index for fit in fits)))
    left = (~torch.isin(whole.index, torch.tensor(used, dtype=torch.int64))).nonzero().squeeze(1)
    if not len(left):
        raise InputError(f"{model} was fitted on every image of the split {split} of {data}; take other images.")
    if len(left) < len(whole):
        sentence = f"the {len(whole) - len(left):,} that the correction was fitted on are left out"
        note = f"{whole.note}; {sentence}" if whole.note else sentence
        whole = replace(whole.subset(left), note=note)  # type: ignore[type-var]
    return whole if limit is None else whole.subset(stratified_sample(whole.y, limit, seed))


def _fits(model: str) -> Iterator[FittedOn]:
    """Yield what each correction of a model string was fitted on, the outermost first."""
    for _ in range(_DEEPEST):
        if not model.startswith("corrected:"):
            return
        record = record_of(model)[1]
        if (fit := fitted_on(record)) is not None:
            yield fit
        model = str(record["model"])


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
    path, record = record_of(model)
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
            model = str(record_of(model)[1]["model"])
    if split == "train" and model.startswith("run:"):
        found, which = _held_out_of_run(model, whole), "training images that the run held out"
    else:
        found, limit = whole, _TO_FIT * len(whole.classes) if limit is None else limit
        trained = "; the model may have been trained on them" if split == "train" else ""
        which = f"a stratified sample of the split {split}{trained}"
    return (found if limit is None else found.subset(stratified_sample(found.y, limit, seed))), which


def _held_out_of_run(model: str, whole: ImageSet) -> ImageSet:
    path, record = record_of(model)
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


def record_of(model: str) -> tuple[Path, Any]:
    """Return the file that says how a ``run:FOLDER`` or a ``corrected:FOLDER`` was made, and what it says."""
    kind, _, rest = model.partition(":")
    if kind == "corrected":
        return Path(rest).expanduser() / RECORD, read_record(Path(rest).expanduser())
    match = re.fullmatch(RUN_FOLDER, rest)
    path = record_file(Path(match[1] if match else "").expanduser())
    return path, schemas.read(path, schemas.RUN, "name the data set with --data, or train again")
