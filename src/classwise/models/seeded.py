"""The random numbers that a model draws by itself, the same in every pass."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def same_draws(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Seed the generators that layers draw from, PyTorch's, NumPy's and Python's; put them back afterwards.

    A generator that the model holds itself is not seeded.

    Args:
        device: that the model runs on.
        seed: of all of them.
    """
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - what models of others draw from
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
