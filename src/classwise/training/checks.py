"""What a training run must have before it begins."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from classwise.data.images import Images
from classwise.errors import InputError
from classwise.methods.base import (
    Method,
    refuse_hidden_attacks,
    weakened,
)
from classwise.models.load import named_like
from classwise.runtime.inference import judging
from classwise.training.run import (
    Run,
)

_SAME = 1e-3  # of the largest logit: beyond rounding, and below what another function does


def refuse_gaps(train: Images, positions: Tensor, held_out: Tensor) -> None:
    """Refuse data in which a class cannot be learned, or not be measured on the held-out images."""
    size = len(train.classes)
    if len(train) < size:
        raise InputError(f"There are {len(train)} training images for {size} classes; each class needs one at least.")
    for what, part in (("training", positions), ("held-out", held_out)):
        counts = torch.bincount(train.y[part], minlength=size)
        if len(part) and not counts.all():
            name = train.classes[int((counts == 0).nonzero()[0])]
            remedy = "give the class more, or the recipe holdout=0" if part is held_out else "leave the class out"
            raise InputError(f"Class {name!r} has no {what} images; {remedy}.")


def refuse_other_network(run: Run, model: nn.Module, train: Images, x: Tensor) -> None:
    """Refuse a record that names a registered architecture, with settings, that computes something else than the model.

    Raises:
        InputError: other weights than the architecture has, or other logits with the same weights.
    """
    try:
        named = named_like(run.model, model, len(train.classes), train.shape)
    except InputError as error:
        raise InputError(f"The run names {run.model!r}, and fit was given another network: {error}") from error
    if named is None:
        return
    with judging(model, x.device) as given, judging(named.to(x.device), x.device) as wanted, torch.no_grad():
        logits, expected = given(x).float(), wanted(x).float()
    if logits.shape != expected.shape or float((logits - expected).abs().max()) > _SAME * float(expected.abs().max()):
        raise InputError(
            f"The run names {run.model!r}, and the network that fit was given computes other logits with its weights; "
            "give fit the named network, or give the run another name of it."
        )


def refuse_lacks(method: Method, run: Run, held_out: Tensor) -> None:
    """Refuse a method or an average without what it needs: held-out images, or a trained network to start from."""
    refuse_hidden_attacks(method)
    if run.recipe.eps_warmup:
        with weakened(method, 0.5):
            pass  # refused here, before anything is written
    asking = {run.method: method.validates} | {name: rule.validates for name, rule in run.wrapped.averages.items()}
    for name, asks in asking.items():
        if asks and not len(held_out):
            raise InputError(f"{name} needs held-out images, and the recipe has holdout=0; give it a share above 0.")
    if method.fine_tunes and not re.search("[@:]", run.model):
        raise InputError(
            f"{run.method} goes on with a robust network, and {run.model!r} has fresh weights; give one that was "
            "trained, as in --model run:DIR or ARCH@FILE."
        )
