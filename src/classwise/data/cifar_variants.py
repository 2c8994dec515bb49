"""Other test images for CIFAR models: corrupted ones (CIFAR-10-C, CIFAR-100-C) and new photographs (CIFAR-10.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from classwise.data.arrays import Array, read_array
from classwise.data.groups import GROUPS
from classwise.data.images import Images
from classwise.data.sources import Facts, dataset
from classwise.errors import InputError
from classwise.registry import unknown
from classwise.threat import ThreatModel

_SEVERITIES = 5
_FACTS = Facts(ThreatModel("Linf", 8 / 255), "that of CIFAR", splits=("test",), downloadable=False)
_CIFAR10 = tuple(sorted(name for members in GROUPS["cifar10"].values() for name in members))
_CIFAR100 = tuple(sorted(name for members in GROUPS["cifar100"].values() for name in members))


@dataset("cifar10-c", _FACTS, source="Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261)")
def cifar10_c(directory: Path, split: str, download: bool, corruption: str = "", severity: int | None = None) -> Images:
    """CIFAR-10-C: CIFAR-10's test images under a corruption, as in cifar10-c(corruption='fog', severity=3)."""
    return _corrupted("cifar10", _CIFAR10, directory / "CIFAR-10-C", corruption, severity)


@dataset("cifar100-c", _FACTS, source="Hendrycks & Dietterich, ICLR 2019 (arXiv 1903.12261)")
def cifar100_c(
    directory: Path, split: str, download: bool, corruption: str = "", severity: int | None = None
) -> Images:
    """CIFAR-100-C: CIFAR-100's test images under a corruption, as in cifar100-c(corruption='fog', severity=3)."""
    return _corrupted("cifar100", _CIFAR100, directory / "CIFAR-100-C", corruption, severity)


@dataset("cifar10.1", _FACTS, source="Recht et al. 2018 (arXiv 1806.00451)")
def cifar10_1(directory: Path, split: str, download: bool, version: str = "v6") -> Images:
    """CIFAR-10.1: 2,000 new photographs for CIFAR-10's classes (v6), or 2,021 (v4)."""
    if version not in ("v4", "v6"):
        raise InputError(f"CIFAR-10.1 has no version {version!r}; choose v4 or v6.")
    files = [f"cifar10.1_{version}_{what}.npy" for what in ("data", "labels")]
    folder = next((d for d in (directory, directory / "datasets") if (d / files[0]).is_file()), directory)
    _require("cifar10.1", folder, files)
    x, y = (read_array(folder / file) for file in files)
    return _images(x, y, _CIFAR10, "cifar10.1", f"version {version}", "cifar10")


def _corrupted(base: str, classes: tuple[str, ...], folder: Path, corruption: str, severity: int | None) -> Images:
    """Read one severity of a corruption, or all five one after another."""
    name = f"{base}-c"
    folder = folder if folder.is_dir() else folder.parent
    if severity is not None and (type(severity) is not int or not 1 <= severity <= _SEVERITIES):
        raise InputError(f"The severity of a corruption is {severity!r}, but must be from 1 to {_SEVERITIES}.")
    known = sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")
    if known and not corruption:
        raise InputError(f"Say which corruption, as in {name}(corruption={known[0]!r}); there are {', '.join(known)}.")
    if known and corruption not in known:
        raise InputError(unknown("corruption", corruption, known))
    files = [f"{corruption or 'fog'}.npy", "labels.npy"]
    _require(name, folder, files)
    x, y = (read_array(folder / file) for file in files)
    if not len(x) or len(x) % _SEVERITIES or len(x) != len(y):
        raise InputError(
            f"{folder / files[0]} has {len(x):,} images and labels.npy {len(y):,} labels; each holds the test images "
            f"{_SEVERITIES} times, by severity, so put the official files there."
        )
    size = len(x) // _SEVERITIES
    part = slice(None) if severity is None else slice((severity - 1) * size, severity * size)
    which = f"severities 1 to {_SEVERITIES} one after another" if severity is None else f"severity {severity}"
    return _images(x[part], y[part], classes, name, f"{corruption}, {which}", base)


def _images(x: Array, y: Array, classes: tuple[str, ...], name: str, note: str, base: str) -> Images:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3:
        raise InputError(f"{name} has images of shape {x.shape} and type {x.dtype}, not (N, 32, 32, 3) of bytes.")
    return Images.from_arrays(x, y, classes, name=name, groups=GROUPS[base], note=note)


def _require(name: str, folder: Path, files: list[str]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise InputError(f"{name} is incomplete in {folder}: {missing[0]} is missing; put the official files there.")
