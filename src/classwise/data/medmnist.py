"""MedMNIST: small medical images in one .npz file a set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from classwise.data.arrays import arrays
from classwise.data.images import Images
from classwise.data.sources import Facts, dataset
from classwise.errors import InputError
from classwise.registry import unknown


@dataset(
    "medmnist",
    Facts(None, splits=("train", "val", "test"), downloadable=False),
    source="Yang et al. 2023 (doi 10.1038/s41597-022-01721-8)",
)
def medmnist(directory: Path, split: str, download: bool, subset: str = "") -> Images:
    """MedMNIST: one of its two-dimensional sets with one class an image, such as subset='pathmnist'."""
    file = _file(directory, subset)
    images = arrays(file, split, download)
    return replace(images, name="medmnist", note="; ".join(part for part in (file.stem, images.note) if part))


def _file(directory: Path, subset: str) -> Path:
    """Find the set in a folder of .npz files, or take the file that is given in the place of a folder."""
    if directory.is_file():
        return directory
    files = {path.stem: path for path in sorted(directory.glob("*.npz"))}
    if not files:
        raise InputError(f"{directory} holds no .npz file of MedMNIST; put the official files there.")
    if not subset and len(files) > 1:
        raise InputError(f"Say which set, as in medmnist(subset={min(files)!r}); there are {', '.join(files)}.")
    if subset and subset not in files:
        raise InputError(unknown("set of MedMNIST", subset, files))
    return files[subset or next(iter(files))]
