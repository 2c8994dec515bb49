"""FAIR-TAT: Medi et al., "FAIR-TAT: Improving Model Fairness Using Targeted Adversarial Training", WACV 2025.

Of the paper (arXiv 2410.23142) only the abstract was at hand; the rest follows TejaswiniMedi/FAIR-TAT. Departures: the
accuracy of a class divides by its images, where the release takes the classes to be of equal size; an epoch without
errors gives uniform targets, where the release divides by zero; the radius of a class never exceeds (λ + 1)·ε; the
attack runs in the mode of the recipe (released: train mode, so that each of its passes moves BatchNorm's statistics);
targets adapt whatever the radii do; the optional divergence of clean and attacked predictions, off in the release, is
left out. The release goes with an average of weights: ``--wrappers "ema(each='epoch', decay=0.85)"``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy, targeted
from classwise.methods.base import Epoch, Method, Step, number
from classwise.noise import Noise
from classwise.registry import register

_RADII = ("robust", "positives", "mean", "minimum", "plain")


@register("method", "fair-tat", source="Medi et al. 2025, TejaswiniMedi/FAIR-TAT")
class FairTAT(Method):
    """Targeted: mean CE(f(x_adv), y), x_adv driven into a class that wrong predictions often fall into.

    The attack descends CE(f(x_adv), t) for a target t ≠ y drawn from softmax(s·CFPS), where CFPS_c is the share of
    class c in all wrong predictions on the attacked images of the last epoch. Each class has its own radius
    (λ + s_c)·ε from the same epoch. In the first epoch all targets are as likely and all radii are ε.

    Args:
        num_classes: number of classes.
        attack: crafts the training images; the step is the same for all radii.
        sharpness: s, at least 0. The release has 2, which is almost uniform: CFPS from 0.03 to 0.22 gives targets a
            probability between 0.086 and 0.126. 0 is uniform.
        radius: s_c, either "robust", the accuracy of the class on attacked images, or "positives", 2·CFPS_c, or the
            "mean" or the "minimum" of both; "plain" for ε throughout.
        floor: λ, at least 0.

    Raises:
        InputError: a setting outside its range.
    """

    factor: Tensor
    positives: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        sharpness: float = 2.0,
        radius: Literal["robust", "positives", "mean", "minimum", "plain"] = "robust",
        floor: float = 0.5,
    ) -> None:
        super().__init__(num_classes, attack)
        self.sharpness, self.floor = number("sharpness", sharpness), number("floor", floor)
        if radius not in _RADII:
            raise InputError(f"FAIR-TAT has no radius {radius!r}: use one of {', '.join(_RADII)}.")
        self.radius = radius
        self.register_buffer("factor", torch.ones(num_classes))
        self.register_buffer("positives", torch.full((num_classes,), 1 / num_classes))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch towards its targets, and return the cross-entropy on the attacked images."""
        target = drawn((self.sharpness * self.positives).softmax(0), y, noise.fold("target"))
        eps = self.attack.threat.eps * self.factor[y]
        x_adv = self.attack(model, x, y, noise=noise, eps=eps, loss=targeted("cross_entropy", target))
        logits_adv = model(x_adv)
        return Step(cross_entropy(logits_adv, y).mean(), logits_adv)

    def class_radius(self) -> Tensor:
        """Return the radius of each class (C,)."""
        return self.factor

    def end_epoch(self, epoch: Epoch) -> None:
        """Set targets and radii from the attacked images of the epoch; an absent class keeps its radius."""
        robust = epoch.train.robust
        self.positives.copy_(false_positives(robust.confusion))
        if self.radius != "plain":
            factor = self.floor + adaptation(robust.accuracy, self.positives.double(), self.radius)
            self.factor.copy_(torch.where(robust.n > 0, factor, self.factor))


def false_positives(confusion: Tensor) -> Tensor:
    """Return the share of each class in all wrong predictions, counts (C, C) [y, k] -> (C,); uniform without any."""
    wrong = (confusion - confusion.diagonal().diag()).sum(0)
    return torch.where(wrong.sum() > 0, wrong / wrong.sum().clamp(min=1), 1 / len(wrong))


def adaptation(robust: Tensor, positives: Tensor, radius: str) -> Tensor:
    """Return s_c of robust accuracies (C,) and shares in wrong predictions (C,), at most 1."""
    kinds = {"robust": robust[None], "positives": 2 * positives[None]}
    chosen = kinds.get(radius, torch.cat([*kinds.values()])).clamp(max=1)
    return chosen.amin(0) if radius == "minimum" else chosen.mean(0)


def drawn(probability: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """Draw a target of each image, (N,), from probabilities (C,) without its true class."""
    rows = probability.double().expand(len(y), -1).scatter(1, y[:, None], 0)
    cumulative = rows.cumsum(1)
    level = noise.uniform((1,), y.device).double() * cumulative[:, -1:]
    # The true class adds nothing, so the sum never passes the level there.
    return (cumulative <= level).sum(1)
