"""Architectures and weights of torchvision and timm, with the normalisation that belongs to them inside."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from types import ModuleType
from typing import Any

from torch import nn

from classwise.errors import InputError
from classwise.models.foreign import foreign_code
from classwise.models.normalize import Normalize, Statistic
from classwise.registry import unknown

# Of the ImageNet training images, as torchvision's documentation of its weights states them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def torchvision_model(name: str, *, pretrained: bool, num_classes: int | None = None) -> nn.Sequential:
    """Return a classifier of torchvision behind ImageNet normalisation: children ``normalize`` and ``model``.

    Args:
        name: as in ``torchvision.models.list_models()``.
        pretrained: take the default weights, which are downloaded once; fresh ones otherwise.
        num_classes: number of logits of fresh weights; torchvision's 1,000 if None.

    Raises:
        InputError: unknown name, or the weights cannot be had.
    """
    models = importlib.import_module("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(unknown("torchvision model", name, known))
    settings = {} if num_classes is None or pretrained else {"num_classes": num_classes}
    remedy = f"go online once, or name a local file as in torchvision:{name}@FILE"
    with foreign_code(f"torchvision:{name} cannot be built", remedy):
        model = models.get_model(name, weights="DEFAULT" if pretrained else None, **settings)
    return _behind_normalisation(model, IMAGENET_MEAN, IMAGENET_STD)


def timm_model(name: str, *, pretrained: bool, num_classes: int | None = None) -> nn.Sequential:
    """Return a model of timm behind the normalisation in its ``default_cfg``: children ``normalize`` and ``model``.

    Args:
        name: as in ``timm.list_models(pretrained=True)``.
        pretrained: take timm's weights, which are downloaded once; fresh ones otherwise.
        num_classes: number of logits of fresh weights; timm's own number if None.

    Raises:
        InputError: timm is not installed, it does not know the name, or the weights cannot be had.
    """
    timm = _timm(name)
    settings = {} if num_classes is None or pretrained else {"num_classes": num_classes}
    remedy = "choose a name from timm.list_models(pretrained=True) and go online once to download its weights"
    with foreign_code(f"timm:{name} cannot be built", remedy):
        model: Any = timm.create_model(name, pretrained=pretrained, **settings)
        config = model.default_cfg
        return _behind_normalisation(model, config["mean"], config["std"])


def _timm(name: str) -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"timm:{name} needs the package timm; run pip install timm.") from error


def _behind_normalisation(model: nn.Module, mean: Statistic, std: Statistic) -> nn.Sequential:
    assert isinstance(mean, tuple | list)
    normalize = Normalize(mean, std, channels=len(mean))
    return nn.Sequential(OrderedDict[str, nn.Module](normalize=normalize, model=model))
