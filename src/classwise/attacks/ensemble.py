"""Several attacks as one: each next one sees only the images that survive."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from classwise import losses
from classwise.attacks.base import Attack, predict
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.runtime.inference import attacking
from classwise.threat import ThreatModel


@dataclass(frozen=True)
class Ensemble:
    """The worst case of each image over several attacks.

    An image keeps the first candidate in the threat set that fools the model; where none does, the one with the
    largest margin.

    Attributes:
        attacks: in this order, all with one threat model.
        labels: what each is called in results; its class and place if not given.

    Raises:
        InputError: no attack, different threat models, or another number of labels.
    """

    attacks: tuple[Attack, ...]
    labels: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", tuple(self.attacks))
        named = [f"{type(attack).__name__} {place}" for place, attack in enumerate(self.attacks, 1)]
        object.__setattr__(self, "labels", tuple(self.labels or named))
        if len(self.labels) != len(self.attacks):
            raise InputError("An ensemble needs a label for each attack, or none at all.")
        if len({attack.threat for attack in self.attacks}) != 1:
            raise InputError("An ensemble needs at least one attack, and one threat model for all of them.")

    @property
    def threat(self) -> ThreatModel:
        """The set of allowed images."""
        return self.attacks[0].threat

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`."""
        with attacking(model) as model, torch.no_grad():
            x, worst = x.detach(), x.detach().clone()
            reached = torch.full((len(x),), -torch.inf, device=x.device)
            active = torch.arange(len(x), device=x.device)
            for place, attack in enumerate(self.attacks):
                if not len(active):
                    break
                stream = noise.select(active).fold("member", place)
                x_adv = attack(model, x[active], y[active], noise=stream)
                logits, valid = model(x_adv), self.threat.contains(x_adv, x[active])
                fooled = valid & (predict(logits, y[active]) != y[active])
                margin = losses.margin(logits, y[active]).float()
                worse = fooled | (valid & (margin > reached[active]))
                worst[active[worse]], reached[active[worse]] = x_adv[worse], margin[worse]
                active = active[~fooled]
        return worst
