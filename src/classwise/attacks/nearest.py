"""PGD towards the classes that came nearest: the gradient attack of the ladder (:mod:`classwise.attacks.plans`).

Our design, after measurements on networks by others (docs/fast.md): nearly every image that breaks does so into one of
the few classes that come nearest to it, and most within ten steps. The moves are those of Auto-PGD (Croce & Hein 2020,
section 3) with a cosine schedule in place of its checkpoints, which few steps leave no room for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classwise import losses
from classwise.attacks.base import attacking, input_gradient, predict, worth_dropping
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.registry import register
from classwise.threat import Projection, ThreatModel

_MOMENTUM = 0.75  # weight of the new step; the rest repeats the last move


@dataclass(frozen=True)
class NearestPGD:
    """Momentum PGD on the cross-entropy, then on the margin of each of the classes that came nearest so far.

    How near a class came is the largest z_j − z_y on any iterate of this image, not on the clean image.

    Attributes:
        threat: the set of allowed images.
        steps: gradients of each climb; the length of a step falls from 2·eps to 0 along a cosine.
        targets: climbs towards one class each, at most K − 1, from random starts.
        start: of the climb on the cross-entropy: "clean", or "uniform" in the ball.

    Raises:
        InputError: a setting outside its range.
    """

    threat: ThreatModel
    steps: int = 10
    targets: int = 3
    start: Literal["clean", "uniform"] = "clean"

    def __post_init__(self) -> None:
        whole = isinstance(self.steps, int) and isinstance(self.targets, int)
        if not whole or self.steps < 1 or self.targets < 0:
            raise InputError("Nearest-PGD needs whole numbers: at least 1 step and at least 0 targets.")
        if self.start not in ("clean", "uniform"):
            raise InputError(f"Nearest-PGD has no start {self.start!r}: use clean or uniform.")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`.

        Returns:
            For each image the first iterate that fooled the model, else the last one of the climb that ended with the
            largest margin.
        """
        with attacking(model):
            x_adv = x.detach().clone()
            images = _Images.begin(x.detach(), y)
            for climb in range(self.targets + 1):
                if not len(images.index) or (climb and climb >= images.nearest.shape[1]):
                    break
                if climb:
                    images.aim()
                stream = noise.select(images.index).fold("climb", climb)
                start = images.x if climb == 0 and self.start == "clean" else self.threat.sample(images.x, stream)
                images = self._climb(model, images, start, x_adv)
        return x_adv

    def _climb(self, model: nn.Module, images: _Images, point: Tensor, x_adv: Tensor) -> _Images:
        """Take all steps of one climb, write what it found into ``x_adv``, and return the images still right."""
        before, project = point, self.threat.projection(images.x)
        for step in range(self.steps + 1):
            point = point.detach().requires_grad_(step < self.steps)
            logits = model(point)
            fooled = images.look(logits.detach())
            if fooled.any():
                x_adv[images.index[fooled]] = point.detach()[fooled]
            if step == self.steps or not images.right.any():
                break
            gradient, point = input_gradient(images.objective(logits), point), point.detach()
            if worth_dropping(images.right):
                keep, images = images.right, images.select(images.right)
                point, before, gradient = point[keep], before[keep], gradient[keep]
                project = self.threat.projection(images.x)
            point, before = self._move(point, before, gradient, project, step), point
        ahead = images.right & (images.margin > images.best)
        x_adv[images.index[ahead]] = point.detach()[ahead]
        images.best = torch.where(ahead, images.margin, images.best)
        return images.select(images.right)

    def _move(self, point: Tensor, before: Tensor, gradient: Tensor, project: Projection, step: int) -> Tensor:
        length = self.threat.eps * (1 + math.cos(math.pi * step / self.steps))
        moved = project(torch.add(point, self.threat.ascend(gradient, point), alpha=length))
        if step == 0:
            return moved
        # point + m·(moved − point) + (1 − m)·(point − before), in few passes over memory
        mixed = torch.lerp(point, moved, _MOMENTUM)
        return project(mixed.add_(point - before, alpha=1 - _MOMENTUM))


@dataclass(eq=False)
class _Images:
    """What the attack knows of each image; every field has one row an image.

    Attributes:
        index: position in the batch that the attack was called with.
        x: clean image.
        y: true class.
        right: whether nothing has fooled the model yet.
        margin: largest wrong logit minus true logit at the last pass.
        best: largest margin at the end of a climb.
        nearest: largest z_j − z_y on any iterate, (N, K); (N, 0) before the first pass.
        tried: whether a climb aimed at the class, (N, K); (N, 0) before the first pass.
        target: class aimed at; −1 for none.
    """

    index: Tensor
    x: Tensor
    y: Tensor
    right: Tensor
    margin: Tensor
    best: Tensor
    nearest: Tensor
    tried: Tensor
    target: Tensor

    @classmethod
    def begin(cls, x: Tensor, y: Tensor) -> _Images:
        """Return images of which nothing is known."""
        lowest = torch.full(y.shape, -math.inf, device=x.device)
        nothing = x.new_empty(len(y), 0)
        index, right = torch.arange(len(y), device=x.device), torch.ones_like(y, dtype=torch.bool)
        return cls(index, x, y, right, lowest, lowest, nothing, nothing.bool(), torch.full_like(y, -1))

    def select(self, mask: Tensor) -> _Images:
        """Keep the images of a mask."""
        return _Images(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def look(self, logits: Tensor) -> Tensor:
        """Take note of the logits (N, K) of the current iterates; tell which fool the model for the first time."""
        ahead = logits.float() - logits.float().gather(1, self.y[:, None])
        ahead.scatter_(1, self.y[:, None], -math.inf)
        if not self.nearest.shape[1]:
            self.nearest, self.tried = ahead, torch.zeros_like(ahead, dtype=torch.bool)
        self.nearest, self.margin = torch.maximum(self.nearest, ahead), ahead.amax(1)
        fooled = self.right & (predict(logits, self.y) != self.y)
        self.right = self.right & ~fooled
        return fooled

    def aim(self) -> None:
        """Choose the nearest of each image's classes that no climb aimed at yet."""
        reach = self.nearest.masked_fill(self.tried, -math.inf)
        self.target = reach.argmax(1)
        self.tried = self.tried.scatter(1, self.target[:, None], True)

    def objective(self, logits: Tensor) -> Tensor:
        """Return what the climb raises, (N,)."""
        if (self.target < 0).all():
            return losses.soft_margin(logits, self.y)
        return losses.difference(logits, self.y, self.target)


@register("attack", "nearest-pgd", source="our design; Croce & Hein 2020 for the moves")
def nearest_pgd(threat: ThreatModel, **settings: Any) -> NearestPGD:
    """Momentum PGD, 10 steps on the cross-entropy and 10 towards each of the three classes that came nearest."""
    return NearestPGD(threat, **settings)
