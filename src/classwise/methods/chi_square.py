"""Distributional robustness over classes with a χ² ball, the mathematics behind CODAT (arXiv 2501.04527, 2025).

Only the abstract of CODAT was read; the formulas below are derived (docs/training.md), and radius, schedule and memory
are our design. Results of this method are not to be called CODAT's.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.methods.base import BasedMethod, Step, counted_by_class, flag, number
from classwise.noise import Noise
from classwise.registry import register

_MANY_CLASSES = 20  # above this, most classes have an image or two in a batch, too few to tell their losses


@register("method", "chi2-class-dro", source="our design; arXiv 2501.04527 (CODAT), abstract only")
class ChiSquareClassDRO(BasedMethod):
    """χ² class DRO: the largest Σ p_c·ℓ_c over class weights p with C·Σ(p_c − 1/C)² ≤ ρ.

    ℓ_c is the mean loss of class c in the batch, and C counts the classes in it. Where no weight would be negative, the
    value is the mean plus √ρ times the standard deviation of the class losses. With a memory, p follows a moving
    average of each class's loss from log C on, and the gradient is still that of the batch.

    Attributes:
        loss: moving average of each class's loss (C,).

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used.
        base: "at" or "trades".
        beta: weight of the divergence of "trades", at least 0; 6 if not given.
        rho: ρ, at least 0; 0 weighs all classes alike, C − 1 and more the worst class alone.
        decay: share of the past in the moving average, in [0, 1].
        memory: whether p follows the moving average; None for yes with more than 20 classes.

    Raises:
        InputError: a setting outside its range.
    """

    loss: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        base: Literal["at", "trades"] = "at",
        beta: float | None = None,
        rho: float = 0.5,
        decay: float = 0.9,
        memory: bool | None = None,
    ) -> None:
        super().__init__(num_classes, attack, base, beta)
        self.rho, self.decay = number("rho", rho), number("decay", decay)
        if self.decay > 1:
            raise InputError(f"The setting decay is {decay!r}, but must be a number from 0 to 1.")
        self.memory = num_classes > _MANY_CLASSES if memory is None else flag("memory", memory)
        self.register_buffer("loss", torch.full((num_classes,), math.log(num_classes), dtype=torch.float64))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the loss at the weights that are worst for it."""
        terms = self.terms(model, x, y, noise)
        loss = terms.error + self.beta * terms.divergence
        count, total = counted_by_class(loss, y, self.num_classes)
        mean, present = total / count.clamp_min(1), count > 0
        self.loss.copy_(torch.where(present, self.decay * self.loss + (1 - self.decay) * mean, self.loss))
        probs = torch.zeros_like(mean)
        probs[present] = chi_square_weights((self.loss if self.memory else mean)[present], self.rho)
        # The weight of a class is shared by its images.
        weight = count.sum() * probs / count.clamp_min(1)
        return terms.step(weight[y].float() * loss)


def chi_square_weights(loss: Tensor, rho: float) -> Tensor:
    """Return the p in the simplex with C·Σ(p_c − 1/C)² ≤ ρ that maximises Σ p_c·ℓ_c: (C,) -> (C,) float64.

    p is proportional to max(0, ℓ_c − b). On the m classes with the largest losses, of mean μ and deviation σ,
    p_c = (1 + t·(ℓ_c − μ)/σ)/m spends ρ for t² = m·(1 + ρ)/C − 1; the solution has the largest m for which no weight is
    negative. With m = C that is (1/C)·(1 + √ρ·(ℓ_c − ℓ̄)/σ). Classes of equal loss share alike.

    Example:
        >>> chi_square_weights(torch.tensor([0.0, 1.0]), 0.25)
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    spread = (loss.max() - loss.min()).double()
    scaled = (loss.double() - loss.min()) / spread.clamp_min(1e-12)  # neither shift nor scale matters
    top, order = scaled.sort(descending=True)
    size = torch.arange(1, len(loss) + 1, dtype=torch.float64, device=loss.device)
    mean = top.cumsum(0) / size
    deviation = ((top**2).cumsum(0) / size - mean**2).clamp_min(0).sqrt()
    slope = (size * (1 + rho) / len(loss) - 1).clamp_min(0).sqrt() / deviation.clamp_min(1e-9)
    # Below ρ the uniform weights on m classes already spend too much; of equal losses none is left out.
    feasible = size * (1 + rho) >= len(loss) * (1 - 1e-12)
    valid = (1 + slope * (top - mean) >= -1e-9) & (feasible | (deviation < 1e-9))
    m = (valid * size).argmax()
    probs = torch.zeros_like(scaled)
    probs[order] = ((1 + slope[m] * (top - mean[m])) / size[m]).clamp_min(0) * (size <= size[m])
    return probs / probs.sum()
