"""Clustering of logits by superclass: Xu et al., NeurIPS 2021 (arXiv 2111.12922), after bymavis/Adv_Weight_NeurIPS2021.

Departures: the superclasses are those of the data set; radius and step are those of the run (released step 0.007). The
weight for CIFAR-100 with its 100 classes was not released.

It pulls the logits of similar classes together, and so works against telling cat from dog: look at the worst class
before choosing it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods.base import Method, Step, number, wholes
from classwise.noise import Noise
from classwise.registry import register


@register("method", "cluster-reg", source="arXiv 2111.12922, bymavis/Adv_Weight_NeurIPS2021")
class ClusterReg(Method):
    """Superclass clustering: mean CE(f(x_adv), y) + β·0.1·Σ_g Σ_{c∈g} (z_c − mean_{k∈g} z_k)², z the logits on x_adv.

    The gradient flows through the mean too.

    Args:
        num_classes: number of classes.
        attack: crafts the training images.
        groups: superclasses as lists of class numbers, of which none shares a class with another; on the command line
            those of the data set if not given. A class in no group is left alone.
        beta: β, at least 0; 0.1 for CIFAR-10 in the release, 1 to 2 for CIFAR-100's 20 superclasses as classes.

    Raises:
        InputError: no superclasses, a class that there is not or that is in two, or a beta outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        groups: Sequence[Sequence[int]] | None = None,
        beta: float = 0.1,
    ) -> None:
        super().__init__(num_classes, attack)
        if not groups or not isinstance(groups, list | tuple):
            raise InputError(
                "Clustering needs superclasses, and the data set has none; name them by class number, as in "
                "cluster-reg(groups=((0, 1), (2, 3)))."
            )
        self.groups = tuple(wholes("groups", members) for members in groups)
        self.beta = number("beta", beta)
        self.group = numbered(self.groups, num_classes)  # a setting, not a state, so no buffer

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the cross-entropy and the spread of its logits."""
        logits_adv = model(self.attack(model, x, y, noise=noise))
        errors = cross_entropy(logits_adv, y) + 0.1 * self.beta * spread(logits_adv.float(), self.group.to(y.device))
        return Step(errors.mean(), logits_adv)


def numbered(groups: Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """Return the number of each class's group, (C,); a class in none has one of its own.

    Raises:
        InputError: a class that there is not, or that is in two groups.
    """
    listed = [c for members in groups for c in members]
    wrong = next((c for c in listed if c >= num_classes or listed.count(c) > 1), None)
    if wrong is not None:
        raise InputError(f"Class {wrong} of the groups is listed twice, or is none of 0 to {num_classes - 1}.")
    group = torch.arange(num_classes)
    for members in groups:
        group[list(members)] = min(members, default=0)
    return group


def spread(logits: Tensor, group: Tensor) -> Tensor:
    """Return Σ_c (z_c − mean of z over the group of c)² of each image, logits (N, C) and groups (C,) -> (N,)."""
    size = torch.bincount(group, minlength=len(group)).clamp(min=1)
    mean = torch.zeros_like(logits).index_add(1, group, logits) / size
    return (logits - mean[:, group]).square().sum(1)
