"""Modifications for the single most vulnerable class: our design.

The seed paper (Tian et al., KDD 2021) announces modifications in the training phase that aim at the most vulnerable
class; which ones is not verified, so these four are the project's own and are not to be called the paper's.

The vulnerable class is the one with the lowest robust accuracy on the held-out images, as a moving average over epochs.
It gives way to another only if that one is worse by more than the standard error of their difference, so that noise
does not make it change from epoch to epoch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods.base import BasedMethod, Epoch, Step, fill_absent, flag, number, whole
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.processes import over_processes

_PAST = 0.9  # share of the past in the moving average over epochs


class VulnerableClass(BasedMethod):
    """Knows the most vulnerable class: abstract, since what is done about it is said in forward.

    Attributes:
        accuracy: held-out robust accuracy of each class, a moving average over epochs (C,); 1 at first.
        chosen: 1 for the vulnerable class, 0 for the others (C,); all 0 in the warm-up.
        finished: epochs finished.
    """

    validates = True
    accuracy: Tensor
    chosen: Tensor
    finished: Tensor

    def __init__(self, num_classes: int, attack: PGD, base: str, beta: float | None, warmup: int) -> None:
        """Set up.

        Args:
            num_classes: number of classes.
            attack: its steps, step size and mode are used.
            base: "at" or "trades".
            beta: weight of the divergence of "trades", at least 0; None for 6.
            warmup: epochs of the base, at least 1.

        Raises:
            InputError: a setting outside its range.
        """
        super().__init__(num_classes, attack, base, beta)
        self.warmup = whole("warmup", warmup, least=1)
        self.register_buffer("accuracy", torch.ones(num_classes, dtype=torch.float64))
        self.register_buffer("chosen", torch.zeros(num_classes))
        self.register_buffer("finished", torch.zeros((), dtype=torch.int64))

    def end_epoch(self, epoch: Epoch) -> None:
        """Bring the accuracies up to date, and after the warm-up choose the vulnerable class."""
        assert epoch.valid is not None, "refused before training"
        past = _PAST if self.finished > 0 else 0.0
        robust = epoch.valid.robust
        self.accuracy.copy_(fill_absent(past * self.accuracy + (1 - past) * robust.accuracy, self.accuracy))
        self.finished.fill_(epoch.number + 1)
        if epoch.number + 1 >= self.warmup:
            self.chosen.copy_(most_vulnerable(self.accuracy, robust.n, self.chosen))


def most_vulnerable(accuracy: Tensor, n: Tensor, chosen: Tensor) -> Tensor:
    """Return 1 for the class of the lowest accuracy, 0 for the others; the class chosen before stays within noise.

    Args:
        accuracy: of each class (C,).
        n: images behind it (C,).
        chosen: 1 for the class chosen before (C,), all 0 if there was none.
    """
    lowest, before = int(accuracy.argmin()), int(chosen.argmax())
    variance = accuracy * (1 - accuracy) / n.clamp_min(1)
    within = accuracy[before] - accuracy[lowest] <= (variance[before] + variance[lowest]).sqrt()
    vulnerable = torch.zeros_like(chosen)
    vulnerable[before if chosen.any() and within else lowest] = 1
    return vulnerable


@register("method", "tv-weight", source="our design; after Tian et al. 2021")
class WeightOfVulnerable(VulnerableClass):
    """Most vulnerable class: its loss weighs 1 + a, that of each other class (C − 1 − a)/(C − 1). Project design.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used.
        base: "at" or "trades".
        beta: weight of the divergence of "trades", at least 0; 6 if not given.
        gain: a, from 0 to C − 1.
        warmup: epochs of the base, at least 1; about half of the epochs at the first learning rate.

    Raises:
        InputError: a setting outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        base: Literal["at", "trades"] = "at",
        beta: float | None = None,
        gain: float = 0.5,
        warmup: int = 50,
    ) -> None:
        super().__init__(num_classes, attack, base, beta, warmup)
        self.gain = number("gain", gain)
        if self.gain > num_classes - 1:
            raise InputError(f"The setting gain is {gain!r}, but {num_classes} classes have {num_classes - 1} to give.")

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the weighted loss of the base."""
        terms = self.terms(model, x, y, noise)
        weight = one_class_up(self.chosen, self.gain)[y]
        return terms.step(weight * (terms.error + self.beta * terms.divergence))


def one_class_up(chosen: Tensor, gain: float) -> Tensor:
    """Return weights (C,) of mean 1: 1 + a for the chosen class, (C − 1 − a)/(C − 1) for the others; 1 without one.

    Example:
        >>> one_class_up(torch.tensor([0.0, 1.0, 0.0]), 0.5)
        tensor([0.7500, 1.5000, 0.7500])
    """
    others = (chosen.sum() - chosen) / (len(chosen) - 1)
    return 1 + gain * (chosen - others)


@register("method", "tv-margin", source="our design; after Tian et al. 2021")
class MarginOfVulnerable(VulnerableClass):
    """Most vulnerable class: its true logit is lowered in the loss, CE(z_adv − m·s·1_y, y). Project design.

    s is the standard deviation of the logits of an attacked image over classes, as a mean over the batch; a median, as
    first designed, does not add up over processes.

    Args:
        num_classes: number of classes.
        attack: crafts the training images; it climbs the cross-entropy without margin.
        margin: m, at least 0.
        warmup: epochs of adversarial training, at least 1; about half of the epochs at the first learning rate.

    Raises:
        InputError: a setting outside its range.
    """

    def __init__(self, num_classes: int, attack: PGD, margin: float = 1.0, warmup: int = 50) -> None:
        super().__init__(num_classes, attack, "at", None, warmup)
        self.margin = number("margin", margin)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the cross-entropy with the margin."""
        logits_adv = self.terms(model, x, y, noise).logits_adv
        deviation = logits_adv.detach().float().std(1, correction=0)
        scale, count = over_processes(torch.stack([deviation.sum(), torch.ones_like(deviation).sum()]))
        margin = self.margin * scale / count * self.chosen[y]
        lowered = logits_adv - margin[:, None] * nn.functional.one_hot(y, self.num_classes)
        return Step(cross_entropy(lowered, y).mean(), logits_adv)


@register("method", "tv-radius", source="our design; after Tian et al. 2021")
class RadiusOfVulnerable(VulnerableClass):
    """Most vulnerable class: attacked within (1 + r)·ε; the literature disagrees on the sign. Project design.

    FRL and DAFA enlarge the radii of hard classes, CFA shrinks them.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used; the step stays what it is.
        base: "at" or "trades".
        beta: weight of the divergence of "trades", at least 0; 6 if not given.
        change: r, at least −1.
        warmup: epochs of the base, at least 1; about half of the epochs at the first learning rate.

    Raises:
        InputError: a setting outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        base: Literal["at", "trades"] = "at",
        beta: float | None = None,
        change: float = 0.25,
        warmup: int = 50,
    ) -> None:
        super().__init__(num_classes, attack, base, beta, warmup)
        self.change = number("change", change, least=-1)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack each image within the radius of its class, and return the loss of the base."""
        terms = self.terms(model, x, y, noise, radius=self.class_radius()[y])
        return terms.step(terms.error + self.beta * terms.divergence)

    def class_radius(self) -> Tensor:
        """Return the radius of each class (C,)."""
        return 1 + self.change * self.chosen


@register("method", "tv-beta", source="our design; after Tian et al. 2021")
class BetaOfVulnerable(VulnerableClass):
    """Most vulnerable class: TRADES with (1 + b)·β for it. Project design.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used.
        beta: weight of the divergence, at least 0.
        change: b, at least −1.
        normalise: whether the loss of each image is multiplied by (1 + β)/(1 + β_y), so that both terms together weigh
            as much in every class.
        warmup: epochs of TRADES, at least 1; about half of the epochs at the first learning rate.

    Raises:
        InputError: a setting outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        beta: float = 6.0,
        change: float = 0.5,
        normalise: bool = False,
        warmup: int = 50,
    ) -> None:
        super().__init__(num_classes, attack, "trades", beta, warmup)
        self.change, self.normalise = number("change", change, least=-1), flag("normalise", normalise)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return TRADES with the β of each class."""
        terms = self.terms(model, x, y, noise)
        beta = self.beta * (1 + self.change * self.chosen[y])
        weight = (1 + self.beta) / (1 + beta) if self.normalise else 1.0
        return terms.step(weight * (terms.error + beta * terms.divergence))
