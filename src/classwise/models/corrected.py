"""A model with a correction behind it, and the folder that holds it: ``corrected:FOLDER``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from classwise import registry
from classwise.errors import InputError
from classwise.files import schemas
from classwise.files.texts import located
from classwise.files.writing import write_bytes, write_json
from classwise.models.checkpoint import read_weights, weights_sha256
from classwise.models.fingerprint import fingerprint, patterns, refuse_changed
from classwise.models.foreign import foreign_code, refuse_code
from classwise.models.stored import State
from classwise.runtime.inference import device_of

RECORD = "corrected.json"
TENSORS = "correction.safetensors"


@dataclass(frozen=True)
class FittedOn:
    """What a correction was fitted on.

    Attributes:
        data: name of the data set.
        split: of it.
        index: positions of the images in the split.
        norm: of the attacks.
        eps: their radius.
    """

    data: str
    split: str
    index: frozenset[int]
    norm: str
    eps: float


FITTED_ON_TEST = (
    "The decision rule of this model was fitted on test images, so its accuracy on them is too high; fit it on "
    "held-out images."
)
"""What every output says of such a model."""


class Corrected(nn.Module):
    """A model and the decision rule on its logits, as one function, which is what must be attacked.

    Args:
        model: takes [0, 1], returns logits.
        correction: maps logits to logits.
        fitted_on_test: whether the correction was fitted on test images. A buffer, so that the stamp travels with the
            weights and is part of their hash.
        fitted_on: which images these were, and how they were attacked; None where that is not known.
    """

    fitted_on_test: Tensor

    def __init__(
        self,
        model: nn.Module,
        correction: nn.Module,
        *,
        fitted_on_test: bool = False,
        fitted_on: FittedOn | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.correction = correction
        self.fitted_on = fitted_on
        self.register_buffer("fitted_on_test", torch.tensor(fitted_on_test))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to corrected logits (N, K)."""
        logits: Tensor = self.correction(self.model(x))
        return logits


def fitted_on_test(model: nn.Module) -> bool:
    """Tell whether a correction anywhere in the model was fitted on test images."""
    return any(isinstance(part, Corrected) and bool(part.fitted_on_test) for part in model.modules())


def corrections_of(model: nn.Module) -> list[Corrected]:
    """Return every corrected model inside a model, itself included."""
    return [part for part in model.modules() if isinstance(part, Corrected)]


def save_corrected(model: Corrected, text: str, rule: str, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the folder that ``corrected:FOLDER`` reads; the weights of the model itself are not copied.

    Args:
        model: the corrected model.
        text: model string of the uncorrected one.
        rule: name of the correction, settings included.
        folder: where to write.
        about: how it was fitted, for the record.

    Raises:
        InputError: the folder cannot be written.
    """
    tensors = {name: value.cpu().contiguous().clone() for name, value in model.correction.state_dict().items()}
    write_bytes(folder / TENSORS, safetensors.torch.save(tensors))
    record: dict[str, Any] = {"model": text, "sha256": weights_sha256(model.model), "rule": rule}
    if (shape := about.get("shape")) is not None:
        record |= {"function": _function(model.model, shape)}
    write_json(folder / RECORD, {**about, **record, "fitted_on_test": bool(model.fitted_on_test)})


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a folder says of its corrected model: model, sha256, rule, fitted_on_test and how it was fitted.

    Raises:
        InputError: there is no such record, or it is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        raise InputError(
            f"{folder} holds no corrected model: it has no {RECORD}; give one that `classwise correct` wrote."
        )
    record = schemas.read(path, schemas.CORRECTED, "fit the correction again")
    return {**record, "model": located(str(record["model"]), folder)}


def load_corrected(folder: Path, load: Callable[[str, State | None], nn.Module], state: State | None) -> Corrected:
    """Build the model of a folder.

    Args:
        folder: written by :func:`save_corrected`.
        load: makes the uncorrected model of a model string, without fetching weights where it is given a state.
        state: of the corrected model, where a training run will fill it in; None for the weights it was fitted to.

    Raises:
        InputError: the folder is damaged, or the model string no longer names the weights that were corrected.
    """
    record = read_record(folder)
    inner = None if state is None else {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    refuse_code(record["model"], str(folder / RECORD))
    model = load(record["model"], inner)
    if state is None and (sha256 := weights_sha256(model)) != record["sha256"]:
        raise InputError(
            f"{folder} corrects {record['model']} with weights {record['sha256'][:12]}, but its weights are now "
            f"{sha256[:12]}; restore them, or fit the correction again."
        )
    if state is None and record.get("function") is not None:
        now = _function(model, record["shape"])
        refuse_changed(record["function"], now, f"{folder} corrects a model", "fit the correction again")
    correction, stamp = _correction(folder, record["rule"]), bool(record["fitted_on_test"])
    return Corrected(model, correction, fitted_on_test=stamp, fitted_on=fitted_on(record))


def fitted_on(record: Mapping[str, Any]) -> FittedOn | None:
    """Return what the record of a corrected model was fitted on; None where it does not say."""
    try:
        data, threat = record["data"], record["threat"]
        index = frozenset(number for number in map(int, record["index"]) if 0 <= number < 2**62)
        return FittedOn(str(data["name"]), str(data["split"]), index, str(threat["norm"]), float(threat["eps"]))
    except (KeyError, TypeError, ValueError):
        return None


def _function(model: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """Return what the uncorrected model computes on images of this shape (C, H, W), for JSON; left in its mode."""
    device = device_of(model)
    training = model.training
    try:
        mark = fingerprint(model.eval(), patterns(shape).to(device))
    finally:
        model.train(training)
    return {"the model": None if mark is None else mark.record}


def _correction(folder: Path, rule: str) -> nn.Module:
    tensors = read_weights(folder / TENSORS)
    with foreign_code(f"{folder / TENSORS} does not hold {rule!r}", "fit the correction again"):
        correction: nn.Module = registry.build("correction", rule).module(**tensors)
    return correction
