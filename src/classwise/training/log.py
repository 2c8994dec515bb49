"""A line of log.jsonl: what an epoch came to, class by class, on training batches and on held-out images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from classwise.methods.base import Method, Pass
from classwise.metrics import summaries
from classwise.runtime.memory import peak_memory
from classwise.training.run import Run

_MANY_CLASSES = 20  # above this, selection uses the mean of the worst tenth instead of the worst class


def log_line(
    epoch: int,
    run: Run,
    train: Pass,
    valid: Pass | None,
    averages: Mapping[str, Pass | None],
    seconds: float,
    device: torch.device,
) -> dict[str, Any]:
    """Return the line of an epoch.

    Args:
        epoch: epochs finished before it.
        run: settings.
        train: sums over its training batches.
        valid: sums over the held-out images, None where nothing was held out.
        averages: the same of each averaged model that exists, by name.
        seconds: what the epoch took.
        device: whose memory is looked at.
    """
    return {
        "epoch": epoch + 1,
        "lr": run.recipe.rate(epoch),
        "train": _measured(train),
        **held_out_entry(valid),
        "averages": {name: held_out_entry(held_out) for name, held_out in averages.items()},
        "seconds": seconds,
        "images_per_second": max(float(stats.n.sum()) for stats in train) / seconds,
        "peak_memory_bytes": peak_memory(device),
    }


def held_out_entry(valid: Pass | None) -> dict[str, Any]:
    """Return what a model achieved on the held-out images, and its score."""
    if valid is None:
        return {"valid": None, "score": None, "tail": None}
    tail = tail_accuracy(valid)
    return {"valid": _measured(valid), "score": float(valid.robust.average) + tail, "tail": tail}


def tail_accuracy(valid: Pass) -> float:
    """Return the lowest robust class accuracy, with many classes the mean of the worst tenth."""
    robust = valid.robust.accuracy.cpu().numpy()
    return float(summaries.worst(robust) if len(robust) <= _MANY_CLASSES else summaries.worst_q(robust, 0.1))


def class_state(method: Method) -> dict[str, list[float | None]]:
    """Return what a method knows of each class after an epoch, for the log: weights, radii and the like."""
    vectors = {name: value for name, value in method.named_buffers() if value.shape == (method.num_classes,)}
    if (radius := method.class_radius()) is not None:
        vectors["radius"] = radius
    return {name: [_json(number) for number in value.tolist()] for name, value in vectors.items()}


def _measured(sums: Pass) -> dict[str, Any]:
    """Turn sums into a log entry; what was not measured is left out, and what is undefined is None."""
    return {
        name: {
            "n": stats.n.long().tolist(),
            "correct": stats.correct.long().tolist(),
            "accuracy": float(stats.average),
            "worst": float(stats.worst),
            "loss": _json(float(stats.loss.sum() / stats.n.sum())),
            "loss_by_class": [_json(value) for value in stats.mean_loss.tolist()],
            "confusion": stats.confusion.long().tolist(),
        }
        for name, stats in sums._asdict().items()
        if stats.n.sum() > 0
    }


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an epoch that make a curve, by name."""
    averaged = {f"{name}/valid": entry["valid"] for name, entry in line["averages"].items()}
    for part, measured in {"train": line["train"], "valid": line["valid"], **averaged}.items():
        for view, entry in (measured or {}).items():
            for metric in ("accuracy", "worst", "loss"):
                if entry[metric] is not None:
                    yield f"{part}/{view}/{metric}", entry[metric]
    for metric in ("lr", "images_per_second", "seconds"):
        yield metric, line[metric]
