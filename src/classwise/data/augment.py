"""Augmentation of a whole batch on its device: a pure function of (seed, image index, epoch).

The caller folds the epoch into the noise, ``Noise(seed, index).fold("augment", epoch)``; an image is then
augmented alike whatever else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from classwise.errors import InputError
from classwise.noise import Noise
from classwise.registry import unknown

Augment = Callable[[Tensor, Noise], Tensor]
"""Images (N, C, H, W) of any type and their noise -> images of the same shape and type."""


def no_change(x: Tensor, noise: Noise) -> Tensor:
    """Leave the images as they are."""
    return x


def random_crop(x: Tensor, noise: Noise, padding: int = 4) -> Tensor:
    """Shift each image by up to ``padding`` pixels either way; what comes in from outside is black.

    Args:
        x: images (N, C, H, W).
        noise: noise of the images, with the epoch folded in.
        padding: the largest shift, in pixels.

    Returns:
        (N, C, H, W): crops of the zero-padded images at uniformly drawn offsets.
    """
    batch, _, height, width = x.shape
    padded = torch.nn.functional.pad(x, [padding] * 4)
    offset = noise.fold("crop").integers(2 * padding + 1, (2,), x.device)
    rows = offset[:, 0, None] + torch.arange(height, device=x.device)
    columns = offset[:, 1, None] + torch.arange(width, device=x.device)
    image = torch.arange(batch, device=x.device)[:, None, None]
    # Indices on both sides of the slice put the channels last in the result.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_flip(x: Tensor, noise: Noise) -> Tensor:
    """Mirror each image left to right with probability one half."""
    flip = noise.fold("flip").integers(2, (1, 1, 1), x.device).bool()
    return torch.where(flip, x.flip(3), x)


def _crop_flip(x: Tensor, noise: Noise) -> Tensor:
    return random_flip(random_crop(x, noise), noise)


AUGMENTS: Mapping[str, Augment] = MappingProxyType({"none": no_change, "crop": random_crop, "crop-flip": _crop_flip})


def augmentation(name: str) -> Augment:
    """Return the augmentation ``name``.

    Raises:
        InputError: there is none of that name.
    """
    if name not in AUGMENTS:
        raise InputError(unknown("augmentation", name, AUGMENTS))
    return AUGMENTS[name]
