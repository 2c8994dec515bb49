"""Temperature-PGD: PGD on the confidence distribution softmax(z/T), over a grid of temperatures.

Tian et al. 2021 (arXiv 2105.14240) propose a temperature on each image's confidence distribution inside PGD. The
printed equation is not verified; this is the standard form. Up to a positive factor an image, the gradient of the
cross-entropy of z/T is that of the soft margin M_T, so under sign steps the attack is exactly ascent on M_T: 1/T = 1
is PGD, 1/T → ∞ is margin-PGD, 1/T → 0 weighs all wrong classes alike. With two classes T has no effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD, preset
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.registry import register
from classwise.threat import ThreatModel

GRID = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Inverse temperatures of the protocol (our design, docs/temperature-pgd.md)."""

_LOSS = {"safe": "soft_margin", "plain": "tempered_cross_entropy"}


@dataclass(frozen=True)
class TemperaturePGD:
    """PGD at every inverse temperature of a grid; each image keeps the first candidate that fools the model.

    Attributes:
        pgd: the gradient loop of each member; its loss is replaced.
        inverse_temperatures: the grid 1/T.
        form: "safe" climbs the soft margin, "plain" the cross-entropy of z/T, which underflows in float32.
        scale: unit of the temperature in logits, T = scale/(1/T). Pass the median logit std that a result reports
            to set temperatures relative to a model's own scale.

    Raises:
        InputError: an empty grid, a value that is not finite and positive, or an unknown form.
    """

    pgd: PGD
    inverse_temperatures: tuple[float, ...] = GRID
    form: Literal["safe", "plain"] = "safe"
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "inverse_temperatures", tuple(float(v) for v in self.inverse_temperatures))
        positive = (0 < value < math.inf for value in (self.scale, *self.inverse_temperatures))
        if not self.inverse_temperatures or not all(positive):
            raise InputError("Temperature-PGD needs a scale and at least one inverse temperature, finite and above 0.")
        if self.form not in _LOSS:
            raise InputError(f"Temperature-PGD has no form {self.form!r}: use safe or plain.")
        if self.pgd.keep != "success":
            raise InputError('Temperature-PGD chooses among candidates, so its PGD needs keep="success".')

    @property
    def threat(self) -> ThreatModel:
        """The set of allowed images."""
        return self.pgd.threat

    def member(self, inverse_temperature: float) -> PGD:
        """Return the PGD of one temperature."""
        temperature = self.scale / inverse_temperature
        return replace(self.pgd, loss=f"{_LOSS[self.form]}(temperature={temperature!r})")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`."""
        x, x_adv = x.detach(), x.detach().clone()
        active = torch.arange(len(x), device=x.device)
        for inverse in self.inverse_temperatures:
            if not len(active):
                break
            stream = noise.select(active).fold("inverse temperature", repr(inverse))
            x_adv[active], fooled = self.member(inverse).search(model, x[active], y[active], stream)
            active = active[~fooled]
        return x_adv


@register("attack", "temperature-pgd", source="Tian et al. 2021; grid and safe form are ours")
def temperature_pgd(
    threat: ThreatModel,
    inverse_temperatures: tuple[float, ...] = GRID,
    form: Literal["safe", "plain"] = "safe",
    scale: float = 1.0,
    **settings: Any,
) -> TemperaturePGD:
    """PGD-20 on softmax(z/T) for ten temperatures, the worst case of each image."""
    return TemperaturePGD(preset(threat, loss="margin", **settings), inverse_temperatures, form, scale)


@register("suite", "temperature-curve", source="our protocol")
def temperature_curve(threat: ThreatModel, **settings: Any) -> Mapping[str, TemperaturePGD]:
    """Temperature-PGD at each inverse temperature of the grid by itself."""
    text = "".join(f", {key}={value!r}" for key, value in settings.items())
    members = {f"temperature-pgd(inverse_temperatures=[{v:g}]{text})": (v,) for v in GRID}
    return {name: temperature_pgd(threat, grid, **settings) for name, grid in members.items()}
