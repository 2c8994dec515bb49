"""Which epoch of a run is the best: a pure function of the scores of its epochs, so that nothing needs resuming.

Epochs count from 1, as in the log. The score of an epoch is noise for the most part: neighbours differ by up to ten
points in the worst class while the average stays (docs/training.md). So scores are smoothed over five epochs, and an
epoch can be judged only two epochs later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_REACH = 2  # epochs on either side of the smoothing window's centre
_LAST = 5  # epochs whose mean is reported beside best and last
_HIGHEST = 2.0  # an average and a worst class of 1
Scores = Sequence[float | None]
"""One number an epoch that is finished; None where there was no model, or nothing to measure it on."""


def best(scores: Scores, epochs: int) -> int | None:
    """Return the epoch of the second half with the largest smoothed score, among those whose window is complete.

    Of equals the first. Where no epoch has a score, the last epoch of the run stands for the best.

    Args:
        scores: of the epochs finished so far.
        epochs: length of the run.

    Returns:
        The epoch from 1, None as long as none can be judged.

    Example:
        >>> best([0.9, 0.9, 0.2, 0.4, 0.6, 0.4, 0.2, 0.2], epochs=8)
        5
    """
    if len(scores) == epochs and all(score is None for score in scores):
        return epochs
    scored = ((epoch, smoothed(scores, epoch, epochs)) for epoch in _candidates(scores, epochs))
    judged = {epoch: score for epoch, score in scored if score is not None}
    return max(judged, key=lambda epoch: judged[epoch], default=None)


def open_epochs(scores: Scores, epochs: int) -> list[int]:
    """Return the finished epochs whose window is not complete yet and that may still become the best.

    Their weights must be kept, at most those of two epochs.

    Example:
        >>> open_epochs([0.1, 0.1, 0.1, 0.5, 0.6], epochs=9)
        [5]
    """
    leader = best(scores, epochs)
    bar = -math.inf if leader is None else smoothed(scores, leader, epochs) or 0.0
    waiting = [epoch for epoch in _candidates(scores, epochs) if smoothed(scores, epoch, epochs) is None]
    return [epoch for epoch in waiting if _attainable(scores, epoch, epochs) > bar]


def smoothed(scores: Scores, epoch: int, epochs: int) -> float | None:
    """Return the mean score of an epoch and of the two on either side of it, fewer at the ends of the run.

    Args:
        scores: of the epochs finished so far.
        epoch: the centre, from 1.
        epochs: length of the run.

    Returns:
        The mean of the scores there are, None while a later epoch of the window is missing.
    """
    window = _window(epoch, epochs)
    if window[-1] > len(scores):
        return None
    known = [score for number in window if (score := scores[number - 1]) is not None]
    return math.fsum(known) / len(known) if known else None


def summary(log: Sequence[Mapping[str, Any]], epochs: int) -> dict[str, Any]:
    """Return what a finished run achieved on its held-out images: best, last, and the mean of the last five epochs.

    Args:
        log: lines of log.jsonl.
        epochs: length of the run.

    Returns:
        For "plain" and each averaged model: the figures of the epoch selected, of the last, and their mean over
        the last five; no figures where nothing was held out.
    """
    names = {"plain": None, **{name: None for line in log for name in line.get("averages", {})}}
    return {name: _summary([_entry(line, name) for line in log], epochs) for name in names}


def score_column(log: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    """Return the score of a model, "plain" or averaged, in every epoch of a log."""
    return [_entry(line, name).get("score") for line in log]


def _summary(entries: Sequence[Mapping[str, Any]], epochs: int) -> dict[str, Any]:
    scores = [entry.get("score") for entry in entries]
    chosen = best(scores, epochs)
    last = [entry for entry in entries[-_LAST:] if entry.get("valid")]
    return {
        "best": None if chosen is None else {"epoch": chosen, **_figures(entries[chosen - 1 : chosen])},
        "smoothed_score": None if chosen is None else smoothed(scores, chosen, epochs),
        "last": {"epoch": len(entries), **_figures(entries[-1:])},
        f"mean_of_last_{_LAST}": {"epochs": len(last), **_figures(last)},
    }


def _figures(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means of the held-out figures of some epochs, without their counts."""
    valid = [entry["valid"] for entry in entries if entry.get("valid")]
    if not valid:
        return {}
    views = {
        view: {
            "accuracy": _mean([entry[view]["accuracy"] for entry in valid]),
            "worst": _mean([entry[view]["worst"] for entry in valid]),
            "by_class": [_mean(column) for column in zip(*(_by_class(entry[view]) for entry in valid), strict=True)],
        }
        for view in ("clean", "robust")
    }
    return {"score": _mean([entry["score"] for entry in entries if entry.get("valid")]), **views}


def _by_class(entry: Mapping[str, Any]) -> list[float | None]:
    return [right / n if n else None for right, n in zip(entry["correct"], entry["n"], strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _entry(line: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    entry: Mapping[str, Any] = line if name == "plain" else line["averages"].get(name, {})
    return entry


def _candidates(scores: Scores, epochs: int) -> list[int]:
    """Return the epochs of the second half that are finished and have a score."""
    return [epoch for epoch in range(epochs // 2 + 1, len(scores) + 1) if scores[epoch - 1] is not None]


def _attainable(scores: Scores, epoch: int, epochs: int) -> float:
    """Return the smoothed score of an epoch if every missing score of its window were perfect."""
    full = [*scores, *[_HIGHEST] * (epochs - len(scores))]
    return smoothed(full, epoch, epochs) or 0.0


def _window(epoch: int, epochs: int) -> range:
    return range(max(1, epoch - _REACH), min(epochs, epoch + _REACH) + 1)
