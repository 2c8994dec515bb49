"""Square Attack: random search with square windows, which asks the model for scores and never for gradients.

Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box adversarial attack via random search". The L1
form carries its L2 update over to L1 norms, as Croce & Hein 2021, "Mind the box", do; its details are ours: the moved
window is given more than its share, and the image returns to the set by clipping to the pixel range and then soft
thresholding, which makes the perturbation sparse, where Croce & Hein project onto ball and range at once. Otherwise
as in the papers, except that the start counts as a query and that each image of a batch has squares of its own. Squares
reach the last row and column, as the paper says; in the authors' code and AutoAttack they do not, which left 4 more of
200 CIFAR-10 images robust (ResNet-2B, Linf 8/255, 1,000 queries, three seeds).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from classwise import losses
from classwise.attacks.base import predict, stacked
from classwise.errors import InputError
from classwise.losses import Loss
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.inference import attacking
from classwise.threat import ThreatModel

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries (section 3.1 of the paper)
_OVERSHOOT = 3  # of L1: 1 left 55 of 60 MNIST images robust where 3 and 9 left 20 (TRADES network, eps 15, 400 queries)
_SLACK = 1 - 1e-6  # of L2: keeps the rounding of windows inside the tolerance of ThreatModel.contains
_BLOCK = 64  # queries whose random numbers are drawn at once: small draws cost more in calls than in arithmetic
_AHEAD = 0.25  # queries asked ahead, as a share of those between two that raise the loss: about half of it is in vain
_RANGE = 1 << 31  # taken modulo the number of positions, this is uniform to one part in a million


@dataclass(frozen=True)
class Square:
    """Square Attack: change a random square of each image, keep the change where the loss rises.

    Attributes:
        threat: the set of allowed images; Linf, L2 or L1.
        queries: forward passes an image and restart, the start included.
        p_init: share of the pixels that the first squares cover; it halves as the paper's schedule says.
        loss: name of the loss that must rise.
        restarts: independent runs; each image keeps the first candidate that fools the model.
        rescale_schedule: stretch the schedule, which is stated for 10,000 queries, to ``queries``.
        rows: that the model may be given at once; where images leave room, several of their queries are asked in one
            batch. One query of each image at a time if None. Does not change what is found.

    Raises:
        InputError: a setting outside its range.
    """

    black_box: ClassVar[bool] = True

    threat: ThreatModel
    queries: int = 5000
    p_init: float = 0.8
    loss: str = "margin"
    restarts: int = 1
    rescale_schedule: bool = True
    rows: int | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        whole = all(isinstance(count, int) for count in (self.queries, self.restarts))
        if not whole or self.queries < 1 or self.restarts < 1:
            raise InputError("Square Attack needs whole numbers of queries and restarts, at least 1 of each.")
        if not 0 < self.p_init <= 1:
            raise InputError(f"The share p_init = {self.p_init} of Square Attack must be above 0 and at most 1.")
        losses.named(self.loss)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`.

        Raises:
            InputError: x is no batch of images (N, C, H, W).
        """
        if x.dim() != 4:
            raise InputError(f"Square Attack needs images (N, C, H, W), not an input of shape {tuple(x.shape)}.")
        with attacking(model) as model, torch.no_grad():
            x, x_adv = x.detach(), x.detach().clone()
            active = torch.arange(len(x), device=x.device)
            for restart in range(self.restarts):
                if not len(active) or self.threat.eps == 0:
                    break
                stream = noise.select(active).fold("restart", restart)
                x_adv[active], fooled = self._search(model, x[active], y[active], stream)
                active = active[~fooled]
        return x_adv

    def _search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Query until each image fools the model; return that candidate, else the best, and which fooled (N,).

        Nearly all queries leave the best candidate as it was, so the next ones can be drawn from it at once and share a
        batch: the first that raises the loss is taken, and those after it are drawn again from there. The outcome is
        that of one query at a time.
        """
        linf, climb = self.threat.norm == "Linf", losses.named(self.loss)
        start = (_stripes if linf else _tiles)(self.threat, x, noise.fold("start"))
        propose, words = (_recolour if linf else _move), (2 if linf else 5) + x.shape[1]
        images, between = _Images.begin(x, y, start), 1.0  # queries between two that raise the loss, of late
        images.judge(torch.arange(len(x), device=x.device), climb, model(start), start, torch.ones_like(y)[None] > 0)
        result, fooled = start.clone(), torch.zeros_like(y, dtype=torch.bool)
        images = images.settle(result, fooled)
        for first, count in self._runs(x):
            if not len(images.y):
                break
            stream = noise.select(images.index).fold("query", first)
            images.draws, images.turn = stream.integers(_RANGE, (count, words), x.device), torch.zeros_like(images.y)
            size, asked, rises = self._side(first, x), count * len(images.y), 0
            while len(open_ := (images.turn < count).nonzero().squeeze(1)):
                left = count - int(images.turn[open_].min())
                ahead = max(1, min(left, round(_AHEAD * between), (self.rows or 1) // len(open_)))
                turns = images.turn[open_] + torch.arange(ahead, device=x.device)[:, None]
                drawn = images.draws[open_, turns.clamp_max(count - 1)].flatten(0, 1)
                pair = (images.x, images.best)
                clean, best = pair if len(open_) == len(images.y) else (tensor[open_] for tensor in pair)
                candidates = propose(self.threat, clean, best, drawn, size)
                rises += images.judge(open_, climb, model(candidates), candidates, turns < count)
                images = images.settle(result, fooled)
            between = asked / max(rises, 1)
        result[images.index] = images.best
        return result, fooled

    def _runs(self, x: Tensor) -> Iterator[tuple[int, int]]:
        """Yield the first query and the length of runs of queries whose squares have one size, after the start's."""
        first, sides = 1, [self._side(query, x) for query in range(self.queries)]
        for query in range(2, self.queries + 1):
            if query == self.queries or query - first == _BLOCK or sides[query] != sides[first]:
                yield first, query - first
                first = query

    def share(self, query: int) -> float:
        """Return the share of pixels that the square of a query covers, before it is rounded to whole pixels."""
        at = query * 10_000 // self.queries if self.rescale_schedule else query
        return float(self.p_init / 2 ** sum(at > halving for halving in _HALVINGS))

    def _side(self, query: int, x: Tensor) -> int:
        height, width = x.shape[2:]
        return side(self.share(query), height, width, bump=self.threat.norm != "Linf")


@dataclass(eq=False)
class _Images:
    """What the search knows of each image that has not fooled the model; every field has one row an image.

    Attributes:
        index: position in the batch that the search began with.
        x: clean image.
        y: true class.
        best: candidate of the largest loss.
        reached: that loss.
        turn: queries of this run that are decided.
        draws: random numbers of each query of this run (N, queries, words).
        fooled: whether the best candidate fools the model.
    """

    index: Tensor
    x: Tensor
    y: Tensor
    best: Tensor
    reached: Tensor
    turn: Tensor
    draws: Tensor
    fooled: Tensor

    @classmethod
    def begin(cls, x: Tensor, y: Tensor, start: Tensor) -> _Images:
        """Return images of which no candidate has been judged."""
        nothing, lowest = torch.zeros_like(y), x.new_full((len(x),), -math.inf)
        index = torch.arange(len(x), device=x.device)
        return cls(index, x, y, start.clone(), lowest, nothing, nothing[:, None], nothing.bool())

    def judge(self, where: Tensor, climb: Loss, logits: Tensor, candidates: Tensor, counts: Tensor) -> int:
        """Take the first candidate of each image that fools the model or raises the loss.

        Args:
            where: positions of the images (n,).
            climb: the loss.
            logits: of the candidates (q·n, K), the first of each image before the second of each.
            candidates: q for each image (q·n, C, H, W).
            counts: which of them are queries of this run (q, n).

        Returns:
            How many images have a new best candidate.
        """
        y = self.y[where].repeat(len(counts))
        lost = predict(logits, y) != y
        value = climb(logits, y).to(self.reached.dtype)
        better = (lost | (value > self.reached[where].repeat(len(counts)))).view_as(counts) & counts
        hit, rank = better.any(0), better.int().argmax(0)
        row = (rank * len(where) + torch.arange(len(where), device=where.device))[hit]
        self.turn[where] += torch.where(hit, rank + 1, len(counts))
        where = where[hit]
        self.best[where], self.reached[where], self.fooled[where] = candidates[row], value[row], lost[row]
        return len(where)

    def settle(self, result: Tensor, fooled: Tensor) -> _Images:
        """Write what fooled the model into the results (N, C, H, W) and (N,), and return the other images."""
        if not self.fooled.any():
            return self
        done = self.index[self.fooled]
        result[done], fooled[done] = self.best[self.fooled], True
        return _Images(**{field.name: getattr(self, field.name)[~self.fooled] for field in fields(self)})


def side(share: float, height: int, width: int, *, bump: bool) -> int:
    """Return the side of a square that covers a share of an image: at least 1, or odd and at least 3 for a bump.

    Example:
        >>> side(0.8, 28, 28, bump=False), side(0.1, 28, 28, bump=True)
        (25, 9)
    """
    wanted, limit = max(1, round(math.sqrt(share * height * width))), min(height, width)
    if not bump:
        return min(wanted, limit)
    return min(max(wanted, 3) | 1, limit - 1 + limit % 2) if limit > 1 else 1


def window(corner: Tensor, size: int, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the index (N, C, size, size) into a batch of images of squares with upper left ``corner`` (N, 2)."""
    device, along = corner.device, torch.arange(size, device=corner.device)
    rows = corner[:, 0].view(-1, 1, 1, 1) + along.view(-1, 1)
    columns = corner[:, 1].view(-1, 1, 1, 1) + along
    images = torch.arange(len(corner), device=device).view(-1, 1, 1, 1)
    return images, torch.arange(channels, device=device).view(1, -1, 1, 1), rows, columns


@functools.cache
def eta(size: int) -> Tensor:
    """Return the paper's bump η (its equation 2) of L2 norm 1, (size, size): an upper half above its negative."""
    upper, lower = _half(size // 2, size), _half(size - size // 2, size)
    bump = torch.cat([upper, -lower])
    unit: Tensor = bump / torch.linalg.vector_norm(bump)
    return unit.float()


def _half(height: int, width: int) -> Tensor:
    """Return the sum over k = 0 … n of centred squares of height 1/(n + 1 − k)², for n the half of the height."""
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    away = torch.maximum((rows - height // 2).abs(), (columns - width // 2).abs())
    terms = (1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** 2).flip(0).cumsum(0).flip(0)
    rings = terms[away] if height else terms.new_zeros(0, width)
    unit: Tensor = rings / torch.linalg.vector_norm(rings).clamp_min(1e-12)
    return unit


def _stripes(threat: ThreatModel, x: Tensor, noise: Noise) -> Tensor:
    """Start in the Linf ball: every column of every channel is ±eps."""
    sign = 2 * noise.integers(2, (x.shape[1], 1, x.shape[3]), x.device) - 1
    return (x + threat.eps * sign).clamp_(0, 1)


def _tiles(threat: ThreatModel, x: Tensor, noise: Noise) -> Tensor:
    """Start in the L2 or L1 ball: bumps of random sign and orientation tile the image, five to a side."""
    channels, height, width = x.shape[1:]
    size = max(1, min(height, width) // 5)
    rows, columns = height // size, width // size
    draw = noise.integers(2, (1 + channels, rows, columns), x.device)
    bumps = _bumps(size, draw[:, 0]).unsqueeze(1) * (2 * draw[:, 1:] - 1).unsqueeze(-1).unsqueeze(-1)
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    delta = torch.zeros_like(x)
    tiled = bumps.transpose(3, 4).reshape(len(x), channels, rows * size, columns * size)
    delta[:, :, top : top + rows * size, left : left + columns * size] = tiled
    order = _order(threat)
    length = torch.linalg.vector_norm(delta, ord=order, dim=(1, 2, 3), keepdim=True)
    return _back(threat, x + delta * (threat.eps / length), x)


def _recolour(threat: ThreatModel, x: Tensor, best: Tensor, draw: Tensor, size: int) -> Tensor:
    """Move a square of each image by ±2·eps in each channel: from anywhere in the Linf ball that ends at ±eps.

    Args:
        threat: Linf.
        x: clean images (N, C, H, W).
        best: best candidates so far (N, C, H, W).
        draw: random words of the queries, of the first of each image before those of the second, (q·N, words).
        size: side of the square.

    Returns:
        Candidates (q·N, C, H, W).
    """
    rows, *square = window(_corner(draw[:, :2], x, size), size, x.shape[1])
    sign = 2 * (draw[:, 2:] % 2) - 1
    candidate = stacked(best, len(draw) // len(x))
    candidate[rows, *square] = (x[rows % len(x), *square] + threat.eps * sign[:, :, None, None]).clamp_(0, 1)
    return candidate


def _move(threat: ThreatModel, x: Tensor, best: Tensor, draw: Tensor, size: int) -> Tensor:
    """Move the norm of one window, and all that is unused, into a bump in another (Algorithm 3); see _recolour."""
    x, best = (stacked(tensor, len(draw) // len(x)) for tensor in (x, best))
    order, channels = _order(threat), x.shape[1]
    to, source = (window(_corner(draw[:, at : at + 2], x, size), size, channels) for at in (0, 2))
    delta = best - x
    used = torch.linalg.vector_norm(delta, ord=order, dim=(1, 2, 3), keepdim=True, dtype=torch.float64) ** order
    unused = (((threat.eps * _SLACK) ** order - used) / channels).to(x.dtype)
    old = delta[to]
    taken = _length(old, order) ** order
    delta[to] = 0  # so that where the windows overlap nothing is counted twice
    taken = (taken + _length(delta[source], order) ** order + unused).clamp_min(0)
    delta[source] = 0
    bump = _bumps(size, draw[:, 4] % 2).unsqueeze(1) * (2 * (draw[:, 5:] % 2) - 1)[:, :, None, None]
    new = bump / _length(bump, order) + old / _length(old, order)
    if order == 1:
        delta[to] = new / _length(new, order) * (_OVERSHOOT * taken.sum(1, keepdim=True))
        return _back(threat, x + delta, x)
    delta[to] = new / _length(new, order) * taken.sqrt()
    return (x + delta).clamp_(0, 1)  # inside the ball: what the windows lose and gain cancels out


def _corner(draw: Tensor, x: Tensor, size: int) -> Tensor:
    """Return the upper left corners (N, 2) at which a square fits into the image, uniformly."""
    return torch.stack([draw[:, axis] % (x.shape[2 + axis] - size + 1) for axis in (0, 1)], dim=1)


def _bumps(size: int, turned: Tensor) -> Tensor:
    """Return a bump for each entry of ``turned`` (...), transposed where it is 1, (..., size, size)."""
    bump = eta(size).to(turned.device)
    both: Tensor = torch.stack([bump, bump.T])[turned]
    return both


def _back(threat: ThreatModel, moved: Tensor, x: Tensor) -> Tensor:
    """Return to the set; clipped to the pixel range first, an L1 perturbation loses no more than it has to."""
    return threat.project(moved.clamp(0, 1), x)


def _order(threat: ThreatModel) -> int:
    return {"L2": 2, "L1": 1}[threat.norm]


def _length(values: Tensor, order: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, ord=order, dim=(-2, -1), keepdim=True)
    return length.clamp_min(1e-12)


@register("attack", "square", source="Andriushchenko et al. 2020; L1 after Croce & Hein 2021")
def square(threat: ThreatModel, **settings: Any) -> Square:
    """Square Attack: 5,000 queries of random search, no gradients."""
    return Square(threat, **settings)
