"""One evaluation on disk: result.json, which people and reports read, beside outcomes.npz, from which it derives.

result.json is strict JSON (undefined numbers are null) of the form in result.schema.json. Everything in it is
either the header, which says how the evaluation was done, or computed from the outcomes.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from classwise.errors import InputError
from classwise.files import schemas
from classwise.files.texts import located
from classwise.files.writing import write_json
from classwise.metrics.hypotheses import EqualClasses, equal_classes
from classwise.metrics.outcomes import CLEAN, WORST_CASE, Outcomes
from classwise.metrics.views import AverageAccuracy, ByClass, ClassAccuracy, ViewSummary, WorstClass, summarize, table

SCHEMA_VERSION = 1
RESULT_FILE = "result.json"
OUTCOMES_FILE = "outcomes.npz"

_REQUIRED = (
    "model",
    "data",
    "threat",
    "seed",
    "batch_size",
    "device",
    "command",
    "seconds",
    "environment",
    "flags",
    "logits",
    "groups",
    "attacks",
)
_DERIVED = ("schema_version", "classes", "n", "clean", "equal_classes")


@dataclass(frozen=True, eq=False)
class Result:
    """An evaluation: how it was done, and what happened to every image.

    Attributes:
        header: the fields of result.json that say how: model, data, threat, seed, batch_size, device, command,
            seconds, environment, flags, logits, groups; attacks {name: {settings, seconds}} for every attack of
            the outcomes; optionally confidence (0.95), classwise (the installed version), and others.
        outcomes: the verdict on every image.

    The numbers are typed values: ``result.worst`` (name, accuracy, interval), ``result.average``, ``result.by_class``
    under the worst case of all attacks, ``result.clean``, and ``result.view(name)`` for each attack.

    Raises:
        InputError: the header lacks a field, has one that derives from the outcomes, or has other attacks.
    """

    header: Mapping[str, Any]
    outcomes: Outcomes

    def __post_init__(self) -> None:
        missing = [name for name in _REQUIRED if name not in self.header]
        if missing:
            raise InputError(f"The header of the result lacks {', '.join(missing)}; give every field.")
        derived = [name for name in _DERIVED if name in self.header]
        if derived:
            raise InputError(f"The header holds {', '.join(derived)}, which derives from outcomes; leave it out.")
        if list(self.header["attacks"]) != list(self.outcomes.attacks):
            raise InputError(
                f"The header describes the attacks {list(self.header['attacks'])}, but the outcomes hold "
                f"{list(self.outcomes.attacks)}; describe each attack, in their order."
            )

    @property
    def confidence(self) -> float:
        """Level of the simultaneous intervals."""
        return float(self.header.get("confidence", 0.95))

    @cached_property
    def views(self) -> Mapping[str, ViewSummary]:
        """Accuracies of each view, class by class and summed up: "clean", the attacks in order, "worst_case"."""
        headers = self.header["attacks"]
        return {
            view: summarize(
                self.outcomes, view, self.confidence, headers[view] if view in self.outcomes.attacks else {}
            )
            for view in self.outcomes.views
        }

    def view(self, name: str = WORST_CASE) -> ViewSummary:
        """Return one of `views`.

        Raises:
            InputError: no such view.
        """
        if name not in self.views:
            raise InputError(f"There is no view {name!r}; choose one of {', '.join(self.outcomes.views)}.")
        return self.views[name]

    @property
    def clean(self) -> ViewSummary:
        """Accuracies on clean images."""
        return self.views[CLEAN]

    @property
    def worst(self) -> WorstClass:
        """The weakest class under the worst case of all attacks; of another view, ``result.view(name).worst``."""
        return self.views[WORST_CASE].worst

    @property
    def average(self) -> AverageAccuracy:
        """The share of all images that every attack leaves right."""
        return self.views[WORST_CASE].average

    @property
    def by_class(self) -> ByClass[ClassAccuracy]:
        """Each class under the worst case of all attacks, by number or by name."""
        return self.views[WORST_CASE].by_class

    @cached_property
    def equal_classes(self) -> EqualClasses:
        """The permutation test of equal class accuracies under the worst case."""
        return equal_classes(self.outcomes.counts(), self.outcomes.n, seed=int(self.header["seed"]))

    @cached_property
    def document(self) -> dict[str, Any]:
        """What result.json holds: header and derived tables, in plain types, with None for undefined numbers."""
        outcomes = self.outcomes
        document = {
            "schema_version": SCHEMA_VERSION,
            "classwise": self.header.get("classwise") or importlib.metadata.version("classwise"),
            **{name: value for name, value in self.header.items() if name not in ("attacks", "classwise")},
            "confidence": self.confidence,
            "classes": outcomes.classes,
            "n": outcomes.n,
            "clean": self.clean.as_dict(),
            "attacks": {view: self.views[view].as_dict() for view in (*outcomes.attacks, WORST_CASE)},
            "equal_classes": {"view": WORST_CASE, **self.equal_classes.as_dict()},
        }
        plain: dict[str, Any] = _plain(document)
        return plain

    def table(self, view: str = WORST_CASE) -> dict[str, Any]:
        """Return a view as it stands in result.json; `view` returns the same as a typed value.

        Raises:
            InputError: no such view.
        """
        plain: dict[str, Any] = _plain(self.view(view).as_dict())
        return plain

    def write(self, directory: Path | str, *, added: bool = False) -> Path:
        """Write outcomes.npz and then result.json, so that a folder with a result.json is complete.

        Args:
            directory: the folder; what it holds of another result is replaced.
            added: it holds the result of the first of these attacks, which can be read until this one is complete.

        Returns:
            the path of result.json.

        Raises:
            InputError: the folder cannot be written.
        """
        path = Path(directory) / RESULT_FILE
        document = self.document
        try:
            # An old result.json must not stand beside new outcomes, should the second write not come to pass.
            if not added:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"Cannot write {path}: {error.strerror or error}; choose another folder.") from error
        self.outcomes.save(path.with_name(OUTCOMES_FILE))
        write_json(path, document)
        return path

    @classmethod
    def read(cls, directory: Path | str) -> Result:
        """Read a folder that `write` wrote.

        Raises:
            InputError: the folder or a file is missing or damaged, the schema version is another one, or the two
                files belong to different evaluations.
        """
        folder = Path(directory)
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}; give one that `classwise evaluate` wrote.")
        document = _read_document(folder / RESULT_FILE)
        if not (folder / OUTCOMES_FILE).is_file():
            raise InputError(f"{folder} holds no {OUTCOMES_FILE}; copy the whole folder, or evaluate again.")
        outcomes = Outcomes.load(folder / OUTCOMES_FILE)
        try:
            # A process that was killed while it added attacks may have written their outcomes already.
            outcomes = outcomes.first(len(document["attacks"]) - 1)
            same = _fingerprint(document) == _expected_fingerprint(outcomes)
            header = _header(document, derived=set(table(outcomes, CLEAN)))
            header["model"] = {**header["model"], "name": located(header["model"]["name"], folder)}
            result = cls(header, outcomes) if same else None
        except (KeyError, TypeError, AttributeError, InputError) as error:
            raise InputError(f"{folder / RESULT_FILE} is damaged or incomplete; evaluate again.") from error
        if result is None:
            raise InputError(
                f"{RESULT_FILE} and {OUTCOMES_FILE} in {folder} are not of the same evaluation; evaluate again."
            )
        return result


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of result.json."""
    text = resources.files("classwise.metrics").joinpath("result.schema.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def _read_document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        stopped = any(path.parent.glob("partial-*.npz")) or (path.parent / OUTCOMES_FILE).exists()
        remedy = (
            "the evaluation did not finish; evaluate again"
            if stopped
            else "give the folder that `classwise evaluate --out` wrote"
        )
        raise InputError(f"{path.parent} holds no {path.name}: {remedy}.")
    try:
        text = schemas.content(path, "check its permissions")
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is no JSON; evaluate again.") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version is None:
        raise InputError(f"{path} is no result of classwise; give a folder that `classwise evaluate` wrote.")
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version!r}, but this classwise reads version {SCHEMA_VERSION}; "
            "install the version that wrote it, or evaluate again."
        )
    try:
        return schemas.parsed(text, schemas.HEADER, str(path), "evaluate again")
    except InputError as error:
        raise InputError(f"{path} is damaged or incomplete: {error}") from error


def _header(document: Mapping[str, Any], derived: set[str]) -> dict[str, Any]:
    """Keep of a document what does not derive from outcomes."""
    header = {name: value for name, value in document.items() if name not in _DERIVED}
    header["attacks"] = {
        name: {key: value for key, value in entry.items() if key not in derived}
        for name, entry in document["attacks"].items()
        if name != WORST_CASE
    }
    return header


def _fingerprint(document: Mapping[str, Any]) -> list[Any]:
    """Return what tells whether a document derives from some outcomes: their classes, attacks and all counts."""
    tables = {CLEAN: document["clean"], **document["attacks"]}
    return [document["classes"], document["n"], [(view, entry["correct"]) for view, entry in tables.items()]]


def _expected_fingerprint(outcomes: Outcomes) -> list[Any]:
    counts = [(view, outcomes.counts(view).tolist()) for view in outcomes.views]
    return [list(outcomes.classes), outcomes.n.tolist(), counts]


def _plain(value: Any) -> Any:
    """Turn a value into what strict JSON can say: plain types, None for NaN and infinity, valid Unicode."""
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (str, Path)):
        # Paths and command lines may carry bytes that are no Unicode, as lone surrogates.
        return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    if value is None or isinstance(value, (bool, int)):
        return value
    raise TypeError(f"a result cannot hold {value!r} of type {type(value).__name__}")
