"""From the TOML file of a study to a Study, or to the line that is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

from classwise import registry
from classwise.errors import InputError
from classwise.files import schemas
from classwise.studies.checks import check
from classwise.studies.spec import Entry, Evaluation, Given, Homing, Study


def read(path: Path | str) -> Study:
    """Read a study from a TOML file.

    Raises:
        InputError: the file cannot be read; the message names the line, and the key that is missing or wrong.
    """
    try:
        text = schemas.content(Path(path), "give the TOML file of a study").decode()
        found = tomllib.loads(text)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"The study {path} is nested too deeply; write its tables as docs/studies.md does.") from error
    except ValueError as error:
        raise InputError(f"The study {path} is no TOML: {error}; mend that line.") from error
    try:
        return _study(found, text)
    except InputError as error:
        raise InputError(f"The study {path}: {error}") from error


def _study(found: Mapping[str, Any], text: str) -> Study:
    settings = dict(_checked(found, Study, "", _Place(text)))
    evaluate = settings.get("evaluate", {})
    settings["evaluate"] = Evaluation(**_checked(evaluate, Evaluation, "evaluate.", _Place(text, "[evaluate]")))
    if "homing" in settings:
        place = _Place(text, "[homing]")
        settings["homing"] = Homing(**_checked(settings["homing"], Homing, "homing.", place))
    rows: tuple[tuple[str, type], ...] = (("method", Entry), ("given", Given))
    for key, kind in rows:
        tables = enumerate(settings.get(key, ()), start=1)
        settings[key] = tuple(
            kind(**_checked(table, kind, f"{key} {number}, ", _Place(text, f"[[{key}]]", number)))
            for number, table in tables
        )
    return check(Study(**settings))


@dataclass(frozen=True)
class _Place:
    """Where a table stands in a file: below the ``number``-th line with that header, or at the top."""

    text: str
    header: str = ""
    number: int = 1

    def line(self, key: str) -> str:
        """Return "line 3: " for a key, that of the header for one that is missing; "" if neither can be found."""
        lines = [line.partition("#")[0].strip() for line in self.text.splitlines()]
        heads = [place for place, line in enumerate(lines, start=1) if line == self.header] if self.header else [0]
        if len(heads) < self.number:
            return ""
        first = heads[self.number - 1]
        within = enumerate(takewhile(lambda line: not re.match(r"\[\[?\w+\]", line), lines[first:]), start=first + 1)
        place = next((place for place, line in within if re.match(rf"{re.escape(key)}\s*=", line)), first)
        return f"line {place}: " if place else ""


# Of each key: what it may be, and how that is said. A tuple may be written as a single value.
_TEXT, _COUNT = "a text", "a whole number of at least 1"
_KINDS: dict[str, str] = {
    "model": "a text or a list of texts",
    "weights": "a text or a list of texts",
    "analyse": "a text or a list of texts",
    "method": _TEXT,
    "seeds": "a list of whole numbers of at least 0 and below 2^63",
    "seed": "a whole number of at least 0 and below 2^63",
    "limit": _COUNT,
    "audit": "a number between 0 and 100",
    "eps": 'a text such as "8/255", or a number',
    "norm": 'a text such as "Linf", or a number',
    "evaluate": "a table, [evaluate]",
    "homing": "a table, [homing]",
    "methods": "tables, [[method]]",
    "given": "tables, [[given]]",
}


def _checked(table: Any, kind: type, where: str, place: _Place) -> dict[str, Any]:
    """Return the settings of a table, refusing keys that it does not have and values of the wrong type."""
    known = {field.name: field for field in fields(kind)}
    if not isinstance(table, Mapping):
        raise InputError(f"{where.rstrip('., ')} is {table!r}, but must be a table.")
    for key, value in table.items():
        if key not in known:
            table_named = where and f"{where.rstrip('., ')}: "
            raise InputError(place.line(key) + table_named + registry.unknown("key", key, list(known)))
        said = _said(kind, key)
        if not _fits(said, value):
            raise InputError(f"{place.line(key)}{where}{key} is {value!r}, but must be {said}.")
    # A dataclass of settings has no default for what must be said.
    missing = [name for name in known if name not in table and not hasattr(kind, name)]
    if missing:
        raise InputError(f"{place.line(missing[0])}{where}{missing[0]} is missing; add it.")
    return {key: _tupled(_said(kind, key), value) for key, value in table.items()}


def _said(kind: type, key: str) -> str:
    """Return what a key of a table may be: one model is given, or one method named, where a study may list several."""
    if kind is Study and key == "method":
        return _KINDS["methods"]
    return _TEXT if kind is Given and key == "model" else _KINDS.get(key, _TEXT)


def _fits(said: str, value: Any) -> bool:
    whole, number = type(value) is int, type(value) in (int, float)
    texts = isinstance(value, list) and value and all(isinstance(each, str) for each in value)
    tables = isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value)
    rules = {
        _TEXT: isinstance(value, str),
        _COUNT: whole and value >= 1,
        _KINDS["model"]: isinstance(value, str) or texts,
        _KINDS["seeds"]: isinstance(value, list) and value and all(type(n) is int and 0 <= n < 2**63 for n in value),
        _KINDS["seed"]: whole and 0 <= value < 2**63,
        _KINDS["audit"]: number and 0 <= value <= 100,
        _KINDS["eps"]: isinstance(value, str) or number,
        _KINDS["norm"]: isinstance(value, str) or number,
        _KINDS["evaluate"]: isinstance(value, Mapping),
        _KINDS["homing"]: isinstance(value, Mapping),
        _KINDS["methods"]: tables,
        _KINDS["given"]: tables,
    }
    return bool(rules[said])


def _tupled(said: str, value: Any) -> Any:
    if said == _KINDS["model"] and isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value
