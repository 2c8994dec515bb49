"""ABSLD: Zhao et al., "Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation", NeurIPS 2024.

Departures from the released code (zhaoshiji123/ABSLD): there both temperatures divide one tensor in place, so that from
the second epoch on both terms see z_T/(T_adv·T_nat) (``official=True`` restores it); divergences are summed over
classes, where the release takes the mean (``scale=0.1`` for ten classes gives its loss); temperatures follow the mean
loss of each class, where the release has the sum, which is right for classes of one size. Settings for CIFAR-100 were
not released. The release trains for 300 epochs: ``--recipe rslad``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.losses import Loss, kl
from classwise.methods.base import Distillation, Epoch, Step, flag, number, part, wholes
from classwise.models.teacher import Teacher
from classwise.registry import register


@register("method", "absld", source="Zhao et al. 2024, zhaoshiji123/ABSLD")
class ABSLD(Distillation):
    """Anti-bias soft labels: RSLAD with a temperature of the teacher for each class, lower for harder classes.

    The loss is mean 5/6·KL(softmax(z_T(x)/T_adv) ‖ p(x_adv)) + 1/6·KL(softmax(z_T(x)/T_nat) ‖ p(x)) with the
    temperatures of each image's true class; the attack climbs the first divergence from x + 0.001·N(0, 1). After each
    epoch both temperatures of a class move by at most ``rate``, against the student's cross-entropy on its images: a
    hard class gets sharper labels.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used.
        teacher: the frozen robust network.
        rate: η, the largest change of a temperature in an epoch, at least 0.
        milestones: epochs, from 1, at whose end that falls to a tenth; those of the learning rate in the release.
        share: of the term on x_adv, in [0, 1].
        scale: factor of the loss, at least 0.
        official: divide the teacher's logits by the product of both temperatures, as the release does.

    Raises:
        InputError: no teacher, or a setting outside its range.
    """

    adv: Tensor
    nat: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        teacher: Teacher | None = None,
        rate: float = 0.1,
        milestones: Sequence[int] = (215, 260, 285),
        share: float = 5 / 6,
        scale: float = 1.0,
        official: bool = False,
    ) -> None:
        super().__init__(num_classes, replace(attack, loss="kl", start="jitter"), teacher, scale)
        self.rate, self.share, self.official = number("rate", rate), part("share", share), flag("official", official)
        self.milestones = wholes("milestones", milestones)
        self.register_buffer("adv", torch.ones(num_classes))
        self.register_buffer("nat", torch.ones(num_classes))

    def objective(self, taught: Tensor) -> Loss:
        """Return the divergence from the teacher's prediction at the temperatures for attacked images."""
        return lambda logits, y: kl(logits, self._labels(taught, y)[0])

    def errors(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, taught: Tensor) -> Step:
        """Return both divergences of each image."""
        adv, nat = self._labels(taught, y)
        logits, logits_adv = model(x), model(x_adv)
        return Step(self.share * kl(logits_adv, adv) + (1 - self.share) * kl(logits, nat), logits_adv, logits)

    def end_epoch(self, epoch: Epoch) -> None:
        """Move the temperatures against the class losses of the epoch."""
        rate = self.rate * 0.1 ** sum(epoch.number + 1 >= milestone for milestone in self.milestones)
        for temperature, stats in ((self.adv, epoch.train.robust), (self.nat, epoch.train.clean)):
            temperature.copy_(moved(temperature, stats.mean_loss, rate))

    def _labels(self, taught: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's logits for the term on attacked and on clean images, (N, K) each."""
        adv, nat = self.adv[y, None], self.nat[y, None]
        return (taught / (adv * nat),) * 2 if self.official else (taught / adv, taught / nat)


def moved(temperature: Tensor, loss: Tensor, rate: float) -> Tensor:
    """Return T_c − η·g_c/max_k |g_k|, kept within [0.5, 5], with g_c = L_c − mean L over classes.

    Args:
        temperature: of each class, (C,).
        loss: mean loss of each class, (C,); NaN for a class without images, which keeps its temperature.
        rate: η.
    """
    gap = (loss - loss.nanmean()).nan_to_num(nan=0.0)
    largest = gap.abs().amax()
    step = torch.where(largest > 1e-12, gap / largest.clamp(min=1e-12), 0.0)
    return (temperature.double() - rate * step).clamp(0.5, 5.0)
