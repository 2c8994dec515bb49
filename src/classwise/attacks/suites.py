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
