"""Records that others may have written, read as data: bounded in size and depth, strict JSON, of the stated types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from classwise.errors import InputError
from classwise.files.texts import plain

Schema = Mapping[str, Any]
_LARGEST = 256 * 2**20  # bytes
_LARGEST_OPTIONS = 2**20  # bytes
_DEEPEST = 64
TEXT: Schema = {"type": "string", "maxLength": 100_000}
_TEXTS: Schema = {"type": "array", "items": TEXT, "maxItems": 1_000_000}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}


def _object(required: Schema, **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


RUN = _object(
    {
        "model": TEXT,
        "classes": {**_TEXTS, "minItems": 1},
        "shape": {"type": "array", "items": {**_COUNT, "minimum": 1}, "minItems": 3, "maxItems": 3},
    },
    method=TEXT,
    wrappers=TEXT,
    data=_object({"name": TEXT}, n=_COUNT, sha256=TEXT),
    held_out={"type": "array", "items": _COUNT},
    recipe={"type": "object"},
    threat={"type": "object"},
)
"""run.json of a training run, as far as readers use it."""
CORRECTED = _object(
    {"model": TEXT, "sha256": TEXT, "rule": TEXT, "fitted_on_test": {"type": "boolean"}},
    data=_object({"name": TEXT}),
)
"""corrected.json of a corrected model."""
TRIAL = _object({"name": TEXT, "key": TEXT, "code": _TEXTS})
"""trial.json of a run of a study."""
FAILURE = _object({"error": TEXT})
"""failure.json of one that failed."""
RECORD: Schema = {"type": "object"}
"""Any record, whose reader looks at what it needs."""
LOGGED = _object({"classes": {"type": "array", "items": TEXT}})
"""run.json, as far as a reader of the log uses it."""
SUMMARY: Schema = {"type": "object", "additionalProperties": {"type": "object"}}
"""summary.json of a training run."""
CURVE = _object(
    {
        "rule": TEXT,
        "images": TEXT,
        "max_loss": _NUMBER,
        "chosen": _COUNT,
        "data": _object({"n": _COUNT}),
        "rounds": {"type": "array", "items": {"type": "object"}, "maxItems": 10_000},
    },
)
"""The trade-off curve of a correction."""
HEADER = _object(
    {
        "model": _object({"name": TEXT, "sha256": {"type": ["string", "null"]}}),
        "data": _object({"name": TEXT, "split": TEXT}),
        "threat": _object({"norm": TEXT, "eps": _NUMBER, "eps_text": TEXT}),
        "seed": _COUNT,
        "flags": {"type": "array", "items": _object({"flag": TEXT, "message": TEXT})},
        "logits": {"type": "object"},
        "groups": {"type": "object", "additionalProperties": _TEXTS},
        "environment": {"type": "object"},
        "attacks": {"type": "object", "additionalProperties": {"type": "object"}},
        "classes": {**_TEXTS, "minItems": 1},
    },
    confidence={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    seconds=_NUMBER,
    command={"type": ["string", "null", "array"]},
)
"""result.json of an evaluation, as far as it does not derive from the outcomes."""


def read(path: Path, schema: Schema, remedy: str) -> dict[str, Any]:
    """Return the record in a file.

    Args:
        path: of a JSON document.
        schema: JSON Schema of an object.
        remedy: what to do about a file that is none, as the end of a sentence.

    Raises:
        InputError: it cannot be read, is too large or too deep, is no JSON, or is not what the schema says.
    """
    return parsed(content(path, remedy), schema, str(path), remedy)


def refuse_unbounded_yaml(path: Path) -> None:
    """Refuse a YAML file of options that is too large, nested too deeply, or refers to itself or to parts of it.

    A few lines of references to references stand for more than memory holds.

    Raises:
        InputError: it is one, or cannot be read.
    """
    import yaml  # type: ignore[import-untyped]  # only files of options need it

    depth, remedy = 0, "write the options one a line"
    if (size := len(content(path, remedy))) > _LARGEST_OPTIONS:
        raise InputError(f"{path} has {size:,} bytes, too many for options; {remedy}.")
    try:
        for event in yaml.parse(content(path, remedy)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{path} refers to a part of itself (*{event.anchor}); {remedy}.")
            if depth > _DEEPEST:
                raise InputError(f"{path} is nested too deeply; {remedy}.")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no YAML ({plain(' '.join(str(error).split()))}); {remedy}.") from error


def content(path: Path, remedy: str) -> bytes:
    """Return what a file holds, if it is one, and not too large for a record.

    Raises:
        InputError: it is not.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is no file; {remedy}.")
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes, too many for a record; {remedy}.")
        return path.read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}; {remedy}.") from error


def parsed(text: bytes | str, schema: Schema, what: str, remedy: str) -> dict[str, Any]:
    """Return the record in a text; see :func:`read`."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
        if _depth(value) > _DEEPEST:
            raise RecursionError
    except RecursionError as error:
        raise InputError(f"{what} cannot be read: it is nested too deeply; {remedy}.") from error
    except (ValueError, MemoryError) as error:
        raise InputError(f"{what} cannot be read: it is no JSON; {remedy}.") from error
    wrong = next(Draft202012Validator(schema).iter_errors(value), None)
    if wrong is not None:
        where = ".".join(str(part) for part in wrong.absolute_path)
        if not where and wrong.validator == "required":
            raise InputError(f"{what} {_said(wrong)}; {remedy}.")
        raise InputError(f"{what} cannot be read: {plain(where) or 'it'} {_said(wrong)}; {remedy}.")
    return dict(value)


def _said(wrong: Any) -> str:
    """Say briefly what a schema has against a value, which may be long."""
    if wrong.validator == "required":
        return f"lacks {', '.join(name for name in wrong.validator_value if name not in wrong.instance)}"
    if wrong.validator == "type":
        kinds = wrong.validator_value if isinstance(wrong.validator_value, list) else [wrong.validator_value]
        return f"is no {' or '.join(kinds)}"
    return f"breaks the rule {wrong.validator} {wrong.validator_value!r}"


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _depth(value: Any) -> int:
    """Return how deep a value is nested, without a recursion of its own."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth
