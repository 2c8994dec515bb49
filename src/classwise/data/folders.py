"""Image folders: a folder a class, or a table of labels beside the images."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from classwise.data.images import ImageFiles, Images, opened
from classwise.data.sources import Facts, dataset
from classwise.errors import InputError
from classwise.threat import ThreatModel

MEMORY_LIMIT = 2**30
"""Bytes of pixels up to which images of one size are kept in memory."""

_SPLITS = ("train", "val", "test")
_GREY = ("1", "L")


@dataset(
    "imagenet",
    Facts(ThreatModel("Linf", 4 / 255), "MadryLab/robustness, RobustBench", _SPLITS, downloadable=False),
    source="Russakovsky et al. 2015, by torchvision",
)
def imagenet(directory: Path, split: str, download: bool) -> ImageFiles:
    """ImageNet: 50,000 validation photographs, 1,000 classes, read from val/<wnid>/* or images/ and labels.csv."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    classes = tuple(_IMAGENET_CATEGORIES)
    part = "train" if split == "train" else "val"
    if (directory / part).is_dir():
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


@dataset("folder", Facts(None, splits=_SPLITS, downloadable=False), source="torchvision ImageFolder")
def folder(
    directory: Path, split: str, download: bool, resize: int | None = None, crop: int | None = None
) -> Images | ImageFiles:
    """Your images in DIR/<split>/<class>/*, or DIR/<class>/* for the test split alone."""
    root, classes = _split_folder(directory, split)
    paths, number, names = labelled_files(root)
    y = torch.tensor([classes.index(name) for name in names])[number]
    common = None if resize or crop else _common_shape(paths)
    files = ImageFiles(
        paths=tuple(paths),
        y=y,
        classes=classes,
        index=torch.arange(len(y)),
        crop=common[1:] if common else (crop or resize or 224,) * 2,
        resize=None if common else (resize or crop or 256),
        channels=common[0] if common else 3,
        name="folder",
        split=split if root == directory else root.name,
    )
    return files.read() if common else files


def labelled_files(root: Path) -> tuple[list[Path], Tensor, tuple[str, ...]]:
    """List ``root/<class>/**`` as torchvision's ImageFolder does, hidden folders left out.

    Returns:
        Image files, the class number of each (N,) int64, and the class names in order.

    Raises:
        InputError: there is no image.
    """
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(root, allow_empty=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{root} holds no class folders; lay the images out as {root}/<class>/*.png.") from error
    classes = tuple(name for name in found.classes if not name.startswith("."))
    number = {found.class_to_idx[name]: k for k, name in enumerate(classes)}
    kept = [(Path(path), number[label]) for path, label in found.samples if label in number]
    if not kept:
        raise InputError(f"{root} holds class folders but no images; lay them out as {root}/<class>/*.png.")
    return [path for path, _ in kept], torch.tensor([label for _, label in kept]), classes


def _split_folder(directory: Path, split: str) -> tuple[Path, tuple[str, ...]]:
    """Find the folder of a split, and the classes of all splits together, so that numbers agree between them."""
    # A class may be called "train"; a split has folders inside.
    parts = {name: directory / name for name in _SPLITS if _folders(directory / name)}
    if not parts and split == "test":
        return directory, tuple(_folders(directory))
    chosen = parts.get(split) or (parts.get("val") if split == "test" else None)
    if chosen is None:
        there = f"it has only {', '.join(parts)}" if parts else "it has no folder of splits"
        raise InputError(f"{directory} has no {split} images: {there}; lay them out as {split}/<class>/*.png.")
    return chosen, tuple(sorted({name for part in parts.values() for name in _folders(part)}))


def _folders(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _common_shape(paths: Sequence[Path]) -> tuple[int, int, int] | None:
    """Return (C, H, W) if all images have one size and fit into memory; C is 1 if all are grey."""
    channels, size = _header(paths[0])
    for path in paths:
        if 3 * size[0] * size[1] * len(paths) > MEMORY_LIMIT:
            return None
        more_channels, other = _header(path)
        if other != size:
            return None
        channels = max(channels, more_channels)
    return channels, *size


def _header(path: Path) -> tuple[int, tuple[int, int]]:
    with opened(path) as image:
        return 1 if image.mode in _GREY else 3, (image.height, image.width)


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
    number = {name.casefold(): k for k, name in enumerate(classes)}
    plain = [name.replace("_", " ").casefold() for name in folders]
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
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise InputError(f"{table} must have the columns file and label in its first line.")
        rows = [(row["file"], row["label"]) for row in reader]
    if not rows:
        raise InputError(f"{table} lists no images; give each a line with file and label.")
    for line, (_, label) in enumerate(rows, start=2):
        if not (label or "").strip().isdecimal() or int(label) >= num_classes:
            raise InputError(f"Line {line} of {table} has label {label!r}; it must be 0 … {num_classes - 1}.")
    paths = [directory / "images" / name for name, _ in rows]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing, with {len(missing) - 1} others that {table} lists; restore them.")
    return paths, torch.tensor([int(label) for _, label in rows])
