"""From the TOML file of a study to a Study, or to the line that is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from classwise import registry
from classwise.errors import InputError
from classwise.files import schemas
from classwise.studies.checks import check
from classwise.studies.kinds import Kind, kinds
from classwise.studies.spec import Study


def read(path: Path | str) -> Study:
    """Read a study from a TOML file.

    Raises:
        InputError: the file cannot be read; the message names the line, and the key that is missing or wrong.
    """
    try:
        text = schemas.content(Path(path), "give the TOML file of a study").decode()
        tables = tomllib.loads(text)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"The study {path} is nested too deeply; write its tables as docs/studies.md does.") from error
    except ValueError as error:
        raise InputError(f"The study {path} is no TOML: {error}; mend that line.") from error
    try:
        return check(_table(Study, tables, "", _Place(text)))
    except InputError as error:
        raise InputError(f"The study {path}: {error}") from error


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


def _table(settings: type, table: Mapping[str, Any], where: str, place: _Place) -> Any:
    """Return a table as the settings that it says, with the tables in it."""
    known = kinds(settings)
    _refuse_odd(settings, known, table, where, place)
    return settings(**{key: _value(key, known[key], value, place.text) for key, value in table.items()})


def _value(key: str, kind: Kind, value: Any, text: str) -> Any:
    if kind.table is None:
        return (value,) if kind.alone and isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    if isinstance(value, Mapping):
        return _table(kind.table, value, f"{key}.", _Place(text, f"[{key}]"))
    rows = enumerate(value, start=1)
    return tuple(_table(kind.table, row, f"{key} {n}, ", _Place(text, f"[[{key}]]", n)) for n, row in rows)


def _refuse_odd(settings: type, known: Mapping[str, Kind], table: Mapping[str, Any], where: str, place: _Place) -> None:
    """Refuse keys that a table does not have, values of the wrong type, and the lack of a key that has no default."""
    for key, value in table.items():
        if key not in known:
            table_named = where and f"{where.rstrip('., ')}: "
            raise InputError(place.line(key) + table_named + registry.unknown("key", key, list(known)))
        if not known[key].fits(value):
            raise InputError(f"{place.line(key)}{where}{key} is {value!r}, but must be {known[key].words}.")
    # A dataclass of settings has no default for what must be said.
    missing = [name for name in known if name not in table and not hasattr(settings, name)]
    if missing:
        raise InputError(f"{place.line(missing[0])}{where}{missing[0]} is missing; add it.")
