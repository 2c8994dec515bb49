"""MART: Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020.

Departures from the released code (YisenWang/MART): radius and step are those of the run (8/255 and 2/255, released
0.031 and 0.007: ``--eps 0.031 --recipe "mart(step_size=0.007)"``). The small learning rate and large weight decay of
the recipe ``mart`` belong to the method.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from classwise.attacks.pgd import PGD
from classwise.losses import cross_entropy
from classwise.methods.base import Method, Step, number
from classwise.noise import Noise
from classwise.registry import register


@register("method", "mart", source="Wang et al. 2020")
class MART(Method):
    """MART: boosted cross-entropy and a divergence that weighs unsure images, mean BCE + β·KL(p ‖ p_adv)·(1 − p_y).

    The attack climbs the cross-entropy from x + 0.001·N(0, 1). Nothing is detached: the gradient flows through p and
    through the weight 1 − p_y as well.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used; it starts as MART's does.
        beta: weight of the divergence, at least 0; λ in the paper, 5 for ResNet-18 and 6 for wide networks.

    Raises:
        InputError: beta is outside its range.
    """

    def __init__(self, num_classes: int, attack: PGD, beta: float = 5.0) -> None:
        super().__init__(num_classes, replace(attack, start="jitter"))
        self.beta = number("beta", beta)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the loss on clean and attacked images."""
        x_adv = self.attack(model, x, y, noise=noise)
        logits, logits_adv = model(x), model(x_adv)
        # 1.0001 is 1 in bfloat16, and the logarithm of 1 − p would be that of 0.
        wide_adv, wide = logits_adv.float(), logits.float()
        loss = boosted_cross_entropy(wide_adv, y) + self.beta * weighted_kl(wide_adv, wide, y)
        return Step(loss.mean(), logits_adv, logits)


def boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return −log p_y − log(1.0001 − max_{k≠y} p_k + 1e-12), float32 logits (N, K) and classes (N,) -> (N,)."""
    runner_up = logits.softmax(1).scatter(1, y[:, None], 0).max(1).values
    return cross_entropy(logits, y) - (1.0001 - runner_up + 1e-12).log()


def weighted_kl(logits_adv: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Return KL(p ‖ p_adv + 1e-12)·(1.0000001 − p_y), float32 logits (N, K) twice and classes (N,) -> (N,)."""
    p = logits.softmax(1)
    divergence = F.kl_div((logits_adv.softmax(1) + 1e-12).log(), p, reduction="none").sum(1)
    return divergence * (1.0000001 - p.gather(1, y[:, None]).squeeze(1))
