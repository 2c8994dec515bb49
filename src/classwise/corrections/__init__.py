"""Corrections: decision rules g(z) on the logits of a finished model, fitted on held-out images for its weakest class.

Everything here is our design. The seed paper's abstract says that it modifies the inference phase for the most
vulnerable class; how, could not be checked.
"""

from classwise.corrections.base import Head, Pool, Rule, weakest
from classwise.corrections.offset import IVOffset, IVOffsets, Offset
from classwise.corrections.scale import IVScale, Scale
from classwise.corrections.weight_norm import IVWeightNorm, WeightNorm

__all__ = [
    "Head",
    "IVOffset",
    "IVOffsets",
    "IVScale",
    "IVWeightNorm",
    "Offset",
    "Pool",
    "Rule",
    "Scale",
    "WeightNorm",
    "weakest",
]
