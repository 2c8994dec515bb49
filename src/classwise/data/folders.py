"""Image folders: a folder a class, or a table of labels beside the images."""

from __future__ import annotations

import csv
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from classwise.data.class_folders import SPLITS, Labelled, class_folders, labelled_files, labelled_split
from classwise.data.headers import common_size, headers, remarks
from classwise.data.images import ImageFiles, Images
from classwise.data.sources import Facts, dataset
from classwise.errors import InputError
from classwise.threat import ThreatModel

MEMORY_LIMIT = 2**31
"""Bytes of pixels up to which images of one size are kept in memory."""


@dataset(
    "imagenet",
    Facts(ThreatModel("Linf", 4 / 255), "MadryLab/robustness, RobustBench", SPLITS, downloadable=False),
    source="Russakovsky et al. 2015, by torchvision",
)
def imagenet(directory: Path, split: str, download: bool) -> ImageFiles:
    """ImageNet: 50,000 validation photographs, 1,000 classes, read from val/<wnid>/* or images/ and labels.csv."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    classes = tuple(_IMAGENET_CATEGORIES)
    part = "train" if split == "train" else "val"
    if (directory / part).is_dir():
        _refuse_unsorted(directory / part)
        paths, number, folders = labelled_files(directory / part)
        y = torch.tensor(_imagenet_numbers(folders, classes, directory / part))[number]
    elif part == "val" and (directory / "labels.csv").is_file():
        paths, y = _table(directory, len(classes))
    else:
        raise InputError(
            f"imagenet is not in {directory}: there must be {part}/<wnid>/*.JPEG (image-net.org gives them to "
            "registered users; they cannot be downloaded here), or images/ with labels.csv for validation."
        )
    return ImageFiles(tuple(paths), y, classes, torch.arange(len(y)), name="imagenet", split=part)


@dataset("folder", Facts(None, splits=SPLITS, downloadable=False), source="torchvision ImageFolder")
def folder(
    directory: Path,
    split: str,
    download: bool,
    resize: int | None = None,
    crop: int | None = None,
    subset: bool = False,
    order: str = "text",
) -> Images | ImageFiles:
    """Your images in DIR/<split>/<class>/*, or DIR/<class>/* for the test split alone."""
    return from_labelled(labelled_split(directory, split, subset, order), "folder", directory, resize, crop)


def from_labelled(
    labelled: Labelled, name: str, root: Path, resize: int | None = None, crop: int | None = None
) -> Images | ImageFiles:
    """Take pictures as they are where all have one size, in memory if they fit; else resized and cropped.

    Raises:
        InputError: a picture cannot be read, or is there by mistake, as its size is not that of the others.
    """
    file_headers = headers(labelled.paths)
    size = None if resize or crop else common_size(labelled.paths, file_headers)
    channels = max(header.channels for header in file_headers) if size else 3
    files = ImageFiles(
        paths=labelled.paths,
        y=labelled.y,
        classes=labelled.classes,
        index=torch.arange(len(labelled.y)),
        crop=size or (crop or resize or 224,) * 2,
        resize=None if size else (resize or crop or 256),
        channels=channels,
        name=name,
        split=labelled.split,
        remark="; ".join(part for part in (labelled.remark, *remarks(labelled.paths, file_headers, root)) if part),
    )
    fits = size is not None and 3 * size[0] * size[1] * len(labelled.paths) <= MEMORY_LIMIT
    return files.read() if fits else files


def _refuse_unsorted(root: Path) -> None:
    """Refuse the validation images as their archive unpacks, whose classes are in a file of their own."""
    if not class_folders(root) and any(root.glob("ILSVRC2012_val_*")):
        raise InputError(
            f"{root} holds the pictures of ILSVRC2012 without class folders, so their classes are not known; sort them "
            "into <wnid>/, as valprep.sh of PyTorch's examples does, or move them to images/ beside a labels.csv with "
            "the columns file and label."
        )


def _imagenet_numbers(folders: Sequence[str], classes: Sequence[str], root: Path) -> list[int]:
    """Return the class number of each folder, named by WordNet id or by class name."""
    if all(re.fullmatch(r"n\d{8}", name) for name in folders):
        # Sorted WordNet ids are in class order, but only when all of them are there.
        if len(folders) != len(classes):
            raise InputError(
                f"{root} holds {len(folders)} of the {len(classes):,} wnid folders, so their class numbers are not "
                "known; make the missing ones (they may be empty) or name the folders by class."
            )
        return list(range(len(classes)))
    number = {name: k for k, name in enumerate(classes)}
    # Two of the names, Cardigan the dog and cardigan the jacket, differ by case alone.
    folded = Counter(name.casefold() for name in classes)
    number |= {name.casefold(): k for name, k in list(number.items()) if folded[name.casefold()] == 1}
    spaced = [name.replace("_", " ") for name in folders]
    plain = [name if name in number else name.casefold() for name in spaced]
    strange = [name for name, key in zip(folders, plain, strict=True) if key not in number]
    if strange:
        raise InputError(
            f"{root / strange[0]} is neither a wnid nor one of ImageNet's class names, such as 'tench'; rename it, "
            "or load the folder as data set 'folder'."
        )
    return [number[key] for key in plain]


def _table(directory: Path, num_classes: int) -> tuple[list[Path], Tensor]:
    """Read ``labels.csv`` with columns file and label, the files below ``images/``."""
    table = directory / "labels.csv"
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark in front
            reader = csv.DictReader(file)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise InputError(f"{table} must have the columns file and label in its first line.")
            rows = [(row["file"] or "", row["label"] or "") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{table} cannot be read ({error}); save it as CSV in UTF-8, file and label a line."
        ) from error
    if not rows:
        raise InputError(f"{table} lists no images; give each a line with file and label.")
    for line, (_, label) in enumerate(rows, start=2):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", label) or int(label) >= num_classes:
            shortened = textwrap.shorten(label, 40, placeholder="…")
            raise InputError(f"Line {line} of {table} has label {shortened!r}; it must be 0 … {num_classes - 1}.")
    paths = [directory / "images" / name for name, _ in rows]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing, with {len(missing) - 1} others that {table} lists; restore them.")
    return paths, torch.tensor([int(label) for _, label in rows])
