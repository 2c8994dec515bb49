"""From names to attacks, suites and plans."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from classwise import registry
from classwise.attacks.base import Attack
from classwise.attacks.ensemble import Ensemble
from classwise.attacks.plan import AttackOrPlan, Plan, Stage
from classwise.errors import InputError
from classwise.threat import ThreatModel


def kinds() -> dict[str, registry.Kind]:
    """Return every name that an evaluation can run, with what it is: an attack, a suite or a plan."""
    registries: tuple[registry.Kind, ...] = ("plan", "suite", "attack")
    return {name: kind for kind in registries for name in registry.names(kind)}


def build(names: str | list[str], threat: ThreatModel) -> Mapping[str, Attack]:
    """Build attacks and suites by name: ``"pgd,margin-pgd(steps=100)"`` -> attack of each name, in order.

    A suite stands for its attacks. The name, settings included, is the key of the attack in every result.

    Raises:
        InputError: an unknown name, settings that an attack does not take, or none at all.
    """
    if not isinstance(threat, ThreatModel):
        raise InputError(f"Attacks need a threat such as classwise.ThreatModel('Linf', '8/255'), not {threat!r}.")
    attacks: dict[str, Attack] = {}
    known = kinds()
    for text in registry.split(names) if isinstance(names, str) else names:
        name = registry.parse(text)[0]
        if name not in known:
            raise InputError(registry.unknown("attack", name, known))
        if known[name] == "plan":
            raise InputError(f"{name} is a plan, and only attacks and suites can stand here; see `classwise list`.")
        built = registry.build(known[name], text, threat)
        attacks.update(built if known[name] == "suite" else {text: built})
    if not attacks:
        raise InputError("No attack was named; write for example --attacks pgd,margin-pgd.")
    return attacks


_RESERVED = ("clean", "worst_case")  # views that every result has


def build_attacks(names: str | list[str], threat: ThreatModel) -> Mapping[str, AttackOrPlan]:
    """Build attacks, suites and plans by name: ``"fast,pgd(steps=100),mine.toml"`` -> each by its name, in order.

    A suite stands for its attacks; a plan in a file is called after the file. The name, settings included, is the key
    in every result.

    Raises:
        InputError: an unknown name, settings that an attack does not take, or none at all.
    """
    texts = registry.split(names) if isinstance(names, str) else names
    return joined(_attacks_and_plans(text, threat) for text in texts) or build([], threat)


def joined(parts: Iterable[Mapping[str, AttackOrPlan]]) -> dict[str, AttackOrPlan]:
    """Put attacks and plans together, in order.

    Raises:
        InputError: two different ones have one name.
    """
    built: dict[str, AttackOrPlan] = {}
    for part in parts:
        for name, contender in part.items():
            if built.setdefault(name, contender) != contender:
                raise InputError(f"Two different attacks are called {name!r}; rename the file of one.")
    return built


def _attacks_and_plans(text: str, threat: ThreatModel) -> Mapping[str, AttackOrPlan]:
    if text.endswith(".toml"):
        if Path(text).stem in _RESERVED:
            raise InputError(f"A plan cannot be called {Path(text).stem!r}, which names a view; rename the file.")
        return {Path(text).stem: read(Path(text), threat)}
    if registry.parse(text)[0] in registry.names("plan"):
        return {text: registry.build("plan", text, threat)}
    return build([text], threat)


def plan(stages: list[Mapping[str, Any]], threat: ThreatModel, full: str = "") -> Plan:
    """Build a plan from the names of its attacks.

    Args:
        stages: each with ``attack`` and optionally ``closest``, ``go_on`` and ``if_closer``, as in a TOML file.
        threat: what the attacks may do to an image.
        full: attack whose members audit the plan; none if empty.

    Raises:
        InputError: unknown names or settings.
    """
    return Plan(tuple(_stage(settings, threat) for settings in stages), members_of(full, threat) if full else ())


def read(path: Path, threat: ThreatModel) -> Plan:
    """Read a plan from a TOML file.

    Raises:
        InputError: the file cannot be read, or says something that a plan does not.
    """
    try:
        if not path.is_file():  # a device has no end
            raise ValueError("no such file")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise InputError(f"Cannot read the plan {path}: it is nested too deeply.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the plan {path}: {error}.") from error
    stages, full = table.pop("stage", None), table.pop("full", "")
    if table or not isinstance(full, str) or not isinstance(stages, list) or not stages:
        raise InputError(f"The plan {path} needs [[stage]] tables and may name one suite as full; nothing else.")
    return plan(stages, threat, full)


def members_of(text: str, threat: ThreatModel) -> tuple[Stage, ...]:
    """Return the attacks that ``text`` names, those of an ensemble one by one."""
    return tuple(stage for name, attack in build(text, threat).items() for stage in members(name, attack))


def members(name: str, attack: Attack) -> tuple[Stage, ...]:
    """Return an attack as stages on all survivors: those of an ensemble one by one, any other as one.

    Their random numbers are those that the attack itself would draw.
    """
    if not isinstance(attack, Ensemble):
        return (Stage(name, attack, path=(name,)),)
    named = zip(attack.labels, attack.attacks, strict=True)
    return tuple(Stage(label, member, path=(name, "member", place)) for place, (label, member) in enumerate(named))


def _stage(settings: Mapping[str, Any], threat: ThreatModel) -> Stage:
    given = dict(settings) if isinstance(settings, Mapping) else {}
    text, if_closer = given.pop("attack", None), given.pop("if_closer", False)
    shares = {"closest": given.pop("closest", 1.0), "go_on": given.pop("go_on", 0.0)}
    if not isinstance(text, str) or given:
        raise InputError("A stage of a plan names its attack and may set closest, go_on and if_closer; nothing else.")
    for name, value in shares.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{name} of the stage {text!r} is a share between 0 and 1, not {value!r}.")
    if not isinstance(if_closer, bool):
        raise InputError(f"if_closer of the stage {text!r} is true or false, not {if_closer!r}.")
    built = build([text], threat)
    if len(built) != 1:
        raise InputError(f"A stage of a plan is one attack, and {text!r} stands for several; give each its stage.")
    ((name, attack),) = built.items()
    closest, go_on = (float(min(share, 2)) for share in shares.values())  # an integer may be too large for a float
    return Stage(name, attack, closest, go_on, if_closer)
