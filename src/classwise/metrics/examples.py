"""A few broken images for people to look at, beside the outcomes, which say what they were taken for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classwise.errors import InputError
from classwise.files import npy
from classwise.files.writing import write_bytes
from classwise.metrics.outcomes import INVALID, Ints, Outcomes

EXAMPLES_FILE = "examples.npz"

_DAMAGE = (ValueError, KeyError, OSError)


@dataclass(frozen=True, eq=False)
class Examples:
    """Pixels of K broken images, each clean and as the candidate that broke it.

    Attributes:
        identity: of the evaluation in which they broke, as in its header.
        index: position of each image in its official split, (K,) int64; `Outcomes.index` finds it again.
        x: clean images, (K, C, H, W) uint8.
        x_adv: candidates, (K, C, H, W) float32 in [0, 1].
    """

    identity: str
    index: Ints
    x: NDArray[np.uint8]
    x_adv: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.index)

    def save(self, path: Path | str) -> None:
        """Write an .npz archive of plain arrays, atomically.

        Raises:
            InputError: the file cannot be written.
        """
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{**vars(self), "identity": np.array(self.identity)})
        write_bytes(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, folder: Path | str, identity: str | None) -> Examples | None:
        """Read the examples of an evaluation from its folder; None where it has none of this identity.

        Raises:
            InputError: the file is damaged.
        """
        path = Path(folder) / EXAMPLES_FILE
        if not path.exists():
            return None
        try:
            stored = npy.read_archive(path)
            examples = cls(str(stored["identity"]), *(stored[name] for name in ("index", "x", "x_adv")))
        except _DAMAGE as error:
            raise InputError(f"{path} is damaged; delete it, and the report will do without examples.") from error
        return examples if examples.identity == identity else None


def worth_showing(outcomes: Outcomes) -> Ints:
    """Return the positions of the images that attacks broke in the weakest class, the ones to show first in front.

    They come in turns: from each class that takes some, the one that takes most first, the first image in the order of
    the data set, then from each the second, and so on. Where attacks break nothing in the weakest class, which may be
    wrong throughout when clean, it is the weakest of the others.
    """
    taken_for = outcomes.adversarial_prediction()
    broken = (outcomes.clean == outcomes.y) & (taken_for != outcomes.y) & (taken_for != INVALID)
    if not broken.any():
        return np.array([], dtype=np.int64)
    accuracy = np.where(
        np.bincount(outcomes.y[broken], minlength=outcomes.num_classes) > 0, outcomes.accuracy(), np.inf
    )
    mine = np.flatnonzero(broken & (outcomes.y == accuracy.argmin()))
    mine = mine[outcomes.index[mine].argsort()]
    takers = taken_for[mine]
    turn = np.array([(takers[:i] == taker).sum() for i, taker in enumerate(takers)])
    return np.asarray(mine[np.lexsort((takers, -np.bincount(takers)[takers], turn))])
