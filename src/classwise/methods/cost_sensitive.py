"""Class-wise cost: our design, in the spirit of Benz et al., "Robustness may be at odds with fairness", 2020.

Benz et al. (arXiv 2010.13365 and AML-CV 2021) propose to weigh the losses of the classes, and conclude that fairness
costs accuracy. Their formula was not verified against the papers, so results of this method do not bear their name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods.base import Epoch, Method, Step, fill_absent, number
from classwise.noise import Noise
from classwise.registry import register

_LEAST = 0.01  # class accuracies are kept this far from 0 and 1, where a weight would be infinite or 0


@register("method", "cost-sensitive", source="our design; in the spirit of Benz et al. 2020, unverified")
class CostSensitive(Method):
    """Class costs: adversarial training weighted by w_c = C·g(S_c)/Σg(S), where S_c is the robust accuracy of a class.

    g(S) is S^−k or (1 − S)^k. S is given once for all, from a trained baseline, or measured after every epoch as a
    moving average from 1/C on, S ← 0.9·S + 0.1·(this epoch's).

    Attributes:
        accuracy: S (C,), in [0, 1].

    Args:
        num_classes: number of classes.
        attack: crafts the training images.
        accuracy: S of each class, in [0, 1], for weights that do not change; None to measure it.
        power: k, at least 0; 0 is adversarial training.
        form: "inverse" for S^−k, "error" for (1 − S)^k.
        source: whether S is measured on "train" or on "valid" images, the held-out ones.

    Raises:
        InputError: a setting outside its range, or accuracies for another number of classes.
    """

    accuracy: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        accuracy: Sequence[float] | None = None,
        power: float = 1.0,
        form: Literal["inverse", "error"] = "inverse",
        source: Literal["train", "valid"] = "train",
    ) -> None:
        super().__init__(num_classes, attack)
        for name, value, choices in (("form", form, ("inverse", "error")), ("source", source, ("train", "valid"))):
            if value not in choices:
                raise InputError(f"The setting {name} is {value!r}, but must be one of {', '.join(choices)}.")
        self.power, self.form, self.source, self.fixed = number("power", power), form, source, accuracy is not None
        self.validates = source == "valid" and not self.fixed
        start = [1 / num_classes] * num_classes if accuracy is None else _shares(accuracy, num_classes)
        self.register_buffer("accuracy", torch.tensor(start, dtype=torch.float64))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the weighted cross-entropy on the attacked images."""
        weight = cost(self.accuracy, self.power, self.form)[y].float()
        logits_adv = model(self.attack(model, x, y, noise=noise))
        return Step((weight * cross_entropy(logits_adv, y)).mean(), logits_adv)

    def end_epoch(self, epoch: Epoch) -> None:
        """Bring the accuracies up to date, unless they were given; a class that was not seen keeps its own."""
        sums = epoch.train if self.source == "train" else epoch.valid
        if not self.fixed:
            assert sums is not None, "refused before training"
            self.accuracy.copy_(fill_absent(0.9 * self.accuracy + 0.1 * sums.robust.accuracy, self.accuracy))


def cost(accuracy: Tensor, power: float, form: str) -> Tensor:
    """Return the class weights C·g(S)/Σg(S), of mean 1, of accuracies S (C,); S is kept within 0.01 … 0.99.

    Example:
        >>> cost(torch.tensor([0.2, 0.6]), 1.0, "inverse")
        tensor([1.5000, 0.5000])
    """
    inside = accuracy.clamp(_LEAST, 1 - _LEAST)
    price = inside**-power if form == "inverse" else (1 - inside) ** power
    return price / price.mean()


def _shares(accuracy: Sequence[float], num_classes: int) -> list[float]:
    given = list(accuracy) if isinstance(accuracy, list | tuple) else []
    if len(given) != num_classes or not all(type(share) in (int, float) and 0 <= share <= 1 for share in given):
        raise InputError(
            f"The setting accuracy is {accuracy!r}, but must be {num_classes} numbers from 0 to 1, one for each class."
        )
    return given
