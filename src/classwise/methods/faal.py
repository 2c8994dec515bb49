"""FAAL: Zhang et al., "Towards Fairness-Aware Adversarial Learning", CVPR 2024.

Of the paper only the abstract was at hand; the rest follows TrustAI/FAAL. The weights are found in closed form, where
the release calls a solver of convex programs. Departures: a class that is absent from the batch has no weight, where
the release counts it with a score of 0, and the score of a class is its mean margin, where the release multiplies by
the number of its images, which punishes a class for being frequent (``official=True`` restores both); the clean images
are not sent through the network in its adversarial form; there is no base MART; with ``--wrappers awp(gamma=0.005)``
the weights are perturbed along the weighted loss, and not along the unweighted one.

The release takes a robust network and trains it for two more epochs: ``--model run:FOLDER --recipe finetune-faal``. Its
scripts from scratch stop on an assertion, so nothing is published of what this method does by default: the score of the
mean margin, from fresh weights, with the recipe of the data set.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.losses import margin
from classwise.methods.base import BasedMethod, Step, counted_by_class, flag, number, part
from classwise.noise import Noise
from classwise.registry import register

_GRID, _ROUNDS = 257, 6  # narrows an interval of 660 to 2e-12


@register("method", "faal", source="Zhang et al. 2024, TrustAI/FAAL")
class FAAL(BasedMethod):
    """Fairness-aware weights: K·⟨q_y·loss⟩, the worst q for the margins of the K classes seen with KL(U ‖ q) ≤ r.

    The score of a class is the mean of max_{j≠y} p_j(x_adv) − p_y(x_adv) over its images in the batch, and q maximises
    Σ_c q_c·score_c over the classes in the batch, with ``decay`` over all seen so far; K, where the release has C,
    keeps the mean weight at 1. It always ends on the border of its set: differences that are mere noise give the full
    spread of weights too.

    Args:
        num_classes: number of classes.
        attack: crafts the training images; for base "trades" its steps, step size and mode are used.
        base: the loss that is weighted, "at" (the cross-entropy on x_adv) or "trades".
        divergence: r, at least 0; 0.5 in the release, 0 gives all classes the same weight.
        beta: weight of the divergence of base "trades"; 6 if not given.
        decay: share of the past in the scores, in [0, 1]; 0 for those of the batch. Our design, for data sets with
            many classes, of which a batch lacks some: 0.9, with a divergence of 0.1.
        official: score classes as the release does.

    Raises:
        InputError: a setting outside its range, or a beta for base "at".
    """

    scores: Tensor
    seen: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        base: Literal["at", "trades"] = "at",
        divergence: float = 0.5,
        beta: float | None = None,
        decay: float = 0.0,
        official: bool = False,
    ) -> None:
        super().__init__(num_classes, attack, base, beta)
        self.divergence, self.decay = number("divergence", divergence), part("decay", decay)
        self.official = flag("official", official)
        self.register_buffer("scores", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the loss of the base with the weights of this batch."""
        terms = self.terms(model, x, y, noise)
        weight = self._weight(terms.logits_adv.detach(), y).float()
        return terms.step(weight[y] * (terms.error + self.beta * terms.divergence))

    @torch.no_grad()
    def _weight(self, logits_adv: Tensor, y: Tensor) -> Tensor:
        """Bring the scores up to date, and return the weight of each class, (C,), of mean 1 over those that count."""
        count, total = counted_by_class(margin(logits_adv.double().softmax(1), y), y, self.num_classes)
        new = total / count.clamp(min=1)
        moved = torch.where(self.seen, self.decay * self.scores + (1 - self.decay) * new, new)
        self.scores.copy_(torch.where(count > 0, moved, self.scores))
        self.seen |= count > 0
        if self.official:
            return self.num_classes * worst_case(count * self.scores, torch.ones_like(self.seen), self.divergence)
        known = self.seen if self.decay else count > 0
        return known.sum() * worst_case(self.scores, known, self.divergence)


def worst_case(scores: Tensor, present: Tensor, divergence: float) -> Tensor:
    """Return the q that maximises Σ_c q_c·score_c over distributions with KL(U ‖ q) ≤ r, U uniform on known classes.

    At the maximum q_c ∝ 1/(μ − score_c) with μ above the largest score, where KL(U ‖ q) falls with μ. Neither shift
    nor scale of the scores matters, so they are brought to [0, 1], and log(μ − 1) is enclosed on a grid. Scores that
    differ by less than 1e-12 give U.

    Args:
        scores: of each class (C,), larger for a class that is worse off.
        present: classes that count (C,) bool, one at least.
        divergence: r, at least 0.

    Returns:
        (C,) float64, 0 for classes that do not count.

    Example:
        >>> worst_case(torch.tensor([0.0, 1.0, 9.0]), torch.tensor([True, True, False]), 0.5)
        tensor([0.1025, 0.8975, 0.0000], dtype=torch.float64)
    """
    wide = scores.double()
    best, worst = wide.where(present, torch.inf).amin(), wide.where(present, -torch.inf).amax()
    # 0 for the worst class and 1 for the best; infinite, hence without weight, for one that does not count.
    gap = ((worst - wide) / (worst - best).clamp(min=1e-12)).where(present, torch.inf)
    low, high = wide.new_tensor(-600.0), wide.new_tensor(60.0)
    steps = torch.linspace(0, 1, _GRID, dtype=torch.float64, device=wide.device)
    for _ in range(_ROUNDS):
        grid = low + (high - low) * steps
        beyond = (_divergence(_log_q(gap, grid), present) > divergence).sum().clamp(1, _GRID - 1)
        low, high = grid.take(beyond - 1), grid.take(beyond)  # an index in brackets would make the host wait
    uniform = present.double() / present.sum()
    return torch.where(worst - best < 1e-12, uniform, _log_q(gap, high[None])[0].exp())


def _log_q(gap: Tensor, level: Tensor) -> Tensor:
    """Return log q (G, C) for each level log(μ − 1), (G,)."""
    return (-(gap + level.exp()[:, None]).log()).log_softmax(1)


def _divergence(log_q: Tensor, present: Tensor) -> Tensor:
    """Return KL(U ‖ q) of each row, (G, C) -> (G,)."""
    count = present.double().sum()
    return -(log_q.where(present, 0.0).sum(1) / count) - count.log()
