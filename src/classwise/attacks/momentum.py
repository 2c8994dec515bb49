"""Momentum PGD: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018 (arXiv 1710.06081)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classwise import losses
from classwise.attacks.base import input_gradient, predict
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.inference import attacking
from classwise.threat import ThreatModel


@dataclass(frozen=True)
class MomentumPGD:
    """PGD along a decaying sum of gradients, each scaled to L1 length 1; an image keeps its first fooling iterate.

    ``steps=10, step_size=eps/10, start="clean"`` is the paper's MI-FGSM; the random start is ours.

    Attributes:
        threat: the set of allowed images.
        steps: gradients.
        step_size: length of a step in the threat's norm; None for 2.5·eps/steps. In L1 the steps fall linearly, and
            this is their mean (:meth:`classwise.threat.ThreatModel.pace`).
        decay: what is left of the sum at each step; 0 is PGD.
        start: "clean" or "uniform" in the ball.
        loss: name of the loss that is climbed.

    Raises:
        InputError: a setting outside its range.
    """

    threat: ThreatModel
    steps: int = 20
    step_size: float | None = None
    decay: float = 1.0
    start: Literal["clean", "uniform"] = "uniform"
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def length(self) -> float:
        """Step size in use."""
        return 2.5 * self.threat.eps / self.steps if self.step_size is None else self.step_size

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`."""
        loss, active = losses.named(self.loss), torch.arange(len(x), device=x.device)
        with attacking(model) as model:
            x = x.detach()
            x_adv = x.clone() if self.start == "clean" else self.threat.sample(x, noise.fold("start"))
            result, total = x_adv.clone(), torch.zeros_like(x_adv)
            for step in range(self.steps + 1):
                point = x_adv.requires_grad_(step < self.steps)
                logits = model(point)
                right = predict(logits.detach(), y[active]) == y[active]
                result[active] = point.detach()
                if step == self.steps or not right.any():
                    break
                gradient = input_gradient(loss(logits, y[active])[right], point)[right]
                active, x_adv = active[right], point.detach()[right]
                total = self.decay * total[right] + _unit(gradient)
                now = self.length * self.threat.pace(step, self.steps)
                x_adv = self.threat.project(x_adv + now * self.threat.ascend(total, x_adv, now), x[active])
        return result


def _unit(gradient: Tensor) -> Tensor:
    """Scale each gradient (N, ...) to L1 length 1; zero stays zero."""
    flat = gradient.flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)  # sums without underflow
    return (flat / flat.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)


def _check(attack: MomentumPGD) -> None:
    if not isinstance(attack.steps, int) or attack.steps < 1:
        raise InputError("Momentum PGD needs a whole number of steps, at least 1.")
    if not all(0 <= value < math.inf for value in (attack.length, attack.decay)):
        raise InputError("Momentum PGD needs a step size and a decay that are finite and at least 0.")
    if attack.start not in ("clean", "uniform"):
        raise InputError(f"Momentum PGD has no start {attack.start!r}: use clean or uniform.")
    losses.named(attack.loss)


@register("attack", "mi-pgd", source="Dong et al. 2018; the random start is ours")
def mi_pgd(threat: ThreatModel, **settings: Any) -> MomentumPGD:
    """PGD-20 with momentum on the cross-entropy; start='clean' is MI-FGSM."""
    return MomentumPGD(threat, **settings)
