"""Class-focused online learning (CFOL): Pethick et al., TMLR 2023.

"Revisiting adversarial training for the worst-performing class". The form of the released code,
LIONS-EPFL/class-focused-online-learning-code, and of the ICLR 2022 version, "Protect the weak". The sign of the update
is that of the code, which adds; the earlier text prints the opposite.

Departures from the released code: probabilities take effect in the very next batch, where its prefetching lags a few
behind; the attack returns its last iterate; the steps and the schedule are those of the recipe. The rate belongs to a
number of images: sums grow by η·N times the robust error of a class in an epoch of N draws, 0.2 for 40,000 images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classwise.attacks.base import predict
from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods.base import Method, Step, by_class, number
from classwise.noise import Noise
from classwise.registry import register


class CFOL(Method):
    """Adversarial training whose classes are drawn by a player that gains by errors (Exp3).

    Probabilities are p = γ/C + (1 − γ)·softmax(v); each error on an attacked image of class c adds η/p_c to v_c.

    Attributes:
        total: the sums v (C,), 0 at first.
    """

    total: Tensor

    def __init__(self, num_classes: int, attack: PGD, rate: float, gamma: float, draws: bool) -> None:
        """Set up.

        Args:
            num_classes: number of classes.
            attack: crafts the training images.
            rate: η, at least 0.
            gamma: share of the draws that is uniform over classes, in [0, 1].
            draws: whether classes are drawn by p; else images are drawn as usual, and their losses weighted by C·p.

        Raises:
            InputError: a setting outside its range.
        """
        super().__init__(num_classes, attack)
        self.rate, self.gamma, self.draws = number("rate", rate), number("gamma", gamma), draws
        if self.gamma > 1:
            raise InputError(f"The setting gamma is {gamma!r}, but must be a number from 0 to 1.")
        self.register_buffer("total", torch.zeros(num_classes, dtype=torch.float64))

    def class_probs(self) -> Tensor | None:
        """Return p, by which the next batch is drawn, if it is."""
        return exp3(self.total, self.gamma) if self.draws else None

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, return its loss, and add up the errors, with the probabilities that it was drawn by."""
        probs = exp3(self.total, self.gamma)
        logits_adv = model(self.attack(model, x, y, noise=noise))
        loss = cross_entropy(logits_adv, y)
        drawn_by = probs
        if not self.draws:
            loss, drawn_by = self.num_classes * probs[y].float() * loss, torch.full_like(probs, 1 / self.num_classes)
        wrong = by_class(predict(logits_adv.detach(), y) != y, y, self.num_classes)
        self.total += self.rate * wrong / drawn_by
        return Step(loss.mean(), logits_adv)


@register("method", "cfol", source="Pethick et al. 2023, LIONS-EPFL/class-focused-online-learning-code")
def cfol(num_classes: int, attack: PGD, rate: float = 5e-6, gamma: float = 0.5) -> CFOL:
    """CFOL: adversarial training that draws the classes it fails on more often."""
    return CFOL(num_classes, attack, rate, gamma, draws=True)


@register("method", "cfol-rw", source="Pethick et al. 2023, LIONS-EPFL/class-focused-online-learning-code")
def cfol_rw(num_classes: int, attack: PGD, rate: float = 5e-6, gamma: float = 0.5) -> CFOL:
    """CFOL, reweighted: every class drawn alike, losses weighted in place of draws."""
    return CFOL(num_classes, attack, rate, gamma, draws=False)


def exp3(total: Tensor, gamma: float) -> Tensor:
    """Return the probabilities γ/C + (1 − γ)·softmax(v) of sums v (C,), each in γ/C … 1 − γ + γ/C.

    Example:
        >>> exp3(torch.tensor([0.0, 100.0]), gamma=0.5)
        tensor([0.2500, 0.7500])
    """
    return gamma / len(total) + (1 - gamma) * total.softmax(0)
