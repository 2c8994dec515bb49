"""Recipes: how long, how fast and against which attack a network is trained. Data, no code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from classwise.errors import InputError
from classwise.registry import register

Schedule = Literal["piecewise", "cosine", "cyclic"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run that the method does not own.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all processes; an incomplete last batch is dropped.
        lr: largest learning rate of SGD.
        milestones: epochs after which the learning rate falls to a tenth, for the piecewise schedule.
        schedule: "piecewise", "cosine" to zero, or "cyclic": up to ``lr`` at 2/5 of the run and down to zero.
        momentum: of SGD.
        weight_decay: of SGD, on all parameters.
        augment: name of the augmentation: "none", "crop" or "crop-flip".
        steps: gradients of the training attack.
        step_size: its step in [0, 1] pixel units; None for eps/4 (2/255 at 8/255).
        attack_mode: mode of BatchNorm while the training attack runs.
        normalize: whether the model's first layer takes off the mean and divides by the deviation of the training
            images, by channel.
        holdout: share of the training images, stratified by class, that selects the best epoch.

    Raises:
        InputError: a setting outside its range.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    milestones: tuple[int, ...] = ()
    schedule: Schedule = "piecewise"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = "crop-flip"
    steps: int = 10
    step_size: float | None = None
    attack_mode: Literal["eval", "train"] = "eval"
    normalize: bool = True
    holdout: float = 0.02

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if self.epochs < 1 or self.batch_size < 2 or self.steps < 1 or not self.lr > 0:
            raise InputError("A recipe needs epochs and steps of at least 1, a batch of at least 2, and lr above 0.")
        if not 0 <= self.holdout < 1:
            raise InputError(f"The held-out share {self.holdout} must be at least 0 and below 1.")

    def rate(self, progress: float) -> float:
        """Return the learning rate after ``progress`` epochs, 0 … epochs; whole and broken numbers alike."""
        if self.schedule == "piecewise":
            return self.lr * float(0.1 ** sum(progress >= milestone for milestone in self.milestones))
        share = progress / self.epochs
        if self.schedule == "cyclic":
            return self.lr * (share / 0.4 if share < 0.4 else max(0.0, (1 - share) / 0.6))
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


@register("recipe", "digits", source="our design")
def digits(**changes: Any) -> Recipe:
    """Embedded 8x8 digits in seconds on two cores: 30 epochs, batch 64, cyclic."""
    return _recipe(changes, epochs=30, batch_size=64, schedule="cyclic", augment="none", holdout=0.1)


@register("recipe", "mnist", source="yaodongyu/TRADES")
def mnist(**changes: Any) -> Recipe:
    """MNIST at 0.3: 100 epochs, lr 0.01 falling at 55, 75 and 90, no weight decay, 40 steps of 0.01."""
    return _recipe(
        changes,
        epochs=100,
        lr=0.01,
        milestones=(55, 75, 90),
        weight_decay=0.0,
        augment="none",
        normalize=False,
        steps=40,
        step_size=0.01,
    )


@register("recipe", "pang2021", source="P2333/Bag-of-Tricks-for-AT (Pang et al. 2021)")
def pang2021(**changes: Any) -> Recipe:
    """The cheapest credible CIFAR recipe: 110 epochs falling at 100 and 105, attack in eval mode."""
    return _recipe(changes, epochs=110, milestones=(100, 105))


@register("recipe", "rice2020", source="locuslab/robust_overfitting (Rice et al. 2020)")
def rice2020(**changes: Any) -> Recipe:
    """The longer CIFAR recipe: 200 epochs falling at 100 and 150, attack in train mode."""
    return _recipe(changes, epochs=200, milestones=(100, 150), attack_mode="train")


@register("recipe", "svhn", source="locuslab/robust_overfitting (Rice et al. 2020)")
def svhn(**changes: Any) -> Recipe:
    """SVHN: 200 epochs falling at 100 and 150, lr 0.01, steps of 1/255, no augmentation."""
    return _recipe(changes, epochs=200, milestones=(100, 150), lr=0.01, augment="none", step_size=1 / 255)


@register("recipe", "cpu-small", source="our design")
def cpu_small(**changes: Any) -> Recipe:
    """A small residual network on two cores: 15 epochs, cyclic, 7 steps."""
    return _recipe(changes, epochs=15, schedule="cyclic", lr=0.1, steps=7)


def _recipe(changes: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe(**{**settings, **changes})
