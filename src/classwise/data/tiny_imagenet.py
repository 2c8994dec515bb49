"""Tiny-ImageNet, read from the folder that its archive unpacks to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from classwise.data.class_folders import labelled_split
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
    root = directory / FOLDER if (directory / FOLDER).is_dir() else directory
    if not (root / "val").is_dir():
        raise InputError(
            f"tiny-imagenet is not in {directory}: there must be {FOLDER}/ with train/<wnid>/images and val/, as "
            "cs231n.stanford.edu/tiny-imagenet-200.zip unpacks."
        )
    found = from_labelled(labelled_split(root, split, order=order), "tiny-imagenet", root)
    return replace(found, classes=_names(found.classes, root / "words.txt"))


def _names(wnids: Sequence[str], table: Path) -> tuple[str, ...]:
    """Return the first word for each WordNet id, with the id behind where two classes share one."""
    if not table.is_file():
        return tuple(wnids)
    lines = (line.partition("\t") for line in table.read_text(encoding="utf-8").splitlines())
    words = {wnid: text.partition(",")[0].strip() for wnid, _, text in lines}
    first = [words.get(wnid, wnid) for wnid in wnids]
    counts = Counter(first)
    return tuple(f"{name} ({wnid})" if counts[name] > 1 else name for name, wnid in zip(first, wnids, strict=True))
