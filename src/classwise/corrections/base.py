"""What every correction shares: the logits that it is fitted on, and how a rule is called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from classwise.errors import InputError
from classwise.losses import margin

Correction = TypeVar("Correction", bound=nn.Module)


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
    """What the uncorrected model says of every image that the held-out images have been turned into so far.

    A correction acts on logits alone, so any number of them can be judged on these without a pass of the network.

    Attributes:
        logits: (V, N, C) float32. View 0 is the clean images; then a view for each attack of each round, which holds
            the clean logits again where an image was not attacked.
        y: true classes (N,).
        uncorrected: views, the clean one included, that were made before anything was corrected.
        head: the model's last linear layer; None where it does not end in one.
    """

    logits: Tensor
    y: Tensor
    uncorrected: int
    head: Head | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.logits.shape[2]

    @property
    def gap(self) -> float:
        """Median distance between the two largest clean logits: the unit of offsets."""
        top = self.logits[0].topk(2, dim=1).values
        return float((top[:, 0] - top[:, 1]).median())

    def added(self, logits: Sequence[Tensor]) -> Pool:
        """Return the pool with more views, (N, C) each."""
        return replace(self, logits=torch.cat([self.logits, torch.stack(list(logits))]))

    def before(self) -> Pool:
        """Return the part of the pool that was made before anything was corrected."""
        return replace(self, logits=self.logits[: self.uncorrected])

    @torch.no_grad()
    def right(self, correction: nn.Module) -> Tensor:
        """Tell which images the corrected model gets right in every view (N,); a tie counts as wrong."""
        logits = correction(self.logits)
        lead = torch.stack([margin(view, self.y) for view in logits])
        right: Tensor = ((lead < 0) & logits.isfinite().all(2)).all(0)
        return right

    def accuracy(self, correction: nn.Module) -> Tensor:
        """Return the share of images right in every view in each class (C,); NaN for a class without images."""
        n = torch.bincount(self.y, minlength=self.num_classes)
        return torch.bincount(self.y[self.right(correction)], minlength=self.num_classes) / n


class Rule(Protocol[Correction]):
    """Frozen settings that make corrections, each one a step further than the last."""

    module: ClassVar[type[nn.Module]]

    @property
    def rounds(self) -> int:
        """How many corrections are tried at most."""
        ...

    def begin(self, pool: Pool) -> Correction:
        """Return the correction that changes nothing."""
        ...

    def follow(self, correction: Correction, pool: Pool) -> Correction | None:
        """Return the next correction to attack, now that this one has been; None at the end of the way."""
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
