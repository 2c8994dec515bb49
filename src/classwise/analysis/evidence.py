"""The files that analyses read: evaluations, joined where they are of one model on the same images, and logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from classwise.errors import InputError
from classwise.files import schemas
from classwise.metrics.outcomes import WORST_CASE
from classwise.metrics.recorded import kinds
from classwise.metrics.result import RESULT_FILE, Result
from classwise.metrics.training import LOG_FILE, RUN_FILE, Training, run_folder

TRIAL_FILE = "trial.json"
# Kinds that do not stand or fall with one loss or one step size: without one, agreement of attacks says little.
_STRONG = {"APGD", "FAB", "Square"}


@dataclass(frozen=True, eq=False)
class Subject:
    """One model, on the same images, under one threat, with the attacks of every folder that has some.

    Attributes:
        label: how it is called in tables.
        result: header of the first folder, attacks of all.
        folders: where it was read from.
    """

    label: str
    result: Result
    folders: tuple[Path, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it a subject of its own: hashes of model and data, threat."""
        return _key(self.result)

    @property
    def alone(self) -> tuple[str, ...]:
        """Attacks that met every image, in order; not those added later, which met survivors only."""
        attacks = self.result.header["attacks"]
        return tuple(name for name in self.result.outcomes.attacks if not attacks[name].get("after"))

    @property
    def strong(self) -> tuple[str, ...]:
        """Those of `alone` with a member that is not of the PGD family."""
        attacks = self.result.header["attacks"]
        return tuple(name for name in self.alone if kinds(attacks[name]) & _STRONG)

    @property
    def present(self) -> list[int]:
        """Classes that have images."""
        return [int(c) for c in self.result.outcomes.n.nonzero()[0]]

    @property
    def method(self) -> str:
        """Training method as its study calls it, or that of a run whose folder can be read; else the model's name."""
        above = [folder.parent / TRIAL_FILE for folder in self.folders[:1]]
        if above and above[0].is_file():
            return str(schemas.read(above[0], schemas.RECORD, "run the study again")["name"])
        name = str(self.result.header["model"]["name"])
        try:
            folder = run_folder(name) or Path(name).expanduser()
            record = schemas.read(folder / RUN_FILE, schemas.RECORD, "train again")
            wrappers = f" + {record['wrappers']}" if record.get("wrappers") else ""
            return f"{record['method']}{wrappers}"
        except (InputError, ValueError, KeyError, TypeError):
            return name


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that was given to look at."""

    subjects: tuple[Subject, ...]
    trainings: tuple[Training, ...]


def read(folders: Sequence[Path]) -> Evidence:
    """Read folders of evaluations and of training runs; a folder may be both.

    Raises:
        InputError: a folder is neither, is damaged, or contradicts another one of the same model and images.
    """
    results, trainings = list[tuple[Path, Result]](), list[tuple[Path, Training]]()
    for folder in folders:
        evaluated, trained = (folder / RESULT_FILE).is_file(), (folder / LOG_FILE).is_file()
        if trained:
            trainings.append((folder, Training.read(folder)))
        if evaluated or not trained:
            results.append((folder, Result.read(folder)))
    joined = subjects(results)
    labels = _labels([subject.folders[0] for subject in joined])
    named = tuple(replace(subject, label=label) for subject, label in zip(joined, labels, strict=True))
    runs = zip(trainings, _labels([folder for folder, _ in trainings]), strict=True)
    return Evidence(named, tuple(replace(training, label=label) for (_, training), label in runs))


def subjects(results: Iterable[tuple[Path, Result]]) -> list[Subject]:
    """Join the results of one model on the same images under one threat; the first of two equal attacks stays.

    Raises:
        InputError: one name stands for attacks with different settings, or clean predictions differ.
    """
    by_key = dict[tuple[str, str, str], Subject]()
    for folder, result in results:
        earlier = by_key.get(_key(result))
        one = Subject(folder.name, result, (folder,))
        by_key[_key(result)] = one if earlier is None else _joined(earlier, folder, result)
    return list(by_key.values())


def check_same(compared: Sequence[Subject], view: str) -> None:
    """Refuse to compare what was not measured alike.

    Args:
        compared: the evaluations.
        view: the attack to compare under, or the worst case, for which all attacks must be the same.

    Raises:
        InputError: fewer than two subjects; or the first difference, named: data, images, classes, threat or attacks.
    """
    if len(compared) < 2:
        raise InputError("A comparison needs evaluations of at least two models; give another folder.")
    base = compared[0]
    for other in compared[1:]:
        if difference := _difference(base.result, other.result, view):
            raise InputError(f"{base.folders[0]} and {other.folders[0]} differ in {difference}; evaluate both alike.")


def _difference(one: Result, two: Result, view: str) -> str:
    """Name the first condition in which two results differ, "" if they can be compared."""
    first, second = one.header, two.header
    threats = [f"{header['threat']['norm']} {header['threat']['eps_text']}" for header in (first, second)]
    lists = [_settings(result, view) for result in (one, two)]
    differences = {
        f"data set: {first['data']['name']} and {second['data']['name']}": first["data"]["name"]
        != second["data"]["name"],
        "the names of their classes": one.outcomes.classes != two.outcomes.classes,
        f"their images: {len(one.outcomes):,} and {len(two.outcomes):,}, or others": not _same_images(one, two),
        f"threat: {threats[0]} and {threats[1]}": threats[0] != threats[1],
        f"attacks: {', '.join(lists[0])} and {', '.join(lists[1])}": list(lists[0]) != list(lists[1]),
        "the settings of their attacks": lists[0] != lists[1],
    }
    return next((text for text, differs in differences.items() if differs), "")


def _same_images(one: Result, two: Result) -> bool:
    same = all(np.array_equal(getattr(one.outcomes, key), getattr(two.outcomes, key)) for key in ("index", "y"))
    return same and one.header["data"]["sha256"] == two.header["data"]["sha256"]


def _settings(result: Result, view: str) -> dict[str, str]:
    attacks = result.header["attacks"]
    return {name: str(attacks[name].get("settings")) for name in result.outcomes.attacks if view in (WORST_CASE, name)}


def _labels(folders: Sequence[Path]) -> list[str]:
    """Call folders by their names, with the folder above where several are called alike."""
    labels = [folder.absolute().name for folder in folders]
    return [
        label if labels.count(label) == 1 else f"{folder.absolute().parent.name}/{label}"
        for label, folder in zip(labels, folders, strict=True)
    ]


def _key(result: Result) -> tuple[str, str, str]:
    header = result.header
    return header["model"]["sha256"], header["data"]["sha256"], f"{header['threat']['norm']} {header['threat']['eps']}"


def _joined(earlier: Subject, folder: Path, result: Result) -> Subject:
    known, offered = earlier.result.header["attacks"], result.header["attacks"]
    clash = [name for name in offered if name in known and known[name].get("settings") != offered[name].get("settings")]
    if clash:
        raise InputError(
            f"{folder} and {earlier.folders[0]} hold {clash[0]!r} with different settings; analyse them apart."
        )
    new = [name for name in offered if name not in known]
    header = {**earlier.result.header, "attacks": {**known, **{name: offered[name] for name in new}}}
    try:
        outcomes = earlier.result.outcomes.extended(result.outcomes.only(new))
    except InputError as error:
        raise InputError(
            f"{folder} and {earlier.folders[0]} are of one model and the same images, but their clean predictions "
            "differ; analyse them apart."
        ) from error
    return Subject(earlier.label, Result(header, outcomes), (*earlier.folders, folder))
