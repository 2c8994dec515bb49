"""What a model computes, in a few numbers: its logits and input gradients on fixed images.

Weights alone do not say what a model is: the code around them may change. Two fingerprints are compared with a
tolerance, since batch size, threads and processors round differently; a hash of the numbers would not do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from classwise.errors import InputError
from classwise.models.seeded import same_draws

ROUNDING = 1e-4
"""Difference of a number, as a share of the largest, that rounding explains; float32 keeps seven digits."""

_GRADIENT = 0.02  # the same of input gradients, mean of the images, where a ReLU near 0 may open or close
_NUDGE = 1e-6  # of a pixel: what it changes tells how far a model carries rounding
_TIMES = 3  # as far may rounding go on another machine
_ROWS = 8  # images of a pass, whatever the batch size, for models whose logits depend on it
_SKETCH = 2  # numbers kept of each image's logits


@dataclass(frozen=True)
class Fingerprint:
    """What a model computes on n images.

    Attributes:
        logits: two weighted sums of each image's logits, (n·2,); None where they are not finite.
        gradients: length of each image's input gradient, and its part along a fixed direction, (n·2,); empty where the
            model has no gradient.
        tolerance: difference of a sum that rounding, or the model's own chance, may make.
        gradient_tolerance: the same of gradients, as a share of their length, mean of the images.
        drawn_on: device and version of PyTorch whose random numbers a randomised model drew; None for other models.
        spread: difference of a sum that other random numbers made.
    """

    logits: tuple[float | None, ...]
    gradients: tuple[float, ...]
    tolerance: float
    gradient_tolerance: float
    drawn_on: str | None
    spread: float

    @property
    def record(self) -> dict[str, Any]:
        """The fingerprint for JSON."""
        return {**asdict(self), "logits": list(self.logits), "gradients": list(self.gradients)}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint of a record.

        Raises:
            TypeError, ValueError: it is none.
        """
        fields = {**record, "logits": tuple(record["logits"]), "gradients": tuple(record["gradients"])}
        return cls(**fields)

    def change(self, now: Fingerprint) -> str | None:
        """Say how a model that computed this differs from one that computes ``now``; None if it is the same.

        A model that draws random numbers is given the same ones, and where device or version are others, and so the
        numbers, may differ by what chance makes.
        """
        images = len(self.logits) // _SKETCH
        if len(self.logits) != len(now.logits) or _finite(self.logits) != _finite(now.logits):
            return f"its logits are finite on other images, of {images}"
        pairs = [(a, b) for a, b in zip(self.logits, now.logits, strict=True) if a is not None and b is not None]
        gap = max((abs(a - b) for a, b in pairs), default=0.0)
        elsewhere = self.drawn_on is not None and now.drawn_on is not None and self.drawn_on != now.drawn_on
        allowed = self.tolerance + (_TIMES * self.spread if elsewhere else 0.0)
        if not gap <= allowed:
            largest = max(abs(a) for a, _ in pairs)
            rounding = f"rounding explains {_share(allowed, largest)}"
            return f"its logits differ by {_share(gap, largest)} on {images} images, where {rounding}"
        if elsewhere:
            return None
        if bool(self.gradients) != bool(now.gradients):
            return "its logits are the same, but only one of the two has an input gradient"
        turned = _turned(self.gradients, now.gradients)
        if not turned <= self.gradient_tolerance:
            return f"its logits are the same, but its input gradients differ by {turned:.2g} of their length"
        return None


def fingerprint(model: Callable[[Tensor], Tensor], x: Tensor) -> Fingerprint | None:
    """Return the fingerprint of a model, None where it cannot take the images.

    Args:
        model: in eval mode and float32; gives logits (N, K). It is called with eight images at a time.
        x: images (n, C, H, W) in [0, 1]. They are passed as they are and with noise, as a model may round to 8 bits.
    """
    x = _with_noise(x)
    try:
        with warnings.catch_warnings(action="ignore"):  # of the model's own, which it gives in every pass
            first, again, nudged = (_numbers(model, x, seed, by) for seed, by in ((0, 0.0), (0, 0.0), (0, _NUDGE)))
            other = _numbers(model, x, 1, 0.0)
    except Exception:  # the evaluation itself says what is wrong with it
        return None
    largest = max((abs(value) for value in first[0] if value is not None), default=0.0)
    tolerance = max(ROUNDING * largest, _TIMES * _gap(first[0], nudged[0]), _TIMES * _gap(first[0], again[0]))
    spread = _gap(first[0], other[0])
    drawn_on = f"{x.device.type}, torch {torch.__version__}" if spread > tolerance else None
    turned = max(_GRADIENT, *(_TIMES * _turned(first[1], other[1]) for other in (again, nudged)))
    return Fingerprint(*first, tolerance, turned, drawn_on, spread)


def patterns(shape: Sequence[int]) -> Tensor:
    """Return images (8, C, H, W), four smooth and four not, to look at a model with where no data are at hand.

    Args:
        shape: (C, H, W).
    """
    fine = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([F.interpolate(F.adaptive_avg_pool2d(fine, 3), tuple(shape[1:]), mode="bilinear"), fine])


def refuse_changed(stored: Any, now: Mapping[str, Any], what: str, remedy: str = "choose another --out") -> None:
    """Refuse to go on where a model computes something else than it did, under the same weights.

    Args:
        stored: a record's fingerprints by the names of the models, as :attr:`Fingerprint.record` gives them; None in
            older records, which say nothing of it.
        now: those of the models at hand.
        what: the record, in words: "DIR holds the result".
        remedy: what else can be done than to restore the code.

    Raises:
        InputError: one of them is another function, or the record is damaged.
    """
    for name in now:
        before, here = (record.get(name) if isinstance(record, Mapping) else None for record in (stored, now))
        if before is None or here is None:
            continue
        try:
            change = Fingerprint.read(before).change(Fingerprint.read(here))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{what}, whose fingerprint of {name} is damaged; {remedy}.") from error
        if change is not None:
            raise InputError(
                f"{what} of other code: the weights of {name} are the same, but {change}; restore the code, or "
                f"{remedy}."
            )


Numbers = tuple[tuple[float | None, ...], tuple[float, ...]]


def _numbers(model: Callable[[Tensor], Tensor], x: Tensor, seed: int, nudge: float) -> Numbers:
    signs = torch.cos(torch.arange(x[0].numel(), dtype=torch.float64) * 2.3).sign().view_as(x[0]).to(x)
    x = (x + nudge * signs).clamp(0, 1).detach()
    with same_draws(x.device, seed), torch.no_grad():
        sums = torch.cat([_sums(model(part.clone())) for part in torch.split(x, _ROWS)])
    finite = sums.isfinite().tolist()
    rounded = tuple(float(f"{v:.7g}") if ok else None for v, ok in zip(sums.tolist(), finite, strict=True))
    return rounded, _gradients(model, x, seed, signs)


def _with_noise(x: Tensor) -> Tensor:
    """Return images and the same images moved by up to two steps of 8 bits, (n, …) -> (2n, …)."""
    wave = torch.cos(torch.arange(x.numel(), dtype=torch.float64, device=x.device) * 1.9).view_as(x)
    return torch.cat([x, (x + wave.to(x) / 128).clamp(0, 1)])


def _sums(logits: Tensor) -> Tensor:
    """Return two weighted sums of the logits of each image, (n, K) -> (n·2,)."""
    classes = torch.arange(logits.shape[1], dtype=torch.float64)
    weights = torch.stack([torch.cos(1.7 * (j + 1) * classes + j) for j in range(_SKETCH)], 1).to(logits.device)
    return (logits.double() @ weights).flatten()


def _gradients(model: Callable[[Tensor], Tensor], x: Tensor, seed: int, signs: Tensor) -> tuple[float, ...]:
    parts = [part.clone().requires_grad_(True) for part in torch.split(x, _ROWS)]
    try:
        with same_draws(x.device, seed), torch.enable_grad():
            totals = [_sums(model(part.clone())).nan_to_num().sum() for part in parts]
            gradients = [torch.autograd.grad(total, part)[0] for total, part in zip(totals, parts, strict=True)]
    except RuntimeError:  # no graph, or none that leads to the images
        return ()
    gradient = torch.cat(gradients).nan_to_num().double().flatten(1)
    along = gradient @ signs.double().flatten() / signs.numel() ** 0.5
    return tuple(float(f"{value:.7g}") for value in torch.stack([gradient.norm(dim=1), along], 1).flatten().tolist())


def _finite(values: Sequence[float | None]) -> list[bool]:
    return [value is not None for value in values]


def _gap(one: Sequence[float | None], two: Sequence[float | None]) -> float:
    return max((abs(a - b) for a, b in zip(one, two, strict=True) if a is not None and b is not None), default=0.0)


def _turned(one: Sequence[float], two: Sequence[float]) -> float:
    """Return the difference of two gradients as a share of the first one's length, at most 1, mean of the images."""
    if len(one) != len(two):
        return 1.0
    a, b = (torch.tensor(numbers, dtype=torch.float64).view(-1, 2) for numbers in (one, two))
    gap = (a - b).abs().amax(1)
    return float(torch.where(gap > 0, gap / a[:, 0], 0.0).clamp_max(1).mean()) if len(a) else 0.0


def _share(value: float, largest: float) -> str:
    return f"{value / largest:.2g} of the largest" if largest > 0 else f"{value:.2g}"
