"""Named lists of attacks, which stand for their attacks."""

from __future__ import annotations

from collections.abc import Mapping

from classwise.attacks.base import Attack, build
from classwise.registry import register
from classwise.threat import ThreatModel


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
