"""The fast gradient sign method: PGD with one full step from the clean image."""

from classwise.attacks.pgd import PGD
from classwise.registry import register
from classwise.threat import ThreatModel


@register("attack", "fgsm", source="Goodfellow et al. 2015")
def fgsm(threat: ThreatModel) -> PGD:
    """One step of length eps along the gradient of the cross-entropy, from the clean image."""
    return PGD(threat, steps=1, step_size=threat.eps, start="clean")
