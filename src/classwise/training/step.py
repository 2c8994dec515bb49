"""One training step: model and method as one module, with faster passes where they are the same function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from classwise.methods.base import (
    Method,
    Step,
    weakened,
)
from classwise.models.rewriting import Difference, Forwards, checked, faster, rewritten, unobserved
from classwise.noise import Noise
from classwise.runtime.classifier import as_classifier
from classwise.runtime.inference import judging
from classwise.wrappers import AWP

COMPARED = 16  # images of a batch that faster passes are compared on


@dataclass
class _Compared:
    """What comparisons of faster passes with the network have come to in an epoch, after so many steps of it."""

    epoch: int = -1
    forwards: Forwards = field(default_factory=dict)
    difference: Difference | None = None
    steps: int = 0


class TrainStep(nn.Module):
    """Model and method as one module, because that is what Fabric must wrap.

    A training attack differentiates the model in its input. Doing so through Fabric's wrapper of the model raises in
    mixed precision; inside a wrapped module that contains it, the bare model is at hand.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        seed: int,
        perturbation: AWP | None = None,
        mean: Callable[[Tensor], Tensor] = torch.clone,
    ) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.seed = seed
        self.perturbation = perturbation
        self.mean = mean
        self._faster = faster(model)
        self._compared = _Compared()

    def forward(self, x: Tensor, y: Tensor, index: Tensor, epoch: int, reach: float) -> Step:
        """Return the method's step on a batch.

        Args:
            x: images (N, C, H, W).
            y: labels (N,).
            index: positions of the images in the data set (N,).
            epoch: epochs finished before this one.
            reach: share of radius and step that attacks have, 0 … 1.
        """
        noise = Noise(self.seed, index).fold("attack", epoch)
        with weakened(self.method, reach), rewritten(self._rewriting(x, noise, epoch)):
            model = as_classifier(self.model)
            if self.perturbation is not None and epoch >= self.perturbation.start:
                return self.perturbation.step(self.method, model, x, y, noise, self.mean)
            step: Step = self.method(model, x, y, noise)
        return step

    @property
    def note(self) -> str | None:
        """What the log says of an epoch in which layers were not rewritten, since it would have made a difference."""
        difference = self._compared.difference
        if difference is None or not difference.beyond_rounding:
            return None
        return f"Computed faster, the network is another function ({difference}); attacks used it as it is."

    def _rewriting(self, x: Tensor, noise: Noise, epoch: int) -> Forwards:
        """Return the faster passes while they are those of the network, as far as comparisons in this epoch say.

        They are compared in its steps 1, 2, 4, 8 and so on, since statistics that have not moved yet may hide a
        difference. Each epoch begins anew, so that a run that is resumed takes the steps of one that was not.
        """
        if epoch != self._compared.epoch:
            self._compared = _Compared(epoch, self._faster)
        state = self._compared
        state.steps += 1
        if state.forwards and state.steps & (state.steps - 1) == 0:
            some, threat = x[:COMPARED], self.method.attack.threat
            direction = noise.select(torch.arange(len(some))).fold("compared").normal(x.shape[1:], x.device)
            border = threat.project(some + threat.eps * threat.ascend(direction, some), some)
            with judging(self.model, x.device) as called:
                state.forwards, state.difference = checked(called, state.forwards, (some, border))
        return unobserved(self.model, state.forwards)
