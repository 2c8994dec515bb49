"""The curve of a correction: worst class against average under attack, a point for each rule that was tried."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classwise.errors import InputError
from classwise.files import schemas

CURVE_FILE = "curve.json"

Ends = tuple[float, float]


@dataclass(frozen=True)
class TradeOffPoint:
    """What a decision rule came to on the images that it was fitted on, under the adaptive attack.

    Attributes:
        clean: accuracy on clean images.
        average: share of images that are right under attack, with its interval.
        average_interval: exact (Clopper-Pearson), 95 %.
        worst: lowest class accuracy under attack, with its interval.
        worst_interval: simultaneous over classes.
        worst_class: name of that class.
        change: of the average against no correction, in points, with its interval.
        change_interval: paired, 95 %.
    """

    clean: float
    average: float
    average_interval: Ends
    worst: float
    worst_interval: Ends
    worst_class: str
    change: float
    change_interval: Ends


@dataclass(frozen=True)
class TradeOff:
    """What `classwise correct` tried.

    Attributes:
        rule: name of the correction.
        n: images that it was fitted on.
        images: these in words, "" where they have none.
        max_loss: points of the average that the worst class was allowed to cost.
        points: what every round came to; the first is no correction.
        chosen: the round whose rule is in the model; 0 if none was better than nothing.
    """

    rule: str
    n: int
    images: str
    max_loss: float
    points: tuple[TradeOffPoint, ...]
    chosen: int

    @classmethod
    def read(cls, folder: Path) -> TradeOff:
        """Read the folder of a corrected model.

        Raises:
            InputError: it holds no readable curve.
        """
        try:
            record = schemas.read(folder / CURVE_FILE, schemas.CURVE, "fit the correction again")
            points = tuple(_point(entry) for entry in record["rounds"])
            about = (str(record["rule"]), int(record["data"]["n"]), str(record["images"]), float(record["max_loss"]))
            return cls(*about, points, range(len(points))[record["chosen"]])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{folder} holds no readable curve of a correction ({CURVE_FILE}).") from error


def corrected_folder(model: str) -> Path | None:
    """Return the folder of the corrected model that a model string names; None for any other model.

    Example:
        >>> str(corrected_folder("corrected:runs/fixed")), corrected_folder("mine.py:load")
        ('runs/fixed', None)
    """
    match = re.fullmatch(r"corrected:(.+)", model)
    return Path(match[1]).expanduser() if match else None


def _point(entry: Mapping[str, Any]) -> TradeOffPoint:
    adaptive, worst = entry["adaptive"], entry["adaptive"]["worst"]
    return TradeOffPoint(
        clean=float(entry["clean"]["accuracy"]),
        average=float(adaptive["accuracy"]),
        average_interval=_ends(adaptive["accuracy_interval"]),
        worst=float(worst["accuracy"]),
        worst_interval=_ends(worst["interval"]),
        worst_class=str(worst["class"]),
        change=float(entry["average_change"]),
        change_interval=_ends(entry["average_change_interval"]),
    )


def _ends(values: list[float]) -> Ends:
    low, high = map(float, values)
    return low, high
