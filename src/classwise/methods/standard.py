"""Standard training on clean images: the baseline without defence."""

from torch import Tensor, nn

from classwise.losses import cross_entropy
from classwise.methods.base import Method, Step
from classwise.noise import Noise
from classwise.registry import register


@register("method", "standard", source="textbook")
class Standard(Method):
    """Standard training: the cross-entropy on clean images, mean CE(f(x), y)."""

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Return the cross-entropy on the clean images."""
        logits = model(x)
        return Step(cross_entropy(logits, y).mean(), None, logits)
