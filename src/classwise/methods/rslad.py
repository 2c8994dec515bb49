"""RSLAD: Zi et al., ICCV 2021 (arXiv 2108.07969).

"Revisiting Adversarial Robustness Distillation: Robust Soft Labels Make Student Better". Departures from the released
code (zibojia/RSLAD): divergences are summed over classes, where the release takes the mean over classes and multiplies
by 10 on CIFAR-100 (``scale=0.1`` gives its loss on both). The release trains for 300 epochs: ``--recipe rslad``.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.losses import Loss, kl
from classwise.methods.base import Distillation, Step, part
from classwise.models.teacher import Teacher
from classwise.registry import register


@register("method", "rslad", source="Zi et al. 2021, zibojia/RSLAD")
class RSLAD(Distillation):
    """Robust soft labels: mean 5/6·KL(t ‖ p(x_adv)) + 1/6·KL(t ‖ p(x)), t a robust teacher's prediction on x.

    True classes are used nowhere. The attack climbs KL(t ‖ p(x_adv)) from x + 0.001·N(0, 1).

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used.
        teacher: the frozen robust network.
        share: of the term on x_adv, in [0, 1].
        scale: factor of the loss, at least 0.

    Raises:
        InputError: no teacher, or a setting outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        teacher: Teacher | None = None,
        share: float = 5 / 6,
        scale: float = 1.0,
    ) -> None:
        super().__init__(num_classes, replace(attack, loss="kl", start="jitter"), teacher, scale)
        self.share = part("share", share)

    def objective(self, taught: Tensor) -> Loss:
        """Return the divergence from the teacher's prediction."""
        return lambda logits, y: kl(logits, taught)

    def errors(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, taught: Tensor) -> Step:
        """Return both divergences of each image."""
        logits, logits_adv = model(x), model(x_adv)
        return Step(self.share * kl(logits_adv, taught) + (1 - self.share) * kl(logits, taught), logits_adv, logits)
