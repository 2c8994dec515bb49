"""Outcomes in the making: what an evaluation knows so far, saved so that a crash costs seconds."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classwise.data.images import ImageSet
from classwise.errors import InputError
from classwise.files import write_bytes
from classwise.metrics.outcomes import Outcomes

_SAVE_EVERY = 10.0  # seconds; a crash loses at most this much work and one batch


@dataclass
class Records:
    """The verdicts on N images under A attacks, filled batch by batch.

    Every array starts at zero and each process fills its own images, so that the records of several processes are
    merged by adding.

    Attributes:
        attacks: names, in order.
        done: which images are finished, (N,) int64.
        clean: predicted class on the clean image, (N,).
        prediction: on the verified candidate, (A, N).
        margin: on the clean image, then on each candidate, (A + 1, N) float32.
        distance: of each candidate, (A, N) float32.
        gap: difference of the two largest clean logits, (N,) float32.
        std: standard deviation of the clean logits over classes, (N,) float32.
        rejected: candidates outside the threat set, (A,).
        seconds: time spent on each attack, (A,) float64.
    """

    attacks: tuple[str, ...]
    done: Tensor
    clean: Tensor
    prediction: Tensor
    margin: Tensor
    distance: Tensor
    gap: Tensor
    std: Tensor
    rejected: Tensor
    seconds: Tensor
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def empty(cls, attacks: Sequence[str], size: int) -> Records:
        """Return records of ``size`` images of which nothing is known."""
        count, wide = len(attacks), torch.float32
        return cls(
            attacks=tuple(attacks),
            done=torch.zeros(size, dtype=torch.int64),
            clean=torch.zeros(size, dtype=torch.int64),
            prediction=torch.zeros(count, size, dtype=torch.int64),
            margin=torch.zeros(count + 1, size, dtype=wide),
            distance=torch.zeros(count, size, dtype=wide),
            gap=torch.zeros(size, dtype=wide),
            std=torch.zeros(size, dtype=wide),
            rejected=torch.zeros(count, dtype=torch.int64),
            seconds=torch.zeros(count, dtype=torch.float64),
        )

    def arrays(self) -> dict[str, Tensor]:
        """Return every array by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace every array by its sum over processes."""
        for name, value in self.arrays().items():
            setattr(self, name, total(value))

    def outcomes(self, data: ImageSet) -> Outcomes:
        """Return the finished records as outcomes."""
        margins = {"clean": self.margin[0].numpy()}
        return Outcomes(
            classes=data.classes,
            index=data.index.numpy(),
            y=data.y.numpy(),
            clean=self.clean.numpy(),
            predictions={name: self.prediction[a].numpy() for a, name in enumerate(self.attacks)},
            margins=margins | {name: self.margin[a + 1].numpy() for a, name in enumerate(self.attacks)},
            distances={name: self.distance[a].numpy() for a, name in enumerate(self.attacks)},
        )

    def save_if_due(self, path: Path | None, identity: str) -> None:
        """Save to ``path`` where the last save is old enough."""
        if path is not None and time.monotonic() - self._saved > _SAVE_EVERY:
            self.save(path, identity)

    def save(self, path: Path, identity: str) -> None:
        """Write the arrays and the identity of the evaluation they belong to, atomically."""
        content = io.BytesIO()
        np.savez(content, identity=np.array(identity), **{k: v.numpy() for k, v in self.arrays().items()})  # type: ignore[arg-type]
        write_bytes(path, content.getvalue())
        self._saved = time.monotonic()

    def load(self, path: Path, identity: str) -> None:
        """Go on from ``path`` if it exists.

        Raises:
            InputError: the file belongs to another evaluation, or is damaged.
        """
        if not path.exists():
            return
        try:
            with np.load(path, allow_pickle=False) as stored:
                owner = str(stored["identity"])
                arrays = {name: torch.from_numpy(stored[name]) for name in self.arrays()}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is damaged; delete it to start this evaluation anew.") from error
        if owner != identity:
            raise InputError(
                f"{path.parent} holds an unfinished evaluation with other settings; "
                "choose another --out, or delete the folder to start anew."
            )
        for name, value in arrays.items():
            setattr(self, name, value)
