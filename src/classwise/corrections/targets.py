"""Targets: what a correction is fitted for, as a number of the class accuracies under attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from classwise.errors import InputError
from classwise.metrics.intervals import tail_size
from classwise.registry import register, unknown

_SHORTFALL = 10.0
"""What a missed limit weighs against the average: it outweighs any gain."""


@dataclass(frozen=True, eq=False)
class Tally:
    """How a corrected model does on some images under attack; smoothed while a correction is searched.

    Attributes:
        right: how far each image is right (N,), 0 … 1; in counts 0 or 1.
        logits: corrected, of that candidate of each image whose true class leads by the least (N, C).
        y: true classes (N,).
        n: images of each class (C,).
        width: of the smoothing of wrong answers, in logits, above 0.
    """

    right: Tensor
    logits: Tensor
    y: Tensor
    n: Tensor
    width: float

    @cached_property
    def accuracy(self) -> Tensor:
        """Share of the images of each class that are right (C,); NaN for a class without images."""
        return torch.zeros(len(self.n)).index_add(0, self.y, self.right) / self.n

    @cached_property
    def average(self) -> Tensor:
        """Share of all images that are right, a scalar."""
        return self.right.mean()

    @cached_property
    def false_positives(self) -> Tensor:
        """Share of each class among all wrong answers (C,); 0 everywhere if there are none."""
        rivals = (self.logits / self.width).scatter(1, self.y[:, None], -torch.inf).softmax(1)
        answers = (rivals * (1 - self.right)[:, None]).sum(0)
        return answers / answers.sum().clamp_min(1e-9)


class Target(Protocol):
    """Frozen settings that put a number on a tally."""

    def score(self, tally: Tally, classes: Sequence[str]) -> Tensor:
        """Return the number, a scalar that is the higher the better, differentiable in the tally.

        Raises:
            InputError: the settings do not fit these classes.
        """
        ...

    def missed(self, tally: Tally, classes: Sequence[str]) -> str | None:
        """Say which limit is missed and by how much, as a sentence; None where none is."""
        ...


@register("target", "weakest", source="our design")
@dataclass(frozen=True)
class Weakest:
    """The weakest class, or the mean of the few weakest.

    Attributes:
        classes: how many, at least 1.
        max_cfps: the largest share of the wrong answers that a class may take, in (0, 1].

    Raises:
        InputError: a setting outside its range.
    """

    classes: int = 1
    max_cfps: float = 1.0

    def __post_init__(self) -> None:
        if type(self.classes) is not int or self.classes < 1:
            raise InputError(f"The target's classes are {self.classes!r}, but must be a whole number of at least 1.")
        if type(self.max_cfps) not in (int, float) or not 0 < self.max_cfps <= 1:
            raise InputError(f"The target's max_cfps is {self.max_cfps!r}, but must be above 0 and at most 1.")

    def score(self, tally: Tally, classes: Sequence[str]) -> Tensor:
        """Return the mean of the lowest accuracies, less what the limit of false positives is missed by."""
        if self.max_cfps == 1:
            return _lowest(tally.accuracy, self.classes)
        return _lowest(tally.accuracy, self.classes) - _SHORTFALL * F.relu(tally.false_positives.max() - self.max_cfps)

    def missed(self, tally: Tally, classes: Sequence[str]) -> str | None:
        """Say which class takes too many of the wrong answers."""
        share, label = tally.false_positives.max(0)
        if self.max_cfps == 1 or float(share) <= self.max_cfps:
            return None
        return (
            f"No class should take more than {self.max_cfps:.1%} of the wrong answers, but {classes[int(label)]} takes "
            f"{float(share):.1%}; raise max_cfps or --max-loss."
        )


@register("target", "two-weakest", source="our design", summary="The mean of the two weakest classes")
def two_weakest() -> Weakest:
    """Return the target of the mean of the two weakest classes."""
    return Weakest(classes=2)


@register("target", "weakest-tenth", source="our design")
@dataclass(frozen=True)
class WeakestTenth:
    """The mean of the weakest tenth of the classes, for many classes."""

    def score(self, tally: Tally, classes: Sequence[str]) -> Tensor:
        """Return the mean of the lowest tenth of the accuracies."""
        return _lowest(tally.accuracy, tail_size(int((~tally.accuracy.isnan()).sum()), 0.1))

    def missed(self, tally: Tally, classes: Sequence[str]) -> None:
        """Return None: there is no limit."""


@register("target", "floor", source="our design")
@dataclass(frozen=True)
class Floor:
    """No class below a level, at the least loss of the average.

    Attributes:
        level: the least accuracy under attack, in (0, 1).
        classes: names of the classes that it holds for; all if there are none.

    Raises:
        InputError: a setting outside its range.
    """

    level: float = 0.3
    classes: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.level) not in (int, float) or not 0 < self.level < 1:
            raise InputError(f"The level of the floor is {self.level!r}, but must lie between 0 and 1, such as 0.3.")

    def score(self, tally: Tally, classes: Sequence[str]) -> Tensor:
        """Return the average, less ten times what the classes miss in all.

        Raises:
            InputError: there is no class of a name.
        """
        return tally.average - _SHORTFALL * F.relu(self.level - tally.accuracy[self._labels(classes)]).nansum()

    def missed(self, tally: Tally, classes: Sequence[str]) -> str | None:
        """Say which classes stay below the floor."""
        below = [c for c in self._labels(classes) if float(tally.accuracy[c]) < self.level]
        if not below:
            return None
        names = ", ".join(f"{classes[c]} at {float(tally.accuracy[c]):.1%}" for c in below)
        return (
            f"The floor of {self.level:.1%} is out of reach at this loss of average: {names}; allow more with "
            "--max-loss, or lower the level."
        )

    def _labels(self, classes: Sequence[str]) -> list[int]:
        names = (self.classes,) if isinstance(self.classes, str) else self.classes
        for name in names:
            if name not in classes:
                raise InputError(unknown("class", name, list(classes)))
        return [classes.index(name) for name in names] or list(range(len(classes)))


@register("target", "equal-false-positives", source="our design")
@dataclass(frozen=True)
class EqualFalsePositives:
    """No class that wrong answers favour: the largest share of false positives is lowered as far as it goes."""

    def score(self, tally: Tally, classes: Sequence[str]) -> Tensor:
        """Return the negative of the largest share."""
        return -tally.false_positives.max()

    def missed(self, tally: Tally, classes: Sequence[str]) -> None:
        """Return None: there is no limit."""


def _lowest(accuracy: Tensor, size: int) -> Tensor:
    """Return the mean of the ``size`` lowest accuracies of classes with images; of all if there are fewer."""
    known = accuracy[~accuracy.isnan()]
    return known.topk(min(size, len(known)), largest=False).values.mean()
