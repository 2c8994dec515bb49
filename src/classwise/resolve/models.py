"""What the name of a model means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from classwise import registry
from classwise.analysis.evidence import Evidence
from classwise.analysis.network import last_layer
from classwise.data import ImageSet
from classwise.errors import InputError
from classwise.files import schemas
from classwise.metrics.outcomes import Floats
from classwise.metrics.training import RUN_FILE
from classwise.models import load_model
from classwise.models.checkpoint import weights_sha256
from classwise.models.load import RUN_FOLDER


def start(model: str) -> str:
    """Return architecture and weights file of a run to go on from, ``ARCH@FILE`` in place of ``run:FOLDER``.

    What is trained from it can then be loaded without its folder. A run of a network that no text with a file can
    name, such as one made by a Python file, stays as it is.
    """
    match = re.fullmatch(f"run:{RUN_FOLDER}", model)
    path = Path(match[1] if match else "").expanduser() / RUN_FILE
    try:
        arch = schemas.read(path, schemas.RUN, "")["model"].partition("@")[0] if match else ""
    except InputError:
        return model  # the loader says what is wrong
    if match is None or arch.startswith(("run:", "export:")) or ".py" in arch:
        return model
    return f"{arch}@{path.parent / (match[2] or 'best')}.safetensors"


def model(text: str, data: ImageSet, seed: int, fixed_shape: int | None = None) -> nn.Module:
    """Load a model and check that it fits the data, in batches of a fixed shape if there is one."""
    return load_model(text, num_classes=len(data.classes), shape=data.shape, seed=seed, fixed_shape=fixed_shape)


def fresh(model: str) -> bool:
    """Tell whether a model text names an architecture without weights."""
    return "@" not in model and registry.parse(model)[0] in registry.names("model")


def last_layers(models: Iterable[str], evidence: Evidence) -> dict[str, Floats]:
    """Load models that were evaluated; return the rows of their last layers (C, F) by the SHA-256 of their weights.

    Raises:
        InputError: a model is none of those that were evaluated.
    """
    classes = {
        str(subject.result.header["model"]["sha256"]): len(subject.result.outcomes.classes)
        for subject in evidence.subjects
    }
    rows = {}
    for text in models:
        network = load_model(text, num_classes=next(iter(classes.values()), None))
        sha = weights_sha256(network)
        if sha not in classes:
            raise InputError(f"{text} has the weights {sha[:12]}, which none of these evaluations is of.")
        rows[sha] = last_layer(network)
    return rows
