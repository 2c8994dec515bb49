"""Critical eps: the smallest radius that is found to break each image of a data set.

An evaluation with one attack, :class:`classwise.attacks.Narrowing`, so that everything holds that holds of one: what
counts is the candidate as it is run again in float32 and eval mode, inside the pixel range, and its distance is the
number; numbers do not depend on batch size, order or a crash; an interrupted run goes on from its folder. The radii
are upper bounds, never certified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from classwise import registry
from classwise.attacks.narrowing import Narrowing
from classwise.data.images import ImageSet
from classwise.errors import InputError
from classwise.evaluation.run import EvaluationProgress, evaluate
from classwise.metrics.critical_eps import CriticalEps, checked_radii
from classwise.threat import Norm, ThreatModel, parse_eps, parse_norm


def critical_eps(
    model: nn.Module,
    data: ImageSet,
    *,
    eps_max: float | str,
    norm: Norm = "Linf",
    attack: str = "narrowing",
    radii: Sequence[float] = (),
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    directory: Path | str | None = None,
    watch: Callable[[EvaluationProgress], None] | None = None,
    name: str | None = None,
    command: str | None = None,
) -> CriticalEps:
    """Look for the nearest misclassified image of every image that the model gets right.

    Args:
        model: takes images in [0, 1] and returns logits; left in the mode it came in.
        data: images with labels 0 … C − 1.
        eps_max: the largest radius that is looked at, in pixel units of [0, 1] or as "32/255"; images that nothing
            breaks within it are censored.
        norm: that distances are measured in: "Linf", "L2" or "L1".
        attack: the search, with its settings, as in "narrowing(halvings=4)".
        radii: at which critical_eps.json counts the images still right; eighths of eps_max if there are none.
        seed: of the search's random numbers.
        batch_size: images attacked at once, which changes no number beyond rounding; what memory holds if None.
        device: where to compute; the model's own device if None.
        directory: where the evaluation (result.json, outcomes.npz) and critical_eps.json are written; an interrupted
            run with the same settings goes on from there, and a finished one is read.
        watch: called after each batch with what is known so far.
        name: the model's name in the record; its class if None.
        command: the command line that makes this result, for the record.

    Returns:
        The critical eps of each image, and what follows by class.

    Raises:
        InputError: a largest radius of 0, an unknown norm, an attack other than narrowing, a radius outside
            0 … eps_max, no image, a model that does not fit, or a directory that holds something else.
    """
    threat = widest(norm, eps_max)
    checked_radii(radii, threat.eps)
    search = registry.build("attack", attack, threat)
    if not isinstance(search, Narrowing):
        raise InputError(
            f"{attack} stops at the first image within a radius; critical eps needs narrowing, as in the default."
        )
    result = evaluate(
        model,
        data,
        {attack: search},
        seed=seed,
        batch_size=batch_size,
        examples=0,
        device=device,
        directory=directory,
        watch=watch,
        name=name,
        command=command,
    )
    critical = CriticalEps.of(result)
    if directory is not None:
        critical.write(directory, radii)
    return critical


def widest(norm: str | int, eps_max: float | str) -> ThreatModel:
    """Return the largest set of images that is looked at.

    Raises:
        InputError: an unknown norm, or a radius that is no number above 0.
    """
    threat = ThreatModel(parse_norm(norm), parse_eps(eps_max))
    if threat.eps == 0:
        raise InputError("The largest radius is 0, within which there is nothing to look for; give one such as 32/255.")
    return threat
