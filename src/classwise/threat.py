"""What an attacker may do: a norm ball around the image, inside the pixel range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor

from classwise.errors import InputError
from classwise.noise import Noise
from classwise.tolerance import tolerated

Norm = Literal["Linf", "L2", "L1"]
Projection = Callable[[Tensor], Tensor]
# Of an L1 step: the part that goes to the steepest coordinate, the share of coordinates that the rest is spread over,
# and the gradient, in units of the steepest, below which a coordinate gets nothing of it.
_STEEPEST, _SHARE, _WORTH = 0.5, 0.01, 0.6
_ALIASES: dict[str, Norm] = {"inf": "Linf", "linf": "Linf", "2": "L2", "l2": "L2", "1": "L1", "l1": "L1"}


def parse_eps(value: float | str) -> float:
    """Read a radius written as a number or as a fraction.

    Raises:
        InputError: the value is no number, or it is negative or not finite.

    Example:
        >>> parse_eps("8/255")
        0.03137254901960784
    """
    try:
        eps = _fraction(value.replace(" ", "")) if isinstance(value, str) else float(value)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"{value!r} is not a radius; write a number or a fraction such as 8/255.") from error
    if not 0 <= eps < float("inf"):
        raise InputError(f"The radius {value!r} must be a finite number of at least 0.")
    return eps


def _fraction(text: str) -> float:
    """Read a number, or two with a stroke between them, such as 0.5/255."""
    if "_" in text or not text.isascii():  # which Python would read
        raise ValueError("no plain number")
    over, stroke, under = text.partition("/")
    return float(Fraction(Decimal(over)) / int(under) if stroke else Fraction(over))


def parse_norm(value: str | int | float) -> Norm:
    """Read the name of a norm: Linf, L2, L1 and the aliases inf, 2, 1.

    Raises:
        InputError: another name.
    """
    text = str(value)
    if text in get_args(Norm):
        return text  # type: ignore[return-value]
    if text.lower() in _ALIASES:
        return _ALIASES[text.lower()]
    raise InputError(f"Unknown norm {value!r}: use Linf, L2 or L1.")


@dataclass(frozen=True)
class ThreatModel:
    """All images within distance ``eps`` of the clean one and inside [0, 1].

    Attributes:
        norm: "Linf", "L2" or "L1", the spelling of AutoAttack and RobustBench.
        eps: radius in [0, 1] pixel units.

    Raises:
        InputError: unknown norm, negative radius, or an Linf radius above 1 (pixels in 0-255 units?).
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", parse_norm(self.norm))
        object.__setattr__(self, "eps", parse_eps(self.eps))
        if self.norm == "Linf" and self.eps > 1:
            raise InputError(
                f"The Linf radius {self.eps:g} is above 1: pixels are in [0, 1], so write {self.eps:g}/255."
            )

    @property
    def eps_text(self) -> str:
        """The radius exactly, as the field writes it: "8/255" for so many steps of 8 bits, or quarters of one."""
        quarters = self.eps * 255 * 4
        short = f"{self.eps:g}"
        if float(short) == self.eps:  # 0.2 is 51/255, but nobody writes it so
            return short
        return f"{round(quarters) / 4:g}/255" if abs(quarters - round(quarters)) < 1e-9 else repr(self.eps)

    def __str__(self) -> str:
        return f"{self.norm} {self.eps_text}"

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return the norm of each ``x_adv - x``, (N, ...) -> (N,)."""
        delta = (x_adv - x).flatten(1)
        if self.norm == "Linf":
            return delta.abs().amax(1)
        # Summed in float32, the norm of a large image is wrong by more than the tolerance of ``contains``.
        length: Tensor = torch.linalg.vector_norm(delta, ord=2 if self.norm == "L2" else 1, dim=1, dtype=torch.float64)
        return length.to(x.dtype)

    def project(self, x_adv: Tensor, x: Tensor, eps: Tensor | None = None) -> Tensor:
        """Move each ``x_adv`` into the set.

        Linf and L1 give the nearest point of the set. L2 scales the perturbation and then clips to [0, 1], which
        shortens every coordinate because ``x`` is inside the range: the nearest point of the ball only.

        Args:
            x_adv: perturbed images (N, ...).
            x: clean images (N, ...) in [0, 1].
            eps: radius of each image (N,), in the units of x; the threat's own if None.

        Returns:
            (N, ...), each at distance at most eps from x and in [0, 1].

        Example:
            >>> ThreatModel("Linf", 0.1).project(torch.tensor([[0.9]]), torch.tensor([[0.5]]))
            tensor([[0.6000]])
        """
        radius = _radius(self.eps if eps is None else eps, x)
        if self.norm == "L1":
            return project_l1_box(x_adv, x, radius.flatten())
        delta = x_adv - x
        if self.norm == "Linf":
            delta = torch.minimum(torch.maximum(delta, -radius), radius)
        else:
            # In float64 for the reason given in ``distance``.
            length = torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64).view_as(radius)
            delta = delta * (radius / length.clamp_min(1e-12)).clamp_max(1).to(delta.dtype)
        return (x + delta).clamp_(0, 1)

    def projection(self, x: Tensor) -> Projection:
        """Return the projection onto the set around ``x`` (N, ...), prepared for many calls.

        For Linf the set is a box, whose corners are computed once; for L2 and L1 it is :meth:`project`.
        """
        if self.norm != "Linf":
            return lambda x_adv: self.project(x_adv, x)
        low, high = (x - self.eps).clamp_(min=0), (x + self.eps).clamp_(max=1)
        return lambda x_adv: torch.clamp(x_adv, low, high)

    def sample(self, x: Tensor, noise: Noise, eps: Tensor | None = None) -> Tensor:
        """Draw a point of each ball uniformly, then clip it to [0, 1].

        The L2 and L1 balls use Gaussian and Laplace directions with radius eps·U^(1/d) (Barthe et al. 2005).
        """
        radius = _radius(self.eps if eps is None else eps, x)
        shape = x.shape[1:]
        if self.norm == "Linf":
            return (x + radius * (2 * noise.uniform(shape, x.device) - 1)).clamp_(0, 1)
        if self.norm == "L2":
            direction = noise.normal(shape, x.device)
            length = torch.linalg.vector_norm(direction.flatten(1), dim=1)
        else:
            u = noise.uniform(shape, x.device) - 0.5
            direction = -u.sign() * torch.log1p(-2 * u.abs().clamp_max(0.5 - 1e-7))
            length = direction.flatten(1).abs().sum(1)
        share = noise.fold("radius").uniform((), x.device) ** (1 / shape.numel())
        factor: Tensor = (share / length.clamp_min(1e-12)).view_as(radius)
        return (x + radius * factor * direction).clamp_(0, 1)

    def pace(self, step: int, steps: int) -> float:
        """Return by what to multiply the length of a step of several equal ones, ``step`` in 0 … steps - 1.

        It is 1; in L1 it falls linearly, with a mean of 1. A step of constant length and the projection after it leave
        a part of an L1 radius, about as large as the step, on coordinates that are not worth it.
        """
        return 1.0 if self.norm != "L1" else 2 * (steps - step) / (steps + 1)

    def ascend(self, gradient: Tensor, x_adv: Tensor, length: float | Tensor = 0.0) -> Tensor:
        """Return a step of length 1 that raises the loss: (N, ...) -> (N, ...).

        Linf takes the sign, L2 the normalised gradient. L1 gives one half of the step to the steepest coordinate, and
        the other evenly to the 1 % steepest, as one coordinate at a time makes poor progress inside a pixel range
        (Tramèr & Boneh 2019, SLIDE); never to one of less than 0.6 times the steepest gradient. No coordinate gets
        more than it has room for, and what is left goes to the next steepest: so the step rises by at least 0.8 times
        as much as the steepest of its length does (our bound). A zero gradient gives a zero step.

        Args:
            gradient: of the loss (N, ...).
            x_adv: where it was taken (N, ...).
            length: that the step will be multiplied by, a number or broadcast over images, which bounds what a
                coordinate has room for in L1; 0 for a step so short that none meets its limit.
        """
        if self.norm == "Linf":
            return gradient.sign()
        flat = gradient.flatten(1)
        if self.norm == "L2":
            # Dividing by the largest entry first keeps tiny float32 gradients from underflowing when squared.
            largest = flat.abs().amax(1, keepdim=True)
            flat = torch.where(largest > 0, flat / largest, 0)
            norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
            unit: Tensor = flat / norm.clamp_min(1)
            return unit.view_as(gradient)
        position = x_adv.flatten(1)
        span = torch.as_tensor(length, dtype=position.dtype, device=position.device).reshape(-1, 1)
        room = torch.where(flat > 0, 1 - position, position).clamp_min(0) / span
        return (_sparse_step(flat.abs(), room.nan_to_num(0)) * flat.sign()).view_as(gradient)

    def contains(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Tell which ``x_adv`` the attacker may use, (N, ...) -> (N,) bool.

        The distance may exceed eps by the rounding of float32 (:func:`classwise.tolerance.tolerated`), and every pixel
        must be in [0, 1] exactly. The norms are summed in float64, so that large images stay within that tolerance.
        """
        inside = self.distance(x_adv.double(), x.double()) <= tolerated(self.eps)
        flat = x_adv.flatten(1)
        return inside & (flat >= 0).all(1) & (flat <= 1).all(1)


def over_pixels(values: Tensor, x: Tensor) -> Tensor:
    """Shape one value an image (N,) so that it broadcasts over the pixels of images (N, …).

    Example:
        >>> over_pixels(torch.ones(2), torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 1, 1, 1])
    """
    return values.view(-1, *[1] * (x.dim() - 1))


def _radius(eps: float | Tensor, x: Tensor) -> Tensor:
    return over_pixels(torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(x.shape[0]), x)


def _sparse_step(size: Tensor, room: Tensor) -> Tensor:
    """Return how far each coordinate moves in an L1 step of length 1; see :meth:`ThreatModel.ascend`.

    Args:
        size: of the gradient in each coordinate (N, D).
        room: of each coordinate in units of the step (N, D), infinite where none is met.
    """
    size, order = size.sort(dim=1, descending=True, stable=True)
    room = torch.where(size > 0, room.gather(1, order), 0)
    amount = _filled(room, torch.full_like(room[:, :1], _STEEPEST))
    left = room - amount
    worth = (left > 0) & (size >= _WORTH * torch.where(left > 0, size, 0).amax(1, keepdim=True))
    count = worth.sum(1, keepdim=True).clamp(1, max(1, round(_SHARE * size.shape[1])))
    amount += _filled(torch.where(worth, left.minimum((1 - _STEEPEST) / count), 0), 1 - amount.sum(1, keepdim=True))
    amount += _filled(room - amount, (1 - amount.sum(1, keepdim=True)).clamp_min(0))
    return torch.zeros_like(size).scatter_(1, order, amount)


def _filled(room: Tensor, need: Tensor) -> Tensor:
    """Return what each room (N, D) takes of ``need`` (N, 1) if they are filled in their order."""
    room = room.minimum(need)  # finite, so that its sums are
    return (need - (room.cumsum(1) - room)).clamp_min(0).minimum(room)


def project_l1_box(x_adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    """Return the nearest point of the L1 ball *and* the pixel range (Croce & Hein 2021, proposition 2.1).

    Coordinate i moves from x by min(max(|x_adv − x| − t, 0), room to its limit), with the smallest t ≥ 0 at which the
    moves add up to at most eps. Their sum is linear in t between the points where a coordinate starts or stops
    to count, so sorting these finds t exactly. Clipping after a projection onto the ball alone (Duchi et al. 2008)
    would give away what the clipping cuts off.

    Args:
        x_adv: perturbed images (N, ...).
        x: clean images (N, ...) in [0, 1].
        eps: radius, or one of each image (N,).

    Example:
        >>> x = torch.tensor([[0.9, 0.5]])
        >>> project_l1_box(x + torch.tensor([[0.4, 0.3]]), x, 0.3)
        tensor([[1.0000, 0.7000]])
    """
    clean = x.flatten(1).double()  # in float32 the sums over a large image miss the tolerance of the threat
    delta = x_adv.flatten(1).double() - clean
    size, room = delta.abs(), torch.where(delta > 0, 1 - clean, clean)
    threshold = _threshold(size, room, torch.as_tensor(eps, dtype=clean.dtype, device=x.device).expand(len(x)))
    length = torch.minimum((size - threshold[:, None]).clamp_min(0), room)
    moved = (clean + delta.sign() * length).to(x.dtype)
    # Rounded to float32, a point may lie outside by more than the sum over its pixels may: round towards x.
    too_far = (moved.double() - clean).abs() > length
    return torch.where(too_far, torch.nextafter(moved, x.flatten(1)), moved).view_as(x)


def _threshold(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Return the smallest t ≥ 0 (N,) at which Σ min(max(size − t, 0), room) ≤ eps (N,)."""
    # Downwards from the largest, t passes each size, where that coordinate starts to count, and each size − room,
    # where it stops.
    points, order = torch.cat([size, (size - room).clamp_min(0), size.new_zeros(len(size), 1)], 1).sort(
        1, descending=True
    )
    start = torch.where(order < size.shape[1], 1.0, -1.0).to(size.dtype)
    counting = start.cumsum(1)
    total = ((points[:, :-1] - points[:, 1:]) * counting[:, :-1]).cumsum(1)  # the sum at points[:, 1:]
    inside = (total <= eps[:, None]).sum(1)  # how many of these points, from above, keep to eps
    at = inside.clamp_max(total.shape[1] - 1)[:, None]
    excess = total.gather(1, at).squeeze(1) - eps
    threshold = points.gather(1, at + 1).squeeze(1) + excess / counting.gather(1, at).squeeze(1).clamp_min(1)
    return torch.where(inside < total.shape[1], threshold, 0)
