"""Hypothesis strategies that several test files share: images, threats, logits."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from classwise.threat import ThreatModel

NORMS = ("Linf", "L2", "L1")
DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
"""Order of the norm in which a linear function's weight must be measured, for each norm of the threat."""

SEEDS = st.integers(0, 2**31 - 1)


def examples(count: int) -> settings:
    """Try this many examples, however long each takes: time limits fail at random on a busy machine."""
    return settings(deadline=None, max_examples=count)


@st.composite
def threats(draw: st.DrawFn, low: float = 0.0, high: float = 1.0) -> ThreatModel:
    return ThreatModel(draw(st.sampled_from(NORMS)), draw(st.floats(low, high)))


@st.composite
def images(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw up to 4 images of up to 48 pixels; some pixels are exactly 0 or 1."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    stretch = draw(st.sampled_from([1.0, 1.5]))  # the second puts a third of the pixels on the limits
    return (0.5 + stretch * (torch.rand(shape, generator=generator, dtype=dtype) - 0.5)).clamp(0, 1)


@st.composite
def pairs(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Draw images and perturbed images at any distance, from the same image to far outside the pixel range."""
    x = draw(images(dtype))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    scale = draw(st.sampled_from([0.0, 1e-8, 1e-3, 0.1, 1.0, 100.0]))
    return x + scale * torch.randn(x.shape, generator=generator, dtype=dtype), x


@st.composite
def labelled_logits(
    draw: st.DrawFn, dtype: torch.dtype = torch.float64, scale: float = 10.0, min_classes: int = 2
) -> tuple[Tensor, Tensor]:
    """Draw logits (N, K) without ties, and labels."""
    shape = draw(st.integers(1, 5)), draw(st.integers(min_classes, 12))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    logits = scale * torch.randn(shape, generator=generator, dtype=dtype)
    return logits, torch.randint(shape[1], (shape[0],), generator=generator)
