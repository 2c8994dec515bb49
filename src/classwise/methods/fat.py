"""Friendly adversarial training: Zhang et al., "Attacks Which Do Not Kill Training Make Adversarial Learning Stronger",
ICML 2020.

Departures from the released code (zjfheart/Friendly-Adversarial-Training): images keep their order in the batch, where
the release groups them by the step they stopped at; radius and step are those of the run (released 0.031 and 0.007);
the schedule of τ is a setting, where the release's flag for a fixed τ cannot be switched on.
"""  # noqa: D205

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from classwise.attacks.base import attacking, input_gradient, predict
from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods.base import Epoch, Method, Step, number, whole
from classwise.noise import Noise
from classwise.registry import register


@register("method", "fat", source="Zhang et al. 2020 (friendly)")
class FAT(Method):
    """Friendly adversarial training: mean CE(f(x_adv), y) on PGD images stopped τ steps beyond the decision boundary.

    Args:
        num_classes: number of classes.
        attack: its steps are the most that an image takes.
        tau: steps that an image may take from misclassified points; one number, or one for each phase of training.
        milestones: epochs after which the next phase begins, one fewer than numbers in ``tau``; those of the release
            by default, for 120 epochs.
        jitter: standard deviation of the noise added to every step, in [0, 1] pixel units.

    Raises:
        InputError: a setting outside its range, or milestones that do not divide training into the phases of tau.
    """

    finished: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        tau: int | Sequence[int] = (0, 1, 2),
        milestones: Sequence[int] | None = None,
        jitter: float = 0.001,
    ) -> None:
        super().__init__(num_classes, attack)
        self.tau = tuple(whole("tau", each) for each in _listed("tau", tau))
        usual = (50, 90)[: len(self.tau) - 1]
        self.milestones = tuple(
            whole("milestones", each) for each in _listed("milestones", usual if milestones is None else milestones)
        )
        if len(self.milestones) != len(self.tau) - 1 or list(self.milestones) != sorted(self.milestones):
            raise InputError(
                f"{len(self.tau)} values of tau need {len(self.tau) - 1} milestones between them, in rising order, "
                f"not {self.milestones}."
            )
        self.jitter = number("jitter", jitter)
        self.register_buffer("finished", torch.zeros((), dtype=torch.int64))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch until it is just wrong, and return the cross-entropy there."""
        finished = int(self.finished)
        tau = self.tau[sum(finished >= milestone for milestone in self.milestones)]
        logits_adv = model(friendly(self.attack, model, x, y, noise, tau, self.jitter))
        return Step(cross_entropy(logits_adv, y).mean(), logits_adv)

    def end_epoch(self, epoch: Epoch) -> None:
        """Count the epoch, which the phase of τ depends on."""
        self.finished.fill_(epoch.number + 1)


def friendly(
    attack: PGD, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, tau: int, jitter: float = 0.0
) -> Tensor:
    """Return PGD images that stop early: algorithm 1 of the paper, which the release follows.

    Before each step an image is looked at. Where it is misclassified, it uses up one of its ``tau`` steps, and where
    none is left it stops there, so that what stops is always misclassified. An image that returns across the boundary
    moves on without using any. Stopped images cost no further pass.

    Args:
        attack: start, steps, step size, threat and mode; its loss is the cross-entropy.
        model: takes [0, 1], returns logits (N, K).
        x: clean images (N, C, H, W) in [0, 1].
        y: true classes (N,).
        noise: random numbers of these images.
        tau: steps from misclassified points.
        jitter: standard deviation of the noise added to every step, in the units of x.

    Returns:
        (N, C, H, W) in the threat set, in the order of x.
    """
    x = x.detach()
    with attacking(model, attack.mode):
        x_adv = attack.starts(x, noise)
        left, active = torch.full_like(y, tau), torch.arange(len(x), device=x.device)
        for number_of_step in range(attack.steps):
            moving = x_adv[active].requires_grad_(True)
            logits = model(moving)
            wrong = predict(logits.detach(), y[active]) != y[active]
            goes_on = ~wrong | (left[active] > 0)
            left[active] -= wrong.to(left.dtype)
            gradient = input_gradient(cross_entropy(logits, y[active]), moving)[goes_on]
            active, moving = active[goes_on], moving.detach()[goes_on]
            if not len(active):
                break
            step = attack.length * attack.threat.ascend(gradient, moving)
            if jitter:
                draw = noise.select(active).fold("jitter", number_of_step)
                step = step + jitter * draw.normal(x.shape[1:], x.device)
            x_adv[active] = attack.threat.project(moving + step, x[active])
    return x_adv


def _listed(name: str, value: int | Sequence[int]) -> Sequence[int]:
    found = [value] if isinstance(value, int) else value
    if not isinstance(found, list | tuple) or (name == "tau" and not found):
        raise InputError(f"The setting {name} is {value!r}, but must be whole numbers, as in {name}=(0, 1, 2).")
    return found
