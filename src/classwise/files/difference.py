"""What a stored record and a job at hand differ in, in words that say what to change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_NAMES = {
    "classwise": "the version of classwise",
    "model.sha256": "the model's weights (SHA-256)",
    "model.parameters": "the model's number of parameters",
    "model.name": "the model's name",
    "data.sha256": "the data (SHA-256)",
    "data.n": "the number of images",
    "threat.eps_text": "the radius",
    "threat.eps": "the radius",
    "threat.norm": "the norm",
    "fixed_shape": "the fixed shape",
    "search_precision": "the search precision",
    "audit": "the audit",
    "seed": "the seed",
}
_LATE = ("threat.eps", "model.parameters", "model.name", "data.n")  # follow from others, which say more
_LONGEST = 60


def first_difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Name the first thing that two records differ in, with both values: "the seed = 0, and now the seed = 1".

    Args:
        stored: of what exists; what it does not mention is taken to agree.
        wanted: of what is asked for; causes before their effects.

    Example:
        >>> first_difference({"seed": 0}, {"seed": 1})
        'the seed = 0, and now 1 is asked for'
    """
    before, now = _flat(stored), _flat(json.loads(json.dumps(wanted)))
    differing = [name for name in now if name in before and before[name] != now[name]]
    differing.sort(key=lambda name: name in _LATE)  # stable
    if not differing:
        return None
    name = differing[0]
    label = _NAMES.get(name, name.replace(".settings", "").replace("attacks.", "the settings of the attack "))
    return f"{label} = {_short(before[name])}, and now {_short(now[name])} is asked for"


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        key = f"{prefix}{name}"
        flat |= _flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return flat


def _short(value: Any) -> str:
    text = value[:12] if isinstance(value, str) and len(value) == 64 else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
