"""Fairness-aware weight average (FAWA): Wei et al., "CFA: Class-wise Calibrated Fair Adversarial Training", CVPR 2023.

Departures from the released code (PKU-ML/CFA): until an epoch is admitted, the average is the plain moving average of
all epochs, which the first admitted epoch then replaces; in the release it is a network with weights of its own that
were never trained. The relative threshold is our design, for data on which no absolute one is known.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import ClassVar, Literal

from classwise.errors import InputError
from classwise.registry import register
from classwise.wrappers.base import RunPosition, Statistics

_RECENT = 20  # epochs whose median is the relative threshold


@register("wrapper", "fawa", source="Wei et al. 2023 (CFA); relative threshold: our design")
@dataclass(frozen=True)
class FAWA:
    """Moving average of the weights of those epochs alone whose worst held-out class is robust enough.

    After each epoch, θ̄ ← decay·θ̄ + (1 − decay)·θ for all entries, BatchNorm's statistics included, if the lowest
    robust class accuracy of the trained model on the held-out images is at least the threshold; with more than 20
    classes, the mean of the worst tenth.

    Attributes:
        threshold: in [0, 1], 0.2 in the paper and 0.24 in its code; or "median" for that of the last 20 epochs, this
            one included.
        decay: share of the past, in [0, 1]; 0.85 in the paper, 0.88 in its code.

    Raises:
        InputError: a setting outside its range.
    """

    threshold: float | Literal["median"] = 0.2
    decay: float = 0.85
    each: ClassVar[Literal["step", "epoch"]] = "epoch"
    statistics: ClassVar[Statistics] = "averaged"
    validates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.decay) not in (int, float) or not 0 <= self.decay <= 1:
            raise InputError(f"The decay of fawa is {self.decay!r}, but must be a number from 0 to 1.")
        given = self.threshold
        if given != "median" and (type(given) not in (int, float) or not 0 <= given <= 1):
            raise InputError(f"The threshold of fawa is {given!r}, but must be a number from 0 to 1, or 'median'.")

    def share(self, moment: RunPosition, count: int) -> float | None:
        """Return the share of the trained weights in the new average; see :class:`classwise.wrappers.Average`."""
        admitted = [self.admits(moment.tails[:epoch]) for epoch in range(1, len(moment.tails) + 1)]
        if not any(admitted):
            return 1.0 if count == 0 else 1 - self.decay
        if not admitted[-1]:
            return None
        return 1 - self.decay if any(admitted[:-1]) else 1.0

    def admits(self, tails: tuple[float, ...]) -> bool:
        """Tell whether the last of these epochs passes, by the held-out robustness of the worst class in each."""
        least = statistics.median(tails[-_RECENT:]) if self.threshold == "median" else self.threshold
        return tails[-1] >= least
