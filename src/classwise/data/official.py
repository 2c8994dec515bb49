"""The research sets, read by torchvision's own loaders, and scikit-learn's digits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from classwise.data.class_folders import labelled_files
from classwise.data.groups import GROUPS
from classwise.data.images import ImageFiles, Images
from classwise.data.sources import Facts, dataset
from classwise.data.splits import stratified_split
from classwise.errors import InputError
from classwise.threat import ThreatModel

CIFAR100_TEST_IMAGES = 10_000
_DIGITS = tuple("0123456789")
_STL10_SIDE = 64


@dataset(
    "digits",
    Facts(ThreatModel("Linf", 0.15), "our choice", needs_directory=False, downloadable=False),
    source="scikit-learn load_digits (Alpaydin & Kaynak 1998)",
)
def digits(directory: Path, split: str, download: bool) -> Images:
    """Digits: 1,797 grey 8x8 images that come with scikit-learn, 10 classes."""
    table = torch.from_numpy(np.loadtxt(_digits_file(), delimiter=",", dtype=np.int64))
    y = table[:, -1].contiguous()
    sixteenths = table[:, :-1].reshape(-1, 8, 8)
    train, test = stratified_split(y, share=0.5, seed=0)
    return Images(
        x=((sixteenths * 255 + 8) // 16).to(torch.uint8)[:, None],
        y=y,
        classes=_DIGITS,
        index=torch.arange(len(y)),
        name="digits",
        split=split,
        note="grey levels 0 … 16 scaled to 0 … 255; halves split class by class at random with seed 0 (our choice)",
    ).subset(train if split == "train" else test)


def _digits_file() -> Path:
    """Return scikit-learn's own file, found without importing scikit-learn, which takes seconds."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("The digits come with scikit-learn, which is not installed; run pip install scikit-learn.")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


@dataset(
    "mnist",
    Facts(ThreatModel("Linf", 0.3), "yaodongyu/TRADES, fra31/auto-attack"),
    source="LeCun et al. 1998, by torchvision",
)
def mnist(directory: Path, split: str, download: bool) -> Images:
    """MNIST: 60,000 / 10,000 grey 28x28 digits, 10 classes of unequal size."""
    from torchvision import datasets

    names = [Path(archive).stem for archive, _ in datasets.MNIST.resources]
    loaded = _official(
        "mnist",
        directory,
        {f"MNIST/raw/{name}": None for name in names},
        download,
        lambda: datasets.MNIST(directory, train=split == "train", download=download),
    )
    return _images(loaded.data[:, None], loaded.targets, _DIGITS, "mnist", split)


@dataset("cifar10", Facts(ThreatModel("Linf", 8 / 255), "RobustBench"), source="Krizhevsky 2009, by torchvision")
def cifar10(directory: Path, split: str, download: bool) -> Images:
    """CIFAR-10: 50,000 / 10,000 colour 32x32 photographs, 10 classes."""
    from torchvision import datasets

    return _cifar("cifar10", datasets.CIFAR10, directory, split, download)


@dataset("cifar100", Facts(ThreatModel("Linf", 8 / 255), "RobustBench"), source="Krizhevsky 2009, by torchvision")
def cifar100(directory: Path, split: str, download: bool) -> Images:
    """CIFAR-100: 50,000 / 10,000 colour 32x32 photographs, 100 classes in 20 superclasses."""
    from torchvision import datasets

    official = (directory / datasets.CIFAR100.base_folder).is_dir()
    if split == "test" and not official and (directory / "cifar100-test").is_dir():
        return _cifar100_test(directory / "cifar100-test")
    return _cifar("cifar100", datasets.CIFAR100, directory, split, download)


@dataset(
    "svhn",
    Facts(ThreatModel("Linf", 8 / 255), "locuslab/robust_overfitting"),
    source="Netzer et al. 2011, by torchvision",
)
def svhn(directory: Path, split: str, download: bool) -> Images:
    """SVHN: 73,257 / 26,032 colour 32x32 house numbers, 10 classes of unequal size."""
    from torchvision import datasets

    _, file, md5 = datasets.SVHN.split_list[split]
    loaded = _official(
        "svhn", directory, {file: md5}, download, lambda: datasets.SVHN(directory, split=split, download=download)
    )
    return _images(torch.from_numpy(loaded.data), loaded.labels, _DIGITS, "svhn", split)


@dataset(
    "stl10",
    Facts(ThreatModel("Linf", 8 / 255), "third-party copy of the seed paper's setting, at our 64x64"),
    source="Coates et al. 2011, by torchvision",
)
def stl10(directory: Path, split: str, download: bool) -> Images:
    """STL-10: 5,000 / 8,000 colour photographs resized from 96x96 to 64x64, 10 classes."""
    from torchvision import datasets

    kind = datasets.STL10
    loaded = _official(
        "stl10",
        directory,
        {f"{kind.base_folder}/{file}": md5 for file, md5 in (*kind.train_list, *kind.test_list)},
        download,
        lambda: kind(directory, split=split, download=download),
    )
    full = torch.from_numpy(loaded.data)
    x = torch.nn.functional.interpolate(full, size=[_STL10_SIDE] * 2, mode="bilinear", antialias=True)
    classes = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    note = "resized from 96x96 to 64x64 (bilinear, antialiased); eps is measured after resizing"
    return _images(x, loaded.labels, classes, "stl10", split, note)


def _cifar(name: str, kind: Any, directory: Path, split: str, download: bool) -> Images:
    parts = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    loaded = _official(
        name,
        directory,
        {f"{kind.base_folder}/{file}": md5 for file, md5 in parts},
        download,
        lambda: kind(directory, train=split == "train", download=download),
    )
    # torchvision turns the pixels to channels last without moving them; turning them back moves nothing either.
    x = torch.from_numpy(loaded.data).permute(0, 3, 1, 2)
    return _images(x, loaded.targets, tuple(loaded.classes), name, split)


def _cifar100_test(folder: Path) -> Images:
    """Read ``cifar100-test/<class>/*.png``, class by class in the order of their names."""
    paths, y, classes = labelled_files(folder)
    known = tuple(sorted(name for members in GROUPS["cifar100"].values() for name in members))
    if classes != known or len(paths) != CIFAR100_TEST_IMAGES:
        raise InputError(
            f"{folder} holds {len(paths):,} images in {len(classes)} classes where the test set of CIFAR-100 has "
            f"{CIFAR100_TEST_IMAGES:,} in {len(known)}; unpack it again."
        )
    files = ImageFiles(tuple(paths), y, classes, torch.arange(len(y)), crop=(32, 32), resize=None)
    note = "read from cifar100-test/ class by class: positions are not those of the official file"
    return _images(files.read().x, y, classes, "cifar100", "test", note)


def _images(
    x: Tensor, y: Sequence[int] | Any, classes: tuple[str, ...], name: str, split: str, note: str = ""
) -> Images:
    return Images(
        x=x.contiguous(),
        y=torch.as_tensor(y).long(),
        classes=classes,
        index=torch.arange(len(x)),
        name=name,
        split=split,
        groups=GROUPS.get(name, {}),
        note=note,
    )


def _official(
    name: str, directory: Path, files: Mapping[str, str | None], download: bool, read: Callable[[], Any]
) -> Any:
    """Call torchvision's loader and turn its failure into one sentence.

    Args:
        name: registered name of the data set.
        directory: where its files should be.
        files: path below the directory -> MD5 of the official file, None where torchvision knows none.
        download: whether ``read`` may download.
        read: makes torchvision's data set.

    Raises:
        InputError: a file is missing or damaged, or the download failed.
    """
    try:
        return read()
    # A damaged file makes torchvision's parsers raise nearly anything, asserts and pickle errors included.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(_complaint(name, directory, files, download, reason)) from error


def _complaint(name: str, directory: Path, files: Mapping[str, str | None], download: bool, reason: str) -> str:
    from torchvision.datasets.utils import check_integrity

    missing = [file for file in files if not (directory / file).is_file()]
    if missing:
        what = missing[0] + (f" and {len(missing) - 1} more are" if len(missing) > 1 else " is")
        get = f"the download failed ({reason}), so" if download else "pass --download to fetch them, or"
        return f"{name} is incomplete in {directory}: {what} missing; {get} put the official files there."
    damaged = [file for file, md5 in files.items() if md5 and not check_integrity(directory / file, md5)]
    if damaged and download:
        return (
            f"{name} was not fetched whole into {directory}: {damaged[0]} differs from the official file ({reason}); "
            "run the same command again, or put the official file there."
        )
    if damaged:
        return (
            f"{name} is damaged in {directory}: {damaged[0]} differs from the official file; delete it and pass "
            "--download, or put the official file there."
        )
    folder = directory / Path(next(iter(files))).parent
    return f"{name} cannot be read in {directory} ({reason}); delete {folder} and pass --download."
