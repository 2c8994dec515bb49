"""Pools of logits with known answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from classwise.corrections import Head, Pool


def pool_of(views: Tensor, y: Tensor, uncorrected: int, head: Head | None = None) -> Pool:
    """Return the pool in which every image has a candidate in every view (V, N, C); the first is clean."""
    size = len(y)
    return Pool(views.flatten(0, 1), torch.arange(size).repeat(len(views)), y, uncorrected * size, head)


def leaning(seed: int = 0, views: int = 3, images: int = 80, classes: int = 4) -> Pool:
    """Return random logits that lean to the right class, more so for later classes, in classes of unlike size."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.multinomial(torch.arange(1.0, classes + 1), images, replacement=True, generator=generator)
    logits = torch.randn(views, images, classes, generator=generator)
    logits += (1.0 + 0.5 * y[:, None]) * nn.functional.one_hot(y, classes)
    head = Head(torch.arange(1.0, classes + 1), torch.randn(classes, generator=generator))
    return pool_of(logits, y, 2, head)


def relabelled(pool: Pool, order: Tensor) -> Pool:
    """Return the pool in which class ``order[k]`` is called k."""
    assert pool.head is not None
    head = Head(*(value[order] for value in pool.head))
    return Pool(pool.logits[:, order], pool.image, order.argsort()[pool.y], pool.uncorrected, head)


def unlike(seed: int, images: int, classes: int = 10, world: int = 0) -> Pool:
    """Return clean logits and weaker ones of classes that are unlike hard, ``images`` a class.

    Args:
        seed: of the images.
        images: of each class.
        classes: how many.
        world: of the means, the same for pools to be compared.
    """
    means = torch.Generator().manual_seed(world)
    mean = torch.randn(classes, classes, generator=means) + 3 * torch.eye(classes)
    mean += 0.7 * torch.randn(classes, generator=means)
    y = torch.arange(classes).repeat(images)
    clean = mean[y] + 1.5 * torch.randn(len(y), classes, generator=torch.Generator().manual_seed(seed))
    return pool_of(torch.stack([clean, clean - 1.2 * nn.functional.one_hot(y, classes)]), y, 2)
