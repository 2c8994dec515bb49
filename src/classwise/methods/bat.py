"""BAT: Sun et al., "Improving Robust Fairness via Balance Adversarial Training", AAAI 2023.

Of the paper only the abstract was at hand; the rest follows the code that its authors released
(silvercherry/Improving-Robust-Fairness-via-Balance-Adversarial-Training). Departures: the release makes two attacks
from two starts; here both images lie on one path, which halves the attack's cost and leaves the expected loss as it is,
since no term of it contains both images; x is seen once in train mode; radius and step are those of the run (released
0.031 and 0.007).

It buys clean accuracy: in the comparison of Lee et al. (DAFA, ICLR 2024) its worst class is below that of TRADES under
a strong attack on all three data sets (17.8 against 21.3 on CIFAR-10).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from classwise.attacks.base import input_gradient, predict
from classwise.attacks.pgd import PGD
from classwise.losses import cross_entropy, kl
from classwise.methods.base import Method, Step, number
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.inference import attacking
from classwise.threat import over_pixels


@register("method", "bat", source="Sun et al. 2023, released code")
class BAT(Method):
    """Balanced on the boundary: mean CE(f(x_lc), y) + β·KL(p(x) ‖ p(x_fa)) + KL(p(x_lc) ‖ U) + KL(p(x_fa) ‖ U).

    x_lc is the last image on the attack's path that is still right, x_fa one that has just become wrong; the attack
    climbs KL(p(x) ‖ p(x_adv)) from x + 0.001·N(0, 1). U is the uniform distribution over classes.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used; its loss and start are those of TRADES.
        beta: weight of the divergence, at least 0.
        uniform: weight of the two terms that pull predictions towards U, at least 0; 1 in the release.

    Raises:
        InputError: a setting outside its range.
    """

    def __init__(self, num_classes: int, attack: PGD, beta: float = 6.0, uniform: float = 1.0) -> None:
        super().__init__(num_classes, replace(attack, loss="kl", start="jitter"))
        self.beta, self.uniform = number("beta", beta), number("uniform", uniform)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the loss; the logits on attacked images handed out are those on x_fa."""
        last_clean, first_adv = both_sides(self.attack, model, x, y, noise)
        logits, logits_last, logits_first = model(x), model(last_clean), model(first_adv)
        errors = cross_entropy(logits_last, y) + self.beta * kl(logits_first, logits)
        errors = errors + self.uniform * (from_uniform(logits_last) + from_uniform(logits_first))
        return Step(errors.mean(), logits_first, logits)


def from_uniform(logits: Tensor) -> Tensor:
    """Return KL(p ‖ U) = log K − H(p) of each image, (N, K) -> (N,), between 0 and log K."""
    log_p = logits.log_softmax(1)
    return math.log(logits.shape[1]) + (log_p.exp() * log_p).sum(1)


def both_sides(attack: PGD, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return two images on one attack's path: the last that is right, and one that is wrong for the second time.

    Images are looked at before each step. The last clean one precedes the first that is wrong, or is the start if that
    is wrong already; the first adversarial one is the second that is wrong. An image that was not found that way is
    the result of the last step, which is not looked at any more.

    Args:
        attack: start, steps, step size, threat and mode; what it climbs is the divergence.
        model: takes [0, 1], returns logits (N, K).
        x: clean images (N, C, H, W) in [0, 1].
        y: true classes (N,).
        noise: random numbers of these images.

    Returns:
        Last clean and first adversarial images, each (N, C, H, W) in the threat set and in the order of x.
    """
    x = x.detach()
    with attacking(model, attack.mode) as model:
        # A gradient in the images, though none is taken, tells AWP that this pass is part of an attack.
        logits = model(x.clone().requires_grad_(True)).detach()
        x_adv = attack.starts(x, noise)
        last_clean, times_wrong = x_adv, torch.zeros_like(y)
        for _ in range(attack.steps):
            x_adv = x_adv.detach().requires_grad_(True)
            logits_adv = model(x_adv)
            gradient, x_adv = input_gradient(kl(logits_adv, logits), x_adv), x_adv.detach()
            # Nothing is added once an image has stopped: it stays wrong, and in train mode others could change that.
            times_wrong = times_wrong + ((predict(logits_adv.detach(), y) != y) & (times_wrong < 2))
            last_clean = _chosen(times_wrong == 0, x_adv, last_clean)
            step = attack.length * attack.threat.ascend(gradient, x_adv, attack.length)
            moved = attack.threat.project(x_adv + step, x)
            x_adv = _chosen(times_wrong < 2, moved, x_adv)
        return _chosen(times_wrong == 0, x_adv, last_clean), x_adv


def _chosen(which: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Return the images of ``here`` where the mask (N,) says so, those of ``there`` elsewhere."""
    return torch.where(over_pixels(which, here), here, there)
