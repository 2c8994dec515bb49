"""Fair-ARD: Yue et al., "Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness".

NeurIPS 2023, after the released code (NISP-official/Fair-ARD). ``base='rslad'`` is its Fair-RSLAD, ``base='iad'`` its
Fair-IAD; Fair-MTARD, whose release uses one of its two teachers twice, is not offered. Departures: κ of a class is the
mean over the images that were trained on, where the release takes the classes to be of equal size; Nesterov's
momentum, as in the release, is a setting of the recipe; those of the bases are said in their files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods.base import Distillation, Epoch, Method, Step, Trace, counted_by_class, number
from classwise.models.teacher import Teacher
from classwise.noise import Noise
from classwise.registry import build, parse, register

_BASES = ("ard", "iad", "rslad")
_LEAST, _MOST = 5 / 6, 5 / 2


@register("method", "fair-ard", source="Yue et al. 2023, NISP-official/Fair-ARD")
class FairARD(Method):
    """Fair distillation: mean w_y·(the loss of a base), w_c ∝ κ_c^(−b), larger for classes that the attack breaks soon.

    κ counts the iterates of the attack that are classified right, before each of its K steps, and κ_c is its mean over
    class c in the epoch before. The weights have the mean 1 before they are kept within [5/6, 5/2], and are all 1 in
    the first epoch.

    Args:
        num_classes: number of classes.
        attack: crafts the training images, and its trace gives κ.
        teacher: the frozen robust network.
        base: "ard", "rslad" or "iad", with settings where wanted, as in "ard(temperature=30)".
        power: b, at least 0; 0 is the base.

    Raises:
        InputError: another base, no teacher, or a setting outside its range.
    """

    sums: Tensor
    weight: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        teacher: Teacher | None = None,
        base: str = "ard",
        power: float = 2.0,
    ) -> None:
        if not isinstance(base, str) or parse(base)[0] not in _BASES:
            raise InputError(f"Fair-ARD has no base {base!r}: use one of {', '.join(_BASES)}.")
        inner: Distillation = build("method", base, num_classes, attack, teacher=teacher)
        super().__init__(num_classes, inner.attack)
        self.teacher, self.base, self.power = inner.teacher, inner, number("power", power)
        self.register_buffer("sums", torch.zeros(2, num_classes, dtype=torch.float64))  # images, and their κ
        self.register_buffer("weight", torch.ones(num_classes))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, count what held out, and return the weighted loss of the base."""
        taught = self.base.taught(x)
        trace = Trace(self.base.objective(taught) or cross_entropy, y)
        x_adv = self.attack(model, x, y, noise=noise, loss=trace)
        self.sums += counted_by_class(trace.right, y, self.num_classes)
        step = self.base.errors(model, x, x_adv, y, taught)
        return step._replace(loss=self.base.scale * (self.weight[y] * step.loss).mean())

    def end_epoch(self, epoch: Epoch) -> None:
        """Set the weights for the next epoch; a class that was not trained on keeps its own."""
        self.base.end_epoch(epoch)
        count, right = self.sums
        weight = class_weight(right / count.clamp(min=1), count > 0, self.power)
        self.weight.copy_(torch.where(count > 0, weight, self.weight))
        self.sums.zero_()


def class_weight(held: Tensor, defined: Tensor, power: float) -> Tensor:
    """Return (κ_c + 1e-5)^(−b), scaled to the mean 1 over known classes, then kept within [5/6, 5/2].

    Args:
        held: κ_c, (C,), of which only known classes count.
        defined: classes that were trained on, (C,) bool.
        power: b.
    """
    weight = torch.where(defined, (held.double() + 1e-5) ** -power, 0.0)
    return (weight * defined.sum() / weight.sum().clamp(min=1e-300)).clamp(_LEAST, _MOST)
