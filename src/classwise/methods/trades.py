"""TRADES: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019.

Departures from the released code (yaodongyu/TRADES): the network sees x once in train mode and not twice, so BatchNorm
averages over x and x_adv alike; radius and step are those of the run (8/255 and 2/255, released 0.031 and 0.007:
``--eps 0.031 --recipe "trades(step_size=0.007)"``).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.losses import cross_entropy, kl
from classwise.methods.base import Method, Step, number
from classwise.noise import Noise
from classwise.registry import register


@register("method", "trades", source="Zhang et al. 2019")
class TRADES(Method):
    """TRADES: clean cross-entropy and divergence under attack, mean CE(f(x), y) + β·KL(p(x) ‖ p(x_adv)).

    The attack climbs the same divergence from x + 0.001·N(0, 1); there p(x) is a constant, in the loss it is not: the
    gradient flows through both passes.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used; its loss and start are those of TRADES.
        beta: weight of the divergence, at least 0. The paper has 6 for CIFAR-10 and 1 for MNIST.

    Raises:
        InputError: beta is outside its range.
    """

    def __init__(self, num_classes: int, attack: PGD, beta: float = 6.0) -> None:
        super().__init__(num_classes, replace(attack, loss="kl", start="jitter"))
        self.beta = number("beta", beta)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the loss on clean and attacked images."""
        x_adv = self.attack(model, x, y, noise=noise)
        logits, logits_adv = model(x), model(x_adv)
        return Step(trades_loss(logits_adv, logits, y, self.beta).mean(), logits_adv, logits)


def trades_loss(logits_adv: Tensor, logits: Tensor, y: Tensor, beta: float) -> Tensor:
    """Return CE(z, y) + β·KL(p ‖ p_adv) of each image: (N, K), (N, K), (N,) -> (N,)."""
    return cross_entropy(logits, y) + beta * kl(logits_adv, logits)
