"""Random numbers that are a pure function of (seed, image, purpose, step).

The same image gets the same numbers whatever the batch, the order, the shard or the point of resumption, and
there is no generator state to save. The bits come from the finaliser of SplitMix64 (Steele et al. 2014) applied
to a counter, in wrapping int64 arithmetic, which every device computes alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


@dataclass(frozen=True, eq=False)
class Noise:
    """A stream of random numbers for each image of a batch.

    Attributes:
        seed: the run's seed.
        index: position of each image in its data set, (N,) int64.
        path: purposes and steps folded in so far; streams with different paths are independent.

    Example:
        >>> whole = Noise(0, torch.arange(4)).fold("start").uniform((2,))
        >>> part = Noise(0, torch.tensor([3])).fold("start").uniform((2,))
        >>> bool((whole[3] == part[0]).all())
        True
    """

    seed: int
    index: Tensor
    path: tuple[str | int, ...] = ()

    def fold(self, *purpose: str | int) -> Noise:
        """Return an independent stream for a purpose, a step or a restart."""
        return replace(self, path=(*self.path, *purpose))

    def select(self, which: Tensor) -> Noise:
        """Keep the images of a mask or of positions; each keeps its own numbers."""
        return replace(self, index=self.index[which.to(self.index.device)])

    def uniform(self, shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """Draw float32 numbers in [0, 1) with 24 random bits, (N, *shape)."""
        return self._shifted(shape, device, bits=24).to(torch.float32) * 2.0**-24

    def normal(self, shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """Draw standard normal float32 numbers by the Box-Muller transform, (N, *shape)."""
        bits = self._bits(shape, device)
        radius = (((bits >> 32) & 0xFFFFFFFF).to(torch.float64) + 1) * 2.0**-32  # in (0, 1]: its logarithm is finite
        angle = (bits & 0xFFFFFFFF).to(torch.float64) * (2 * math.pi * 2.0**-32)
        return ((-2 * radius.log()).sqrt() * angle.cos()).to(torch.float32)

    def integers(self, high: int, shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """Draw int64 numbers in 0 … high − 1, (N, *shape); the bias is below high·2⁻⁶²."""
        return self._shifted(shape, device, bits=62) % high

    def _shifted(self, shape: Sequence[int], device: torch.device | str | None, bits: int) -> Tensor:
        return (self._bits(shape, device) >> (64 - bits)) & ((1 << bits) - 1)

    def _bits(self, shape: Sequence[int], device: torch.device | str | None) -> Tensor:
        index = self.index.to(device=device or self.index.device, dtype=torch.int64)
        counter = torch.arange(1, math.prod(shape) + 1, device=index.device)
        key = _mix(_mix(index * _GOLDEN + self._base()))
        return _mix(key[:, None] + counter * _GOLDEN).view(len(index), *shape)

    def _base(self) -> int:
        digest = hashlib.blake2b(repr((self.seed, self.path)).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, by: int) -> Tensor:
    """Shift right without copying the sign bit."""
    return (z >> by) & ((1 << (64 - by)) - 1)
