"""Class-stratified splits: a pure function of the labels and a seed.

Each image draws a number from (seed, position) alone, so no generator is consumed or restored, and the split
does not change with the device or with what ran before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from classwise.errors import InputError
from classwise.noise import Noise


def stratified_split(
    y: Tensor, *, share: float | None = None, per_class: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Hold out a share of each class, or a number of images of each class.

    A share is rounded class by class to the nearest count, at least one image and never the whole class; a class
    with a single image keeps it for training.

    Args:
        y: labels (N,) int64, at least 0.
        share: part of each class to hold out, between 0 and 1; or
        per_class: images of each class to hold out.
        seed: another seed, another split.

    Returns:
        Positions (n,) to train on and positions (N - n,) held out, each sorted.

    Raises:
        InputError: not exactly one of share and per_class, a share outside (0, 1), or a class with too few images.

    Example:
        >>> train, held_out = stratified_split(torch.tensor([0, 0, 0, 1, 1, 1]), per_class=1)
        >>> len(train), len(held_out)
        (4, 2)
    """
    if (share is None) == (per_class is None):
        raise InputError("Say how much to hold out by either share or per_class, not both.")
    rank, size = _rank_in_class(y, seed, "split")
    if share is not None:
        if not 0 < share < 1:
            raise InputError(f"The share to hold out is {share:g}, but must lie between 0 and 1.")
        quota = torch.minimum((share * size + 0.5).long().clamp_min(1), size - 1)
    else:
        quota = torch.full_like(size, per_class or 0)
        _require_images(y, size, quota)
    held_out = rank < quota
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def stratified_sample(y: Tensor, limit: int, seed: int = 0) -> Tensor:
    """Choose ``limit`` images whose class frequencies follow those of ``y``.

    Seats are given to classes by the Sainte-Laguë rule, so classes of one size differ by at most one image, and
    a larger sample with the same seed contains the smaller one.

    Args:
        y: labels (N,) int64, at least 0.
        limit: how many images, at least 1; all of them where N is smaller.
        seed: another seed, other images of each class.

    Returns:
        Positions (min(limit, N),), sorted.

    Raises:
        InputError: limit is below 1.
    """
    if limit < 1:
        raise InputError(f"The limit is {limit} images, but must be at least 1.")
    rank, size = _rank_in_class(y, seed, "sample")
    turn = (rank.double() + 0.5) / size.double()
    return turn.argsort(stable=True)[:limit].sort().values


def evenly(index: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Return positions of a few images, evenly spread over the data set whatever the order of the images.

    Args:
        index: of each image in its split, (N,).
        count: of images, or as many as there are.
        among: the images to choose from (N,) bool; all if None.

    Example:
        >>> evenly(torch.tensor([4, 3, 2, 1, 0]), 3).tolist()
        [4, 2, 0]
    """
    which = torch.arange(len(index)) if among is None else among.nonzero().squeeze(1)
    which = which[index[which].argsort()]
    return which[torch.linspace(0, len(which) - 1, min(count, len(which))).long()]


def draw_by_class(y: Tensor, probs: Tensor, noise: Noise) -> Tensor:
    """Draw images with replacement: first a class, then an image of that class, each with equal probability.

    Args:
        y: labels (N,) int64, 0 … C − 1.
        probs: probability of each class (C,), at least 0; a class without images is left out, the others scaled.
        noise: one stream a draw, (M,).

    Returns:
        Positions (M,).

    Example:
        >>> y = torch.tensor([0, 1, 1])
        >>> draw_by_class(y, torch.tensor([0.0, 1.0]), Noise(0, torch.arange(6))).unique().tolist()
        [1, 2]
    """
    size = torch.bincount(y, minlength=len(probs))
    ends = (probs.double() * (size > 0)).cumsum(0)
    which, member = noise.fold("draw").uniform((2,), y.device).double().unbind(1)
    # The first end above the number drawn: a class of probability 0 ends where the one before it does.
    drawn = torch.searchsorted(ends, which * ends[-1], right=True)
    first = size.cumsum(0) - size
    return y.argsort(stable=True)[first[drawn] + (member * size[drawn]).long()]


def _rank_in_class(y: Tensor, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Return the place of each image in a random order of its class, and the size of its class, both (N,)."""
    y = y.cpu()
    score = Noise(seed, torch.arange(len(y))).fold(purpose).integers(2**62, ())
    shuffled = score.argsort(stable=True)
    order = shuffled[y[shuffled].argsort(stable=True)]
    size = torch.bincount(y)
    first = size.cumsum(0) - size
    rank = torch.empty_like(y)
    rank[order] = torch.arange(len(y)) - first[y[order]]
    return rank, size[y]


def _require_images(y: Tensor, size: Tensor, quota: Tensor) -> None:
    """Refuse to hold out nothing, or every image of a class."""
    bad = (quota < 1) | (quota >= size)
    if bad.any():
        first = int(bad.nonzero()[0])
        label, wanted, held = int(y[first]), int(quota[first]), int(size[first])
        raise InputError(f"Cannot hold out {wanted} images of class {label}: choose from 1 to {held - 1}.")
