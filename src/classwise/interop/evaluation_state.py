"""The state file of fra31/auto-attack and RobustBench: which images a run has left robust, and which attacks it ran.

The keys are those of ``autoattack.state.EvaluationState`` (a392200), which reads what is written here; what that format
has no place for, the adversarial images and whom they belong to, lies in a second file beside it.
"""

from __future__ import annotations

import ast
import io
import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classwise import files
from classwise.errors import InputError
from classwise.files import schemas
from classwise.models.pickled import read_tensors

_IMAGES = ".images"  # appended to the name of the file that holds the rest


@dataclass
class EvaluationState:
    """What a run knows so far.

    Attributes:
        attacks_to_run: names of the attacks.
        run_attacks: those that are done.
        robust: which images are robust so far (N,) bool; None before the clean accuracy is known.
        clean_accuracy: share of images that are right when clean.
        x_adv: adversarial images so far (N, C, H, W) on the CPU; None if the file beside is missing.
        identity: of weights, data and settings; empty if the file beside is missing.
        function: what the model computes, as :attr:`classwise.models.fingerprint.Fingerprint.record` by the name of the
            model; empty if the file beside is missing or older.
    """

    attacks_to_run: tuple[str, ...]
    run_attacks: list[str] = field(default_factory=list)
    robust: Tensor | None = None
    clean_accuracy: float = math.nan
    x_adv: Tensor | None = None
    identity: str = ""
    function: dict[str, Any] = field(default_factory=dict)

    @property
    def robust_flags(self) -> Tensor | None:
        """Which images are robust so far, (N,) as 0 and 1: RobustBench takes their mean, which bool has none of."""
        return None if self.robust is None else self.robust.float()

    @property
    def robust_accuracy(self) -> float:
        """Share of images that are robust so far.

        Raises:
            ValueError: the run has not begun.
        """
        if self.robust is None:
            raise ValueError("robust_flags is not set yet. Start the attack first.")
        return float(self.robust.float().mean())

    @classmethod
    def from_disk(cls, path: Path | str) -> EvaluationState:
        """Read a state that this package, the released one or RobustBench has written.

        Raises:
            InputError: the file is no such state.
        """
        path = Path(path)
        try:
            stored = json.loads(
                schemas.content(path, "delete it to start anew")
            )  # NaN, before it has begun, is no JSON
            flags = stored["_robust_flags"]
            state = cls(
                _names(stored["_attacks_to_run"]),
                list(_names(stored["_run_attacks"])),
                None if flags is None else torch.tensor(flags, dtype=torch.bool).reshape(-1),
                float(stored["_clean_accuracy"]),
            )
            beside = Path(f"{path}{_IMAGES}")
            if beside.exists():
                images = read_tensors(beside)
                state.x_adv, state.identity = images["x_adv"].detach(), str(images["identity"])
                state.function = dict(images.get("function", {}))
        except Exception as error:
            raise InputError(f"{path} is no state of an attack; delete it to start anew.") from error
        return state

    def to_disk(self, path: Path | str) -> None:
        """Write the state, and the images into a file beside it, atomically each; the images first."""
        if self.x_adv is not None:
            content = io.BytesIO()
            torch.save({"identity": self.identity, "function": self.function, "x_adv": self.x_adv}, content)
            files.write_bytes(Path(f"{path}{_IMAGES}"), content.getvalue())
        document: dict[str, Any] = {
            "_attacks_to_run": list(self.attacks_to_run),
            "path": str(path),
            "_run_attacks": self.run_attacks,
            "_robust_flags": None if self.robust is None else self.robust.tolist(),
            "_last_saved": str(datetime.now()),
            "_SAVE_TIMEOUT": 60,
            "_clean_accuracy": self.clean_accuracy,
        }
        files.write_bytes(Path(path), json.dumps(document).encode())


def _names(value: object) -> tuple[str, ...]:
    """Read names from a list, or from the text of a set, as the released package writes it."""
    if isinstance(value, str):
        value = () if value == "set()" else sorted(ast.literal_eval(value))
    return tuple(str(name) for name in value)  # type: ignore[attr-defined]
