"""What every correction shares: the logits that it is fitted on, and how a rule is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from classwise.errors import InputError
from classwise.losses import margin

Correction = Callable[[Tensor], Tensor]
"""Maps logits (…, C) to logits of the same shape."""


class Head(NamedTuple):
    """The last linear layer of a model, as far as a correction needs it.

    Attributes:
        norm: length of each class's weights (C,).
        bias: of each class (C,).
    """

    norm: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Pool:
    """What the uncorrected model says of the held-out images, and of everything that attacks have made of them.

    A correction acts on logits alone, so any number of them can be judged on these without a pass of the network.

    Attributes:
        logits: (M, C) float32, a row a candidate. The first N are the clean images in their order.
        image: (M,) int64, the image that each candidate is made of, 0 … N − 1.
        y: true classes (N,).
        uncorrected: rows that were made before anything was corrected, the clean ones included.
        head: the model's last linear layer; None where it does not end in one.
    """

    logits: Tensor
    image: Tensor
    y: Tensor
    uncorrected: int
    head: Head | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.logits.shape[1]

    @property
    def n(self) -> Tensor:
        """Images of each class (C,)."""
        return torch.bincount(self.y, minlength=self.num_classes)

    @property
    def clean(self) -> Tensor:
        """Logits of the clean images (N, C)."""
        return self.logits[: len(self.y)]

    @property
    def gap(self) -> float:
        """Median distance between the two largest clean logits: the unit of offsets."""
        top = self.clean.topk(2, dim=1).values
        return float((top[:, 0] - top[:, 1]).median())

    def added(self, image: Tensor, logits: Tensor) -> Pool:
        """Return the pool with more candidates: the images (K,) that they are made of, and their logits (K, C)."""
        return replace(self, logits=torch.cat([self.logits, logits]), image=torch.cat([self.image, image]))

    def before(self) -> Pool:
        """Return the part of the pool that was made before anything was corrected."""
        return replace(self, logits=self.logits[: self.uncorrected], image=self.image[: self.uncorrected])

    def of(self, positions: Tensor) -> Pool:
        """Return the pool of some of its images, (K,) without repeats, renumbered in this order."""
        number = torch.full((len(self.y),), -1).scatter(0, positions, torch.arange(len(positions)))
        image = number[self.image]
        taken = (image >= 0).nonzero().squeeze(1)
        # The clean images come first, in their new order.
        taken = taken[image[taken].argsort(stable=True)]
        taken = torch.cat([positions, taken[taken >= len(self.y)]])
        uncorrected = int((taken < self.uncorrected).sum())
        taken = torch.cat([taken[taken < self.uncorrected], taken[taken >= self.uncorrected]])
        return Pool(self.logits[taken], number[self.image[taken]], self.y[positions], uncorrected, self.head)

    def leads(self, logits: Tensor) -> Tensor:
        """Return by how much each candidate's true class leads (M,), given corrected logits (M, C).

        Positive where the candidate is right; −∞ where a logit is not finite.
        """
        lead = -margin(logits, self.y[self.image])
        return torch.where(logits.isfinite().all(1), lead, -torch.inf)

    def closest(self, leads: Tensor) -> Tensor:
        """Return the smallest lead of each image (N,), given those of the candidates (M,)."""
        return leads.new_full((len(self.y),), torch.inf).scatter_reduce(0, self.image, leads, "amin")

    @torch.no_grad()
    def right(self, correction: Correction) -> Tensor:
        """Tell which images the corrected model gets right in every candidate (N,); a tie counts as wrong."""
        right: Tensor = self.closest(self.leads(correction(self.logits))) > 0
        return right

    def accuracy(self, correction: Correction) -> Tensor:
        """Return the share of images right in every candidate in each class (C,); NaN for a class without images."""
        return torch.bincount(self.y[self.right(correction)], minlength=self.num_classes) / self.n


class Rule(Protocol):
    """Frozen settings of a family of decision rules with some free numbers θ, of which 0 changes nothing."""

    module: ClassVar[type[nn.Module]]

    @property
    def step(self) -> float:
        """How far θ moves in a step of the search at most."""
        ...

    @property
    def rounds(self) -> int:
        """How often a correction is attacked and fitted again at most."""
        ...

    def start(self, pool: Pool) -> Tensor:
        """Return θ = 0, in the shape that this pool asks for.

        Raises:
            InputError: the rule cannot correct this model.
        """
        ...

    def limited(self, theta: Tensor) -> Tensor:
        """Return the nearest θ in the range that the rule allows."""
        ...

    def at(self, theta: Tensor, pool: Pool) -> nn.Module:
        """Return the correction at θ, differentiable in it."""
        ...


def weakest(accuracy: Tensor) -> int:
    """Return the class of the lowest accuracy (C,), the first of several; classes without images are skipped."""
    return int(accuracy.nan_to_num(nan=torch.inf).argmin())


def check_settings(rule: str, step: float, rounds: int, most: float = math.inf) -> None:
    """Refuse a step that is not a number above 0 and at most ``most``, or rounds that are not a whole number above 0.

    Raises:
        InputError: one of the two.
    """
    if type(step) not in (int, float) or not 0 < step <= most or step == math.inf:
        limit = "" if most == math.inf else f" and at most {most:g}"
        raise InputError(f"The step of {rule} is {step!r}, but must be a finite number above 0{limit}.")
    if type(rounds) is not int or rounds < 1:
        raise InputError(f"The rounds of {rule} are {rounds!r}, but must be a whole number of at least 1.")
