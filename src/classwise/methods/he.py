"""Hypersphere embedding: Pang et al., "Boosting Adversarial Training with Hypersphere Embedding", NeurIPS 2020.

The network ends in a cosine head, z = s·cos θ, which is part of what is attacked (:mod:`classwise.models.heads`); this
file adds the margin of the training loss. Departures from the released code (ShawnXYang/AT_HE): there the network
returns bare cosines; each pass scales the rows of its last layer to length 1 in place, so they begin at length 1 and
their gradient does not pass through the division, as it does here, where rows begin shorter; s exists in the training
loss only, and the released evaluation attacks unscaled cosines, which is weak. Radius and step are those of the run
(released 0.031 and 0.007). Logits of this head are flat: report AutoAttack beside PGD, whose cross-entropy overstates
robustness here by four to seven points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy, kl
from classwise.methods.base import Method, Step, number
from classwise.models.heads import CosineHead, cosine_head
from classwise.noise import Noise
from classwise.registry import register

# Scale, margin and beta of the released commands; adversarial training has one term, and no beta.
_DEFAULTS = {"at": (10.0, 0.2, None), "trades": (15.0, 0.2, 6.0), "alp": (20.0, 0.3, 0.5)}


@register("method", "he", source="Pang et al. 2020")
class HE(Method):
    """Hypersphere embedding: a loss of base on s·cos θ, with margin in its cross-entropy, CE(s·(cos θ − m·1_y), y).

    The attack climbs the same logits s·cos θ without margin: the cross-entropy, for base "trades" the divergence.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used.
        base: "at", "trades" or "alp".
        scale: s of the head that ``classwise train`` puts on the network, above 0; 10, 15 and 20 for the three bases.
            A network that has its head already keeps its own s.
        margin: m in cosines, at least 0; 0.2, 0.2 and 0.3.
        beta: weight of the second term of "trades" (6, the divergence) and "alp" (0.5, the square error of cosines).

    Raises:
        InputError: a setting outside its range, a beta for base "at", or, when called, a network without the head.
    """

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        base: Literal["at", "trades", "alp"] = "at",
        scale: float | None = None,
        margin: float | None = None,
        beta: float | None = None,
    ) -> None:
        if base not in _DEFAULTS:
            raise InputError(f"Hypersphere embedding has no base {base!r}: use one of {', '.join(_DEFAULTS)}.")
        if base == "at" and beta is not None:
            raise InputError("Hypersphere embedding with base 'at' has one term and no beta; leave it out.")
        super().__init__(num_classes, replace(attack, loss="kl", start="jitter") if base == "trades" else attack)
        given = zip(("scale", "margin", "beta"), (scale, margin, beta), _DEFAULTS[base], strict=True)
        settings = {name: number(name, (usual or 0.0) if value is None else value) for name, value, usual in given}
        self.base, self.margin, self.beta = base, settings["margin"], settings["beta"]
        if settings["scale"] == 0:
            raise InputError("The scale of the cosine head must be above 0.")
        self.head = f"cosine(scale={settings['scale']!r})"

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the loss of the base with margin; the logits handed out have none."""
        head = _scaled(cosine_head(model))
        x_adv = self.attack(model, x, y, noise=noise)
        logits = None if self.base == "at" else model(x)
        logits_adv = model(x_adv)
        if logits is None:
            loss = margin_cross_entropy(logits_adv, y, head.scale, self.margin)
        else:
            loss = _LOSSES[self.base](logits_adv, logits, y, head.scale, self.margin, self.beta)
        return Step(loss.mean(), logits_adv, logits)


def margin_cross_entropy(logits: Tensor, y: Tensor, scale: Tensor, margin: float) -> Tensor:
    """Return CE(s·(cos θ − m·1_y), y), from logits s·cos θ (N, K) and s, a scalar: (N,)."""
    return cross_entropy(logits - scale * margin * F.one_hot(y, logits.shape[1]), y)


def _trades(logits_adv: Tensor, logits: Tensor, y: Tensor, scale: Tensor, margin: float, beta: float) -> Tensor:
    return margin_cross_entropy(logits, y, scale, margin) + beta * kl(logits_adv, logits)


def _alp(logits_adv: Tensor, logits: Tensor, y: Tensor, scale: Tensor, margin: float, beta: float) -> Tensor:
    errors = torch.stack([margin_cross_entropy(z, y, scale, margin) for z in (logits, logits_adv)])
    return errors.mean(0) + beta * ((logits - logits_adv) / scale).square().mean(1)


_LOSSES: dict[str, Callable[..., Tensor]] = {"trades": _trades, "alp": _alp}


def _scaled(head: CosineHead | None) -> CosineHead:
    if head is None or head.bare:
        raise InputError(
            "Hypersphere embedding trains a network that ends in a scaled cosine head; name one of our architectures, "
            "as in small_resnet(head='cosine(scale=10)')."
        )
    return head
