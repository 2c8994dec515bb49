"""Exponential moving average of weights, by step (Gowal et al. 2020) or by epoch (Wei et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from classwise.errors import InputError
from classwise.registry import register
from classwise.wrappers.base import RunPosition, Statistics

_USUAL = {"step": 0.995, "epoch": 0.85}


@register("wrapper", "ema", source="Gowal et al. 2020, imrahulr/adversarial_robustness_pytorch; by epoch: CFA 2023")
@dataclass(frozen=True)
class EMA:
    """Exponential moving average of the weights, evaluated and selected beside the trained model.

    By step, the share of the past is min(decay, (1 + δ)/(10 + δ)), δ steps after the warm-up; only parameters are
    averaged, and BatchNorm's statistics are copied from the trained model after every epoch. By epoch, it is the
    decay from the first epoch after the warm-up on, for all entries, BatchNorm's statistics included. Before and at
    the end of the warm-up the average is the trained model.

    CFA is ``ema(each='epoch', decay=0.85, warmup=0.25)`` in the paper and ``ema(each='epoch', decay=0.88, warmup=0)``
    in its code.

    Attributes:
        decay: share of the past, in [0, 1]; None for 0.995 by step and 0.85 by epoch.
        each: "step" or "epoch".
        warmup: share of the run, in [0, 1), before which nothing of the past is kept; None for 0.025 by step and 0 by
            epoch.

    Raises:
        InputError: a setting outside its range.
    """

    decay: float | None = None
    each: Literal["step", "epoch"] = "step"
    warmup: float | None = None
    validates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.decay is not None and (type(self.decay) not in (int, float) or not 0 <= self.decay <= 1):
            raise InputError(f"The decay of ema is {self.decay!r}, but must be a number from 0 to 1.")
        if self.each not in ("step", "epoch"):
            raise InputError(f"ema averages each 'step' or each 'epoch', not each {self.each!r}.")
        if self.warmup is not None and (type(self.warmup) not in (int, float) or not 0 <= self.warmup < 1):
            raise InputError(f"The warm-up of ema is {self.warmup!r}, but must be a share of the run below 1.")

    @property
    def statistics(self) -> Statistics:
        """Where BatchNorm's statistics come from."""
        return "copied" if self.each == "step" else "averaged"

    def share(self, moment: RunPosition, count: int) -> float:
        """Return the share of the trained weights in the new average; see :class:`classwise.wrappers.Average`."""
        decay = _USUAL[self.each] if self.decay is None else self.decay
        if self.each == "epoch":
            first = (self.warmup or 0.0) * moment.epochs
            return 1.0 if count == 0 or moment.epoch <= first else 1 - decay
        since = moment.done - (0.025 if self.warmup is None else self.warmup) * moment.total
        return 1.0 if count == 0 or since <= 0 else 1 - min(decay, (1 + since) / (10 + since))
