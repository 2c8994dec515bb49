"""Auto-PGD: gradient ascent with momentum that chooses the step of each image by itself.

Linf and L2: Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020 (arXiv 2003.01690). L1: Croce & Hein, "Mind the box: l1-APGD for sparse adversarial attacks on
image classifiers", ICML 2021 (arXiv 2103.01208). Starts, order of targets and the constants of the L1 rule were read
in fra31/auto-attack (a392200). Where we depart from that code:

- Checkpoints are the paper's ⌈p_j·steps⌉; the code rounds down and then keeps whole periods, so that 10 steps are
  checked after 2, 3, 4, … there and after 3, 5, 6, 7, … here. For 100 steps both are 22, 41, 57, 70, 80, 87, 93, 99.
- Condition 1 asks for *fewer* than rho·period rises (the code: at most), counts the first step's rise from the loss
  of the start (the code: from 0) and after a return to the best point from the loss there (the code: from the loss of
  the point left behind). Condition 2 is asked at the first checkpoint too.
- The number of coordinates that an L1 step moves is rounded down (the code: up), so that two can become one.
- An L1 step chooses among the coordinates that can still move. The code chooses among all, and while the gradient stays
  as it is keeps pushing those that have met 0 or 1 and no others: of a linear model whose optimum fills seven tenths of
  the image's room it misses every one at twice the optimal radius (`tests/attacks/test_closed_form.py`).
- The stages of the L1 attack take ⌊0.3·steps⌋, ⌊0.3·steps⌋ and the remaining steps; the code rounds up.
- An image that fools the model leaves at once, and what is returned is its first fooling iterate, not its last.
- The targets of a restart run side by side in one batch, where the code has one after another.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from classwise import losses
from classwise.attacks.base import any_attempt, best_attempt, input_gradient, predict, side_by_side, stacked
from classwise.attacks.pgd import likely_wrong
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.inference import attacking
from classwise.threat import Projection, ThreatModel, over_pixels

_MOMENTUM = 0.75  # weight of the new step; the rest repeats the last move
_SPARSER = 1.5  # L1: nonzero coordinates of the best point over those that the next steps change
_FEWER = 0.95  # L1: the best point counts as sparser below this share of its nonzero coordinates before


@dataclass(frozen=True)
class APGD:
    """Auto-PGD (Croce & Hein 2020, 2021): no step size to choose.

    Attributes:
        threat: the set of allowed images.
        steps: gradients a restart and target.
        loss: name of the loss that is climbed, settings included: "dlr", "soft_margin(temperature=0.1)".
        restarts: independent random starts; images that fooled the model do not start again.
        targets: 0 for the untargeted attack; k aims at each of the k most likely wrong classes, one after another.
        rho: Linf and L2: the step is halved unless at least this share of the last steps raised the loss.
        large_eps: L1 only: spend three tenths of the steps in a ball of 3·eps, three in one of 2·eps and the rest in
            the ball itself; None for yes in L1.
        rows: that the model may be given at once; as many as there are images if None. Does not change what is found.

    Raises:
        InputError: a setting outside its range.
    """

    threat: ThreatModel
    steps: int = 100
    loss: str = "dlr"
    restarts: int = 1
    targets: int = 0
    rho: float = 0.75
    large_eps: bool | None = None
    rows: int | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`.

        Returns:
            For each image the first iterate that fooled the model, else the one of the largest loss over all restarts
            and targets.
        """
        with attacking(model) as model:
            x, x_adv = x.detach(), x.detach().clone()
            best = torch.full(y.shape, -math.inf, device=x.device)
            active = torch.arange(len(x), device=x.device)
            ranks = likely_wrong(model, x, y, self.targets) if self.targets else y[:, None]
            for restart in range(self.restarts):
                fooled = torch.zeros_like(y, dtype=torch.bool)
                for part in side_by_side(active, ranks.shape[1], self.rows or len(x)):
                    attempts = [(restart, target) for target in range(ranks.shape[1])]
                    images = _Images.rows(x[part], y[part], ranks[part])
                    candidate, loss, success = self._attempt(model, images, noise.select(part), attempts)
                    row = best_attempt(torch.where(success, math.inf, loss), len(part))
                    better = success[row] | (loss[row] > best[part])
                    x_adv[part[better]], best[part[better]] = candidate[row[better]], loss[row[better]]
                    fooled[part] = success[row]
                active = active[~fooled[active]]
        return x_adv

    def _attempt(
        self, model: nn.Module, images: _Images, noise: Noise, attempts: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go through every stage from random starts: candidates, their loss, and which fooled the model, row by row."""
        clean = images.x[: images.count]
        x_adv = torch.cat([self._start(clean, noise.fold("attempt", *attempt)) for attempt in attempts])
        for radius, steps in self._stages():
            ball = ThreatModel(self.threat.norm, radius)
            if ball.norm == "L1":
                x_adv = ball.project(x_adv, images.x)
            x_adv, loss, fooled = self._climb(model, images, x_adv, ball, steps)
        return x_adv, loss, fooled

    def _climb(
        self, model: nn.Module, images: _Images, x_adv: Tensor, ball: ThreatModel, steps: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Climb in one ball; only in the threat's own may an image stop as soon as an attempt at it succeeds."""
        result, best = x_adv.clone(), torch.full(images.y.shape, -math.inf, device=x_adv.device)
        fooled = torch.zeros_like(images.y, dtype=torch.bool)
        state = _State.begin(images, x_adv, ball, sparse=self._in_stages())
        checks = dict(itertools.pairwise(reversed((0, *_checks(ball, steps)))))  # each checkpoint and the one before
        project = ball.projection(state.x)
        for step in range(steps + 1):
            point = state.x_adv.detach().requires_grad_(step < steps)
            logits = model(point)
            loss = self._objective(state)(logits, state.y)
            new = (predict(logits.detach(), state.y) != state.y) & (ball == self.threat)
            if new.any():
                result[state.index[new]], fooled[state.index[new]] = state.x_adv[new], True
            stays = ~any_attempt(fooled, images.count)[state.index]
            go_on = step < steps and bool(stays.any())
            gradient = input_gradient(loss, point) if go_on else torch.zeros_like(point)
            if not stays.all():
                state, loss, gradient = state.select(stays), loss[stays], gradient[stays]
                project = ball.projection(state.x)
            state.see(loss.detach().float(), gradient)
            if not go_on:
                break
            if step in checks:
                self._adapt(state, ball, step - checks[step])
            self._move(state, ball, project, first=step == 0)
        result[state.index], best[state.index] = state.best_x, state.best
        return result, best, fooled

    def _objective(self, state: _State) -> losses.Loss:
        return losses.targeted(self.loss, state.target) if self.targets else losses.named(self.loss)

    def _adapt(self, state: _State, ball: ThreatModel, period: int) -> None:
        """At a checkpoint, choose step sizes and return images to their best point where theirs changed."""
        if ball.norm == "L1":
            nonzero = (state.best_x != state.x).flatten(1).sum(1)
            back = nonzero < _FEWER * state.nonzero
            state.step_size = torch.where(back, ball.eps, (state.step_size / 1.5).clamp_min(ball.eps / 10))
            state.nonzero, state.moving = nonzero, nonzero / _SPARSER
        else:
            back = halves(state.rises, period, self.rho, state.halved, state.best, state.best_before)
            state.step_size = torch.where(back, state.step_size / 2, state.step_size)
            state.halved, state.best_before, state.rises = back, state.best, torch.zeros_like(state.rises)
        state.return_to_best(back)

    def _move(self, state: _State, ball: ThreatModel, project: Projection, first: bool) -> None:
        """Take one step with every image."""
        x_adv, length = state.x_adv, over_pixels(state.step_size, state.x)
        if ball.norm == "L1":
            moved = project(x_adv + length * sparse_direction(state.gradient, state.moving, x_adv))
        else:
            moved = project(torch.addcmul(x_adv, length, ball.ascend(state.gradient, x_adv)))
            if not first:
                mixed = torch.lerp(x_adv, moved, _MOMENTUM)
                moved = project(mixed.add_(x_adv - state.x_before, alpha=1 - _MOMENTUM))
        state.x_before, state.x_adv = x_adv, moved

    def _start(self, x: Tensor, noise: Noise) -> Tensor:
        """Draw a point: on the surface of the ball, or in L1 Gaussian noise, whose projection onto a ball is sparse."""
        stream, shape = noise.fold("start"), x.shape[1:]
        if self.threat.norm == "Linf":
            direction = 2 * stream.uniform(shape, x.device) - 1
        else:
            direction = stream.normal(shape, x.device)
        if self.threat.norm == "L1":
            return x + direction
        length = over_pixels(self.threat.distance(direction, torch.zeros_like(x)), x)
        return self.threat.project(x + self.threat.eps * direction / length.clamp_min(1e-12), x)

    def _in_stages(self) -> bool:
        return self.threat.norm == "L1" if self.large_eps is None else self.large_eps

    def _stages(self) -> list[tuple[float, int]]:
        """Return the radius and the steps of each stage that has any."""
        part = 3 * self.steps // 10 if self._in_stages() else 0
        plan = [(3 * self.threat.eps, part), (2 * self.threat.eps, part), (self.threat.eps, self.steps - 2 * part)]
        return [(radius, steps) for radius, steps in plan if steps]


@dataclass(frozen=True, eq=False)
class _Images:
    """A row for each attempt at each image.

    Attributes:
        x: clean images.
        y: their classes.
        target: the classes to drive them into; the true ones where nothing is aimed at.
        count: how many images there are, each with as many rows as attempts.
    """

    x: Tensor
    y: Tensor
    target: Tensor
    count: int

    @classmethod
    def rows(cls, x: Tensor, y: Tensor, targets: Tensor) -> _Images:
        """Return a row for each target (n, T) of each image (n, C, H, W)."""
        times = targets.shape[1]
        return cls(stacked(x, times), stacked(y, times), targets.T.flatten(), len(x))


@dataclass(eq=False)
class _State:
    """What the climb knows of each image that has not fooled the model; every field has one row an image.

    Attributes:
        index: position in the batch that the climb began with.
        x: clean image.
        y: true class.
        target: class aimed at.
        x_adv: current iterate.
        x_before: the iterate before it, for the momentum.
        gradient: of the loss at ``x_adv``.
        loss: at ``x_adv``.
        best_x: iterate of the largest loss.
        best_gradient: of the loss there.
        best: the largest loss.
        step_size: length of the next step.
        rises: Linf, L2: steps that raised the loss since the last checkpoint.
        best_before: Linf, L2: largest loss at the last checkpoint.
        halved: Linf, L2: whether the last checkpoint halved the step.
        nonzero: L1: nonzero coordinates of the best perturbation at the last checkpoint.
        moving: L1: coordinates that a step changes.
    """

    index: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    x_adv: Tensor
    x_before: Tensor
    gradient: Tensor
    loss: Tensor
    best_x: Tensor
    best_gradient: Tensor
    best: Tensor
    step_size: Tensor
    rises: Tensor
    best_before: Tensor
    halved: Tensor
    nonzero: Tensor
    moving: Tensor

    @classmethod
    def begin(cls, images: _Images, x_adv: Tensor, ball: ThreatModel, sparse: bool) -> _State:
        """Return the state at the start; ``sparse``: the number of coordinates to move follows from the start's."""
        pixels, zeros = x_adv[0].numel(), torch.zeros(len(x_adv), device=x_adv.device)
        nonzero = (x_adv != images.x).flatten(1).sum(1) if sparse else torch.full_like(images.y, pixels)
        return cls(
            index=torch.arange(len(x_adv), device=x_adv.device),
            x=images.x,
            y=images.y,
            target=images.target,
            x_adv=x_adv,
            x_before=x_adv,
            gradient=torch.zeros_like(x_adv),
            loss=zeros + math.inf,
            best_x=x_adv.clone(),
            best_gradient=torch.zeros_like(x_adv),
            best=zeros - math.inf,
            step_size=zeros + ball.eps * (1 if ball.norm == "L1" else 2),
            rises=zeros,
            best_before=zeros - math.inf,
            halved=zeros.bool(),
            nonzero=nonzero,
            moving=nonzero / _SPARSER if sparse else zeros + 0.2 * pixels,
        )

    def select(self, mask: Tensor) -> _State:
        """Keep the images of a mask."""
        return _State(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def see(self, loss: Tensor, gradient: Tensor) -> None:
        """Take note of the loss (N,) and its gradient at the current iterate."""
        first = self.loss == math.inf
        better = loss > self.best
        self.rises = self.rises + (loss > self.loss)
        self.loss, self.gradient = loss, gradient
        self.best = torch.where(better, loss, self.best)
        self.best_before = torch.where(first, self.best, self.best_before)
        self.best_x[better], self.best_gradient[better] = self.x_adv[better], gradient[better]

    def return_to_best(self, back: Tensor) -> None:
        """Go on from the best iterate with the images of a mask."""
        self.x_adv = torch.where(over_pixels(back, self.x), self.best_x, self.x_adv)
        self.gradient = torch.where(over_pixels(back, self.x), self.best_gradient, self.gradient)
        self.loss = torch.where(back, self.best, self.loss)


def checkpoints(steps: int) -> tuple[int, ...]:
    """Return the steps after which step sizes are reconsidered (Croce & Hein 2020, section 3).

    They are ⌈p_j·steps⌉ with p_0 = 0, p_1 = 0.22 and p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), p_j ≤ 1.

    Example:
        >>> checkpoints(100)
        (22, 41, 57, 70, 80, 87, 93, 99)
    """
    points, before, share = [], 0, 22  # in hundredths, which are exact
    while share <= 100:
        points.append(-(-share * steps // 100))
        before, share = share, share + max(share - before - 3, 6)
    return tuple(dict.fromkeys(points))


def halves(rises: Tensor, period: int, rho: float, halved: Tensor, best: Tensor, best_before: Tensor) -> Tensor:
    """Tell which images halve their step at a checkpoint (Croce & Hein 2020, conditions 1 and 2), (N,) bool.

    Args:
        rises: how many of the last ``period`` steps raised the loss (N,).
        period: steps since the last checkpoint.
        rho: share of steps that ought to raise it.
        halved: whether the last checkpoint halved the step (N,).
        best: largest loss so far (N,).
        best_before: largest loss at the last checkpoint (N,).
    """
    return (rises < rho * period) | (~halved & (best <= best_before))


def sparse_direction(gradient: Tensor, count: Tensor, x: Tensor) -> Tensor:
    """Return the step of L1 length 1 that changes the ``count`` (N,) steepest coordinates alike, (N, ...).

    Counts are rounded down to whole coordinates, at least one; coordinates that tie with the last one are changed too.
    A coordinate that is on the limit which its gradient points to is passed over.

    Args:
        gradient: of the loss (N, ...).
        count: of coordinates (N,).
        x: where the step begins (N, ...), in [0, 1].
    """
    room = torch.where(gradient > 0, x < 1, x > 0)
    size = torch.where(room, gradient.abs(), 0).flatten(1)
    last = count.floor().long().clamp(1, size.shape[1]) - 1
    least = size.sort(1, descending=True).values.gather(1, last[:, None])
    step = torch.where((size >= least) & (size > 0), gradient.flatten(1).sign(), 0)
    return (step / step.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)


def _checks(ball: ThreatModel, steps: int) -> tuple[int, ...]:
    """Return the checkpoints; those of the L1 attack come every ⌊0.04·steps⌋ steps, or each step."""
    if ball.norm == "L1":
        return tuple(range(max(4 * steps // 100, 1), steps + 1, max(4 * steps // 100, 1)))
    return checkpoints(steps)


def _check(attack: APGD) -> None:
    whole = all(isinstance(count, int) for count in (attack.steps, attack.restarts, attack.targets))
    if not whole or attack.steps < 1 or attack.restarts < 1 or attack.targets < 0:
        raise InputError("APGD needs whole numbers: steps and restarts of at least 1 and targets of at least 0.")
    if not 0 <= attack.rho <= 1:
        raise InputError(f"APGD's rho is a share of steps, so {attack.rho} must be between 0 and 1.")
    if attack.large_eps not in (None, True, False):
        raise InputError(f"APGD's large_eps is True, False or None, not {attack.large_eps!r}.")
    if attack.large_eps and attack.threat.norm != "L1":
        raise InputError(f"APGD takes larger radii on the way in the L1 norm only, not in {attack.threat.norm}.")
    losses.named(attack.loss)


@register("attack", "apgd-ce", source="Croce & Hein 2020; L1: Croce & Hein 2021")
def apgd_ce(threat: ThreatModel, **settings: Any) -> APGD:
    """Auto-PGD on the cross-entropy, 100 steps."""
    return APGD(threat, **{"loss": "cross_entropy", **settings})


@register("attack", "apgd-dlr", source="Croce & Hein 2020; L1: Croce & Hein 2021")
def apgd_dlr(threat: ThreatModel, **settings: Any) -> APGD:
    """Auto-PGD on the difference of logits ratio, 100 steps."""
    return APGD(threat, **{"loss": "dlr", **settings})


@register("attack", "apgd-t", source="Croce & Hein 2020; L1: Croce & Hein 2021")
def apgd_t(threat: ThreatModel, **settings: Any) -> APGD:
    """Auto-PGD on the targeted difference of logits ratio, 100 steps to each of the nine likeliest wrong classes."""
    return APGD(threat, **{"loss": "dlr", "targets": 9, **settings})


@register("attack", "apgd-margin", source="Croce & Hein 2020; Carlini & Wagner 2017 for the loss")
def apgd_margin(threat: ThreatModel, **settings: Any) -> APGD:
    """Auto-PGD on the margin of the strongest wrong class, 100 steps."""
    return APGD(threat, **{"loss": "margin", **settings})
