"""What changes from epoch to epoch, and the files that keep it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from classwise import files
from classwise.errors import InputError
from classwise.files.texts import portable_record
from classwise.metrics.training import LOG_FILE, SUMMARY_FILE
from classwise.models.checkpoint import save_weights
from classwise.models.fingerprint import fingerprint, refuse_changed
from classwise.models.foreign import foreign_code
from classwise.models.pickled import read_tensors
from classwise.runtime.inference import judging
from classwise.training import selection
from classwise.training.log import scalars
from classwise.training.run import (
    CHECKPOINT_VERSION,
    refuse_other_settings,
)
from classwise.training.step import TrainStep
from classwise.wrappers import Averaged

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class State:
    """Everything that changes from epoch to epoch."""

    step: TrainStep
    optimizer: torch.optim.Optimizer
    averages: dict[str, Averaged]
    x: Tensor
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return len(self.log)

    @property
    def last(self) -> dict[str, Any] | None:
        """What the log says of the last finished epoch."""
        return self.log[-1] if self.log else None

    @property
    def models(self) -> dict[str, nn.Module]:
        """Models that exist by now, by name: "plain" and averages."""
        return {
            "plain": self.step.model,
            **{name: average.model for name, average in self.averages.items() if average.exists},
        }

    @property
    def function(self) -> dict[str, Any]:
        """What the network computes with the weights that it has now, and its teacher, on a few training images."""
        with judging(self.step.model, self.x.device) as called:
            mark = fingerprint(called, self.x)
        return {"the network": mark and mark.record, **self.taught}

    @cached_property
    def taught(self) -> dict[str, Any]:
        """What the teacher computes, which stays the same from epoch to epoch; empty without one."""
        teacher = self.step.method.teacher
        mark = None if teacher is None else fingerprint(teacher, self.x)
        return {} if mark is None else {"the teacher": mark.record}

    def content(self, record: Mapping[str, Any]) -> bytes:
        """Return the checkpoint as it is written, with the record of the run in it."""
        content = io.BytesIO()
        torch.save(
            {
                "version": CHECKPOINT_VERSION,
                "settings": json.dumps(record, sort_keys=True),
                "model": self.step.model.state_dict(),
                "method": self.step.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "averages": {name: average.state_dict() for name, average in self.averages.items()},
                "log": json.dumps(self.log),
                "function": json.dumps(self.function),
            },
            content,
        )
        return content.getvalue()

    def restore(self, path: Path, record: Mapping[str, Any]) -> None:
        """Take up the checkpoint at ``path``, if there is one."""
        if not path.exists():
            return
        try:
            stored = read_tensors(path)
            settings = dict(json.loads(stored["settings"]))
        except Exception as error:
            raise InputError(f"{path} is damaged; delete it to train from the start.") from error
        refuse_other_settings(path, settings, record)
        sound = partial(foreign_code, f"{path} is damaged", "delete it to train from the start")
        with sound():
            self.step.model.load_state_dict(stored["model"])
        refuse_changed(json.loads(stored.get("function", "{}")), self.function, f"{path.parent} holds a run")
        with sound():
            self.step.method.load_state_dict(stored["method"])
            self.optimizer.load_state_dict(stored["optimizer"])
            _refuse_other_shapes(self.optimizer)
            for name, average in self.averages.items():
                average.load_state_dict(stored["averages"][name])
            self.log = json.loads(stored["log"])


def _refuse_other_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Refuse momentum and the like that do not fit their weights, which only a step would notice.

    Raises:
        ValueError: some are of another shape, or no numbers.
    """
    for weights, state in optimizer.state.items():
        for name, value in state.items():
            fits = value.shape in ((), weights.shape) if isinstance(value, Tensor) else not isinstance(value, str)
            if not fits:
                raise ValueError(f"{name} does not fit weights of the shape {tuple(weights.shape)}")


def finish_epoch(state: State, folder: Path, fabric: Fabric, record: Mapping[str, Any], line: dict[str, Any]) -> None:
    """Log the epoch, keep the weights that may be the best, and save the checkpoint; then drop what it has no use for.

    A stop between any two writes leaves a checkpoint from which the same files are written again.
    """
    state.log.append(line)
    fabric.log_dict(dict(scalars(line)), step=line["epoch"])
    epochs = record["recipe"]["epochs"]
    if fabric.is_global_zero:
        for name, model in state.models.items():
            keep_best(folder, name, model, selection.score_column(state.log, name), epochs)
        files.write_text(folder / LOG_FILE, "".join(json.dumps(entry) + "\n" for entry in state.log))
        files.write_bytes(folder / "checkpoint.pt", state.content(portable_record(record, folder)))
        drop_candidates(state, folder, epochs)
    fabric.barrier()


def keep_best(folder: Path, name: str, model: nn.Module, scores: selection.Scores, epochs: int) -> None:
    """Keep the weights of this epoch while it may still become the best, and those of the best once it is known."""
    epoch, best = len(scores), selection.best(scores, epochs)
    if epoch == best or epoch in selection.open_epochs(scores, epochs):
        save_weights(model, _candidate(folder, name, epoch))
    if best is not None and best != selection.best(scores[:-1], epochs):
        path = _candidate(folder, name, best)
        try:
            weights = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{path} is missing; delete {folder / 'checkpoint.pt'} to train from the start."
            ) from error
        files.write_bytes(folder / _weights_file(name, "best"), weights)


def drop_candidates(state: State, folder: Path, epochs: int) -> None:
    """Delete the weights of epochs that have been judged."""
    needed = {
        _candidate(folder, name, epoch)
        for name in state.models
        for epoch in selection.open_epochs(selection.score_column(state.log, name), epochs)
    }
    for path in (folder / "candidates").glob("*"):
        if path not in needed:
            path.unlink()
    if not needed and (folder / "candidates").exists():
        (folder / "candidates").rmdir()


def conclude(state: State, folder: Path, epochs: int) -> None:
    """Write the last weights and what was achieved."""
    drop_candidates(state, folder, epochs)
    for name, model in state.models.items():
        save_weights(model, folder / _weights_file(name, "last"))
    files.write_json(folder / SUMMARY_FILE, selection.summary(state.log, epochs))


def _candidate(folder: Path, name: str, epoch: int) -> Path:
    return folder / "candidates" / _weights_file(name, f"epoch-{epoch}")


def _weights_file(name: str, what: str) -> str:
    return f"{what}.safetensors" if name == "plain" else f"{name}-{what}.safetensors"
