"""Margins between confused classes: our design, docs/confusion-margin.md.

A base method whose cross-entropy asks for more distance between two classes where the harder one is confused with the
easier one. What is asked of the harder class is given up by the easier one, so that only boundaries between classes
that compete are moved, each towards the class that can afford it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.losses import cross_entropy
from classwise.methods.base import BasedMethod, Epoch, Step, fill_absent, number, part
from classwise.metrics.stats import ClassStats
from classwise.noise import Noise
from classwise.registry import register


@register("method", "confusion-margin", source="our design")
class ConfusionMargin(BasedMethod):
    """Margins between confused classes: m_yj on class j's logit for images of class y, m_yj = −m_jy. Project design.

    After each epoch m_yj = strength·(S_yj + S_jy)·(e_y − e_j), in units of the logits: e_y is the robust error of a
    class, and S_yj how much of the softmax of its attacked images class j has. The strength moves along the trade-off
    of average and worst class; 0 is the base.

    Attributes:
        error: robust error of each class (C,), held out and :func:`shrunk`; a moving average over epochs from 0.5.
        similarity: mean softmax of the attacked training images of each class (C, C); a moving average from 0.
        margin: added to the logits of an image of class y, row y (C, C).

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used; it does not see the margins.
        base: "trades", where the margins are on the clean logits, or "at", where they are on the attacked ones.
        beta: weight of the divergence of "trades", at least 0; 6 if not given.
        strength: at least 0.
        decay: share of the past in the moving averages, from 0 to 1.

    Raises:
        InputError: a setting outside its range.
    """

    validates = True
    error: Tensor
    similarity: Tensor
    margin: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        base: Literal["at", "trades"] = "trades",
        beta: float | None = None,
        strength: float = 5.0,
        decay: float = 0.75,
    ) -> None:
        super().__init__(num_classes, attack, base, beta)
        self.strength, self.decay = number("strength", strength), part("decay", decay)
        self.register_buffer("error", torch.full((num_classes,), 0.5, dtype=torch.float64))
        self.register_buffer("similarity", torch.zeros((num_classes, num_classes), dtype=torch.float64))
        self.register_buffer("margin", torch.zeros((num_classes, num_classes), dtype=torch.float64))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the loss of the base with the margins in its cross-entropy."""
        terms = self.terms(model, x, y, noise)
        logits = terms.logits_adv if terms.logits is None else terms.logits
        error = cross_entropy(logits + self.margin[y].to(logits.dtype), y)
        return terms.step(error + self.beta * terms.divergence)

    def end_epoch(self, epoch: Epoch) -> None:
        """Bring errors and similarities up to date, and set the margins."""
        assert epoch.valid is not None, "refused before training"
        self._follow(self.error, shrunk(epoch.valid.robust, epoch.train.robust))
        self._follow(self.similarity, epoch.train.robust.mean_probability)
        self.margin.copy_(margins(self.error, self.similarity, self.strength))

    def _follow(self, average: Tensor, new: Tensor) -> None:
        """Move an average towards what is new; classes without images keep theirs."""
        average.copy_(fill_absent(self.decay * average + (1 - self.decay) * new, average))


def shrunk(valid: ClassStats, train: ClassStats) -> Tensor:
    """Return the robust error of each class (C,): held out, drawn towards the pattern of the training images.

    Training errors have little noise and a bias, held-out ones much noise and none. The pattern is the training error,
    raised by the mean difference. Of the deviations d_c from it, the mean square less the mean sampling variance is
    what is real, τ²; each class keeps τ²/(τ² + σ_c²) of its deviation (empirical Bayes, Efron & Morris 1973). A class
    that is absent from either is NaN.
    """
    error = 1 - valid.accuracy
    pattern = 1 - train.accuracy
    defined = error.isfinite() & pattern.isfinite()
    pattern = pattern + (error - pattern)[defined].mean()
    # One wrong and one right image more, so that 0 of n does not pass for certain (Agresti & Coull 1998).
    smooth = (valid.n - valid.correct + 1) / (valid.n + 2)
    variance = smooth * (1 - smooth) / valid.n
    deviation = error - pattern
    real = (deviation.square() - variance)[defined].mean().clamp_min(0)
    return (pattern + real / (real + variance) * deviation).clamp(0, 1)


def margins(error: Tensor, similarity: Tensor, strength: float) -> Tensor:
    """Return the antisymmetric margins (C, C) of classes by their errors (C,) and mean softmax (C, C).

    m_yj = strength·(S_yj + S_jy)·(e_y − e_j). Classes that were never seen, rows of 0 in S, have no margins.

    Example:
        >>> margins(torch.tensor([0.5, 0.2]), torch.tensor([[0.5, 0.5], [0.2, 0.8]]), 1.0)
        tensor([[ 0.0000,  0.2100],
                [-0.2100,  0.0000]])
    """
    known = similarity.any(1)
    shared = torch.where(known[:, None] & known, similarity + similarity.T, 0)
    return strength * shared * (error[:, None] - error)
