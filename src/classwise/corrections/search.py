"""The search for a correction on a pool: gradient ascent on smoothed counts, judged in counts.

Differences of logits do not depend on the network any more once a pool is there, so that a step costs no pass of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from classwise.corrections.base import Correction, Pool, Rule
from classwise.corrections.targets import Tally, Target
from classwise.losses import margin

_STEPS = 100
_JUDGED_EVERY = 5
_WIDEST, _NARROWEST = 0.3, 0.03
"""Width of the smoothing at the first and the last step, in units of the gap between the two largest clean logits."""
_COUNTED = 1e-6  # a width, in logits, at which an answer is a class and no mixture
_RIDGE = 0.01
"""Weight of |θ|²: on unseen fifths of 3,000 images it saved half a point of average at the same weakest class."""
_PRICE = 30.0
"""Weight of the average below what it may fall to: it outweighs any gain."""
FEW_IMAGES = 300
"""Images of each class below which a search is drawn towards 0."""
_SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of a correction, that are tried where images are few."""


def search(pool: Pool, rule: Rule, target: Target, classes: Sequence[str], max_loss: float, start: Tensor) -> Tensor:
    """Return the θ of the best score on a pool among those that keep the average.

    Args:
        pool: clean images and candidates.
        rule: what θ means.
        target: what is maximised.
        classes: names.
        max_loss: points by which the share of right images may fall against θ = 0, 0 … 100.
        start: θ to begin from.

    Returns:
        θ; 0 where nothing was better.
    """
    zero = rule.start(pool)
    uncorrected = rule.at(zero, pool)
    least = float(tally(pool, uncorrected).average) - max_loss / 100 - 1e-9
    leads = pool.closest(pool.leads(uncorrected(pool.logits)))
    gap = max(pool.gap, torch.finfo(torch.float32).tiny)
    theta = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=rule.step / 2, foreach=False)
    best = (_judged(pool, rule, target, classes, least, zero), zero)
    for step in range(_STEPS + 1):
        if step % _JUDGED_EVERY == 0:
            tried = theta.detach().clone()
            best = max(best, (_judged(pool, rule, target, classes, least, tried), tried), key=lambda pair: pair[0])
            rows = closest(pool, rule.at(tried, pool))
        width = gap * _WIDEST * (_NARROWEST / _WIDEST) ** (step / _STEPS)
        allowed = float(torch.sigmoid(leads / width).mean()) - max_loss / 100
        counts = smoothed(pool, rows, rule.at(theta, pool), width)
        aim = target.score(counts, classes) + 1e-3 * counts.average - _RIDGE * theta.square().sum()
        loss = _PRICE * F.relu(allowed - counts.average) - aim
        (theta.grad,) = torch.autograd.grad(loss, theta)
        optimiser.step()
        theta.data = rule.limited(theta.data)
    return best[1]


def share(pool: Pool, rule: Rule, target: Target, classes: Sequence[str], max_loss: float) -> float:
    """Return which share of the way that `search` goes does best on images that it has not seen, 1 … 1/4.

    A correction is searched on each half of the images, and shares of it are judged on the other: where images are few,
    the search follows their noise, and a part of the way does better on new ones. From 300 images a class on it is 1.

    Args:
        pool: as of `search`, like the others.
        rule: what θ means.
        target: what is maximised.
        classes: names.
        max_loss: points by which the share of right images may fall.
    """
    halves = _halves(pool.y) if int(pool.n.min()) < FEW_IMAGES else None
    if halves is None:
        return 1.0
    gain = torch.zeros(len(_SHARES))
    for positions, others in (halves, halves[::-1]):
        seen, unseen = pool.of(positions), pool.of(others)
        theta = search(seen, rule, target, classes, max_loss, rule.start(seen))
        width = _NARROWEST * max(unseen.gap, torch.finfo(torch.float32).tiny)
        corrections = [rule.at(part * theta, pool) for part in _SHARES]
        scores = [target.score(smoothed(unseen, closest(unseen, it), it, width), classes) for it in corrections]
        gain += torch.stack(scores)
    return _SHARES[int(gain.argmax())]


@torch.no_grad()
def tally(pool: Pool, correction: Correction) -> Tally:
    """Return how a correction does on a pool, in counts; a tie counts as wrong."""
    rows = closest(pool, correction)
    logits = correction(pool.logits[rows])
    right = (margin(logits, pool.y) < 0) & logits.isfinite().all(1)
    return Tally(right.float(), logits, pool.y, pool.n, _COUNTED)


def smoothed(pool: Pool, rows: Tensor, correction: Correction, width: float) -> Tally:
    """Return the same with soft edges: an image counts by the logistic function of its lead over ``width``.

    Args:
        pool: clean images and candidates.
        rows: the candidate that each image is judged by (N,).
        correction: maps logits to logits, differentiable in what it is made of.
        width: in logits, above 0.
    """
    logits = correction(pool.logits[rows])
    return Tally(torch.sigmoid(-margin(logits, pool.y) / width), logits, pool.y, pool.n, width)


@torch.no_grad()
def closest(pool: Pool, correction: Correction) -> Tensor:
    """Return the row of the first candidate of each image (N,) whose lead is its smallest."""
    leads = pool.leads(correction(pool.logits))
    rows, last = torch.arange(len(leads)), len(leads)
    first = torch.where(leads <= pool.closest(leads)[pool.image], rows, last)
    return torch.full((len(pool.y),), last).scatter_reduce(0, pool.image, first, "amin")


def _judged(
    pool: Pool, rule: Rule, target: Target, classes: Sequence[str], least: float, theta: Tensor
) -> tuple[bool, float, float]:
    counts = tally(pool, rule.at(theta, pool))
    average = float(counts.average)
    return average >= least, float(target.score(counts, classes)), average


def _halves(y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the positions of two halves in each of which every class of y (N,) has images; None where it has one."""
    n = torch.bincount(y)
    if bool((n == 1).any()):
        return None
    order = y.argsort(stable=True)
    place = torch.arange(len(y)) - (n.cumsum(0) - n)[y[order]]
    return order[place % 2 == 0], order[place % 2 == 1]
