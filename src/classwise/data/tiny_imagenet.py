"""Tiny-ImageNet, read from the folder that its archive unpacks to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from classwise.data.class_folders import ANNOTATIONS, class_folders, labelled_split
from classwise.data.folders import from_labelled
from classwise.data.images import ImageFiles, Images
from classwise.data.sources import Facts, dataset
from classwise.errors import InputError
from classwise.threat import ThreatModel

FOLDER = "tiny-imagenet-200"


@dataset(
    "tiny-imagenet",
    Facts(ThreatModel("Linf", 8 / 255), "as CIFAR's, our choice", splits=("train", "val", "test"), downloadable=False),
    source="Le & Yang 2015, Stanford CS231N",
)
def tiny_imagenet(directory: Path, split: str, download: bool, order: str = "text") -> Images | ImageFiles:
    """Tiny-ImageNet: 100,000 / 10,000 colour 64x64 photographs, 200 classes; its test images have no labels."""
    root = _inside(directory)
    if not class_folders(root / "train"):
        raise InputError(
            f"tiny-imagenet is not in {directory}: there must be {FOLDER}/ with train/<wnid>/images and val/, as "
            "cs231n.stanford.edu/tiny-imagenet-200.zip unpacks."
        )
    flat = [part for part in ("val", "valid", "validation") if (root / part / "images").is_dir()]
    if split != "train" and flat and not (root / flat[0] / ANNOTATIONS).is_file():
        raise InputError(f"{root / flat[0]} has no {ANNOTATIONS}, which tells the classes of its pictures; restore it.")
    images = from_labelled(labelled_split(root, split, order=order), "tiny-imagenet", root)
    return replace(images, classes=_names(images.classes, root / "words.txt"))


def _inside(directory: Path) -> Path:
    """Return the folder that the archive unpacks to: this one, or one of its name inside, however that is written."""
    for _ in range(2):
        named = [name for name in class_folders(directory) if name.casefold() == FOLDER]
        directory = directory / named[0] if named else directory
    return directory


def _names(wnids: Sequence[str], table: Path) -> tuple[str, ...]:
    """Return the first word for each WordNet id, with the id behind where two classes share one."""
    if not table.is_file():
        return tuple(wnids)
    lines = (line.partition("\t") for line in table.read_text(encoding="utf-8").splitlines())
    words = {wnid: text.partition(",")[0].strip() for wnid, _, text in lines}
    first = [words.get(wnid, wnid) for wnid in wnids]
    counts = Counter(first)
    return tuple(f"{name} ({wnid})" if counts[name] > 1 else name for name, wnid in zip(first, wnids, strict=True))
