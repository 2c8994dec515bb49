"""Load a data set by name. To add one, write a function under ``@dataset`` in this folder; nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from classwise import registry
from classwise.data.images import ImageFiles, Images
from classwise.errors import InputError
from classwise.threat import ThreatModel

Loader = TypeVar("Loader", bound=Callable[..., Images | ImageFiles])


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before it is loaded.

    Attributes:
        threat: the threat model its robustness is reported under; None where there is no convention.
        threat_source: who uses that threat model.
        splits: names of its splits.
        needs_directory: whether it lies in files.
        downloadable: whether torchvision can fetch those files.
    """

    threat: ThreatModel | None
    threat_source: str = ""
    splits: tuple[str, ...] = ("train", "test")
    needs_directory: bool = True
    downloadable: bool = True


_FACTS: dict[str, Facts] = {}


def dataset(name: str, facts: Facts, *, source: str) -> Callable[[Loader], Loader]:
    """Register a loader ``(directory, split, download, …) -> Images | ImageFiles`` with the facts of its data.

    The directory exists unless ``download`` is set; the split is one of ``facts.splits``. Further arguments are
    settings that the user writes behind the name.
    """
    _FACTS[name] = facts
    return registry.register("data", name, source=source)


def load(
    name: str, directory: Path | str | None = None, split: str = "test", download: bool = False
) -> Images | ImageFiles:
    """Load one split of a data set.

    Args:
        name: a registered name, with settings where it takes some: ``folder(resize=64, crop=64)``.
        directory: the folder that holds the data set; "digits" needs none.
        split: "train" or "test"; ImageNet's test images are those called "val".
        download: fetch the official files into the directory if they are not there.

    Returns:
        Images in memory, or image files where memory is too small for them.

    Raises:
        InputError: unknown name or split; files are missing or damaged; labels or pixels do not fit.

    Example:
        >>> digits = load("digits")
        >>> len(digits), digits.shape
        (901, (1, 8, 8))
    """
    dataset_facts = facts(name)
    if split not in dataset_facts.splits:
        raise InputError(f"{name} has no split {split!r}; choose from {', '.join(dataset_facts.splits)}.")
    if directory is None and dataset_facts.needs_directory:
        raise InputError(f"{name} lies in files: name the folder that holds it, --data-dir DIR.")
    folder = Path(directory or ".").expanduser()
    if dataset_facts.needs_directory and not download and not folder.exists():
        fetch = ", or pass --download to fetch it there" if dataset_facts.downloadable else ""
        raise InputError(f"{folder} does not exist; name the folder that holds {name}{fetch}.")
    loaded: Images | ImageFiles = registry.build("data", name, folder, split, download)
    return loaded


def default_threat(name: str) -> ThreatModel:
    """Return the threat model a data set's robustness is usually reported under.

    Raises:
        InputError: unknown name, or a data set without a convention.

    Example:
        >>> str(default_threat("cifar10"))
        'Linf 8/255'
    """
    threat = facts(name).threat
    if threat is None:
        raise InputError(f"{name} has no usual radius; give one with --eps, such as --eps 8/255.")
    return threat


def facts(name: str) -> Facts:
    """Return what is known of a data set before it is loaded.

    Raises:
        InputError: unknown name.
    """
    return _FACTS[registry.entry("data", registry.parse(name)[0]).name]
