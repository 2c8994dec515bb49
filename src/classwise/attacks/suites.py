"""Named suites and plans: lists of attacks that stand for their attacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classwise.attacks.base import Attack
from classwise.attacks.ensemble import Ensemble
from classwise.attacks.named import build, plan
from classwise.attacks.plan import Plan
from classwise.registry import register
from classwise.threat import ThreatModel


@register("plan", "fast", source="our design, docs/fast.md")
def fast(threat: ThreatModel) -> Plan:
    """AutoAttack's verdict at a part of its cost: gradients, then Square on the closest survivors, then an audit."""
    stages: list[Mapping[str, Any]] = [
        {"attack": "nearest-pgd(steps=10, targets=3)"},
        {"attack": "nearest-pgd(steps=40, targets=3, start='uniform')", "closest": 0.4},
        {"attack": "nearest-pgd(steps=60, targets=9, start='uniform')", "closest": 0.12, "go_on": 0.06},
        {"attack": "square(queries=500)", "closest": 0.2},
        {"attack": "square", "closest": 0.1, "go_on": 0.05, "if_closer": True},
    ]
    return plan(stages, threat, full="autoattack")


@register("plan", "upper-bound", source="our design, docs/fast.md")
def upper_bound(threat: ThreatModel) -> Plan:
    """Seconds for thousands of images: forty steps an image, no audit; overstates robustness by up to some points."""
    return plan([{"attack": "nearest-pgd(steps=10, targets=3)"}], threat)


@register("suite", "quick", source="our protocol")
def quick(threat: ThreatModel) -> Mapping[str, Attack]:
    """FGSM, PGD-20 and margin-PGD-20, one restart: for development."""
    return build("fgsm,pgd,margin-pgd", threat)


@register("suite", "pgd-family", source="our protocol")
def pgd_family(threat: ThreatModel) -> Mapping[str, Attack]:
    """PGD-20, margin-PGD-20 and the Temperature-PGD grid."""
    return build("pgd,margin-pgd,temperature-pgd", threat)


@register("suite", "standard", source="our protocol; attacks of Croce & Hein 2020")
def standard(threat: ThreatModel) -> Mapping[str, Attack]:
    """PGD-20, margin-PGD-20, the Temperature-PGD grid, APGD-CE and APGD-DLR: to compare models."""
    return build("pgd,margin-pgd,temperature-pgd,apgd-ce,apgd-dlr", threat)


@register("suite", "full", source="our protocol: every headline number")
def full(threat: ThreatModel) -> Mapping[str, Attack]:
    """AutoAttack standard."""
    return build("autoattack", threat)


@register("suite", "plus", source="our protocol: audits")
def plus(threat: ThreatModel) -> Mapping[str, Attack]:
    """AutoAttack standard, then AutoAttack plus, on all images each."""
    return build("autoattack,autoattack-plus", threat)


@register("attack", "ensemble", source="point-wise worst case, as AutoAttack (Croce & Hein 2020)")
def ensemble(threat: ThreatModel, attacks: str = "pgd,margin-pgd") -> Ensemble:
    """Attacks named in one string, each on the survivors of the ones before."""
    built = build(attacks, threat)
    return Ensemble(tuple(built.values()), tuple(built))
