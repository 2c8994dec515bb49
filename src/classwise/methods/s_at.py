"""S-AT: Losch et al., "On Adversarial Training without Perturbing all Examples", ICLR 2024.

Subsets of classes (CSAT), after mlosch/SAT and the authors' public replies; subsets of examples (ESAT) are not offered.
Departures: norm, radius, steps and start are those of the run; the release has L2 at 0.5, 7 steps of 0.1 from the clean
image, and keeps the iterate with the largest loss. The weight that grows with the subset is reckoned by classes, as if
all were of one size.

The release ranks classes by the predictive entropy of a network without defence, hardest first on CIFAR-10: cat, dog,
bird, deer, airplane, frog, horse, ship, truck, automobile. It trains 201 epochs, and the radius costs classes outside
of the subset little: training one class alone and testing on another measures how robustness carries over.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods.base import Method, Step, number, wholes
from classwise.noise import Noise
from classwise.registry import register


@register("method", "s-at", source="Losch et al. 2024, mlosch/SAT")
class SAT(Method):
    """Subset training: mean w·CE(f(x_adv), y) on images of some classes A, CE(f(x), y) on those of all others.

    Both kinds share one batch, and BatchNorm sees them together. The logits handed out are those of that batch: in the
    log, robust accuracies of classes outside of A are clean ones.

    Args:
        num_classes: number of classes.
        attack: crafts the training images of classes in A, and costs nothing for others.
        classes: A, by number; on the command line by name too, as in ``s-at(classes=('cat', 'dog'))``.
        weight: w, at least 0, or "increasing" for (1 + n)·(C − |A|)/|A| with n = 10·|A|/C, used for data sets of many
            classes; one class in ten gets 18, nine in ten 1.11.

    Raises:
        InputError: a class that there is not, none said, or a weight outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        classes: Sequence[int] | None = None,
        weight: float | str = 1.0,
    ) -> None:
        super().__init__(num_classes, attack)
        if classes is None:
            raise InputError("Subset training attacks some classes alone; say which, as in s-at(classes=(3, 5)).")
        self.classes = tuple(sorted(set(wholes("classes", classes))))
        if self.classes and self.classes[-1] >= num_classes:
            raise InputError(f"There is no class {self.classes[-1]}; the data have classes 0 to {num_classes - 1}.")
        increasing = increasing_weight(len(self.classes), num_classes) if weight == "increasing" else weight
        self.weight = number("weight", increasing)  # type: ignore[arg-type]

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the images of A, and return the weighted cross-entropy of the batch."""
        attacked = torch.isin(y, torch.tensor(self.classes, dtype=y.dtype, device=y.device))
        logits = model(self._crafted(model, x, y, noise, attacked))
        loss = (torch.where(attacked, self.weight, 1.0) * cross_entropy(logits, y)).mean()
        return Step(loss, logits) if self.classes else Step(loss, None, logits)

    def class_radius(self) -> Tensor:
        """Return 1 for the classes of A, and 0 for those whose images stay as they are (C,)."""
        return torch.tensor([float(c in self.classes) for c in range(self.num_classes)])

    def _crafted(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, attacked: Tensor) -> Tensor:
        """Return the batch with the images of a mask (N,) attacked, and all others as they are."""
        if not attacked.any():
            return x
        # In train mode, what BatchNorm makes of an image depends on the others, so all are shown.
        included = attacked if self.attack.mode == "eval" else torch.ones_like(attacked)
        made = self.attack(model, x[included], y[included], noise=noise.select(included))
        mixed = x.to(made.dtype, copy=True)  # in mixed precision the images come in bfloat16, and steps are smaller
        mixed[attacked] = made[attacked[included]]
        return mixed


def increasing_weight(attacked: int, num_classes: int) -> float:
    """Return (1 + n)·(C − |A|)/|A| with n = 10·|A|/C; 1 where A is empty or holds every class.

    Example:
        >>> increasing_weight(1, 10), round(increasing_weight(9, 10), 2)
        (18.0, 1.11)
    """
    if attacked in (0, num_classes):
        return 1.0
    return (1 + 10 * attacked / num_classes) * (num_classes - attacked) / attacked
