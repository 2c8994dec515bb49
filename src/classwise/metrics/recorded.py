"""Attacks as results record them: kind and fields, never told by a name or by the beginning of a text.

A record holds an attack in its entry ``attack`` as :func:`classwise.attacks.base.described` writes it. Results that are
older than that entry hold Python's text of the attack alone, which :func:`of_older_text` reads whole or not at all.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

Described = Mapping[str, Any]
"""An attack: its ``kind``, which is the name of its class, and its fields; lists for tuples."""
PGD_FAMILY = frozenset({"PGD", "MomentumPGD", "NearestPGD", "TemperaturePGD"})
"""Kinds that climb one loss with steps of one schedule, and fail together where that loss or those steps do."""


def attack_of(record: Mapping[str, Any]) -> Described:
    """Return the attack that an entry of result.json is about, as kind and fields; nothing where it does not say."""
    attack = record.get("attack")
    return attack if isinstance(attack, Mapping) else of_older_text(str(record.get("settings")))


def of_older_text(settings: str) -> Described:
    """Read Python's text of an attack, ``Kind(field=value, …)``, as kind and fields: what older results hold alone.

    Returns:
        nothing where a part of it is no such call and no plain value.

    Example:
        >>> of_older_text("PGD(threat=ThreatModel(norm='L2', eps=0.5), steps=20)")["threat"]
        {'kind': 'ThreatModel', 'norm': 'L2', 'eps': 0.5}
    """
    try:
        value = _plain(ast.parse(settings, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return value if isinstance(value, Mapping) else {}


def members(attack: Described) -> Iterator[Described]:
    """Walk down to the attacks that an ensemble, a mean of passes or a plan is made of, its audit included.

    An attack that is crafted on another model is its own member: how strong it is depends on that model.
    """
    inner = [*_several(attack, "attacks"), *_several(attack, "stages"), *_several(attack, "full")]
    if isinstance(attack.get("attack"), Mapping) and attack.get("kind") != "Transfer":
        inner.append(attack["attack"])
    if not inner:
        yield attack
    for part in inner:
        yield from members(part)


def kinds(record: Mapping[str, Any]) -> set[str]:
    """Return the kinds of the attacks that an entry of result.json is made of, none where it does not say."""
    return {str(member["kind"]) for member in members(attack_of(record)) if "kind" in member}


def _several(attack: Described, field: str) -> list[Described]:
    parts = attack.get(field)
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []


def _plain(node: ast.expr) -> Any:
    """Return the value that an expression writes.

    Raises:
        ValueError: it is neither a plain value, a sequence of such, nor a call with named arguments.
    """
    if isinstance(node, ast.Tuple | ast.List):
        return [_plain(item) for item in node.elts]
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    fields = {str(keyword.arg): _plain(keyword.value) for keyword in node.keywords if keyword.arg}
    if not isinstance(node.func, ast.Name) or node.args or len(fields) < len(node.keywords) or "kind" in fields:
        raise ValueError("not a kind with fields")
    return {"kind": node.func.id, **fields}
