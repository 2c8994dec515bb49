"""AutoAttack in the three versions of fra31/auto-attack.

Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML
2020. Each version is an ensemble: an attack sees only the images that survived those before it. Departures: every
class count works (targets are at most K - 1, and a loss that needs more classes becomes the margin), and no verdict
depends on the batch, since every image draws its own random numbers. Square's schedule of sizes, stated for 10,000
queries, is stretched to those it has, where the released AutoAttack takes the first half of it. The parts differ from
the released code as their files say.
"""

from __future__ import annotations

from classwise.attacks.ensemble import Ensemble
from classwise.attacks.eot import EoT
from classwise.attacks.named import build
from classwise.registry import register
from classwise.threat import Norm, ThreatModel


def members(version: str, steps: int = 100, queries: int = 5000, norm: Norm = "Linf") -> tuple[str, ...]:
    """Return the attacks of a version in their order, by name with settings.

    Args:
        version: "standard", "plus" or "rand".
        steps: of Auto-PGD and FAB.
        queries: of Square.
        norm: of the threat; standard in L1 is five restarts of APGD-CE, and five targets of APGD-T, both on their way
            through larger balls, which plus and rand do without there too.

    Raises:
        KeyError: another version.
    """
    square, fab_t = f"square(queries={queries})", f"fab-t(steps={steps})"
    standard = (f"apgd-ce(steps={steps})", f"apgd-t(steps={steps})")
    if norm == "L1":
        standard = (f"apgd-ce(steps={steps}, restarts=5)", f"apgd-t(steps={steps}, targets=5)")
    direct = ", large_eps=False" if norm == "L1" else ""
    several = (f"{name}(steps={steps}, restarts=5{direct})" for name in ("apgd-ce", "apgd-dlr"))
    return {
        "standard": (*standard, fab_t, square),
        "plus": (*several, f"fab(steps={steps}, restarts=5)", square, f"apgd-t(steps={steps}{direct})", fab_t),
        "rand": (f"apgd-ce(steps={steps}{direct})", f"apgd-dlr(steps={steps}{direct})"),
    }[version]


@register("attack", "autoattack", source="Croce & Hein 2020; fra31/auto-attack, version standard")
def autoattack(threat: ThreatModel, steps: int = 100, queries: int = 5000) -> Ensemble:
    """AutoAttack standard: APGD-CE, APGD-T and FAB-T to nine targets, Square with 5,000 queries, on survivors each."""
    return _ensemble("standard", threat, steps, queries)


@register("attack", "autoattack-plus", source="Croce & Hein 2020; fra31/auto-attack, version plus")
def autoattack_plus(threat: ThreatModel, steps: int = 100, queries: int = 5000) -> Ensemble:
    """AutoAttack plus: five restarts of APGD-CE, APGD-DLR and FAB, then Square, APGD-T and FAB-T, on survivors each."""
    return _ensemble("plus", threat, steps, queries)


@register("attack", "autoattack-rand", source="Croce & Hein 2020; fra31/auto-attack, version rand")
def autoattack_rand(threat: ThreatModel, steps: int = 100, samples: int = 20) -> EoT:
    """AutoAttack rand, for models that are random at test time: APGD-CE and APGD-DLR on the mean of 20 passes."""
    return EoT(_ensemble("rand", threat, steps, queries=1), samples)


def _ensemble(version: str, threat: ThreatModel, steps: int, queries: int) -> Ensemble:
    built = build(list(members(version, steps, queries, threat.norm)), threat)
    return Ensemble(tuple(built.values()), tuple(built))
