"""Friendly adversarial training, early-stopped PGD: Zhang et al., ICML 2020 (arXiv 2002.11242).

"Attacks Which Do Not Kill Training Make Adversarial Learning Stronger".

Departures from the released code (zjfheart/Friendly-Adversarial-Training): images keep their order in the batch, where
the release groups them by the step they stopped at; radius and step are those of the run (released 0.031 and 0.007);
the schedule of τ is a setting, where the release's flag for a fixed τ cannot be switched on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from classwise.attacks.base import input_gradient, predict
from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods.base import Epoch, Method, Step, number, wholes
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.inference import attacking


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
        self.tau = wholes("tau", tau, fewest=1)
        usual = (50, 90)[: len(self.tau) - 1]
        self.milestones = wholes("milestones", usual if milestones is None else milestones)
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
    moves on without using any. In eval mode a stopped image costs no further pass.

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
    with attacking(model, attack.mode) as model:
        x_adv, left = attack.starts(x, noise), torch.full_like(y, tau)
        everyone = going = torch.ones_like(y, dtype=torch.bool)
        for taken in range(attack.steps):
            # In train mode, what BatchNorm makes of an image depends on the others, so all are shown in every pass.
            wrong, gradient = _recorded(model, x_adv, y, going if attack.mode == "eval" else everyone)
            going, left = going & (~wrong | (left > 0)), left - wrong.to(left.dtype)
            if not going.any():
                break
            draw = noise.select(going).fold("jitter", taken)
            x_adv[going] = _moved(attack, x_adv[going], x[going], gradient[going], draw, jitter)
    return x_adv


def _recorded(model: nn.Module, x_adv: Tensor, y: Tensor, recorded: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of the images shown (N,) are misclassified (N,), and their gradients; False and 0 for the others."""
    wrong, gradient = torch.zeros_like(recorded), torch.zeros_like(x_adv)
    images = x_adv[recorded].requires_grad_(True)
    logits = model(images)
    wrong[recorded] = predict(logits.detach(), y[recorded]) != y[recorded]
    gradient[recorded] = input_gradient(cross_entropy(logits, y[recorded]), images)
    return wrong, gradient


def _moved(attack: PGD, x_adv: Tensor, x: Tensor, gradient: Tensor, noise: Noise, jitter: float) -> Tensor:
    step = attack.length * attack.threat.ascend(gradient, x_adv, attack.length)
    if jitter:
        step = step + jitter * noise.normal(x.shape[1:], x.device)
    return attack.threat.project(x_adv + step, x)
