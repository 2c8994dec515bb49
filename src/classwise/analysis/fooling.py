"""What analyses find out with attacks: what other networks make of adversarial images, which classes are in reach."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from classwise.analysis.transfer import ClassAware, class_aware
from classwise.attacks.base import Attack, predict
from classwise.attacks.pgd import PGD
from classwise.data.images import ImageSet, batches
from classwise.losses import cross_entropy
from classwise.noise import Noise
from classwise.runtime.inference import device_of, judging

BATCH = 250
"""Images attacked at once."""


def crafted(model: nn.Module, data: ImageSet, attack: Attack, seed: int = 0) -> Tensor:
    """Return the adversarial image of every image, (N, C, H, W) float32 on the CPU; the model is left as it was.

    The numbers that an image draws depend on the seed and its position in the data set alone.
    """
    device, parts = device_of(model), [torch.zeros(0, *data.shape)]
    with judging(model, device) as model:
        for which, x, y in batches(data, BATCH, device):
            noise = Noise(seed, data.index[which].to(device)).fold("crafted")
            parts.append(attack(model, x, y, noise=noise).detach().cpu())
    return torch.cat(parts)


def predicted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the predicted classes (N,) of images (N, C, H, W) with labels (N,) by the verdict rule, on the CPU."""
    device, parts = device_of(model), [y[:0]]
    with judging(model, device) as model, torch.no_grad():
        for start in range(0, len(y), BATCH):
            part = slice(start, start + BATCH)
            parts.append(predict(model(x[part].to(device)), y[part].to(device)).cpu())
    return torch.cat(parts)


def survives(model: nn.Module, data: ImageSet, attack: Attack, seed: int = 0) -> NDArray[np.bool_]:
    """Tell which images are right when clean and under an attack, (N,), by the verdict rule.

    Only images that are right when clean are attacked, and a batch at a time is held, so that the data may be large.
    """
    device, left = device_of(model), np.zeros(len(data), dtype=bool)
    with judging(model, device) as model:
        for which, x, y in batches(data, BATCH, device):
            right = _right(model, x, y)
            x, y, which = x[right], y[right], which[right.cpu()]
            noise = Noise(seed, data.index[which].to(device)).fold("crafted")
            x_adv = attack(model, x, y, noise=noise).detach()
            left[which.numpy()] = (_right(model, x_adv, y) | ~attack.threat.contains(x_adv, x)).cpu().numpy()
    return left


def transferred(source: nn.Module, target: nn.Module, data: ImageSet, attack: Attack, seed: int = 0) -> ClassAware:
    """Craft on one model, show to another, and count the mistakes by class; see `classwise.analysis.transfer`.

    An attack that stops at the decision boundary (keep="success") transfers badly.
    """
    x_adv = crafted(source, data, attack, seed)
    first, second = (predicted(model, x_adv, data.y).numpy() for model in (source, target))
    return class_aware(data.y.numpy(), first, second, num_classes=len(data.classes))


def reachable(model: nn.Module, data: ImageSet, attack: PGD, seed: int = 0) -> NDArray[np.bool_]:
    """Tell into which classes a targeted attack can send each image, (N, C); its own class is never among them.

    The attack, which must have keep="last", climbs minus the cross-entropy of the target. An image that is wrong when
    clean is sent nowhere.
    """
    reached = np.zeros((len(data), len(data.classes)), dtype=bool)
    y = data.y
    right = predicted(model, data.fetch(torch.arange(len(data))), y) == y
    for c in range(len(data.classes)):
        x_adv = crafted(model, data, _Targeted(attack, c), seed)
        reached[:, c] = ((predicted(model, x_adv, y) == c) & right & (y != c)).numpy()
    return reached


class _Targeted:
    """PGD towards one class."""

    def __init__(self, attack: PGD, target: int) -> None:
        self.attack, self.threat, self.target = attack, attack.threat, target

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        loss = partial(_towards, torch.full_like(y, self.target))
        return self.attack(model, x, y, noise=noise.fold("target", self.target), loss=loss)


def _towards(target: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    return -cross_entropy(logits, target)


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return predict(model(x), y) == y
