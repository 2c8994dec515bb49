"""Fair Robust Learning: Xu et al., "To be Robust or to be Fair: Towards Fairness in Adversarial Training", ICML 2021.

The update rules and numbers of the released code (hannxu123/fair_robust, uploads of 2021-06 and 2022-04), which
departs from the published algorithm: one pass an epoch instead of a loop until all constraints hold, a step twice as
long for the boundary multipliers, and a projection onto a capped set. Our departures: a held-out image counts as robust
if it is right when clean and at each step of PGD-20, where the release looks at the last alone, so that the boundary
error is never negative; the network sees x once in train mode and not
twice; `frl-rm`, too, scales each of its two terms by its own weights, where the upload of 2021-06 scales both by the
sum of all; the step of a radius above ε is in proportion to the step of the run (ε/4 by default, as in the release).

It goes on with a robust network at a low rate: recipe ``finetune-frl``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.methods.base import (
    BasedMethod,
    Epoch,
    Measured,
    Pass,
    Step,
    by_class,
    flag,
    normalised,
    number,
    under_attack,
    whole,
)
from classwise.noise import Noise
from classwise.registry import register


class FRL(BasedMethod):
    """Weights of the two terms of TRADES, and radii, as multipliers of constraints on the errors of every class.

    The loss is Σ u_y·CE(f(x), y)/Σ u_y + β·Σ v_y·KL(p ‖ p_adv)/Σ v_y with weights u and v of each class; the attack of
    an image of class c has the radius ε·clip(exp(2ψ_c)). Clean error E_c and boundary error D_c are measured on the
    held-out images before the first epoch and after each, under PGD-20; E_c − Ē − τ and D_c − D̄ − τ move the
    multipliers.

    Attributes:
        clean: multipliers of the clean errors (C,), 0 at first.
        boundary: multipliers of the boundary errors (C,), 0 at first.
        psi: half the logarithm of the radius (C,), 0 at first.
    """

    validates: bool = True
    measures: bool = True
    fine_tunes: bool = True
    clean: Tensor
    boundary: Tensor
    psi: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        beta: float = 1.5,
        tau_clean: float = 0.1,
        tau_boundary: float = 0.1,
        cap: float = 0.5,
        rate: float = 0.05,
        radius_rate: float = 0.0,
        halving: int = 40,
        reweights: bool = True,
        largest: float = 1.0,
        stretches: bool = False,
    ) -> None:
        """Set up; these are the settings of all three forms, and the defaults those of ``frl-rw``.

        Args:
            num_classes: number of classes.
            attack: its steps, step size and mode are used.
            beta: weight of the divergence, at least 0.
            tau_clean: how far a clean error may lie above the mean, at least 0.
            tau_boundary: how far a boundary error may.
            cap: largest sum of the multipliers of one kind, above 0 and below 1.
            rate: step of the multipliers of the clean errors; those of the boundary errors move twice as far.
            radius_rate: step of ψ.
            halving: every epoch whose number is a multiple of it halves ``rate``.
            reweights: whether the divergence is weighted by class.
            largest: largest radius, in units of ε.
            stretches: whether every step of the attack is as long as the largest radius in the batch needs.

        Raises:
            InputError: a setting outside its range.
        """
        super().__init__(num_classes, attack, "trades", beta)
        self.tau_clean, self.tau_boundary = number("tau_clean", tau_clean), number("tau_boundary", tau_boundary)
        self.cap, self.rate, self.radius_rate = _cap(cap), number("rate", rate), number("radius_rate", radius_rate)
        self.halving, self.largest = whole("halving", halving, least=1), number("largest", largest, least=1)
        self.reweights, self.stretches = flag("reweights", reweights), flag("stretches", stretches)
        self.examiner = PGD(attack.threat, steps=20, step_size=attack.threat.eps / 4, keep="success")
        for name in ("clean", "boundary", "psi"):
            self.register_buffer(name, torch.zeros(num_classes, dtype=torch.float64))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack each image within the radius of its class, and return the loss with the weights of the classes."""
        radius = self.class_radius()
        terms = self.terms(model, x, y, noise, radius=radius[y], step=self._step(radius, y))
        clean, boundary = (normalised(frl_weight(multiplier)[y]) for multiplier in (self.clean, self.boundary))
        return terms.step(clean * terms.error + self.beta * boundary * terms.divergence)

    def class_radius(self) -> Tensor:
        """Return the radius of each class (C,)."""
        return frl_radius(self.psi, self.largest)

    def _step(self, radius: Tensor, y: Tensor) -> Tensor | None:
        """Return the step of each image (N,): ten steps of ε/4 would end within 2.5ε, whatever the radius."""
        if not self.stretches:
            return None
        present = by_class(torch.ones_like(y), y, self.num_classes) > 0
        return (radius * present).amax().expand(len(y))

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Measured:
        """Attack held-out images with PGD-20."""
        return under_attack(self.examiner, model, x, y, noise)

    def start_from(self, measured: Pass) -> None:
        """Move the multipliers by what the network to start from violates."""
        self._move(measured, self.rate)

    def end_epoch(self, epoch: Epoch) -> None:
        """Move the multipliers by what the network violates now, before the next epoch."""
        assert epoch.measured is not None, "refused before training"
        coming = epoch.number + 2  # counted from 1, as in the release, which halves the rate before its epoch 40
        self._move(epoch.measured, self.rate * 0.5 ** (coming // self.halving))

    def _move(self, measured: Pass, rate: float) -> None:
        clean, robust = measured.clean.accuracy, measured.robust.accuracy
        error, boundary = violation(1 - clean, self.tau_clean), violation(clean - robust, self.tau_boundary)
        self.clean.copy_(capped(self.clean + rate * error, self.cap))
        if self.reweights:
            self.boundary.copy_(capped(self.boundary + 2 * rate * boundary, self.cap))
        self.psi.add_(self.radius_rate * boundary)


@register("method", "frl-rw", source="Xu et al. 2021, hannxu123/fair_robust")
def frl_rw(num_classes: int, attack: PGD, **settings: Any) -> FRL:
    """FRL, reweight: class weights on both terms of TRADES, from held-out errors above the mean."""
    return FRL(num_classes, attack, **settings)


@register("method", "frl-rm", source="Xu et al. 2021, hannxu123/fair_robust of 2021-06")
def frl_rm(num_classes: int, attack: PGD, **settings: Any) -> FRL:
    """FRL, remargin: class radii from held-out boundary errors, class weights on the clean term of TRADES."""
    own = {"beta": 1.0, "cap": 0.3, "radius_rate": 0.1, "reweights": False, "largest": 2.5}
    return FRL(num_classes, attack, **{**own, **settings})


@register("method", "frl-rwrm", source="Xu et al. 2021, hannxu123/fair_robust")
def frl_rwrm(num_classes: int, attack: PGD, **settings: Any) -> FRL:
    """FRL, reweight and remargin: class weights on both terms of TRADES and class radii, from held-out errors."""
    own = {"tau_clean": 0.07, "tau_boundary": 0.07, "radius_rate": 0.2, "largest": 3.0, "stretches": True}
    return FRL(num_classes, attack, **{**own, **settings})


def violation(error: Tensor, tau: float) -> Tensor:
    """Return how far each class error (C,) lies above the mean over classes plus τ; 0 for a class without images."""
    return (error - error.nanmean() - tau).nan_to_num(0.0)


def capped(multipliers: Tensor, cap: float) -> Tensor:
    """Return multipliers (C,) of at least 0 whose sum is at most the cap: cut at 0, then scaled.

    Example:
        >>> capped(torch.tensor([-1.0, 0.3, 0.9]), 0.4)
        tensor([0.0000, 0.1000, 0.3000])
    """
    positive = multipliers.clamp_min(0)
    return positive * (cap / positive.sum()).clamp_max(1)


def frl_weight(multipliers: Tensor) -> Tensor:
    """Return the class weights 1/C + φ_c − Σφ/C of multipliers φ (C,); they sum to 1."""
    return 1 / len(multipliers) + multipliers - multipliers.mean()


def frl_radius(psi: Tensor, largest: float) -> Tensor:
    """Return the radii exp(2ψ_c) of the classes (C,), from 0.98 to ``largest``, in units of ε."""
    return (2 * psi).exp().clamp(0.98, largest)


def _cap(value: float) -> float:
    if not 0 < number("cap", value) < 1:
        raise InputError(f"The setting cap is {value!r}, but must lie between 0 and 1, or a class may lose its weight.")
    return value
