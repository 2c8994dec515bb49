"""How far the rounding of float32 may take an adversarial image out of its ball."""

from __future__ import annotations


def tolerated(eps: float) -> float:
    """Return the largest distance that counts as within ``eps`` (>= 0, pixel units): eps·(1 + 1e-6) + 1e-7."""
    return eps * (1 + 1e-6) + 1e-7
