"""A result as an entry of RobustBench's leaderboard, with what that format has no place for in a block of its own.

Keys and formats are those of the files in ``model_info`` of RobustBench/robustbench (78fcc9e): accuracies in per cent
as text, the radius as text such as "8/255", and no key ``external`` or ``autoattack_acc`` where there is no such
number, since that code takes any value there for a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classwise import files
from classwise.errors import InputError
from classwise.metrics.autoattack import version
from classwise.metrics.outcomes import CLEAN, WORST_CASE
from classwise.metrics.result import Result
from classwise.metrics.summaries import literature_names
from classwise.registry import unknown
from classwise.report import which_number

_NUMBER = re.compile(r"\d+(\.\d+)?")
# What a result does not know, by the type of its value; "number" is a per cent value that is written as text.
_ABOUT = {
    "link": "text",
    "name": "text",
    "authors": "text",
    "venue": "text",
    "architecture": "text",
    "additional_data": "bool",
    "number_forward_passes": "int",
    "reported": "number",
    "external": "number",
    "footnote": "text",
}
_WANTED = {
    "text": "text",
    "bool": "True or False",
    "int": "a whole number of at least 1",
    "number": "a per cent value such as 56.14",
}
_HARMLESS = {"train_mode", "plain_search"}  # flags that say what was mended, not that a number may be too high


def entry(result: Result, **about: Any) -> dict[str, Any]:
    """Return a result in the form of RobustBench's model_info files.

    ``autoattack_acc`` is there only if the evaluation ran AutoAttack standard on every image, by its settings
    (:func:`classwise.metrics.autoattack.version`).
    Any other robust accuracy stands in the block ``classwise``, with the label that says which one it is, and then
    ``unreliable`` is true and the footnote says why. A flag of the evaluation makes it true as well.

    Args:
        result: an evaluation.
        about: what a result cannot know: link, name (of the paper), authors, venue, architecture, footnote as text;
            additional_data (bool), number_forward_passes (int); reported and external as per cent values. The text
            that is not given is empty, the others null, and ``external`` is left out.

    Returns:
        plain types: the keys of RobustBench, and ``classwise`` with counts of each class (C,).

    Raises:
        InputError: ``about`` holds another key or a value of another type, or the result has no images.
    """
    _check(about)
    if not len(result.outcomes):
        raise InputError("The result has no images, so there is no accuracy to write; evaluate at least one.")
    header, number = result.header, _autoattack(result)
    doubts = [flag["flag"] for flag in header["flags"] if flag["flag"] not in _HARMLESS]
    return {
        **{key: about.get(key, "") for key in ("link", "name", "authors")},
        **{key: about.get(key) for key in ("additional_data", "number_forward_passes")},
        "dataset": header["data"]["name"],
        **{key: about.get(key, "") for key in ("venue", "architecture")},
        "eps": header["threat"]["eps_text"],
        "clean_acc": _per_cent(result, CLEAN),
        "reported": str(about.get("reported", "")),
        **({} if number is None else {"autoattack_acc": number}),
        **({"external": str(about["external"])} if about.get("external") is not None else {}),
        "footnote": _footnote(result, about.get("footnote", ""), number is not None, doubts),
        "unreliable": number is None or bool(doubts),
        "classwise": _block(result),
    }


def write(result: Result, path: Path | str, **about: Any) -> Path:
    """Write :func:`entry` as JSON, atomically, and return the path.

    Raises:
        InputError: as :func:`entry`, or the file cannot be written.
    """
    files.write_json(Path(path), entry(result, **about))
    return Path(path)


def _autoattack(result: Result) -> str | None:
    """Return the accuracy under AutoAttack standard, where it met every image; whatever the attack is called."""
    precision = str(result.header.get("search_precision", "float32"))
    for name, about in result.header["attacks"].items():
        if version(about, precision) == "standard" and not about.get("after"):
            return _per_cent(result, name)
    return None


def _per_cent(result: Result, view: str) -> str:
    return f"{100 * result.view(view).average.accuracy:.2f}"


def _footnote(result: Result, own: str, standard: bool, doubts: list[str]) -> str:
    header = result.header
    who, count = f"classwise {result.document['classwise']}", f"{len(result.outcomes):,} images"
    sentences = [own] if own else []
    if standard:
        sentences.append(f"AutoAttack standard as implemented by {who}, on {count}.")
    elif header["attacks"]:
        label = which_number(result)
        sentences.append(f"Evaluated by {who} on {count} without AutoAttack standard on all images; {label}")
    else:
        sentences.append(f"Evaluated by {who} on {count}. {which_number(result)}")
    if doubts:
        sentences.append(f"The evaluation raised the flags {', '.join(dict.fromkeys(doubts))}.")
    return " ".join(sentences)


def _block(result: Result) -> dict[str, Any]:
    """Return what happened in each class, and what is needed to find and repeat the evaluation."""
    header, document, outcomes = result.header, result.document, result.outcomes
    attacked, robust = bool(outcomes.attacks), outcomes.counts().tolist()
    worst = {**result.table()["worst"], "confidence": result.confidence}
    return {
        "version": document["classwise"],
        "schema_version": document["schema_version"],
        "label": which_number(result),
        "robust_acc": _per_cent(result, WORST_CASE) if attacked else None,
        "images": len(outcomes),
        "classes": document["classes"],
        "n": document["n"],
        "clean_correct": outcomes.counts(CLEAN).tolist(),
        "robust_correct": robust if attacked else None,
        "worst": worst if attacked else None,
        "summary": literature_names(robust, outcomes.n) if attacked else None,
        "attacks": {name: about.get("settings") for name, about in document["attacks"].items() if name != WORST_CASE},
        "threat": document["threat"],
        "seed": header["seed"],
        "flags": [flag["flag"] for flag in header["flags"]],
        "model": document["model"],
        "data": document["data"],
    }


def _check(about: Mapping[str, Any]) -> None:
    stranger = next((key for key in about if key not in _ABOUT), None)
    if stranger is not None:
        raise InputError(f"{unknown('key', stranger, list(_ABOUT))} The evaluation itself fills every other key.")
    wrong = next((key for key, value in about.items() if not _fits(value, _ABOUT[key])), None)
    if wrong is not None:
        raise InputError(f"{wrong} cannot be {about[wrong]!r}; RobustBench wants {_WANTED[_ABOUT[wrong]]}.")


def _fits(value: Any, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return not isinstance(value, bool) and _NUMBER.fullmatch(str(value)) is not None and float(value) <= 100
