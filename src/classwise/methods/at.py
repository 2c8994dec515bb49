"""Adversarial training: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018."""

from torch import Tensor, nn

from classwise.losses import cross_entropy
from classwise.methods.base import Method, Step
from classwise.noise import Noise
from classwise.registry import register


@register("method", "at", source="Madry et al. 2018")
class AT(Method):
    """Adversarial training: the cross-entropy on PGD images, mean CE(f(x_adv), y)."""

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the cross-entropy on the attacked images."""
        logits_adv = model(self.attack(model, x, y, noise=noise))
        return Step(cross_entropy(logits_adv, y).mean(), logits_adv)
