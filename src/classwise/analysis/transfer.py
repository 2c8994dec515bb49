"""Class-aware transfer: does another model fall for the same images, and make the same mistake?

Source: WACV 2023, arXiv 2112.14337. Between seeds of one recipe it separates the confusions of the model from those of
the data.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from classwise.errors import InputError
from classwise.metrics.outcomes import Floats, Ints, divide


class ClassAware(NamedTuple):
    """Successful adversarial images of the source model by class, and what the target model makes of them, (C,) each.

    `crafted` fooled the source; of these `unfooled` are right for the target, `same` get from it the source's wrong
    answer, `different` another one.
    """

    crafted: Ints
    unfooled: Ints
    same: Ints
    different: Ints

    @property
    def same_if_fooled(self) -> Floats:
        """P(same mistake | target fooled) of each class, (C,); NaN where the target is never fooled."""
        return divide(self.same, self.same + self.different)


def class_aware(y: ArrayLike, source: ArrayLike, target: ArrayLike, num_classes: int) -> ClassAware:
    """Count by class what two models predict on images that were crafted against the first.

    Args:
        y: labels, (N,).
        source: predictions of the source on its own adversarial images, (N,); images with source = y failed and are
            left out.
        target: predictions of the target on the same adversarial images, (N,).
        num_classes: C.

    Raises:
        InputError: the three differ in length.

    Example:
        >>> found = class_aware([0, 0, 0, 1], [1, 1, 2, 1], [1, 0, 1, 0], num_classes=3)
        >>> found.crafted.tolist(), found.same.tolist(), found.different.tolist()
        ([3, 0, 0], [1, 0, 0], [1, 0, 0])
    """
    labels, first, second = (np.asarray(values, dtype=np.int64) for values in (y, source, target))
    if not labels.shape == first.shape == second.shape:
        raise InputError("Transfer is counted over the same images; give each a label and two predictions.")
    fooled = first != labels
    cases = (
        fooled,
        fooled & (second == labels),
        fooled & (second == first),
        fooled & (second != labels) & (second != first),
    )
    return ClassAware(*(np.bincount(labels[which], minlength=num_classes) for which in cases))
