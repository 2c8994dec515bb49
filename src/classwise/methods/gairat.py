"""GAIRAT: Zhang et al., "Geometry-aware Instance-reweighted Adversarial Training", ICLR 2021.

Departures from the released code (zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training): K/2 is not rounded
down where K is odd; the weights are normalised over the batch of all processes; radius and step are those of the run
(released 0.031 and 0.007); one setting says when weighting begins, where the release has two that must agree.

Images that hold out against the attack get next to no weight, which looks good under PGD and fails under AutoAttack
(57.8 against 42.5 on CIFAR-10): report both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods.base import Epoch, Method, Step, Trace, normalised, whole
from classwise.noise import Noise
from classwise.registry import register


@register("method", "gairat", source="Zhang et al. 2021")
class GAIRAT(Method):
    """Geometry-aware weights: mean ω·CE(f(x_adv), y), ω ∝ 1 + tanh(λ + 5·(1 − 2κ/K)) of mean 1 in the batch.

    κ counts the iterates of the attack that are classified right, before each of its K steps: images near the boundary
    have a small κ and weigh more.

    Args:
        num_classes: number of classes.
        attack: crafts the training images, and its trace gives κ.
        shift: λ, above −100; larger is closer to equal weights, and infinity is adversarial training.
        begin: first epoch that is weighted, counted from 1; adversarial training before. 60 suits runs of 110 epochs
            and more, the release has 30 for shorter ones.

    Raises:
        InputError: a setting outside its range.
    """

    finished: Tensor

    def __init__(self, num_classes: int, attack: PGD, shift: float = -1.0, begin: int = 60) -> None:
        super().__init__(num_classes, attack)
        if type(shift) not in (int, float) or not shift > -100:
            raise InputError(f"The setting shift is {shift!r}, but must be a number above -100.")
        self.shift, self.begin = float(shift), whole("begin", begin, least=1)
        self.register_buffer("finished", torch.zeros((), dtype=torch.int64))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the weighted cross-entropy on the attacked images."""
        trace = Trace(cross_entropy, y)
        x_adv = self.attack(model, x, y, noise=noise, loss=trace)
        logits_adv = model(x_adv)
        # Chosen on the device, since asking for the number would make the host wait for it in every step.
        shift = torch.where(self.finished + 1 >= self.begin, self.shift, math.inf)
        weight = normalised(geometry_weight(trace.right, self.attack.steps, shift))
        return Step((weight * cross_entropy(logits_adv, y)).mean(), logits_adv)

    def end_epoch(self, epoch: Epoch) -> None:
        """Count the epoch, which the beginning of the weights depends on."""
        self.finished.fill_(epoch.number + 1)


def geometry_weight(right: Tensor, steps: int, shift: Tensor | float) -> Tensor:
    """Return ω = ½·(1 + tanh(λ + 5·(1 − 2κ/K))) of κ (N,), K and λ, in float64.

    Written as a sigmoid, 1/(1 + exp(−2a)) = ½·(1 + tanh a), which stays above 0 where the sum rounds to 0.
    """
    doubled: Tensor = 2 * (shift + 5 * (1 - 2 * right.double() / steps))
    return doubled.sigmoid()
