"""Wide ResNet: Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016 (arXiv 1605.07146), without dropout.

The variant of yaodongyu/TRADES ``models/wideresnet.py``, with its parameter names and its initial weights. Departures:
adaptive pooling, and no ``sub_block1``, a block of that file that its forward pass never uses; its weights in a
checkpoint are left out, which is said.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from classwise.models.normalize import Normalize, Statistic
from classwise.registry import register


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks, with 16, 32 and 64 times ``widen`` channels.

    Args:
        num_classes: number of logits.
        shape: (C, H, W) of the images.
        depth: number of convolutions along the longest path, 4 more than a multiple of 6.
        widen: width factor.
        mean: statistics of :class:`Normalize`.
        std: likewise.
    """

    def __init__(
        self,
        num_classes: int,
        shape: tuple[int, int, int],
        depth: int,
        widen: int,
        mean: Statistic = None,
        std: Statistic = None,
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.normalize = Normalize(mean, std, shape[0])
        self.conv1 = nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)
        self.block1 = _Stage(16, 16 * widen, blocks, stride=1)
        self.block2 = _Stage(16 * widen, 32 * widen, blocks, stride=2)
        self.block3 = _Stage(32 * widen, 64 * widen, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to logits (N, K)."""
        hidden = self.conv1(self.normalize(x))
        hidden = self.block3(self.block2(self.block1(hidden)))
        hidden = F.adaptive_avg_pool2d(F.relu(self.bn1(hidden)), 1)
        logits: Tensor = self.fc(hidden.flatten(1))
        return logits


class _Stage(nn.Module):
    """A sequence of blocks under the name ``layer``, which the public checkpoints ask for."""

    def __init__(self, width_in: int, width: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = _WideBlock(width_in, width, stride)
        self.layer = nn.Sequential(first, *(_WideBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.layer(x)
        return hidden


class _WideBlock(nn.Module):
    """conv relu BN conv a + shortcut, with a = relu BN x; the shortcut is x itself or a convolution of a."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        # Spelled as in the public checkpoints.
        self.convShortcut: nn.Conv2d | None = None
        if width_in != width:
            self.convShortcut = nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        hidden: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return hidden + shortcut


@register("model", "wrn_28_10", source="arXiv 1605.07146; yaodongyu/TRADES models/wideresnet.py")
def wrn_28_10(
    num_classes: int, shape: tuple[int, int, int], mean: Statistic = None, std: Statistic = None
) -> WideResNet:
    """Wide ResNet-28-10, 36.5 M weights."""
    return WideResNet(num_classes, shape, 28, 10, mean, std)


@register("model", "wrn_34_10", source="arXiv 1605.07146; yaodongyu/TRADES models/wideresnet.py")
def wrn_34_10(
    num_classes: int, shape: tuple[int, int, int], mean: Statistic = None, std: Statistic = None
) -> WideResNet:
    """Wide ResNet-34-10, 46.2 M weights."""
    return WideResNet(num_classes, shape, 34, 10, mean, std)
