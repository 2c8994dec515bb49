"""Which version of AutoAttack the recorded settings of an attack are: the one place that says so of a number.

Croce & Hein, ICML 2020; fra31/auto-attack. Settings are read from what a result records, since reports know no more,
and compared one by one: a name proves nothing, as in Python any attack may be called "autoattack".
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any, Literal

Version = Literal["standard", "plus", "rand"]
Member = tuple[str, Mapping[str, Any]]
"""Class of an attack, and its settings other than the threat."""

_SAMPLES = 20  # passes that version rand takes the mean of


def version(settings: str, precision: str = "float32") -> Version | None:
    """Return the version of AutoAttack that the settings of an attack are, None if they are no version's.

    Every setting counts. One that an older record lacks had no other value then; one that is not known here makes it
    another attack, since nothing says that it is harmless.

    Args:
        settings: ``repr`` of the attack, as ``attacks.NAME.settings`` of result.json has it.
        precision: what the evaluation searched in; in bfloat16 it is another attack.

    Example:
        >>> version("Ensemble(attacks=(Square(threat=ThreatModel(norm='Linf', eps=0.3), queries=5000),))") is None
        True
    """
    if precision != "float32":
        return None
    try:
        call = ast.parse(settings, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    name, inside = _read(call)
    averaged = name == "EoT"
    if averaged:
        rule = {"samples": _SAMPLES, "mean": "logits"}
        if not _agree({key: inside[key] for key in inside if key != "attack"}, rule, needed={"samples"}):
            return None
        name, inside = _read(inside.get("attack"))
    threats, members = _members(inside) if name == "Ensemble" and set(inside) == {"attacks"} else ([], [])
    if not members or len({repr(threat) for threat in threats}) > 1:
        return None
    candidates: tuple[Version, ...] = ("rand",) if averaged else ("standard", "plus")
    return next((each for each in candidates if _are(members, list(_wanted(each, threats[0].get("norm"))))), None)


def _wanted(kind: Version, norm: Any) -> Iterator[Member]:
    """Yield the members of a version in their order; fra31/auto-attack has its own standard in L1."""
    if kind == "rand":
        yield _apgd("cross_entropy")
        yield _apgd("dlr")
    elif kind == "standard":
        yield _apgd("cross_entropy", restarts=5 if norm == "L1" else 1)
        yield _apgd("dlr", targets=5 if norm == "L1" else 9)
        yield _fab(targets=9)
        yield _square()
    else:
        yield from (_apgd("cross_entropy", restarts=5), _apgd("dlr", restarts=5), _fab(restarts=5), _square())
        yield from (_apgd("dlr", targets=9), _fab(targets=9))


def _apgd(loss: str, restarts: int = 1, targets: int = 0) -> Member:
    settings = {"steps": 100, "loss": loss, "restarts": restarts, "targets": targets}
    return "APGD", {**settings, "rho": 0.75, "large_eps": None}


def _fab(restarts: int = 1, targets: int = 0) -> Member:
    settings = {"steps": 100, "restarts": restarts, "targets": targets}
    return "FAB", {**settings, "alpha_max": 0.1, "beta": 0.9, "eta": 1.05, "final_search": 3}


def _square() -> Member:
    settings = {"queries": 5000, "restarts": 1}
    return "Square", {**settings, "p_init": 0.8, "loss": "margin", "rescale_schedule": True}


_NEEDED = {"steps", "queries", "restarts", "targets"}  # an attack without one of these was never recorded


def _are(members: list[Member], wanted: list[Member]) -> bool:
    return [name for name, _ in members] == [name for name, _ in wanted] and all(
        _agree(found, rule, _NEEDED & set(rule)) for (_, found), (_, rule) in zip(members, wanted, strict=True)
    )


def _agree(found: Mapping[str, Any], rule: Mapping[str, Any], needed: set[str]) -> bool:
    # By repr, to which True is not 1.
    known = all(key in rule and repr(found[key]) == repr(rule[key]) for key in found)
    return known and needed <= set(found)


def _members(inside: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], list[Member]]:
    """Return the threat of each attack of an ensemble, and its other settings."""
    attacks = inside["attacks"]
    read = [_read(each) for each in attacks.elts] if isinstance(attacks, ast.Tuple) else []
    threats = [_read(settings.get("threat"))[1] for _, settings in read]
    return threats, [(name, {k: v for k, v in settings.items() if k != "threat"}) for name, settings in read]


def _read(node: Any) -> tuple[str, dict[str, Any]]:
    """Read A(key=value, …) as a name and settings, which stay as they are where they are no plain values."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        return "", {}
    return node.func.id, {str(keyword.arg): _plain(keyword.value) for keyword in node.keywords}


def _plain(node: ast.expr) -> Any:
    return node.value if isinstance(node, ast.Constant) else node
