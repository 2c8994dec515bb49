"""Stochastic weight averaging: Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from classwise.errors import InputError
from classwise.registry import register
from classwise.wrappers.base import RunPosition, Statistics


@register("wrapper", "swa", source="Izmailov et al. 2018; VITA-Group/Alleviate-Robust-Overfitting (Chen et al. 2021)")
@dataclass(frozen=True)
class SWA:
    """Arithmetic mean of the weights of all epochs from a start on, evaluated and selected beside the trained model.

    Only parameters are averaged; BatchNorm's statistics are estimated after every epoch in one pass over the clean
    training images, augmented as in training.

    Attributes:
        start: share of the run, in [0, 1), before which no epoch counts; 55 of 200 epochs in the release.

    Raises:
        InputError: a start outside its range.
    """

    start: float = 0.275
    each: ClassVar[Literal["step", "epoch"]] = "epoch"
    statistics: ClassVar[Statistics] = "estimated"
    validates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if type(self.start) not in (int, float) or not 0 <= self.start < 1:
            raise InputError(f"The start of swa is {self.start!r}, but must be a share of the run below 1.")

    def share(self, moment: RunPosition, count: int) -> float | None:
        """Return 1/(k + 1) after k epochs; see :class:`classwise.wrappers.Average`."""
        first = int(self.start * moment.epochs + 1e-9)  # 0.29 * 100 is a little less than 29
        return None if moment.epoch < min(first, moment.epochs - 1) else 1 / (count + 1)
