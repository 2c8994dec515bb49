"""The log of a training run: robustness of each class over its epochs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from classwise.errors import InputError
from classwise.files import schemas
from classwise.metrics.outcomes import Floats, divide

LOG_FILE, RUN_FILE, SUMMARY_FILE = "log.jsonl", "run.json", "summary.json"
_RUN = r"run:(.+?)(?:@([\w-]+))?"
QUANTILE = 0.8
LAST = 5
"""Epochs whose mean is the final value."""
_ENOUGH = 100  # images of a class from which on held-out images are looked at, else training batches


@dataclass(frozen=True, eq=False)
class Training:
    """The log of a training run.

    Attributes:
        label: how it is called in tables.
        classes: names (C,).
        lines: one mapping an epoch, as in log.jsonl.
    """

    label: str
    classes: tuple[str, ...]
    lines: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, folder: Path) -> Training:
        """Read the folder of a run.

        Raises:
            InputError: it holds no readable log, or no epoch was finished.
        """
        try:
            lines = read_log(folder)
            classes = schemas.read(folder / RUN_FILE, schemas.LOGGED, "train again, or restore the file")["classes"]
        except InputError as error:
            raise InputError(
                f"{folder} holds no readable log of a training run ({LOG_FILE}, {RUN_FILE}): {error}"
            ) from error
        if not lines:
            raise InputError(f"{folder / LOG_FILE} is empty: no epoch was finished; train on.")
        return cls(folder.name, tuple(classes), tuple(lines))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log.jsonl.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path, remedy = folder / LOG_FILE, "give the folder of a training run, or train again"
    lines = schemas.content(path, remedy).splitlines()
    return [schemas.parsed(line, schemas.RECORD, f"{path}, line {n},", remedy) for n, line in enumerate(lines, start=1)]


def run_folder(model: str) -> Path | None:
    """Return the folder of the training run that a model string names, with or without its weights; None if none.

    Example:
        >>> str(run_folder("run:runs/at@ema-best")), run_folder("mine.py:load")
        ('runs/at', None)
    """
    match = re.fullmatch(_RUN, model)
    return Path(match[1]).expanduser() if match else None


def weakest_held_out(model: str) -> int | None:
    """Return the class that the weights of a run were weakest at, under attack on the images that the run held out.

    It is fixed before any test image is looked at, so that a figure for it is not too low by the search for the worst.

    Args:
        model: as in an evaluation, "run:FOLDER" or "run:FOLDER@WEIGHTS".

    Returns:
        Its position, the first of several; None for another model, or where nothing is known of held-out images.
    """
    match, folder = re.fullmatch(_RUN, model), run_folder(model)
    if match is None or folder is None:
        return None
    average, _, which = (match[2] or "best").rpartition("-")
    try:
        summary = schemas.read(folder / SUMMARY_FILE, schemas.SUMMARY, "train again")
        accuracy = np.array(summary[average or "plain"][which]["robust"]["by_class"], dtype=np.float64)
    except (InputError, ValueError, KeyError, TypeError):
        return None
    return int(np.nanargmin(accuracy)) if np.isfinite(accuracy).any() else None


class Curve(NamedTuple):
    """Robust accuracy of each class over epochs.

    Attributes:
        part: "valid" or "train", the images.
        accuracy: (E, C), NaN for an absent class.
        n: images of each class, (C,), the mean over epochs.
        average: share of all images, (E,).
        band: 1.96 standard errors, (E, C).
        final: mean of the last five epochs, (C,).
        time: epochs until 80 % of the final value, (C,), by `arrival`; NaN where that value is 0.
        overfitting: best epoch less the last one, (C,).
        jitter: std of the changes from epoch to epoch of the worst class and of the average.
    """

    part: str
    accuracy: Floats
    n: Floats
    average: Floats
    band: Floats
    final: Floats
    time: Floats
    overfitting: Floats
    jitter: tuple[float, float]


def curve(lines: Sequence[Mapping[str, Any]]) -> Curve:
    """Read the robust accuracy of each class in each epoch from the lines of log.jsonl.

    Held-out images are taken where each class has 100, else the batches under the training attack, which are many but
    are seen while the weights move.

    Raises:
        InputError: fewer than two epochs, or no attack.
    """
    part = _part(lines)
    entries = [(line[part] or {}).get("robust", {}) for line in lines]
    if len(lines) < 2 or not all(entries):
        raise InputError("Robustness over epochs takes a run of at least two epochs that was trained under attack.")
    correct, n = (np.array([entry[key] for entry in entries], dtype=np.float64) for key in ("correct", "n"))
    accuracy = divide(correct, n)
    final, time = arrival(accuracy)
    average = np.asarray(divide(correct.sum(1), n.sum(1)))
    worst = np.nanmin(accuracy, axis=1)
    return Curve(
        part=part,
        accuracy=accuracy,
        n=n.mean(0),
        average=average,
        band=1.96 * np.sqrt(divide(accuracy * (1 - accuracy), n)),
        final=final,
        time=time,
        overfitting=accuracy.max(0) - accuracy[-1],
        jitter=(float(np.diff(worst).std()), float(np.diff(average).std())),
    )


class Arrival(NamedTuple):
    """Final values of curves, (C,), and the epochs until 80 % of them, (C,)."""

    final: Floats
    time: Floats


def arrival(accuracy: Floats) -> Arrival:
    """Say when curves (E, C) reach 80 % of their final values, the means of their last five epochs.

    The first epoch that jumps over a line is early by that noise alone, and the earlier the noisier the curve. So the
    time is that of the rising curve closest to it (isotonic regression), which is 0 before the first epoch, with
    straight lines between epochs.

    Returns:
        finals, and times in epochs, NaN where the final value is 0 or undefined.

    Example:
        >>> found = arrival(np.array([[0.1], [0.7], [0.3], [0.5], [0.5], [0.5]]))
        >>> found.final.tolist(), found.time.round(2).tolist()
        ([0.5], [1.75])
    """
    from sklearn.isotonic import isotonic_regression  # takes a second to import, which few commands need

    final = accuracy[-LAST:].mean(0)
    epochs = np.full(final.shape, np.nan)
    for c in np.flatnonzero(np.isfinite(accuracy).all(0) & (final > 0)):
        rising = np.concatenate([[0.0], isotonic_regression(accuracy[:, c])])
        # Its last value is the largest mean of a stretch up to the end, so that it reaches the line.
        later = int(np.argmax(rising >= QUANTILE * final[c]))
        below, above = rising[later - 1], rising[later]
        epochs[c] = later - 1 + (QUANTILE * final[c] - below) / (above - below)
    return Arrival(final, epochs)


def _part(lines: Sequence[Mapping[str, Any]]) -> str:
    held_out = (lines[0].get("valid") or {}).get("robust")
    sizes = [size for size in held_out["n"] if size] if held_out else []
    return "valid" if sizes and min(sizes) >= _ENOUGH else "train"
