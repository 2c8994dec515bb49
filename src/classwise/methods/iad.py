"""IAD: Zhu et al., "Reliable Adversarial Distillation with Unreliable Teachers", ICLR 2022 (arXiv 2106.04928).

Introspective distillation in its first form (IAD-I); the second, which needs a second teacher, is not offered. The
formula is that of the released code (ZFancy/IAD), where the teacher's term does not shrink with the trust in it.
Departures: BatchNorm is in eval mode in the attack unless the recipe says otherwise, in train mode there; the learning
rate falls at each milestone, there at the first alone. The release counts epochs from 0, so that its 60 is our 61.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.losses import kl
from classwise.methods.base import Distillation, Epoch, Step, number, whole
from classwise.models.teacher import Teacher
from classwise.registry import register


@register("method", "iad", source="Zhu et al. 2022, ZFancy/IAD")
class IAD(Distillation):
    """Introspective distillation: mean KL(p_T(x) ‖ p(x_adv)) + (1 − a)·KL(p(x) ‖ p(x_adv)), a = p_T(y | x_adv)^b.

    Where the teacher is wrong on an attacked image, the student learns from its own clean prediction too, which has a
    gradient. The attack climbs the cross-entropy.

    Args:
        num_classes: number of classes.
        attack: crafts the training images.
        teacher: the frozen robust network.
        power: b, at least 0.
        begin: first epoch in which the teacher is doubted, counted from 1; a = 1 before.
        scale: factor of the loss, at least 0.

    Raises:
        InputError: no teacher, or a setting outside its range.
    """

    finished: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        teacher: Teacher | None = None,
        power: float = 0.1,
        begin: int = 61,
        scale: float = 1.0,
    ) -> None:
        super().__init__(num_classes, attack, teacher, scale)
        self.power, self.begin = number("power", power), whole("begin", begin, least=1)
        self.register_buffer("finished", torch.zeros((), dtype=torch.int64))

    def objective(self, taught: Tensor) -> None:
        """Leave the attack its own loss."""

    def errors(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, taught: Tensor) -> Step:
        """Return both divergences of each image."""
        logits, logits_adv = model(x), model(x_adv)
        doubted = self.finished + 1 >= self.begin
        doubt = torch.where(doubted, 1 - trust(self.taught(x_adv), y, self.power), 0.0)
        return Step(kl(logits_adv, taught) + doubt * kl(logits_adv, logits), logits_adv, logits)

    def end_epoch(self, epoch: Epoch) -> None:
        """Count the epoch, which the beginning of the doubt depends on."""
        self.finished.fill_(epoch.number + 1)


def trust(taught: Tensor, y: Tensor, power: float) -> Tensor:
    """Return p_T(y)^b of each image, logits (N, K) and classes (N,) -> (N,) in [0, 1]."""
    return taught.float().softmax(1).gather(1, y[:, None]).squeeze(1) ** power
