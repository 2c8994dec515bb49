"""Class-wise calibrated fair adversarial training (CFA): Wei et al., CVPR 2023.

"CFA: Class-wise Calibrated Fair Adversarial Training". The formulas of the paper; PKU-ML/CFA is the released code. Its
third part, the average of weights with an admission rule, is the wrapper ``fawa``.

Departures from the released code: class accuracies count the images of each class, where it multiplies by C/N, which
is right for balanced data only; the classes differ from the second epoch on, as in the paper, where it begins at the
eleventh; the attack runs in the mode of the recipe (released: train mode); clean images are not sent through the
network for the log (released: in train mode, which moves BatchNorm's statistics); λ₁ is that of the paper, 0.5 for
base "at" and 0.3 for "trades" (released: 0.5 for both); base TRADES keeps its scale (released: divided by 1 + β). The
base FAT of the paper is not offered. The algorithm of the paper prints ε where its text has β.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.methods.base import BasedMethod, Epoch, Step, fill_absent, number, whole
from classwise.noise import Noise
from classwise.registry import register


class CFA(BasedMethod):
    """Radius and β of each class by its robust accuracy on the training images of the epoch before, R_c.

    Radius ε_c = (λ₁ + R_c)·ε, so hard classes are attacked with *smaller* radii; β_c = (λ₂ + R_c)·β, and the loss of
    TRADES becomes (CE + β_c·KL)/(1 + β_c), about a seventh of the loss of TRADES for β 6.

    Attributes:
        radius: of each class, in units of ε (C,); 1 until it is known.
        strength: β_c in units of β (C,); 1 until it is known.
    """

    radius: Tensor
    strength: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        base: str,
        beta: float | None,
        *,
        lambda1: float | None,
        lambda2: float | None,
        begin: int,
    ) -> None:
        """Set up; the registered functions below say which of these a user may set.

        Args:
            num_classes: number of classes.
            attack: its steps, step size and mode are used; the step stays what it is whatever the radius.
            base: "at" or "trades".
            beta: weight of the divergence of "trades".
            lambda1: radius of a class without robust accuracy, in units of ε, at least 0; None for equal radii.
            lambda2: β of such a class, in units of β, at least 0; None for the loss of the base.
            begin: first epoch in which classes differ, counted from 1, at least 2.

        Raises:
            InputError: a setting outside its range.
        """
        super().__init__(num_classes, attack, base, beta)
        self.lambda1 = None if lambda1 is None else number("lambda1", lambda1)
        self.lambda2 = None if lambda2 is None else number("lambda2", lambda2)
        self.begin = whole("begin", begin, least=2)
        self.register_buffer("radius", torch.ones(num_classes, dtype=torch.float64))
        self.register_buffer("strength", torch.ones(num_classes, dtype=torch.float64))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack each image within the radius of its class, and return the loss with the β of its class."""
        terms = self.terms(model, x, y, noise, radius=self.radius[y])
        if self.lambda2 is None:
            return terms.step(terms.error + self.beta * terms.divergence)
        beta = self.beta * self.strength[y].float()
        return terms.step((terms.error + beta * terms.divergence) / (1 + beta))

    def class_radius(self) -> Tensor:
        """Return the radius of each class (C,)."""
        return self.radius

    def end_epoch(self, epoch: Epoch) -> None:
        """Calibrate by what was robust in training; a class that was not seen keeps what it had."""
        if epoch.number + 2 < self.begin:
            return
        robust = epoch.train.robust.accuracy
        if self.lambda1 is not None:
            self.radius.copy_(fill_absent(self.lambda1 + robust, self.radius))
        if self.lambda2 is not None:
            self.strength.copy_(fill_absent(self.lambda2 + robust, self.strength))


@register("method", "cfa-ccm", source="Wei et al. 2023, PKU-ML/CFA")
def cfa_ccm(
    num_classes: int,
    attack: PGD,
    base: Literal["at", "trades"] = "at",
    beta: float | None = None,
    lambda1: float | None = None,
    begin: int = 2,
) -> CFA:
    """CFA's calibrated margin: radius ε_c = (λ₁ + R_c)·ε by the training robustness R_c of the epoch before."""
    strength = (0.5 if base == "at" else 0.3) if lambda1 is None else lambda1
    return CFA(num_classes, attack, base, beta, lambda1=strength, lambda2=None, begin=begin)


@register("method", "cfa-ccr", source="Wei et al. 2023, PKU-ML/CFA")
def cfa_ccr(num_classes: int, attack: PGD, beta: float = 6.0, lambda2: float = 0.5, begin: int = 2) -> CFA:
    """CFA's calibrated regularisation: TRADES with β_c = (λ₂ + R_c)·β, its loss divided by 1 + β_c."""
    return CFA(num_classes, attack, "trades", beta, lambda1=None, lambda2=lambda2, begin=begin)


@register("method", "cfa", source="Wei et al. 2023, PKU-ML/CFA")
def cfa(
    num_classes: int,
    attack: PGD,
    beta: float = 6.0,
    lambda1: float = 0.3,
    lambda2: float = 0.5,
    begin: int = 2,
) -> CFA:
    """CFA on TRADES, calibrated margin and regularisation together; add the wrapper `fawa` for all of it."""
    return CFA(num_classes, attack, "trades", beta, lambda1=lambda1, lambda2=lambda2, begin=begin)
