"""Recipes: how long, how fast and against which attack a network is trained. Data, no code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from classwise.errors import InputError
from classwise.registry import register

Schedule = Literal["piecewise", "cosine", "cyclic"]
Mode = Literal["eval", "train"]
LATER = {"nesterov": False}
"""Settings that recipes got later, and what runs from before them had: such runs can be resumed, and stay finished."""


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
        nesterov: whether that momentum is Nesterov's.
        weight_decay: of SGD, on all parameters.
        augment: name of the augmentation: "none", "crop" or "crop-flip".
        steps: gradients of the training attack.
        step_size: its step in [0, 1] pixel units; None for eps/4 (2/255 at 8/255).
        eps_warmup: epochs over which its radius and step grow linearly from 0 to their full size. Our design, for
            radii at which training from scratch stays at chance, such as 0.3 on MNIST.
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
    nesterov: bool = False
    weight_decay: float = 5e-4
    augment: str = "crop-flip"
    steps: int = 10
    step_size: float | None = None
    eps_warmup: int = 0
    attack_mode: Mode = "eval"
    normalize: bool = True
    holdout: float = 0.02

    def __post_init__(self) -> None:
        for name, fits, rule in _rules(self):
            if not fits:
                raise InputError(f"The recipe's {name} is {getattr(self, name)!r}, but must be {rule}.")
        object.__setattr__(self, "milestones", tuple(self.milestones))

    def rate(self, progress: float) -> float:
        """Return the learning rate after ``progress`` epochs, 0 … epochs; whole and broken numbers alike."""
        if self.schedule == "piecewise":
            return self.lr * float(0.1 ** sum(progress >= milestone for milestone in self.milestones))
        share = progress / self.epochs
        if self.schedule == "cyclic":
            return self.lr * (share / 0.4 if share < 0.4 else max(0.0, (1 - share) / 0.6))
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    def reach(self, progress: float) -> float:
        """Return the share of its radius and step that the training attack has after ``progress`` epochs, 0 … 1."""
        return 1.0 if progress >= self.eps_warmup else progress / self.eps_warmup


def _rules(recipe: Recipe) -> Iterator[tuple[str, bool, str]]:
    """Yield the name of each setting, whether it keeps its rule, and the rule."""
    milestones = isinstance(recipe.milestones, tuple | list) and all(
        _whole(milestone, 0) for milestone in recipe.milestones
    )
    yield "epochs", _whole(recipe.epochs, 1), "a whole number of at least 1"
    yield "batch_size", _whole(recipe.batch_size, 2), "a whole number of at least 2"
    yield "lr", _number(recipe.lr) and recipe.lr > 0, "a finite number above 0"
    yield "milestones", milestones, "a tuple of whole numbers"
    yield "schedule", recipe.schedule in get_args(Schedule), f"one of {', '.join(get_args(Schedule))}"
    yield "momentum", _number(recipe.momentum, below=1), "a number of at least 0 and below 1"
    nesterov = isinstance(recipe.nesterov, bool) and (recipe.momentum != 0 or not recipe.nesterov)
    yield "nesterov", nesterov, "True or False, and False without momentum"
    yield "weight_decay", _number(recipe.weight_decay), "a finite number of at least 0"
    yield "augment", isinstance(recipe.augment, str), "the name of an augmentation"
    yield "steps", _whole(recipe.steps, 1), "a whole number of at least 1"
    yield "step_size", recipe.step_size is None or _number(recipe.step_size), "a finite number of at least 0"
    warmup = _whole(recipe.eps_warmup, 0) and recipe.eps_warmup <= recipe.epochs
    yield "eps_warmup", warmup, "a whole number of at least 0 and at most epochs"
    yield "attack_mode", recipe.attack_mode in get_args(Mode), f"one of {', '.join(get_args(Mode))}"
    yield "normalize", isinstance(recipe.normalize, bool), "True or False"
    yield "holdout", _number(recipe.holdout, below=1), "a number of at least 0 and below 1"


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least  # True is an int to isinstance


def _number(value: Any, below: float = math.inf) -> bool:
    return type(value) in (int, float) and 0 <= value < below


@register("recipe", "digits", source="our design")
def digits(**changes: Any) -> Recipe:
    """Embedded 8x8 digits in seconds on two cores: 30 epochs, batch 64, cyclic."""
    return _recipe(changes, epochs=30, batch_size=64, schedule="cyclic", augment="none", holdout=0.1)


@register("recipe", "mnist", source="yaodongyu/TRADES")
def mnist(**changes: Any) -> Recipe:
    """MNIST at 0.3: 100 epochs, lr 0.01, no weight decay, 40 steps of 0.01."""
    # The release counts epochs from 1 and drops the rate in the 55th, 75th and 90th.
    return _recipe(
        changes,
        epochs=100,
        lr=0.01,
        milestones=(54, 74, 89),
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


@register("recipe", "trades", source="yaodongyu/TRADES (Zhang et al. 2019)")
def trades(**changes: Any) -> Recipe:
    """TRADES on CIFAR: 76 epochs, the last two at a tenth, weight decay 2e-4, no normalisation."""
    # The release counts epochs from 1 and drops the rate in the 75th.
    return _recipe(changes, epochs=76, milestones=(74,), weight_decay=2e-4, normalize=False)


@register("recipe", "mart", source="YisenWang/MART (Wang et al. 2020)")
def mart(**changes: Any) -> Recipe:
    """MART on ResNet-18: 120 epochs, lr 0.01, weight decay 3.5e-3, no normalisation."""
    # The release counts epochs from 1 and drops the rate in the 75th, 90th and 100th.
    return _recipe(changes, epochs=120, milestones=(74, 89, 99), lr=0.01, weight_decay=3.5e-3, normalize=False)


@register("recipe", "he", source="ShawnXYang/AT_HE (Pang et al. 2020)")
def he(**changes: Any) -> Recipe:
    """HE on CIFAR: 77 epochs, the last three at a tenth; weight decay 2e-4 goes with TRADES."""
    # The release counts epochs from 1 and drops the rate in the 75th. Its network normalises (i_normalize=True).
    return _recipe(changes, epochs=77, milestones=(74,))


@register("recipe", "fat", source="zjfheart/Friendly-Adversarial-Training (Zhang et al. 2020)")
def fat(**changes: Any) -> Recipe:
    """FAT on WideResNets: 120 epochs falling at 59 and 89, weight decay 2e-4, no normalisation."""
    # The release counts epochs from 1, and halves the rate once more in the 110th, which is left out.
    return _recipe(changes, epochs=120, milestones=(59, 89), weight_decay=2e-4, normalize=False)


@register("recipe", "gairat", source="zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training")
def gairat(**changes: Any) -> Recipe:
    """GAIRAT on WideResNets: 120 epochs falling at 59 and 89, weight decay 2e-4, no normalisation."""
    # The release counts epochs from 1, and halves the rate once more in the 110th, which is left out.
    return _recipe(changes, epochs=120, milestones=(59, 89), weight_decay=2e-4, normalize=False)


@register("recipe", "bat", source="Sun et al. 2023, released code")
def bat(**changes: Any) -> Recipe:
    """BAT on CIFAR: 200 epochs falling at 74, 89 and 99, weight decay 2e-4, no normalisation."""
    # The release counts epochs from 1 and drops the rate in the 75th, 90th and 100th.
    return _recipe(changes, epochs=200, milestones=(74, 89, 99), weight_decay=2e-4, normalize=False)


@register("recipe", "cfa", source="PKU-ML/CFA (Wei et al. 2023)")
def cfa(**changes: Any) -> Recipe:
    """CFA on CIFAR: 200 epochs falling at 100 and 150, attack in train mode."""
    return _recipe(changes, epochs=200, milestones=(100, 150), attack_mode="train")


@register("recipe", "wat", source="boqili/WAT")
def wat(**changes: Any) -> Recipe:
    """WAT on CIFAR: 100 epochs falling at 74, 89 and 99, weight decay 2e-4, no normalisation, 6 % held out."""
    # The release counts epochs from 1 and drops the rate in the 75th, 90th and 100th.
    settings = {"epochs": 100, "milestones": (74, 89, 99), "weight_decay": 2e-4, "normalize": False}
    return _recipe(changes, **settings, holdout=0.06)


@register("recipe", "dafa", source="rucy74/DAFA (Lee et al. 2024)")
def dafa(**changes: Any) -> Recipe:
    """DAFA on CIFAR: 110 epochs falling at 99 and 104, Nesterov's momentum, no normalisation."""
    # The release counts epochs from 1 and drops the rate in the 100th and 105th. Its flag switches Nesterov's on.
    return _recipe(changes, epochs=110, milestones=(99, 104), nesterov=True, normalize=False)


@register("recipe", "rslad", source="zibojia/RSLAD (Zi et al. 2021)")
def rslad(**changes: Any) -> Recipe:
    """Distillation on CIFAR: 300 epochs falling at 215, 260 and 285, weight decay 2e-4, no normalisation."""
    return _recipe(changes, epochs=300, milestones=(215, 260, 285), weight_decay=2e-4, normalize=False)


@register("recipe", "finetune-faal", source="TrustAI/FAAL (Zhang et al. 2024)")
def finetune_faal(**changes: Any) -> Recipe:
    """Two epochs on top of a robust network, `--model run:FOLDER`: lr 0.01, then 0.001."""
    return _recipe(changes, epochs=2, milestones=(1,), lr=0.01)


@register("recipe", "finetune-frl", source="hannxu123/fair_robust (Xu et al. 2021)")
def finetune_frl(**changes: Any) -> Recipe:
    """FRL goes on with a robust network: 40 epochs, lr 0.001, no normalisation, 6 % held out."""
    return _recipe(changes, epochs=40, lr=0.001, milestones=(40,), normalize=False, holdout=0.06)


@register("recipe", "fast", source="our design")
def fast(**changes: Any) -> Recipe:
    """A first look in minutes on a GPU: 15 epochs, cyclic, 7 steps."""
    return _recipe(changes, epochs=15, schedule="cyclic", steps=7)


@register("recipe", "svhn", source="locuslab/robust_overfitting (Rice et al. 2020)")
def svhn(**changes: Any) -> Recipe:
    """SVHN: 200 epochs falling at 100 and 150, lr 0.01, steps of 1/255 in train mode, no augmentation."""
    # The step is that of the released log (experiments/svhn_standard: pgd_alpha=1.0); train_svhn.py has 2 by default.
    changing = {"epochs": 200, "milestones": (100, 150), "lr": 0.01, "augment": "none", "step_size": 1 / 255}
    return _recipe(changes, **changing, attack_mode="train")


@register("recipe", "cpu-small", source="our design")
def cpu_small(**changes: Any) -> Recipe:
    """A small residual network (`small_resnet`) on two cores: 15 epochs, cyclic, 10 steps."""
    return _recipe(changes, epochs=15, schedule="cyclic")


def _recipe(changes: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe(**{**settings, **changes})
