"""What every average of weights shares: when it takes the weights in, with which share, and where it is kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

Statistics = Literal["averaged", "copied", "estimated"]
"""Where an averaged model has its buffers, BatchNorm's statistics above all, from: averaged like the weights; copied
from the trained model after every epoch; or estimated anew on training images after every epoch."""


@dataclass(frozen=True)
class RunPosition:
    """A point of a run, just after a step.

    Attributes:
        epoch: epochs finished before this one.
        step: steps finished in this epoch, from 1.
        steps: steps of an epoch.
        epochs: epochs of the run.
        tails: after an epoch, the lowest held-out robust class accuracy of the trained model in each epoch finished,
            this one included; with more than 20 classes the mean of the worst tenth. Empty if nothing is held out.
    """

    epoch: int
    step: int
    steps: int
    epochs: int
    tails: tuple[float, ...] = ()

    @property
    def done(self) -> int:
        """Steps finished since the start of the run."""
        return self.epoch * self.steps + self.step

    @property
    def total(self) -> int:
        """Steps of the run."""
        return self.epochs * self.steps


class Average(Protocol):
    """Frozen settings that say how an average of weights takes in the trained ones: θ̄ ← θ̄ + share·(θ − θ̄)."""

    @property
    def each(self) -> Literal["step", "epoch"]:
        """After what it is asked."""
        ...

    @property
    def statistics(self) -> Statistics:
        """Where its buffers come from."""
        ...

    @property
    def validates(self) -> bool:
        """Whether it needs held-out images."""
        ...

    def share(self, moment: RunPosition, count: int) -> float | None:
        """Return the share of the trained weights in the new average, in [0, 1]; None to leave the average alone.

        Args:
            moment: when.
            count: how often it has taken weights in.
        """
        ...


@dataclass
class Averaged:
    """The state of an average: its model, and how often it has taken weights in.

    Attributes:
        rule: settings.
        model: in eval mode and without gradients; the trained model's weights until something is taken in.
        count: times that weights were taken in.
    """

    rule: Average
    model: nn.Module
    count: int = field(default=0)

    @classmethod
    def of(cls, rule: Average, model: nn.Module) -> Averaged:
        """Start with a copy of a model, on its device."""
        return cls(rule, copy.deepcopy(model).eval().requires_grad_(False))

    @property
    def exists(self) -> bool:
        """Whether it is an average of anything yet."""
        return self.count > 0

    def follow(self, model: nn.Module, moment: RunPosition, after: Literal["step", "epoch"]) -> None:
        """Take in the weights of the trained model, if the settings want it after this step or epoch."""
        share = self.rule.share(moment, self.count) if self.rule.each == after else None
        if share is not None:
            mix(self.model, model, share, buffers=self.rule.statistics == "averaged")
            self.count += 1
        if after == "epoch" and self.rule.statistics == "copied":
            mix(self.model, model, 1.0, parameters=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and a number."""
        return {"model": self.model.state_dict(), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.model.load_state_dict(state["model"])
        self.count = int(state["count"])


@torch.no_grad()
def mix(average: nn.Module, model: nn.Module, share: float, *, parameters: bool = True, buffers: bool = True) -> None:
    """Move an averaged model towards a model in place: θ̄ ← θ̄ + share·(θ − θ̄); whole numbers are copied.

    Args:
        average: has the parameters and buffers of ``model``.
        model: what it is moved towards.
        share: 0 leaves it, 1 copies the model, to the last bit.
        parameters: whether parameters are moved.
        buffers: whether buffers are.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    if parameters:
        pairs += zip(average.parameters(), model.parameters(), strict=True)
    if buffers:
        pairs += zip(average.buffers(), model.buffers(), strict=True)
    moved = [(old, new) for old, new in pairs if old.is_floating_point()]
    if moved:
        mine, theirs = ([pair[side] for pair in moved] for side in (0, 1))
        torch._foreach_lerp_(mine, theirs, share)
    for old, new in pairs:
        if not old.is_floating_point():
            old.copy_(new)
