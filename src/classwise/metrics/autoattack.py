"""Which version of AutoAttack the recorded settings of an attack are: the one place that says so of a number.

Croce & Hein, ICML 2020; fra31/auto-attack. Kind and fields of an attack (:mod:`classwise.metrics.recorded`) are
compared one by one: a name proves nothing, as in Python any attack may be called "autoattack".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from classwise.metrics.recorded import Described, attack_of

Version = Literal["standard", "plus", "rand"]
Rule = Mapping[str, tuple[Any, ...]]
"""The values that each field may have."""

_SAMPLES = 20  # passes that version rand takes the mean of
_NEEDED = {"steps", "queries", "restarts", "targets"}  # an attack without one of these was never recorded


def version(record: Mapping[str, Any], precision: str = "float32") -> Version | None:
    """Return the version of AutoAttack that an attack is, None if it is no version.

    Every setting counts but the radius and the seed. One that an older record lacks had no other value then; one that
    is not known here makes it another attack, since nothing says that it is harmless.

    Args:
        record: what result.json holds of the attack: ``attack``, or in older files only ``settings``.
        precision: what the evaluation searched in; in bfloat16 it is another attack.

    Example:
        >>> version({"settings": "Ensemble(attacks=(Square(threat=ThreatModel(norm='Linf', eps=0.3)),))"}) is None
        True
    """
    return _version(attack_of(record), precision)


def suite(record: Mapping[str, Any], precision: str = "float32") -> str:
    """Return what the full suite of a plan is called: "AutoAttack standard", or the names of its attacks.

    Args:
        record: what result.json holds of the plan; its ``full`` names the attacks of the suite.
        precision: as in :func:`version`.
    """
    full = attack_of(record).get("full")
    stages = [stage for stage in full if isinstance(stage, Mapping)] if isinstance(full, list) else []
    whole = all((stage.get("closest"), stage.get("go_on"), stage.get("if_closer")) == (1, 0, False) for stage in stages)
    version = _version({"kind": "Ensemble", "attacks": [stage.get("attack") for stage in stages]}, precision)
    return f"AutoAttack {version}" if whole and version else ", ".join(map(str, record.get("full", ())))


def _version(attack: Described, precision: str) -> Version | None:
    """Return the version of an ensemble; "rand" takes a mean of passes, around the ensemble or around each member."""
    inside = _inside(attack)
    ensemble = attack if inside is None else inside
    members = ensemble.get("attacks") if set(ensemble) == {"kind", "attacks"} else None
    if precision != "float32" or ensemble.get("kind") != "Ensemble" or not isinstance(members, list):
        return None
    if inside is None and members and all(_inside(member) is not None for member in members):
        inside, members = ensemble, [_inside(member) for member in members]
    candidates: tuple[Version, ...] = ("standard", "plus") if inside is None else ("rand",)
    threat = _threat(members)
    return next((kind for kind in candidates if threat and _are(members, list(_wanted(kind, threat)))), None)


def _inside(attack: Any) -> Described | None:
    """Return the attack that a mean of 20 passes is taken around, None where there is no such mean."""
    inner = attack.get("attack") if isinstance(attack, Mapping) else None
    rest = {name: attack[name] for name in attack if name != "attack"} if isinstance(inner, Mapping) else {}
    return inner if _agree(rest, {"kind": ("EoT",), "samples": (_SAMPLES,), "mean": ("logits",)}, {"samples"}) else None


def _threat(members: Sequence[Any]) -> Described | None:
    """Return the threat that all members have in common."""
    threats = [member.get("threat") for member in members if isinstance(member, Mapping)]
    alike = len(threats) == len(members) and len({repr(threat) for threat in threats}) == 1
    threat = threats[0] if alike else None
    return threat if isinstance(threat, Mapping) and set(threat) == {"kind", "norm", "eps"} else None


def _wanted(kind: Version, threat: Described) -> Iterator[Rule]:
    """Yield the members of a version in their order; fra31/auto-attack has its own standard in L1, and only that."""
    sparse = threat["norm"] == "L1"
    apgd = partial(_apgd, (None, sparse) if kind == "standard" or not sparse else (False,))
    if kind == "rand":
        yield from (apgd("cross_entropy"), apgd("dlr"))
    elif kind == "standard":
        yield apgd("cross_entropy", restarts=5 if sparse else 1)
        yield apgd("dlr", targets=5 if sparse else 9)
        yield from (_fab(targets=9), _square())
    else:
        yield from (apgd("cross_entropy", restarts=5), apgd("dlr", restarts=5), _fab(restarts=5), _square())
        yield from (apgd("dlr", targets=9), _fab(targets=9))


def _apgd(large_eps: tuple[bool | None, ...], loss: str, restarts: int = 1, targets: int = 0) -> Rule:
    counts = {"steps": (100,), "restarts": (restarts,), "targets": (targets,)}
    return {"kind": ("APGD",), **counts, "loss": (loss,), "rho": (0.75,), "large_eps": large_eps}


def _fab(restarts: int = 1, targets: int = 0) -> Rule:
    counts = {"steps": (100,), "restarts": (restarts,), "targets": (targets,), "final_search": (3,)}
    return {"kind": ("FAB",), **counts, "alpha_max": (0.1,), "beta": (0.9,), "eta": (1.05,)}


def _square() -> Rule:
    # Released with its schedule of sizes cut short; `classwise.attacks.autoattack` stretches it and says so.
    schedule = {"p_init": (0.8,), "loss": ("margin",), "rescale_schedule": (True, False)}
    return {"kind": ("Square",), "queries": (5000,), "restarts": (1,), **schedule}


def _are(members: Sequence[Described], wanted: Sequence[Rule]) -> bool:
    """Tell whether members, whose threat is known to be one, are those of a version."""
    return len(members) == len(wanted) and all(
        _agree({name: member[name] for name in member if name != "threat"}, rule, _NEEDED & set(rule))
        for member, rule in zip(members, wanted, strict=True)
    )


def _agree(attack: Described, rule: Rule, needed: set[str]) -> bool:
    # By repr, to which True is not 1.
    known = all(repr(attack[name]) in map(repr, rule.get(name, ())) for name in attack)
    return known and needed | {"kind"} <= set(attack)
