"""Adversarial logit pairing: Kannan et al., "Adversarial Logit Pairing", 2018 (arXiv 1803.06373).

The form and the weights of ShawnXYang/AT_HE, the baseline of Pang et al., "Boosting Adversarial Training with
Hypersphere Embedding", NeurIPS 2020. Departure: radius and step are those of the run. The ImageNet claim of the first
paper did not survive stronger attacks (Engstrom et al., arXiv 1807.10272), so report AutoAttack beside PGD.
"""

from __future__ import annotations

from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.losses import cross_entropy
from classwise.methods.base import Method, Step, number
from classwise.noise import Noise
from classwise.registry import register


@register("method", "alp", source="Kannan et al. 2018; Pang et al. 2020")
class ALP(Method):
    """Adversarial logit pairing: mean ½·CE(f(x), y) + ½·CE(f(x_adv), y) + β·MSE(f(x), f(x_adv)).

    The attack climbs the cross-entropy. The square error is the mean over classes, so its weight falls as 1/K, and its
    gradient flows through both passes.

    Args:
        num_classes: number of classes.
        attack: crafts the training images.
        beta: weight of the pairing, at least 0.

    Raises:
        InputError: beta is outside its range.
    """

    def __init__(self, num_classes: int, attack: PGD, beta: float = 0.5) -> None:
        super().__init__(num_classes, attack)
        self.beta = number("beta", beta)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the loss on clean and attacked images."""
        x_adv = self.attack(model, x, y, noise=noise)
        logits, logits_adv = model(x), model(x_adv)
        return Step(alp_loss(logits_adv, logits, y, self.beta).mean(), logits_adv, logits)


def alp_loss(logits_adv: Tensor, logits: Tensor, y: Tensor, beta: float) -> Tensor:
    """Return ½·CE(z, y) + ½·CE(z_adv, y) + β·mean_j (z_j − z_adv_j)² of each image, (N,)."""
    errors = (cross_entropy(logits, y) + cross_entropy(logits_adv, y)) / 2
    return errors + beta * (logits - logits_adv).square().mean(1)
