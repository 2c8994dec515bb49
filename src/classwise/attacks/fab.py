"""The fast adaptive boundary attack: the nearest misclassified image, by projections on linearised boundaries.

Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020; its targeted
form is of Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020. Departures: at a misclassified iterate the boundary is linearised there, not at the point of the
backward step, so that one forward pass both checks an iterate and is differentiated; the final search aims just beyond
the boundary, as a point upon it is a tie that rounding decides; and the targets of a restart run side by side in one
batch, so that the radius of a random start knows of earlier restarts, not of earlier targets. In L1 a projection aims
beyond the boundary by eta, where the code lengthens it by eta and then clips that away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from classwise.attacks.base import any_attempt, best_attempt, input_gradient, predict, side_by_side, stacked
from classwise.attacks.pgd import likely_wrong
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.inference import attacking
from classwise.threat import Norm, ThreatModel, over_pixels

_DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
_CACHE = 1 << 18  # numbers of which a CPU's cache holds several: projections of more take twice the time
_BEYOND = 1e-3  # share of its segment by which a step of the final search passes the boundary


@dataclass(frozen=True)
class FAB:
    """Fast adaptive boundary attack (Croce & Hein 2020): minimises the distance, then asks whether it is below eps.

    Attributes:
        threat: the set of allowed images; its eps bounds the random starts and decides what is returned.
        steps: gradients a restart and target; the untargeted attack back-propagates each step once a class.
        restarts: the first starts at the image, every other within min(eps, best distance)/2 of it.
        targets: 0 to linearise the boundary to every other class; k for the boundaries to each of the k most likely
            wrong classes, one after another.
        alpha_max: greatest weight of the projection of the clean image, which draws the iterates towards it.
        beta: share of its perturbation that a misclassified iterate keeps.
        eta: extrapolation of each projection beyond the boundary.
        final_search: secant steps between the clean image and the nearest misclassified one, at the end.
        rows: that the model may be given at once; as many as there are images if None. Does not change what is found.

    Raises:
        InputError: a setting outside its range.
    """

    threat: ThreatModel
    steps: int = 100
    restarts: int = 1
    targets: int = 0
    alpha_max: float = 0.1
    beta: float = 0.9
    eta: float = 1.05
    final_search: int = 3
    rows: int | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`.

        An image is left alone as soon as a misclassified one is found within eps of it, and is returned clean where
        none is found.
        """
        nearest = self._search(model, x.detach(), y, noise, verdict=True)
        return torch.where(over_pixels(nearest.inside, x), nearest.x_adv, nearest.x)

    def minimise(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> tuple[Tensor, Tensor]:
        """Spend every step, restart and target on every image, whatever eps.

        Returns:
            The nearest misclassified images found (N, C, H, W), the clean image where there is none, and their
            distances (N,) in the threat's norm, infinite where there is none.
        """
        nearest = self._search(model, x.detach(), y, noise, verdict=False)
        return nearest.x_adv, nearest.distance

    def _search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, verdict: bool) -> _Nearest:
        with attacking(model) as model:
            nearest = _Nearest(self.threat, x, y, verdict)
            ranks = likely_wrong(model, x, y, self.targets)
            times = max(1, ranks.shape[1])
            for restart in range(self.restarts):
                for part in side_by_side(nearest.open(), times, self.rows or len(x)):
                    rows = nearest.rows(part, times)
                    starts = [self._start(nearest, part, noise, (restart, target)) for target in range(times)]
                    self._descend(model, rows, torch.cat(starts), ranks[part].T.flatten() if self.targets else None)
                    nearest.take(part, rows)
            self._refine(model, nearest)
        return nearest

    def _start(self, nearest: _Nearest, active: Tensor, noise: Noise, attempt: tuple[int, int]) -> Tensor:
        x = nearest.x[active]
        if attempt[0] == 0:
            return x
        radius = nearest.distance[active].clamp_max(self.threat.eps) / 2
        return self.threat.sample(x, noise.select(active).fold("attempt", *attempt), radius)

    def _descend(self, model: nn.Module, rows: _Nearest, x_adv: Tensor, target: Tensor | None) -> None:
        """Walk along the boundary from each row's start, and record what is misclassified."""
        active, x = torch.arange(len(x_adv), device=x_adv.device), rows.x
        for step in range(self.steps + 1):
            last = step == self.steps
            x_adv = x_adv.detach().requires_grad_(not last)
            logits = model(x_adv)
            fooled = rows.record(active, logits.detach(), x_adv.detach())
            stays = ~any_attempt(rows.settled, rows.images)[active]
            if last or not stays.any():
                break
            goal = None if target is None else target[active]
            height, gradient = _linearise(logits, x_adv, rows.y[active], goal, self.threat.norm)
            batch = (active, x, x_adv.detach(), height, gradient, fooled)
            active, x, *now = batch if stays.all() else (tensor[stays] for tensor in batch)
            x_adv = torch.cat([self._step(*part) for part in _few_at_a_time(x, *now)])

    def _step(self, x: Tensor, x_adv: Tensor, height: Tensor, gradient: Tensor, fooled: Tensor) -> Tensor:
        """Average the projections of the iterate and of the clean image on the linearised boundary.

        Args:
            x: clean images (N, C, H, W).
            x_adv: iterates (N, C, H, W).
            height: of the linear function at x_adv, (N,).
            gradient: of the linear function (N, C, H, W).
            fooled: which iterates are misclassified and step back towards x first, (N,).
        """
        back = torch.where(fooled, self.beta, 1.0)
        points = torch.stack([torch.lerp(x, x_adv, over_pixels(back, x)), x])
        fall = (gradient * (x - x_adv)).flatten(1).sum(1)  # of the linear function, from the iterate to the clean image
        heights = torch.stack([height + fall * (1 - back), height + fall]).nan_to_num()
        # A longer step in L1 would only be clipped: nearly every pixel that moves meets its limit. Others move in it.
        need = self.eta if self.threat.norm == "L1" else 1.0
        goal = need * heights.flatten()
        delta = crossing(points.flatten(0, 1), goal, torch.cat([gradient, gradient]), self.threat.norm)
        length = self.threat.distance(delta, torch.zeros_like(delta)).view(2, -1)
        alpha = (length[0] / length.sum(0).clamp_min(1e-12)).clamp_max(self.alpha_max)
        ahead = points.add_(delta.view_as(points), alpha=self.eta / need)
        return torch.lerp(ahead[0], ahead[1], over_pixels(alpha, x)).clamp_(0, 1)

    def _refine(self, model: nn.Module, nearest: _Nearest) -> None:
        """Take secant steps on the segment from the clean image to the nearest misclassified one."""
        active = nearest.open()
        active = active[nearest.distance[active].isfinite()]
        if not len(active) or not self.final_search:
            return
        near, far, y = nearest.x[active], nearest.x_adv[active], nearest.y[active]
        with torch.no_grad():
            logits, logits_far = model(near), model(far)
            rival = logits_far.scatter(1, y[:, None], -torch.inf).argmax(1)
            low, high = _lead(logits, y, rival), _lead(logits_far, y, rival)
            for _ in range(self.final_search):
                share = (low / (low - high)).nan_to_num(1.0) + _BEYOND
                x_adv = torch.lerp(near, far, over_pixels(share.clamp(0, 1), near))
                logits = model(x_adv)
                fooled = nearest.record(active, logits, x_adv)
                lead, wide = _lead(logits, y, rival), over_pixels(fooled, near)
                near, far = torch.where(wide, near, x_adv), torch.where(wide, x_adv, far)
                low, high = torch.where(fooled, low, lead), torch.where(fooled, lead, high)


@dataclass(eq=False)
class _Nearest:
    """The nearest misclassified image of each image so far, or of each attempt at it (a row).

    Attributes:
        threat: its norm is the distance.
        x: clean images (N, C, H, W).
        y: true classes (N,).
        verdict: whether one misclassified image within eps is enough.
        images: how many images there are, each with as many rows as attempts.
        x_adv: the nearest so far, the clean image where there is none, (N, C, H, W).
        distance: its distance (N,), infinite where there is none.
        inside: whether it is in the threat set (N,).
    """

    threat: ThreatModel
    x: Tensor
    y: Tensor
    verdict: bool
    images: int = field(init=False)
    x_adv: Tensor = field(init=False)
    distance: Tensor = field(init=False)
    inside: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x_adv, self.images = self.x.clone(), len(self.x)
        self.distance = self.x.new_full((len(self.x),), torch.inf)
        self.inside = torch.zeros_like(self.y, dtype=torch.bool)

    @property
    def settled(self) -> Tensor:
        """Which images need no more work (N,)."""
        return self.inside if self.verdict else self.distance == 0

    def open(self) -> Tensor:
        """Return the positions of the other images."""
        return (~self.settled).nonzero().squeeze(1)

    def rows(self, active: Tensor, attempts: int) -> _Nearest:
        """Return a row for each attempt at the images at the positions ``active``, which knows how near they came."""
        x, y, distance = (stacked(tensor[active], attempts) for tensor in (self.x, self.y, self.distance))
        rows = _Nearest(self.threat, x, y, self.verdict)
        rows.images, rows.distance = len(active), distance
        return rows

    def take(self, active: Tensor, rows: _Nearest) -> None:
        """Keep what the rows of the images at the positions ``active`` have found nearer than before."""
        row = best_attempt(-rows.distance, len(active))
        nearer = rows.distance[row] < self.distance[active]
        active, row = active[nearer], row[nearer]
        self.x_adv[active], self.distance[active] = rows.x_adv[row], rows.distance[row]
        self.inside[active] = rows.inside[row]

    def record(self, where: Tensor, logits: Tensor, x_adv: Tensor) -> Tensor:
        """Keep what is misclassified and nearer than before.

        Args:
            where: positions of the images (n,).
            logits: of the iterates (n, K).
            x_adv: iterates (n, C, H, W).

        Returns:
            Which iterates are misclassified (n,).
        """
        y = self.y[where]
        fooled = predict(logits, y) != y
        if fooled.any():
            where, x_adv = where[fooled], x_adv[fooled]
            distance = self.threat.distance(x_adv, self.x[where])
            nearer = distance < self.distance[where]
            where, x_adv = where[nearer], x_adv[nearer]
            self.x_adv[where], self.distance[where] = x_adv, distance[nearer]
            self.inside[where] = self.threat.contains(x_adv, self.x[where])
        return fooled


def crossing(x: Tensor, height: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
    """Return the shortest step from each x to the hyperplane, inside the pixel range.

    The step solves min ‖d‖ subject to height + <gradient, d> = 0 and 0 ≤ x + d ≤ 1. Where the hyperplane misses the
    box it leads to the corner that comes nearest to it; where the gradient is zero it is zero.

    Args:
        x: points (N, ...) in [0, 1].
        height: value of the linear function at x, (N,).
        gradient: its gradient (N, ...).
        norm: length that is minimised.

    Returns:
        d (N, ...).
    """
    # Each coordinate moves one way only, so the problem is to fill rooms at a price: min ‖u‖ with <weight, u> = need.
    flat, position = gradient.flatten(1), x.flatten(1)
    weight, direction = flat.abs(), flat.sign().mul_(-height.sign()[:, None])
    scale = weight.amax(1, keepdim=True)
    weight = weight.div_(scale).nan_to_num_()
    need = torch.where(scale[:, 0] > 0, height.abs() / scale[:, 0], 0)
    room = _as_numbers(torch.gt, direction, 0).sub_(position).abs_()  # up to 1, or down to 0
    if norm == "L1":
        amount = _fill_dearest(room, weight, need)
    else:
        amount = _fill_level(room, weight, None if norm == "Linf" else weight, need)
    return (direction * amount).view_as(x)


def _fill_level(room: Tensor, weight: Tensor, share: Tensor | None, need: Tensor) -> Tensor:
    """Return u = min(level·share, room) with the level at which <weight, u> = need; u = room where even that is less.

    <weight, u> is concave and piecewise linear in the level. Newton's method from level 0 never overshoots a
    concave function, so rooms only ever become full, and it ends at the exact level once no further room does. Rounding
    could lower a level by a bit and open a room again, and so on without end: the level never falls.
    A share of None stands for ones.
    """
    supply, price = weight * room, weight if share is None else weight * share
    amount, rows = torch.empty_like(room), torch.arange(len(room), device=room.device)
    level, before = torch.zeros_like(need)[:, None], torch.full_like(need, -1)
    reach = level
    while True:
        slope = _as_numbers(torch.gt, room, reach).mul_(price).sum(1)
        open_ = slope != before  # a room that became full would have taken its price away
        if 2 * open_.sum() <= len(rows):  # most rows end long before the last: the others go on without them
            amount[rows] = torch.minimum(room, reach)
            if not open_.any():
                return amount
            rows, room, supply, price = rows[open_], room[open_], supply[open_], price[open_]
            need, slope, level, reach = need[open_], slope[open_], level[open_], reach[open_]
            share = share if share is None else share[open_]
        filled = _as_numbers(torch.le, room, reach).mul_(supply).sum(1)
        newton = torch.where(slope > 0, (need - filled) / slope, torch.inf)[:, None]
        level, before = torch.maximum(level, newton), slope
        reach = level if share is None else (level * share).nan_to_num_()


def _as_numbers(compare: Callable[..., Tensor], x: Tensor, other: Tensor | float) -> Tensor:
    """Return the outcome of a comparison as 1 and 0: on a CPU, a fifth of the time of bool and its product with x."""
    return compare(x, other, out=torch.empty_like(x))


def _fill_dearest(room: Tensor, weight: Tensor, need: Tensor) -> Tensor:
    """Fill rooms in order of falling weight until <weight, u> = need: the shortest u in L1."""
    weight, order = weight.double().sort(dim=1, descending=True, stable=True)
    supply = weight * room.gather(1, order)
    before = supply.cumsum(1) - supply
    amount = torch.where(weight > 0, (need[:, None] - before) / weight, 0).to(room.dtype).clamp_min(0)
    return torch.zeros_like(room).scatter_(1, order, amount).minimum(room)


def _few_at_a_time(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield rows of images and of tensors that belong to them, on a CPU so few that its cache holds them."""
    size = max(1, _CACHE // x.shape[1:].numel()) if x.device.type == "cpu" else len(x)
    return zip(*(torch.split(rows, size) for rows in (x, *others)), strict=True)


def _linearise(logits: Tensor, x_adv: Tensor, y: Tensor, target: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return z_l − z_y (N,) and its gradient (N, C, H, W) for the target l, or the class l of the nearest boundary.

    The nearest has the smallest |z_l − z_y| / ‖∇(z_l − z_y)‖ in the dual norm. The K − 1 wrong classes of each image
    come one after another and only the best is kept, so the memory does not grow with their number.
    """
    if target is not None:
        lead = _lead(logits, y, target)
        return lead.detach().nan_to_num(), input_gradient(lead, x_adv)
    nearest = torch.full_like(y, torch.inf, dtype=logits.dtype)
    height, gradient = torch.zeros_like(nearest), torch.zeros_like(x_adv)
    for rank in range(logits.shape[1] - 1):
        lead = _lead(logits, y, rank + (rank >= y))
        ascent = input_gradient(lead, x_adv, keep_graph=rank < logits.shape[1] - 2)
        length = torch.linalg.vector_norm(ascent.flatten(1), ord=_DUAL[norm], dim=1)
        value = lead.detach().nan_to_num()
        away = torch.where(length > 0, value.abs() / length, torch.inf)
        height = torch.where(away < nearest, value, height)
        gradient = torch.where(over_pixels(away < nearest, x_adv), ascent, gradient)
        nearest = torch.minimum(away, nearest)
    return height, gradient


def _lead(logits: Tensor, y: Tensor, rival: Tensor) -> Tensor:
    """Return z_rival − z_y, (N,)."""
    return (logits.gather(1, rival[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def _check(attack: FAB) -> None:
    counts = (attack.steps, attack.restarts, attack.targets, attack.final_search)
    whole = all(isinstance(count, int) for count in counts)
    if not whole or min(attack.steps, attack.restarts) < 1 or min(counts) < 0:
        raise InputError(
            "FAB needs whole numbers: steps and restarts of at least 1, targets and final_search of at least 0."
        )
    if not (0 <= attack.alpha_max <= 1 and 0 <= attack.beta <= 1 <= attack.eta < math.inf):
        raise InputError("FAB needs alpha_max and beta between 0 and 1, and a finite eta of at least 1.")


@register("attack", "fab", source="Croce & Hein 2020 (FAB)")
def fab(threat: ThreatModel, **settings: Any) -> FAB:
    """FAB, the nearest misclassified image in 100 steps along the boundary to all classes."""
    return FAB(threat, **settings)


@register("attack", "fab-t", source="Croce & Hein 2020 (FAB, AutoAttack)")
def fab_t(threat: ThreatModel, **settings: Any) -> FAB:
    """FAB towards each of the nine most likely wrong classes in turn, 100 steps each."""
    return FAB(threat, **{"targets": 9, **settings})
