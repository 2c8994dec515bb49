"""NumPy arrays on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from classwise.data.images import Images
from classwise.data.pixels import class_numbers, labels_of
from classwise.data.sources import Facts, dataset
from classwise.errors import InputError
from classwise.files import npy

Array = NDArray[Any]


_SPLITS = ("train", "val", "test")


@dataset("arrays", Facts(None, splits=_SPLITS, downloadable=False), source="NumPy .npy and .npz")
def arrays(directory: Path, split: str, download: bool, first_label: int = 0) -> Images:
    """Your arrays: x_test.npy and y_test.npy (or x.npy, y.npy) in DIR, or an .npz with x, y and maybe classes.

    Without class names, classes are numbered up to the largest label of any split, so that a class that is absent
    from the test split is reported as absent. Names as in MedMNIST (test_images, test_labels) are understood too.
    """
    names, read = _store(directory)
    x, y = _pair(names, split, directory)
    labels = {name: labels_of(read(name)) - first_label for name in {y, *_labels_of_splits(names)}}
    if "classes" in names:
        named = read("classes")
        if named.ndim != 1:
            raise InputError(
                f"classes in {directory} has {named.ndim} dimensions; give one name a class, of shape (C,)."
            )
        classes = tuple(named.astype(str).tolist())
    else:
        classes = class_numbers(torch.cat(list(labels.values())))
    note = f"labels from {first_label} on, taken as 0 on" if first_label else ""
    return Images.from_arrays(read(x), labels[y], classes, name="arrays", split=split, note=note)


def _store(directory: Path) -> tuple[frozenset[str], Callable[[str], Array]]:
    """Return the names of the arrays in a folder or an .npz file, and a function that reads one."""
    if directory.is_dir():
        files = {path.stem: path for path in sorted(directory.glob("*.npy"))}
        archives = sorted(directory.glob("*.npz"))
        if files or len(archives) != 1:
            return frozenset(files), lambda name: read_array(files[name])
        directory = archives[0]
    return frozenset(_names(directory)), lambda name: read_array(directory, name)


def _labels_of_splits(names: frozenset[str]) -> set[str]:
    return {y for split in _SPLITS for x, y in _named(split) if {x, y} <= names}


def _named(split: str) -> list[tuple[str, str]]:
    return [(f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")]


def _pair(names: frozenset[str], split: str, directory: Path) -> tuple[str, str]:
    candidates = [*_named(split), *([("x", "y")] if split == "test" else [])]
    for x, y in candidates:
        if {x, y} <= names:
            return x, y
    wanted = " or ".join(f"{x} and {y}" for x, y in (candidates[0], *candidates[2:]))
    there = ", ".join(sorted(names)) or "no arrays"
    raise InputError(f"{directory} must hold {wanted} as .npy files or in one .npz, but holds {there}.")


def _names(archive: Path) -> list[str]:
    try:
        return npy.names(archive)
    except (OSError, ValueError) as error:
        raise InputError(f"{archive} is no .npz file; save it with numpy.savez.") from error


def read_array(path: Path, name: str | None = None) -> Array:
    """Return the array in an .npy file, or the one called ``name`` in an .npz file.

    Raises:
        InputError: it is missing or damaged, claims more than it or memory holds, or holds Python objects.
    """
    try:
        return npy.read_array(path) if name is None else npy.read_member(path, name)
    except (OSError, ValueError) as error:
        what = f"{name} in {path}" if name else str(path)
        raise InputError(f"{what} cannot be read ({error}); save plain numbers again with NumPy.") from error
