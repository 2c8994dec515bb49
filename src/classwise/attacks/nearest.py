"""PGD towards the classes that came nearest: the gradient attack of the ladder (:mod:`classwise.attacks.suites`).

Our design, after measurements on networks by others (docs/fast.md): nearly every image that breaks does so into one of
the few classes that come nearest to it, and most within ten steps. The moves are those of Auto-PGD (Croce & Hein 2020,
section 3) with a cosine schedule in place of its checkpoints, which few steps leave no room for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classwise import losses
from classwise.attacks.base import (
    any_attempt,
    best_attempt,
    compaction_pays,
    input_gradient,
    predict,
    side_by_side,
    stacked,
)
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.inference import attacking
from classwise.threat import Projection, ThreatModel

_MOMENTUM = 0.75  # weight of the new step; the rest repeats the last move


@dataclass(frozen=True)
class NearestPGD:
    """Momentum PGD on the cross-entropy, then on the margin of each of the classes that came nearest on the way.

    How near a class came is the largest z_j − z_y on any iterate of the first climb, not on the clean image.

    Attributes:
        threat: the set of allowed images.
        steps: gradients of each climb; the length of a step falls from 2·eps to 0 along a cosine.
        targets: climbs towards one class each, at most K − 1, from random starts.
        start: of the climb on the cross-entropy: "clean", or "uniform" in the ball.
        rows: that the model may be given at once; as many as there are images if None. Does not change what is found.

    Raises:
        InputError: a setting outside its range.
    """

    threat: ThreatModel
    steps: int = 10
    targets: int = 3
    start: Literal["clean", "uniform"] = "clean"
    rows: int | None = field(default=None, repr=False, compare=False)

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
        if not len(x):
            return x.clone()
        with attacking(model) as model:
            x = x.detach()
            first = _Climb(x, y, None, len(x))
            start = x if self.start == "clean" else self.threat.sample(x, noise.fold("climb", 0))
            self._climb(model, first, start)
            x_adv, best = first.x_adv, first.margin
            nearest = first.nearest.topk(min(self.targets, first.nearest.shape[1] - 1), dim=1).indices
            if nearest.shape[1]:
                for part in side_by_side((~first.fooled).nonzero().squeeze(1), nearest.shape[1], self.rows or len(x)):
                    climb = self._aimed(model, x[part], y[part], nearest[part], noise.select(part))
                    row = best_attempt(torch.where(climb.fooled, math.inf, climb.margin), len(part))
                    better = climb.fooled[row] | (climb.margin[row] > best[part])
                    x_adv[part[better]], best[part[better]] = climb.x_adv[row[better]], climb.margin[row[better]]
        return x_adv

    def _aimed(self, model: nn.Module, x: Tensor, y: Tensor, targets: Tensor, noise: Noise) -> _Climb:
        """Climb from random starts towards each of the targets (n, T) of each image."""
        times = targets.shape[1]
        starts = [self.threat.sample(x, noise.fold("climb", 1 + target)) for target in range(times)]
        climb = _Climb(stacked(x, times), stacked(y, times), targets.T.flatten(), len(x))
        self._climb(model, climb, torch.cat(starts))
        return climb

    def _climb(self, model: nn.Module, climb: _Climb, point: Tensor) -> None:
        """Take all steps from each row's start."""
        before, project = point, self.threat.projection(climb.x)
        index = torch.arange(len(point), device=point.device)
        for step in range(self.steps + 1):
            point = point.detach().requires_grad_(step < self.steps)
            logits = model(point)
            stays = climb.update(index, logits.detach(), point.detach())
            if step == self.steps or not stays.any():
                break
            gradient, point = input_gradient(climb.objective(index, logits), point), point.detach()
            if compaction_pays(stays):
                index, point, before, gradient = (tensor[stays] for tensor in (index, point, before, gradient))
                project = self.threat.projection(climb.x[index])
            point, before = self._move(point, before, gradient, project, step), point
        climb.x_adv[index[stays]] = point.detach()[stays]

    def _move(self, point: Tensor, before: Tensor, gradient: Tensor, project: Projection, step: int) -> Tensor:
        length = self.threat.eps * (1 + math.cos(math.pi * step / self.steps))
        moved = project(torch.add(point, self.threat.ascend(gradient, point, length), alpha=length))
        if step == 0:
            return moved
        # point + m·(moved − point) + (1 − m)·(point − before), in few passes over memory
        mixed = torch.lerp(point, moved, _MOMENTUM)
        return project(mixed.add_(point - before, alpha=1 - _MOMENTUM))


@dataclass(eq=False)
class _Climb:
    """A climb with each image, or with each image towards each of several classes: a row for each.

    Attributes:
        x: clean image.
        y: true class.
        target: class aimed at; None where the climb is on the cross-entropy.
        images: how many images there are, each with as many rows as classes.
        x_adv: first iterate that fooled the model, in the end else the last.
        margin: largest wrong logit minus true logit at the last pass.
        fooled: whether an iterate fooled the model.
        nearest: largest z_j − z_y on any iterate, (R, K); (R, 0) before the first pass.
    """

    x: Tensor
    y: Tensor
    target: Tensor | None
    images: int
    x_adv: Tensor = field(init=False)
    margin: Tensor = field(init=False)
    fooled: Tensor = field(init=False)
    nearest: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x_adv, self.fooled = self.x.clone(), torch.zeros_like(self.y, dtype=torch.bool)
        self.margin = torch.full(self.y.shape, -math.inf, device=self.x.device)
        self.nearest = self.margin.new_empty(len(self.y), 0)

    def update(self, index: Tensor, logits: Tensor, point: Tensor) -> Tensor:
        """Take note of iterates of the rows ``index`` and their logits (n, K); tell which rows go on.

        A row goes on until the model is fooled by an iterate of its image, in whatever row.
        """
        y = self.y[index]
        ahead = logits.float() - logits.float().gather(1, y[:, None])
        ahead.scatter_(1, y[:, None], -math.inf)
        if not self.nearest.shape[1]:
            self.nearest = torch.full((len(self.y), ahead.shape[1]), -math.inf, device=ahead.device)
        self.nearest[index] = torch.maximum(self.nearest[index], ahead)
        self.margin[index] = ahead.amax(1)
        new = (predict(logits, y) != y) & ~any_attempt(self.fooled, self.images)[index]
        if new.any():
            self.x_adv[index[new]], self.fooled[index[new]] = point[new], True
        return ~any_attempt(self.fooled, self.images)[index]

    def objective(self, index: Tensor, logits: Tensor) -> Tensor:
        """Return what the climb raises, (n,)."""
        if self.target is None:
            return losses.soft_margin(logits, self.y[index])
        return losses.difference(logits, self.y[index], self.target[index])


@register("attack", "nearest-pgd", source="our design; Croce & Hein 2020 for the moves")
def nearest_pgd(threat: ThreatModel, **settings: Any) -> NearestPGD:
    """Momentum PGD, 10 steps on the cross-entropy and 10 towards each of the three classes that came nearest."""
    return NearestPGD(threat, **settings)
