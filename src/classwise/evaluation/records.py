"""Outcomes in the making: what an evaluation knows so far, saved so that a crash costs seconds."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from classwise.data.images import ImageSet
from classwise.errors import InputError
from classwise.files import npy
from classwise.files.difference import first_difference
from classwise.files.writing import remove_leftovers, write_bytes
from classwise.metrics.outcomes import Outcomes
from classwise.models.fingerprint import refuse_changed

_SAVE_EVERY = 10.0  # seconds; a crash loses at most this much work and one batch
_DAMAGE = (OSError, ValueError, KeyError, TypeError)
Arrays = dict[str, Tensor]


@dataclass
class CleanVerdicts:
    """The verdict on N clean images; every array starts at zero and a process fills its own images.

    Attributes:
        tried: which images are finished, (N,) int64.
        prediction: predicted class, (N,).
        margin: largest wrong logit minus true logit, (N,) float32.
        gap: difference of the two largest logits, (N,) float32.
        std: standard deviation of the logits over classes, (N,) float32.
    """

    tried: Tensor
    prediction: Tensor
    margin: Tensor
    gap: Tensor
    std: Tensor

    @classmethod
    def empty(cls, size: int) -> CleanVerdicts:
        """Return what is known of ``size`` images before the first pass."""
        whole, real = torch.zeros(size, dtype=torch.int64), torch.zeros(size)
        return cls(whole, whole.clone(), real, real.clone(), real.clone())


@dataclass
class StageResult:
    """One attack on some of N images; every array starts at zero and a process fills its own images.

    Attributes:
        tried: which images it has attacked, (N,) int64.
        prediction: on the verified candidate, (N,).
        margin: on that candidate, (N,) float32.
        distance: of that candidate from the image, (N,) float32.
        rejected: fooling candidates outside the threat set, which do not count, () int64.
        seconds: time spent, () float64.
    """

    tried: Tensor
    prediction: Tensor
    margin: Tensor
    distance: Tensor
    rejected: Tensor
    seconds: Tensor

    @classmethod
    def empty(cls, size: int) -> StageResult:
        """Return an attack on ``size`` images that has not begun."""
        whole, real = torch.zeros(size, dtype=torch.int64), torch.zeros(size)
        none = torch.zeros((), dtype=torch.int64)
        return cls(whole, whole.clone(), real, real.clone(), none, torch.zeros((), dtype=torch.float64))

    def added_up(self, total: Callable[[Tensor], Tensor]) -> StageResult:
        """Return the sum over processes."""
        return StageResult(**{name: total(value) for name, value in vars(self).items()})


@dataclass
class Records:
    """Everything one process has found out.

    Attributes:
        clean: verdicts on the clean images.
        turns: of each view and number, counted from 0; see :class:`StageResult`.
        path: file they are saved in; None for none.
        identity: of the evaluation they belong to.
        claim: the same in words, with the fingerprints of the models.
        formerly: identities that earlier versions gave the same evaluation.
    """

    clean: CleanVerdicts
    turns: dict[tuple[str, int], StageResult]
    path: Path | None
    identity: str
    claim: Mapping[str, Any] = field(default_factory=dict)
    formerly: Sequence[str] = ()
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls,
        size: int,
        path: Path | None,
        identity: str,
        claim: Mapping[str, Any] | None = None,
        formerly: Sequence[str] = (),
    ) -> Records:
        """Go on from ``path`` if it exists, else begin with records of ``size`` images.

        Raises:
            InputError: the file belongs to another evaluation, or to other code with the same weights, or is damaged.
        """
        records = cls(CleanVerdicts.empty(size), {}, path, identity, claim or {}, formerly)
        if path is not None and path.exists():
            records._load(path)
        return records

    def turn(self, view: str, number: int) -> StageResult:
        """Return a turn as far as it has come."""
        return self.turns.setdefault((view, number), StageResult.empty(len(self.clean.tried)))

    def add_up_clean(self, total: Callable[[Tensor], Tensor]) -> CleanVerdicts:
        """Return the clean verdicts of all processes."""
        return CleanVerdicts(**{name: total(value) for name, value in vars(self.clean).items()})

    def save_if_due(self) -> None:
        """Save where the last save is old enough."""
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write everything, atomically, with the identity of the evaluation."""
        if self.path is None:
            return
        arrays = {f"clean.{name}": value for name, value in vars(self.clean).items()}
        for (view, number), turn in self.turns.items():
            arrays |= {f"turn.{view}\t{number}\t{name}": value for name, value in vars(turn).items()}
        content = io.BytesIO()
        claim = np.array(json.dumps(self.claim))
        np.savez(content, identity=np.array(self.identity), claim=claim, **{k: v.numpy() for k, v in arrays.items()})
        write_bytes(self.path, content.getvalue())
        self._saved = time.monotonic()

    def _load(self, path: Path) -> None:
        try:
            stored = npy.read_archive(path)
            owner = str(stored.pop("identity"))
            claim = json.loads(str(stored.pop("claim", "{}")))
            arrays = {name: torch.from_numpy(values) for name, values in stored.items()}
            if owner in (self.identity, *self.formerly):
                self.clean = CleanVerdicts(**_part(arrays, "clean."))
                keys = {name.removeprefix("turn.").rpartition("\t")[0] for name in arrays if name.startswith("turn.")}
                self.turns = {_key(key): StageResult(**_part(arrays, f"turn.{key}\t")) for key in sorted(keys)}
        except _DAMAGE as error:
            raise InputError(f"{path} is damaged; delete it to start this evaluation anew.") from error
        self._refuse_other(path, owner, claim)

    def _refuse_other(self, path: Path, owner: str, claim: Mapping[str, Any]) -> None:
        """Refuse what belongs to another evaluation, and name what differs."""
        if owner not in (self.identity, *self.formerly):
            reason = first_difference(claim, self.claim)
            raise InputError(
                f"{path.parent} holds an unfinished evaluation with other settings{f': {reason}' if reason else ''}; "
                f"choose another --out, or delete {path.name} in it to give that one up."
            )
        refuse_changed(claim.get("functions"), self.claim.get("functions", {}), f"{path} is an unfinished evaluation")


def clear(folder: Path, identity: str | None = None) -> None:
    """Remove the records of a folder, and what a killed process left half written.

    Args:
        folder: where the result is complete.
        identity: only records of this evaluation, of which nothing is being written; all if None.
    """
    for path in folder.glob("partial-*.npz"):
        if identity is None or _owner(path) == identity:
            path.unlink(missing_ok=True)
    remove_leftovers(folder)


def _owner(path: Path) -> str | None:
    try:
        return str(npy.read_member(path, "identity"))
    except _DAMAGE:
        return None


@dataclass(frozen=True)
class ViewVerdicts:
    """The verdict of one view on all N images.

    Attributes:
        prediction: on the candidate that counts: the first that broke the image, else that of the largest margin.
        margin: on that candidate.
        distance: of that candidate.
        stage: turn that broke the image, −1 where none did.
        tried: whether any turn attacked the image; before, its margin is the clean one.
    """

    prediction: Tensor
    margin: Tensor
    distance: Tensor
    stage: Tensor
    tried: Tensor

    @classmethod
    def begin(cls, clean: CleanVerdicts) -> ViewVerdicts:
        """Return the verdict before the first attack."""
        nobody = torch.zeros_like(clean.prediction, dtype=torch.bool)
        none = torch.full_like(clean.prediction, -1)
        return cls(clean.prediction, clean.margin, torch.zeros_like(clean.margin), none, nobody)

    def after(self, turn: StageResult, number: int, y: Tensor) -> ViewVerdicts:
        """Return the verdict after one more turn.

        Args:
            turn: of all processes.
            number: its number in the view.
            y: true classes.
        """
        tried = (turn.tried == 1) & (self.prediction == y)
        fooled = tried & (turn.prediction != y)
        closer = fooled | (tried & (~self.tried | (turn.margin > self.margin)))
        return ViewVerdicts(
            torch.where(fooled, turn.prediction, self.prediction),
            torch.where(closer, turn.margin, self.margin),
            torch.where(closer, turn.distance, self.distance),
            torch.where(fooled, number, self.stage),
            self.tried | tried,
        )


def outcomes(
    data: ImageSet, clean: CleanVerdicts, rows: Mapping[str, ViewVerdicts], stages: Mapping[str, Sequence[str]]
) -> Outcomes:
    """Return finished rows as outcomes.

    Args:
        data: the images.
        clean: their clean verdicts.
        rows: of each view, in order.
        stages: names of the turns of the views that have several.
    """
    names = {view: np.array(["", *stages[view]]) for view in stages}
    return Outcomes(
        classes=data.classes,
        index=data.index.numpy(),
        y=data.y.numpy(),
        clean=clean.prediction.numpy(),
        predictions={view: row.prediction.numpy() for view, row in rows.items()},
        margins={"clean": clean.margin.numpy()} | {view: row.margin.numpy() for view, row in rows.items()},
        distances={view: row.distance.numpy() for view, row in rows.items()},
        stages={view: names[view][rows[view].stage.numpy() + 1] for view in stages},
    )


def _part(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _key(text: str) -> tuple[str, int]:
    view, _, number = text.rpartition("\t")
    return view, int(number)
