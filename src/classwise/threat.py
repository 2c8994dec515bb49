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
        """Move each ``x_adv`` into the set: scale or clip the perturbation, then clip to [0, 1].

        Clipping to the pixel range afterwards shortens every coordinate, because ``x`` is inside the range, so
        the result is in both sets. For L2 it is the nearest point of the ball only, not of the intersection.

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
        delta = x_adv - x
        if self.norm == "Linf":
            delta = torch.minimum(torch.maximum(delta, -radius), radius)
        elif self.norm == "L2":
            # In float64 for the reason given in ``distance``.
            length = torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64).view_as(radius)
            delta = delta * (radius / length.clamp_min(1e-12)).clamp_max(1).to(delta.dtype)
        else:
            delta = _project_l1(delta.flatten(1), radius.flatten()).view_as(delta)
        moved = x + delta
        if self.norm == "L1":
            # Soft thresholding leaves all pixels the same fraction of a float32 step from the next float, so their
            # roundings add up over the image instead of cancelling: round towards x.
            moved = torch.where((moved - x).abs() > delta.abs(), torch.nextafter(moved, x), moved)
        return moved.clamp_(0, 1)

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

    def ascend(self, gradient: Tensor, x_adv: Tensor) -> Tensor:
        """Return a step of length 1 that raises the loss: (N, ...) -> (N, ...).

        Linf takes the sign, L2 the normalised gradient. L1 spreads the step evenly over the 1 % of coordinates
        with the largest gradient that can still move, as the single steepest coordinate makes poor progress
        inside a pixel range (Tramèr & Boneh 2019, SLIDE). A zero gradient gives a zero step.
        """
        if self.norm == "Linf":
            return gradient.sign()
        flat = gradient.flatten(1)
        if self.norm == "L2":
            # Dividing by the largest entry first keeps tiny float32 gradients from underflowing when squared.
            largest = flat.abs().amax(1, keepdim=True)
            flat = torch.where(largest > 0, flat / largest, 0)
            length = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
            unit: Tensor = flat / length.clamp_min(1)
            return unit.view_as(gradient)
        position = x_adv.flatten(1)
        stuck = ((flat > 0) & (position >= 1)) | ((flat < 0) & (position <= 0))
        movable = flat.masked_fill(stuck, 0)
        count = max(1, round(0.01 * flat.shape[1]))
        top = movable.abs().topk(count, dim=1).indices
        step = torch.zeros_like(flat).scatter_(1, top, movable.gather(1, top).sign())
        return (step / step.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)

    def contains(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Tell which ``x_adv`` the attacker may use, (N, ...) -> (N,) bool.

        The distance may exceed eps by the rounding of float32 (:func:`classwise.tolerance.tolerated`), and every pixel
        must be in [0, 1] exactly. The norms are summed in float64, so that large images stay within that tolerance.
        """
        inside = self.distance(x_adv.double(), x.double()) <= tolerated(self.eps)
        flat = x_adv.flatten(1)
        return inside & (flat >= 0).all(1) & (flat <= 1).all(1)


def _radius(eps: float | Tensor, x: Tensor) -> Tensor:
    radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(x.shape[0])
    return radius.view(-1, *[1] * (x.dim() - 1))


def _project_l1(delta: Tensor, radius: Tensor) -> Tensor:
    """Project rows (N, D) onto L1 balls of ``radius`` (N,) by soft thresholding (Duchi et al. 2008)."""
    size = delta.abs().double()  # for the reason given in ``distance``
    ordered = size.sort(1, descending=True).values
    excess = ordered.cumsum(1) - radius[:, None]
    count = torch.arange(1, delta.shape[1] + 1, device=delta.device)
    support = (ordered * count > excess).sum(1).clamp_min(1)
    threshold = (excess.gather(1, support[:, None] - 1) / support[:, None]).clamp_min(0)
    return delta.sign() * (size - threshold).clamp_min(0).to(delta.dtype)
