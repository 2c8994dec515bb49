"""The model under test: put in order, looked at before and after it is attacked, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from classwise.data.images import ImageSet
from classwise.data.splits import evenly
from classwise.evaluation.engine import channels_last
from classwise.evaluation.flags import Flag, of_model
from classwise.evaluation.preflight import PREFLIGHT_IMAGES, check_sizes, known_flags, output_flags, preflight
from classwise.models.fixed_shape import FixedShape
from classwise.runtime.classifier import Classifier
from classwise.runtime.inference import judging
from classwise.runtime.memory import batch_that_fits
from classwise.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class ModelUnderTest:
    """A model in eval mode and float32, with what was noticed of it.

    Attributes:
        called: the model itself.
        model: as verdicts ask it, in batches of one size where that is fixed.
        sample: positions of the images that it was looked at with, (N,).
        trial: images that it takes, of the fixed number if there is one.
        batch_size: images that it is asked about at once.
        flags: what was noticed; more is added when the test ends.
    """

    called: Classifier
    model: nn.Module
    sample: Tensor
    trial: Tensor
    batch_size: int
    flags: list[Flag]


@contextmanager
def under_test(
    model: nn.Module,
    data: ImageSet,
    device: torch.device,
    *,
    name: str | None = None,
    batch_size: int | None = None,
    fixed_shape: int | None = None,
    ranks: int = 1,
    threat: ThreatModel | None = None,
) -> Iterator[ModelUnderTest]:
    """Put a model in order and look at it; look again at the end, and put it back.

    Args:
        model: a module, moved to ``device`` and left there.
        data: the images that it is tested with.
        device: where to compute.
        name: what the model is called in sentences; its class if None.
        batch_size: images at once; what memory holds if None.
        fixed_shape: images in every batch, filled up; any number if None.
        ranks: processes that share the memory.
        threat: of the attacks; None before any is known.

    Raises:
        InputError: the model fails, or returns no logits for these classes.
    """
    raised = list(known_flags(model, data, threat))
    model.to(device)  # whatever it returns
    called = Classifier(model, name, len(data.classes))
    with judging(called, device):
        sample = evenly(data.index, PREFLIGHT_IMAGES)
        x, y = data.fetch(sample).to(device), data.y[sample].to(device)
        trial = x[:2] if fixed_shape is None else x.repeat(-(-fixed_shape // len(x)), 1, 1, 1)[:fixed_shape]
        asked: nn.Module = called if fixed_shape is None else FixedShape(called, fixed_shape)
        check_sizes(asked, x[:2])
        raised += output_flags(called, trial)
        with channels_last(called, trial):
            two = x[:2] if fixed_shape is None else torch.cat([trial, trial])
            size = batch_size or batch_that_fits(asked, two, ranks)
            look, few = max(2, min(PREFLIGHT_IMAGES, size)), max(1, min(PREFLIGHT_IMAGES, size))
            result = preflight(asked, x[:look], y[:look], data.classes, min(size, len(data)))
            raised += result.flags
            raised += of_model(asked, x[:few], y[:few], data.classes)
            yield ModelUnderTest(called, asked, sample, trial, size, raised)
            raised += result.again(asked)
