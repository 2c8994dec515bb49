"""ARD: Goldblum et al., "Adversarially Robust Distillation", AAAI 2020.

Not checked against the paper: formula and settings are those of two released codes that build on it,
NISP-official/Fair-ARD (τ 30) and ZFancy/IAD (τ 1). Departures: the divergence is summed over classes, as in ZFancy/IAD,
where Fair-ARD takes the mean (``scale=0.1`` for ten classes gives its loss) and Nesterov's momentum, a setting of the
recipe; BatchNorm is in eval mode in the attack unless the recipe says otherwise, in train mode there; the learning rate
falls at each milestone, there at the first alone; the clean images are sent through the student only where they have a
weight in the loss.
"""

from __future__ import annotations

from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.losses import cross_entropy, kl
from classwise.methods.base import Distillation, Step, part, positive
from classwise.models.teacher import Teacher
from classwise.registry import register


@register("method", "ard", source="Goldblum et al. 2020, as in NISP-official/Fair-ARD and ZFancy/IAD")
class ARD(Distillation):
    """Robust distillation: mean a·τ²·KL(softmax(z_T(x)/τ) ‖ softmax(z(x_adv)/τ)) + (1 − a)·CE(z(x), y).

    The attack climbs the cross-entropy.

    Args:
        num_classes: number of classes.
        attack: crafts the training images.
        teacher: the frozen robust network.
        temperature: τ, above 0; 30 in Fair-ARD, 1 in IAD.
        share: a, in [0, 1]; 1 in both, which leaves the cross-entropy out.
        scale: factor of the loss, at least 0.

    Raises:
        InputError: no teacher, or a setting outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        teacher: Teacher | None = None,
        temperature: float = 30.0,
        share: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(num_classes, attack, teacher, scale)
        self.temperature, self.share = positive("temperature", temperature), part("share", share)

    def objective(self, taught: Tensor) -> None:
        """Leave the attack its own loss."""

    def errors(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, taught: Tensor) -> Step:
        """Return the divergence from the teacher on attacked images, and what the clean ones have in it."""
        logits = model(x) if self.share < 1 else None
        logits_adv = model(x_adv)
        loss = self.share * softened(logits_adv, taught, self.temperature)
        if logits is not None:
            loss = loss + (1 - self.share) * cross_entropy(logits, y)
        return Step(loss, logits_adv, logits)


def softened(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return τ²·KL(softmax(z_T/τ) ‖ softmax(z/τ)) of each image, (N, K) twice -> (N,).

    In float32: for large τ the divergence is a small difference of almost uniform predictions.
    """
    return temperature**2 * kl(logits.float() / temperature, taught.float() / temperature)
