"""Networks that train on a CPU: TRADES' SmallCNN for MNIST, a tiny one for 8x8 digits, a residual one for 32x32."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from classwise.errors import InputError
from classwise.models.normalize import Normalize, Statistic
from classwise.models.resnet import ResNet
from classwise.registry import register


class SmallCNN(nn.Module):
    """Four 3x3 convolutions (32, 32, pool, 64, 64, pool) and three linear layers of 200, 200 and ``num_classes``.

    Follows yaodongyu/TRADES ``models/small_cnn.py`` in layers, parameter names and initial weights: **the last
    layer starts at zero**, so an untrained network gives equal logits and its input gradient is zero. Departure:
    the images may have another shape than 1x28x28; then the first linear layer has another width.

    Args:
        num_classes: number of logits.
        shape: (C, H, W) of the images, at least 16x16.
        mean: statistics of :class:`Normalize`.
        std: likewise.
        dropout: probability of dropping a hidden unit between the first two linear layers while training.

    Raises:
        InputError: the images are too small for two rounds of convolution and pooling.
    """

    def __init__(
        self,
        num_classes: int,
        shape: tuple[int, int, int],
        mean: Statistic = None,
        std: Statistic = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < 16:
            raise InputError(f"small_cnn needs images of at least 16x16, not {height}x{width}; use digits_cnn instead.")
        self.normalize = Normalize(mean, std, channels)
        self.feature_extractor = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(channels, 32, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, 3),
                relu2=nn.ReLU(),
                maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, 3),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(64, 64, 3),
                relu4=nn.ReLU(),
                maxpool2=nn.MaxPool2d(2),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict[str, nn.Module](
                fc1=nn.Linear(64 * _left(height) * _left(width), 200),
                relu1=nn.ReLU(),
                drop=nn.Dropout(dropout),
                fc2=nn.Linear(200, 200),
                relu2=nn.ReLU(),
                fc3=nn.Linear(200, num_classes),
            )
        )
        self._start()

    def _start(self) -> None:
        for module in self.feature_extractor:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for parameter in self.classifier.get_submodule("fc3").parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: Tensor = self.classifier(self.feature_extractor(self.normalize(x)).flatten(1))
        return logits


class DigitsCNN(nn.Module):
    """Two 3x3 convolutions of 16 and 32 channels, the second of stride 2, and linear layers of 32 and K units.

    Our design: without BatchNorm and dropout, so that training on 8x8 digits is fast and depends on nothing but
    the batch. 21,546 weights for ten classes of 1x8x8 images.

    Args:
        num_classes: number of logits.
        shape: (C, H, W) of the images.
        mean: statistics of :class:`Normalize`.
        std: likewise.
    """

    def __init__(
        self, num_classes: int, shape: tuple[int, int, int], mean: Statistic = None, std: Statistic = None
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.normalize = Normalize(mean, std, channels)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(32 * ((height + 1) // 2) * ((width + 1) // 2), 32)
        self.fc2 = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to logits (N, K)."""
        hidden = self.conv2(self.conv1(self.normalize(x)).relu())
        # Flattened first: with channels last, the gradient of a ReLU before it would mix two memory layouts.
        logits: Tensor = self.fc2(self.fc1(hidden.flatten(1).relu()).relu())
        return logits


def _left(size: int) -> int:
    """Return the side of the last feature map: twice, two convolutions take 4 off and a pooling halves the rest."""
    return ((size - 4) // 2 - 4) // 2


@register("model", "small_cnn", source="yaodongyu/TRADES models/small_cnn.py (arXiv 1901.08573)")
def small_cnn(
    num_classes: int,
    shape: tuple[int, int, int],
    mean: Statistic = None,
    std: Statistic = None,
    dropout: float = 0.5,
) -> SmallCNN:
    """SmallCNN of TRADES for MNIST, 0.31 M weights; its last layer starts at zero."""
    return SmallCNN(num_classes, shape, mean, std, dropout)


@register("model", "digits_cnn", source="classwise")
def digits_cnn(
    num_classes: int, shape: tuple[int, int, int], mean: Statistic = None, std: Statistic = None
) -> DigitsCNN:
    """Tiny convolutional network for 8x8 digits, 0.02 M weights."""
    return DigitsCNN(num_classes, shape, mean, std)


@register("model", "small_resnet", source="classwise")
def small_resnet(
    num_classes: int, shape: tuple[int, int, int], mean: Statistic = None, std: Statistic = None
) -> ResNet:
    """Residual network of three blocks for training 32x32 images on a CPU, 0.17 M weights."""
    return ResNet(num_classes, shape, (24, 48, 96), (1, 1, 1), mean, std)
