"""Distance-aware fair adversarial training (DAFA): Lee et al., ICLR 2024.

"DAFA: Distance-Aware Fair Adversarial Training". The formulas of the paper and of the released code (rucy74/DAFA) since
2024-09-02; earlier releases take the weights from the wrong entry of the matrix, so that they do not add up to C.

Departures from the released code: base "at" attacks once, within the radius of the class, where left-over lines of the
release take a second step and clip to the plain radius; classes that are equally hard leave each other alone; weights
below 0.05 are raised to it and all are scaled to mean 1; radius and step are those of the run (released
0.031, 0.007). Recipe ``dafa`` has the release's schedule and Nesterov's momentum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.methods.base import BasedMethod, Epoch, Step, number, whole
from classwise.noise import Noise
from classwise.registry import register

_LEAST = 0.05  # weight of a class, before all are scaled to mean 1


@register("method", "dafa", source="Lee et al. 2024, rucy74/DAFA")
class DAFA(BasedMethod):
    """Distance-aware weights: one for radius, step and cross-entropy of each class, moved between similar classes.

    The warm-up trains the base. After it the mean softmax S on its attacked training images says how alike two classes
    are and how hard each is, and for each pair λ·S_he·S_ee of weight moves from the easier class e to the harder h,
    once and for all. The divergence of "trades" is not weighted.

    Attributes:
        weight: of each class (C,), of mean 1; all 1 in the warm-up.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used; "at" starts at x + 0.001·N(0, 1) as well.
        base: "trades" or "at".
        beta: weight of the divergence of "trades", at least 0; 6 if not given.
        lambda1: λ, at least 0; 1 for CIFAR-10, 1.5 for CIFAR-100 and STL-10.
        warmup: epochs of the base, at least 1; 70 of 110 in the paper.

    Raises:
        InputError: a setting outside its range.
    """

    weight: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        base: Literal["at", "trades"] = "trades",
        beta: float | None = None,
        lambda1: float = 1.0,
        warmup: int = 70,
    ) -> None:
        super().__init__(num_classes, replace(attack, start="jitter"), base, beta)
        self.lambda1, self.warmup = number("lambda1", lambda1), whole("warmup", warmup, least=1)
        self.register_buffer("weight", torch.ones(num_classes, dtype=torch.float64))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack each image within the radius of its class, and return the loss with its cross-entropy weighted."""
        weight = self.weight[y].float()
        terms = self.terms(model, x, y, noise, radius=weight, step=weight)
        return terms.step(weight * terms.error + self.beta * terms.divergence)

    def class_radius(self) -> Tensor:
        """Return the radius of each class (C,)."""
        return self.weight

    def end_epoch(self, epoch: Epoch) -> None:
        """Weigh the classes at the end of the warm-up."""
        if epoch.number + 1 == self.warmup:
            self.weight.copy_(floored(distance_weight(epoch.train.robust.mean_probability, self.lambda1)))


def distance_weight(similarity: Tensor, lambda1: float) -> Tensor:
    """Return W_i = 1 + λ·Σ_j t_ij, whose mean is 1: weights of the classes (C,) from their mean softmax (C, C).

    t_ij is S_ij·S_jj where class i is harder than j, S_ii < S_jj, and −S_ji·S_ii where it is easier. A class without
    images, a row of NaN, exchanges nothing.

    Example:
        >>> distance_weight(torch.tensor([[0.5, 0.5], [0.2, 0.8]]), 1.0)
        tensor([1.4000, 0.6000])
    """
    ease = similarity.diagonal()
    # What each row's class gains from each column's, if it is the harder: similarity times the ease of the easier.
    gain = torch.where(ease[:, None] < ease, similarity * ease, 0)
    return 1 + lambda1 * (gain - gain.T).sum(1)


def floored(weight: Tensor) -> Tensor:
    """Raise weights (C,) below 0.05 to it, and scale all to mean 1."""
    raised = weight.clamp_min(_LEAST)
    return raised / raised.mean()
