"""Wrappers: what goes around any training method, a perturbation of the weights or averages of them."""

from classwise.wrappers.awp import AWP
from classwise.wrappers.base import Average, Averaged, RunPosition, mix
from classwise.wrappers.ema import EMA
from classwise.wrappers.fawa import FAWA
from classwise.wrappers.named import Wrappers, build
from classwise.wrappers.statistics import estimate_statistics
from classwise.wrappers.swa import SWA

__all__ = [
    "AWP",
    "EMA",
    "FAWA",
    "SWA",
    "Average",
    "Averaged",
    "RunPosition",
    "Wrappers",
    "build",
    "estimate_statistics",
    "mix",
]
