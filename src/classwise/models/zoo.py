"""Architectures and weights of torchvision and timm, with the normalisation that belongs to them inside."""

from __future__ import annotations

import importlib
import ssl
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from classwise.errors import InputError
from classwise.models.foreign import foreign_code
from classwise.models.normalize import Normalize, Statistic
from classwise.registry import unknown

# Of the ImageNet training images, as torchvision's documentation of its weights states them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PATIENCE = 3.0  # seconds for a server to answer one request before it counts as out of reach


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
        if pretrained:
            _refuse_a_hopeless_download(models, name)
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
    with foreign_code(f"timm:{name} cannot be built", remedy), _from_the_cache_if_out_of_reach(pretrained):
        model: Any = timm.create_model(name, pretrained=pretrained, **settings)
        config = model.default_cfg
        return _behind_normalisation(model, config["mean"], config["std"])


def _timm(name: str) -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"timm:{name} needs the package timm; run pip install timm.") from error


def _answers(url: str) -> bool:
    """Tell whether a server gives any answer, even a refusal, within ``PATIENCE``, by the proxies of the system."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError as error:  # a certificate that Python does not trust, the library itself may
        return isinstance(getattr(error, "reason", error), ssl.SSLError)


@contextmanager
def _from_the_cache_if_out_of_reach(pretrained: bool) -> Iterator[None]:
    """Keep huggingface_hub, through which timm downloads, from trying again and again where there is no network."""
    try:
        constants: Any = importlib.import_module("huggingface_hub.constants")
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or (pretrained and not _answers(constants.ENDPOINT))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _refuse_a_hopeless_download(models: ModuleType, name: str) -> None:
    """Raise ConnectionError if the weights are neither cached nor within reach: torch.hub would wait without end."""
    url: str = models.get_model_weights(name).DEFAULT.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not cached.exists() and not _answers(url):
        raise ConnectionError(f"no answer from {url}")


def _behind_normalisation(model: nn.Module, mean: Statistic, std: Statistic) -> nn.Sequential:
    assert isinstance(mean, tuple | list)
    normalize = Normalize(mean, std, channels=len(mean))
    return nn.Sequential(OrderedDict[str, nn.Module](normalize=normalize, model=model))
