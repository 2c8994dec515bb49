"""Pre-activation ResNet: He et al., "Identity mappings in deep residual networks", ECCV 2016 (arXiv 1603.05027).

The variant of locuslab/robust_overfitting, on which most of this field's CIFAR tables rest: CIFAR stem, shortcut
convolutions without BatchNorm that start from the activated input, and BatchNorm with ReLU before the pooling (which
the widespread kuangliu/pytorch-cifar lacks: 11,171,146 weights there, 1,024 more here). Parameter names are those
of the public checkpoints, which normalise outside the model: load them with ``mean`` and ``std`` given, as in
``preact_resnet18(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))@FILE``. Departure: adaptive pooling.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from classwise.models.normalize import Normalize, Statistic
from classwise.registry import register


class PreActResNet(nn.Module):
    """Four stages of 64, 128, 256, 512 channels, ``depth`` blocks each, all but the first halving the image.

    Args:
        num_classes: number of logits.
        shape: (C, H, W) of the images.
        depth: blocks of each stage.
        mean: statistics of :class:`Normalize`.
        std: likewise.
    """

    def __init__(
        self,
        num_classes: int,
        shape: tuple[int, int, int],
        depth: int,
        mean: Statistic = None,
        std: Statistic = None,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std, shape[0])
        self.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        self.layer1 = _stage(64, 64, depth, stride=1)
        self.layer2 = _stage(64, 128, depth, stride=2)
        self.layer3 = _stage(128, 256, depth, stride=2)
        self.layer4 = _stage(256, 512, depth, stride=2)
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to logits (N, K)."""
        hidden = self.conv1(self.normalize(x))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        hidden = F.adaptive_avg_pool2d(F.relu(self.bn(hidden)), 1)
        logits: Tensor = self.linear(hidden.flatten(1))
        return logits


class _PreActBlock(nn.Module):
    """conv relu BN conv a + shortcut, with a = relu BN x; the shortcut is x itself or a convolution of a."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        hidden: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return hidden + shortcut


def _stage(width_in: int, width: int, depth: int, stride: int) -> nn.Sequential:
    widths = pairwise((width_in, *[width] * depth))
    strides = (stride, *[1] * (depth - 1))
    return nn.Sequential(*(_PreActBlock(a, b, s) for (a, b), s in zip(widths, strides, strict=True)))


@register("model", "preact_resnet18", source="arXiv 1603.05027; locuslab/robust_overfitting preactresnet.py")
def preact_resnet18(
    num_classes: int, shape: tuple[int, int, int], mean: Statistic = None, std: Statistic = None
) -> PreActResNet:
    """Pre-activation ResNet-18 with the CIFAR stem, 11.2 M weights."""
    return PreActResNet(num_classes, shape, 2, mean, std)
