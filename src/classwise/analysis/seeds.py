"""How far do seeds of one training method differ, and how far test images: two uncertainties, kept apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from classwise.analysis.evidence import Subject, check_same
from classwise.analysis.finding import Finding, Kind, table
from classwise.analysis.leaderboard import METRICS
from classwise.errors import InputError
from classwise.files.texts import plain
from classwise.metrics.outcomes import WORST_CASE
from classwise.metrics.summaries import worst_classes
from classwise.report.tables import percent, span

_ENOUGH = 3
_SUMMARIES = ("average", "worst", "worst_q10", "nsd")


def seeds(subjects: Sequence[Subject], view: str = WORST_CASE) -> Finding:
    """Tabulate mean ± sample std over the seeds of each method, and beside it the test-sampling interval of one seed.

    Models are named by their training method where their run can be read. Methods with a single model have no std.

    Raises:
        InputError: no method has two models, or the models were not evaluated alike.
    """
    check_same(subjects, view)
    names = dict.fromkeys(subject.method for subject in subjects)
    methods = {method: [subject for subject in subjects if subject.method == method] for method in names}
    several = {method: models for method, models in methods.items() if len(models) > 1}
    if not several:
        raise InputError("No training method has evaluations of two seeds.")
    rows = [_row(method, key, models, view) for method, models in methods.items() for key in _SUMMARIES]
    columns: dict[str, Kind] = {"method": "words", "of": "words", "seeds": "count", "mean": "share", "std": "share"}
    more: dict[str, Kind] = {"one seed": "estimate", "weakest of each seed": "words"}
    caption = f"Seeds of each method ({view}), in per cent; the interval of one seed is that of the test images alone"
    spread = max((float(_values(models, "worst", view).std(ddof=1)), method) for method, models in several.items())
    low, high = _estimate(several[spread[1]][0], "worst", view)[1]
    few = min(len(models) for models in several.values())
    doubt = "" if few >= _ENOUGH else f"; {few} seeds are fewer than the {_ENOUGH} that a table needs"
    sentence = (
        f"Over seeds the worst class varies most for {spread[1]} (std {percent(spread[0])} points), where the test "
        f"images of one seed leave {span(low, high)} %{doubt}."
    )
    values = {
        method: {key: _values(models, key, view) for key in METRICS} | {"weakest": _weakest(models, view)}
        for method, models in methods.items()
    }
    sheet = table("seeds", caption, {**columns, **more}, rows)
    return Finding("seeds", "", f"{len(subjects)} models", "described", sentence, (sheet,), values)


def _row(method: str, key: str, models: Sequence[Subject], view: str) -> list[object]:
    values = _values(models, key, view)
    std = values.std(ddof=1) if len(values) > 1 else float("nan")
    weakest = ", ".join(_weakest(models, view)) if key == "worst" else ""
    return [method, key, len(models), values.mean(), std, _estimate(models[0], key, view), weakest]


def _estimate(subject: Subject, key: str, view: str) -> tuple[float, tuple[float, float]]:
    outcomes = subject.result.outcomes
    estimate = METRICS[key].estimate(outcomes.counts(view), outcomes.n, subject.result.confidence)
    return estimate.value, (estimate.interval.low, estimate.interval.high)


def _values(models: Sequence[Subject], key: str, view: str) -> np.ndarray:
    outcomes = [subject.result.outcomes for subject in models]
    return np.array([METRICS[key].value(result.counts(view), result.n) for result in outcomes])


def _weakest(models: Sequence[Subject], view: str) -> list[str]:
    outcomes = [subject.result.outcomes for subject in models]
    return [plain(result.classes[worst_classes(result.accuracy(view))[0]]) for result in outcomes]
