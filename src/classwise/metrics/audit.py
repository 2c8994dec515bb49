"""The audit of a fast evaluation: what the full suite would still break, from a sample of the survivors.

A fast evaluation leaves S survivors, S_c of class c. The full suite attacks m_c of each class, drawn at random, and
breaks none. If it could break B_c of class c, the chance of that is the product over classes of
C(S_c − B_c, m_c)/C(S_c, m_c) (hypergeometric). A total B is excluded once even the likeliest way to share B out among
the classes is less likely than the error allowed. Our derivation; for one class it is the exact hypergeometric bound.
"""

from __future__ import annotations

import math

import numpy as np

from classwise.errors import InputError
from classwise.metrics.outcomes import Ints

_FIRST = 0.8  # share of the error still left that a round of audit spends, since most audits end after one


def at_most(survivors: Ints, sampled: Ints, error: float) -> int:
    """Return how many of the survivors the full suite may at most break, if it broke none of the sample.

    Args:
        survivors: of each class or stratum, (C,).
        sampled: how many of them the suite attacked, drawn at random within each class, (C,).
        error: allowed probability that the bound is too low, in (0, 1).

    Returns:
        The largest number that the sample does not exclude; exact for one class.

    Raises:
        InputError: more sampled than there are, or an error outside (0, 1).

    Example:
        >>> at_most(np.array([3000]), np.array([180]), 0.05)
        48
    """
    survivors, sampled = np.asarray(survivors), np.asarray(sampled)
    if (sampled > survivors).any() or (sampled < 0).any() or not 0 < error < 1:
        raise InputError("An audit samples at most the survivors of each class, with an error between 0 and 1.")
    # One more breakable image in class c multiplies the chance by (S_c − m_c − j)/(S_c − j), which falls with j: the
    # likeliest way to share B out takes the B largest of all these factors.
    factors = [(s - m - j) / (s - j) for s, m in zip(survivors, sampled, strict=True) for j in range(s - m)]
    chance = np.cumsum(np.log(np.sort(np.array(factors, dtype=np.float64))[::-1]))
    return int((chance > math.log(error)).sum())


def at_most_by_class(survivors: Ints, sampled: Ints, error: float) -> Ints:
    """Return the same for each class, (C,); all of them and the total hold at once, without a correction.

    A bound errs only if nothing broke in the sample. If class c hides more than its bound, the sample of that class
    alone shows nothing with at most the probability ``error``; so all bounds that are read off the same silence, and
    the total, err together no more often than one. Where the sample was drawn from all survivors together, ``sampled``
    is what fell to each class, and the lower of the two bounds holds. Arguments and errors as of `at_most`.

    Example:
        >>> at_most_by_class(np.array([3000, 10]), np.array([180, 5]), 0.05).tolist()
        [48, 3]
    """
    survivors, sampled = np.asarray(survivors), np.asarray(sampled)
    parts = (slice(c, c + 1) for c in range(len(survivors)))
    return np.array([at_most(survivors[part], sampled[part], error) for part in parts], dtype=np.int64)


def share_out(survivors: Ints, size: int) -> Ints:
    """Share a sample out among the classes in proportion to their survivors, rounded up, (C,).

    Example:
        >>> share_out(np.array([90, 10, 0]), 10).tolist()
        [9, 1, 0]
    """
    survivors = np.asarray(survivors)
    total = int(survivors.sum())
    exact = -(-survivors * min(size, total) // max(1, total))
    return np.minimum(survivors, exact).astype(np.int64)


def sample_size(survivors: Ints, allowed: int, error: float) -> Ints:
    """Return the smallest proportional sample, (C,), that excludes more than ``allowed`` misses if none is found.

    Args:
        survivors: of each class, (C,).
        allowed: misses that may stay possible; 0 takes every survivor.
        error: allowed probability that the bound is too low.
    """
    low, high = 0, int(np.asarray(survivors).sum())
    while low < high:
        middle = (low + high) // 2
        enough = at_most(survivors, share_out(survivors, middle), error) <= allowed
        low, high = (low, middle) if enough else (middle + 1, high)
    return share_out(survivors, low)


def round_error(number: int, error: float) -> float:
    """Return what round ``number`` (from 0) of an audit may spend of the whole ``error``; all rounds add up to it."""
    return error * _FIRST * (1 - _FIRST) ** number
