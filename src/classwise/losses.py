"""Losses an attack climbs and a defence descends: one value an image, larger means more wrong.

Every loss here has the form ``(logits (N, K), y (N,)) -> (N,)``; a method takes the mean, never the loss. A
targeted attack descends the loss of its target instead, except DLR, which has a targeted form of its own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from classwise.errors import InputError
from classwise.registry import entry, parse, register

Loss = Callable[[Tensor, Tensor], Tensor]


@register("loss", "cross_entropy", source="Madry et al. 2018")
def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the softmax: −log p_y."""
    return F.cross_entropy(logits, y, reduction="none")


@register("loss", "margin", source="Carlini & Wagner 2017")
def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Margin of the strongest wrong class: max_{j≠y} z_j − z_y, positive exactly where y loses."""
    return _wrong(logits, y).amax(1) - _true(logits, y)


def difference(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Difference of the logits of two classes, z_t − z_y: (N, K), (N,), (N,) -> (N,)."""
    return _true(logits, target) - _true(logits, y)


@register("loss", "dlr", source="Croce & Hein 2020, eq. 6")
def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: (max_{j≠y} z_j − z_y) / (z_(1) − z_(3)), free of the logits' scale and shift.

    Two classes have no third logit; there the plain margin is returned, as the ratio would be constant.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR: (z_t − z_y) / (z_(1) − (z_(3) + z_(4))/2), Croce & Hein 2020, eq. 7.

    Fewer than four classes: the difference z_t − z_y alone.
    """
    lead = difference(logits, y, target)
    if logits.shape[1] < 4:
        return lead
    top = logits.topk(4, dim=1).values
    return lead / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


@register("loss", "soft_margin", source="our derivation, docs/temperature-pgd.md")
def soft_margin(logits: Tensor, y: Tensor, temperature: float = 1.0) -> Tensor:
    """Soft margin M_T(z) = T·logsumexp_{j≠y}(z_j/T) − z_y, less the constant T·log(K − 1) where T > 1.

    Its gradient has the direction of that of the cross-entropy of z/T, without the factor (1 − p_y)/T that
    underflows in float32 (docs/temperature-pgd.md). T → 0 gives the margin, T → ∞ weighs all wrong classes alike.

    Args:
        logits: (N, K); computed in float32 at least.
        y: true classes (N,).
        temperature: T > 0, in units of the logits.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    soft = temperature * torch.logsumexp(_wrong(wide, y) / temperature, dim=1)
    if temperature > 1:
        soft = soft - temperature * math.log(logits.shape[1] - 1)
    return soft - _true(wide, y)


@register("loss", "tempered_cross_entropy", source="Tian et al. 2021, standard form, equation not verified")
def tempered_cross_entropy(logits: Tensor, y: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the softmax of z/T, the plain form of Temperature-PGD; underflows where margin/T ≥ 17."""
    return cross_entropy(logits / temperature, y)


def kl(logits_adv: Tensor, logits: Tensor) -> Tensor:
    """Divergence KL(p ‖ p_adv) = Σ_j p_j·(log p_j − log p_adv_j), summed over classes (TRADES, Zhang et al. 2019).

    Args:
        logits_adv: logits on the perturbed images (N, K).
        logits: logits on the clean images (N, K).

    Returns:
        (N,), never negative beyond rounding; gradients flow into both arguments.
    """
    log_p = F.log_softmax(logits, 1)
    return F.kl_div(F.log_softmax(logits_adv, 1), log_p, log_target=True, reduction="none").sum(1)


def named(text: str) -> Loss:
    """Return the loss that ``text`` names, settings included: ``"margin"``, ``"soft_margin(temperature=0.1)"``.

    Raises:
        InputError: no such loss, or settings that it does not take.
    """
    name, settings = parse(text)
    loss = entry("loss", name).build
    unknown = set(settings) - (set(inspect.signature(loss).parameters) - {"logits", "y"})
    if unknown:
        raise InputError(f"The loss {name!r} takes no setting {', '.join(sorted(unknown))}.")
    if not settings.get("temperature", 1) > 0:
        raise InputError(f"The temperature in {text!r} must be above 0.")
    return partial(loss, **settings) if settings else loss


def targeted(text: str, target: Tensor) -> Loss:
    """Return the loss whose ascent drives each image into its class of ``target`` (N,).

    DLR has a targeted formula; every other loss is descended with the target in place of the true class.
    """
    if parse(text)[0] == "dlr":
        return lambda logits, y: dlr_targeted(logits, y, target)
    loss = named(text)
    return lambda logits, y: -loss(logits, target)


def _true(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


def _wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logits with the true class at minus infinity, which max and logsumexp leave out."""
    return logits.scatter(1, y[:, None], -math.inf)
