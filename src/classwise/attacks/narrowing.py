"""Narrowing: the smallest radius found to break each image, by FAB and then by PGD in balls of its own that shrink.

Our design, of two parts that complement each other: the fast adaptive boundary attack (Croce & Hein 2020), which walks
along the boundary and minimises the distance, and PGD on the margin (Madry et al. 2018; Carlini & Wagner 2017), which
looks for where a ball of fixed radius reaches beyond it, in a bisection of the radius of each image. What comes out is
an upper bound of the true distance to the boundary, since a better attack may come nearer: never a certified radius.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from classwise.attacks.base import input_gradient
from classwise.attacks.fab import FAB, crossing
from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import margin
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.inference import attacking
from classwise.threat import ThreatModel, over_pixels

# Of the largest logit: a lead that rounding does not turn round where an image shares its pass with others, or
# BatchNorm is folded. The nearest image that is taken lies beyond the boundary by it.
_CLEAR = 1e-5
_STRETCH = 1e-3  # by which a perturbation of FAB with a smaller lead is lengthened; each further time by twice as much
_STRETCHES = 6
# Radii that the steps of a climb add up to: as in PGD from anywhere in the ball; few from the nearest image so far,
# which is close to the boundary already (of 0.5, 1 and 2.5 the first was best for the MNIST network by others, and to
# 0.02 % as good as the second for the CIFAR-10 one).
_FAR, _NEAR = 2.5, 0.5


@dataclass(frozen=True)
class Narrowing:
    """The nearest misclassified image within eps: targeted FAB, then PGD in balls whose radii are bisected.

    Attributes:
        threat: the norm, and the largest radius that is looked at.
        fab_steps: gradients of FAB towards each target.
        targets: most likely wrong classes that FAB aims at, one after another.
        halvings: of the bracket between the radius at which PGD failed last, 0 at first, and the smallest that is
            known to break the image.
        steps: gradients of each of the two climbs of PGD in a ball: from anywhere, with steps of 2.5·radius/steps, and
            from the nearest misclassified image so far, moved into the ball, with a fifth of that.
        rows: that the model may be given at once; as many as there are images if None. Does not change what is found.

    Raises:
        InputError: a setting outside its range.
    """

    threat: ThreatModel
    fab_steps: int = 100
    targets: int = 9
    halvings: int = 8
    steps: int = 20
    rows: int | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts = (self.fab_steps, self.targets, self.halvings, self.steps)
        whole = all(isinstance(count, int) for count in counts)
        if not whole or min(self.fab_steps, self.targets, self.steps) < 1 or self.halvings < 0:
            raise InputError(
                "Narrowing needs whole numbers: fab_steps, targets and steps of at least 1, halvings of at least 0."
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`.

        Returns:
            The nearest misclassified images found, the clean image where there is none within eps.
        """
        if not len(x):
            return x.clone()
        with attacking(model) as model:
            bracket = _Bracket(self.threat, x.detach(), y)
            fab = FAB(self.threat, steps=self.fab_steps, targets=self.targets, rows=self.rows)
            nearest = fab.minimise(model, bracket.x, y, noise=noise.fold("fab"))[0]
            bracket.take(model, torch.arange(len(x), device=x.device), bracket.cleared(model, nearest))
            self._narrow(model, bracket, *bracket.unbroken(), noise.fold("ball", 0))
            for halving in range(self.halvings):
                self._narrow(model, bracket, *bracket.halves(), noise.fold("ball", 1 + halving))
        return bracket.x_adv

    def _narrow(self, model: nn.Module, bracket: _Bracket, where: Tensor, radius: Tensor, noise: Noise) -> None:
        """Climb in balls of ``radius`` (n,) around the images at positions ``where`` (n,), and take what is found."""
        pgd = PGD(self.threat, steps=self.steps, loss="margin")
        for length in (_FAR, _NEAR):
            if not len(where):
                break
            x, y, near = bracket.x[where], bracket.y[where], bracket.x_adv[where]
            begin = None if length == _FAR else self.threat.project(near, x, radius)
            step_size, own = length * radius / self.steps, noise.select(where)
            x_adv = pgd(model, x, y, noise=own, eps=radius, step_size=step_size, begin=begin)
            narrowed = bracket.take(model, where, x_adv)
            where, radius = where[~narrowed], radius[~narrowed]
        bracket.low[where] = radius


@dataclass(eq=False)
class _Bracket:
    """Between which radii the smallest one lies that breaks each image, as far as the attacks can tell.

    Attributes:
        threat: the norm, and the largest radius.
        x: clean images (N, C, H, W).
        y: true classes (N,).
        x_adv: the nearest misclassified image so far, the clean image where there is none, (N, C, H, W).
        low: radius in which PGD found nothing (N,).
        high: distance of x_adv (N,), infinite where there is none.
    """

    threat: ThreatModel
    x: Tensor
    y: Tensor
    x_adv: Tensor = field(init=False)
    low: Tensor = field(init=False)
    high: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x_adv, self.low = self.x.clone(), self.x.new_zeros(len(self.x))
        self.high = torch.full_like(self.low, torch.inf)

    def unbroken(self) -> tuple[Tensor, Tensor]:
        """Return the positions of the images that nothing has broken (n,), and the largest radius for each (n,)."""
        where = self.high.isinf().nonzero().squeeze(1)
        return where, self.x.new_full((len(where),), self.threat.eps)

    def halves(self) -> tuple[Tensor, Tensor]:
        """Return the positions of the others (n,), and the middle of the bracket of each (n,)."""
        where = (self.high.isfinite() & (self.high > 0)).nonzero().squeeze(1)
        return where, (self.low[where] + self.high[where]) / 2

    def take(self, model: nn.Module, where: Tensor, x_adv: Tensor) -> Tensor:
        """Keep of the images (n, C, H, W) those that are clearly misclassified, allowed, and nearer than before.

        Returns:
            Which they are (n,).
        """
        distance = self.threat.distance(x_adv, self.x[where])
        good = clear(model, x_adv, self.y[where]) & self.threat.contains(x_adv, self.x[where])
        good &= distance < self.high[where]
        self.x_adv[where[good]], self.high[where[good]] = x_adv[good], distance[good]
        return good

    def cleared(self, model: nn.Module, x_adv: Tensor) -> Tensor:
        """Move the images (N, C, H, W) on that end so close to the boundary that rounding would decide."""
        for times in range(_STRETCHES):
            short = ~clear(model, x_adv, self.y) & (x_adv != self.x).flatten(1).any(1)
            if not short.any():
                break
            if self.threat.norm == "L1":
                x_adv = x_adv.clone()
                x_adv[short] = _beyond(model, x_adv[short], self.y[short], 2.0 ** (1 + times) * _CLEAR)
            else:
                share = over_pixels(torch.where(short, 1 + _STRETCH * 2**times, 1.0), x_adv)
                x_adv = torch.lerp(self.x, x_adv, share.to(x_adv.dtype)).clamp_(0, 1)
        return x_adv


def _beyond(model: nn.Module, x_adv: Tensor, y: Tensor, share: float) -> Tensor:
    """Take the shortest L1 step to a lead of ``share`` times the largest logit.

    A longer perturbation would not do: its pixels are on their limits, all but one, so others have to move.
    """
    point = x_adv.detach().requires_grad_(True)
    logits = model(point)
    lead = margin(logits, y)
    gradient = input_gradient(lead, point)
    height = (lead - share * logits.abs().amax(1)).detach().nan_to_num()
    return (x_adv + crossing(x_adv, height, gradient, "L1")).clamp_(0, 1)


def clear(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    """Tell which images (N, C, H, W) of the classes y (N,) are misclassified by more than rounding, (N,) bool."""
    with torch.no_grad():
        logits = model(x_adv)
    led: Tensor = margin(logits, y) > _CLEAR * logits.abs().amax(1)
    led |= ~logits.isfinite().all(1)
    return led


@register("attack", "narrowing", source="our design; Croce & Hein 2020 (FAB), Madry et al. 2018 (PGD)")
def narrowing(threat: ThreatModel, **settings: Any) -> Narrowing:
    """The smallest radius found to break each image: FAB to nine targets, then PGD-20 in balls that are halved."""
    return Narrowing(threat, **settings)
