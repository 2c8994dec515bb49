"""What every attack shares: its call, the model's mode while it runs, and how a prediction is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from classwise.errors import InputError
from classwise.noise import Noise
from classwise.runtime.classifier import failures_said
from classwise.threat import ThreatModel

_NARROW = 8  # a batch drops its fooled images once they are an eighth of it: copying costs as well
INVALID = -1
"""Prediction where a logit is NaN or infinite: never the true class, and no other class either."""


class Attack(Protocol):
    """Frozen settings that, called with a model, return a candidate for every image."""

    @property
    def threat(self) -> ThreatModel:
        """What the attack may do to an image."""
        ...

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images.

        Args:
            model: takes [0, 1], returns logits (N, K).
            x: clean images (N, C, H, W) in [0, 1].
            y: true classes (N,).
            noise: the random numbers of these images; the same noise gives the same result.

        Returns:
            x_adv (N, C, H, W) in the threat set, misclassified where the attack succeeded.
        """
        ...


def input_gradient(loss: Tensor, x: Tensor, *, keep_graph: bool = False) -> Tensor:
    """Return the gradient of the summed ``loss`` in ``x``: zero where the model cuts the graph, as a mask does.

    It is zero as well where it is not a number: a step along it would leave the threat set with every pixel.
    ``keep_graph`` leaves the graph for the gradient of another loss of the same logits.
    """
    if not loss.requires_grad:
        return torch.zeros_like(x)
    with failures_said(f"In the backward pass of the model, on images {tuple(x.shape)}"):
        gradient = torch.autograd.grad(loss.sum(), x, retain_graph=keep_graph, allow_unused=True)[0]
    return torch.zeros_like(x) if gradient is None else gradient.nan_to_num()


def predict(logits: Tensor, y: Tensor) -> Tensor:
    """Return the predicted class (N,), by the verdict rule of docs/evaluation.md.

    A tie with the true class counts against it; logits that are not finite give ``INVALID``.
    """
    rivals = logits.scatter(1, y[:, None], -torch.inf)
    best = rivals.amax(1)
    lost = best >= logits.gather(1, y[:, None]).squeeze(1)
    predicted = torch.where(lost, rivals.argmax(1), y)
    return torch.where(logits.isfinite().all(1), predicted, INVALID)


def is_attack(value: Any) -> bool:
    """Tell whether a value is an attack: it can be called, has a threat, and is no network."""
    return callable(value) and hasattr(value, "threat") and not isinstance(value, nn.Module | type)


def scaled(attack: Any, share: float) -> Any:
    """Return an attack with ``share`` times its radius and its step, 0 < share <= 1, as has each that it is made of.

    Its fields say how: every threat and every ``step_size`` in them. Where lengths have other names, the attack's own
    ``scaled(share)`` does it.

    Raises:
        InputError: the attack is no frozen dataclass and has no ``scaled`` either.
    """
    weaker = _scaled(attack, share)
    if weaker.threat.eps != share * attack.threat.eps:
        raise InputError(
            f"The attack {type(attack).__name__} cannot be given a smaller radius: make it a frozen dataclass with a "
            "threat, or give it a method scaled(share)."
        )
    return weaker


def _scaled(value: Any, share: float) -> Any:
    if isinstance(value, ThreatModel):
        return replace(value, eps=share * value.eps)
    if isinstance(value, tuple):
        return tuple(_scaled(item, share) for item in value)
    if hasattr(value, "scaled"):
        return value.scaled(share)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    held = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    new = {
        name: share * setting if name == "step_size" and setting else _scaled(setting, share)
        for name, setting in held.items()
    }
    return replace(value, **new)


def described(attack: Any) -> Any:
    """Return an attack, or a plan, as its kind and its fields, for JSON: what a record holds of it.

    The kind is the name of its class, with the module where that is none of classwise, since another class may have the
    same name. Fields that ``repr`` leaves out change no verdict and stay out. What is no plain value, such as a loss
    that is a function, is named by its kind alone.

    Args:
        attack: a frozen dataclass of settings, or a value of one of its fields.

    Example:
        >>> described(ThreatModel("L2", 0.5))
        {'kind': 'ThreatModel', 'norm': 'L2', 'eps': 0.5}
    """
    if attack is None or isinstance(attack, bool | int | float | str):
        return attack
    if isinstance(attack, tuple | list):
        return [described(item) for item in attack]
    if isinstance(attack, Mapping):
        return {str(name): described(value) for name, value in attack.items()}
    settings = fields(attack) if is_dataclass(attack) else ()
    return {"kind": kind_of(attack)} | {
        item.name: described(getattr(attack, item.name)) for item in settings if item.repr
    }


def kind_of(value: object) -> str:
    """Return the name of a value's class, with the module where that is none of classwise."""
    kind = type(value)
    own = kind.__module__.partition(".")[0] == "classwise"
    return kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"


def compaction_pays(right: Tensor) -> bool:
    """Tell whether a batch has so many images (N,) that fooled the model that copying the others out pays.

    Until then these images go on in the batch, and nothing that happens to them counts.
    """
    return bool(right.sum() * _NARROW <= len(right) * (_NARROW - 1))


def side_by_side(images: Tensor, attempts: int, rows: int) -> tuple[Tensor, ...]:
    """Split the positions of images (N,) into parts whose attempts, a row for each at each image, fit into ``rows``.

    Few images make a small batch, whose passes cost nearly as much as those of a larger one. As the attempts at an
    image (towards its targets) do not know of each other, they share a batch: row k·n + i is attempt k at image i of n.
    Where one succeeds, the others at this image stop; of two that succeed in the same step the first counts. So what an
    image comes to does not depend on the parts.
    """
    return torch.split(images, max(1, rows // attempts)) if len(images) else ()


def stacked(images: Tensor, attempts: int) -> Tensor:
    """Return a row for each attempt at each image, (N, …) -> (attempts·N, …), as :func:`side_by_side` orders them."""
    return images.repeat(attempts, *[1] * (images.dim() - 1))


def any_attempt(rows: Tensor, images: int) -> Tensor:
    """Tell for each row of attempts side by side whether ``rows`` holds for any attempt at its image, (R,) -> (R,)."""
    return rows.view(-1, images).any(0).repeat(len(rows) // images)


def best_attempt(value: Tensor, images: int) -> Tensor:
    """Return the row of the attempt with the largest value at each image, the first of several, (R,) -> (images,)."""
    return value.view(-1, images).argmax(0) * images + torch.arange(images, device=value.device)
