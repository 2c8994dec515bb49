"""The table of a study: what each method achieves on average and on its worst class, over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import classwise
from classwise import files
from classwise.metrics.outcomes import CLEAN, WORST_CASE
from classwise.metrics.result import Result
from classwise.report.sheet import Cell, Column, Sheet, to_markdown
from classwise.study import Study
from classwise.trials import GIVEN, TRIAL_FILE, Trial, log

MEASURES: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "average": lambda table: table["accuracy"],
    "worst": lambda table: table["worst"]["accuracy"],
    "W10": lambda table: table["worst_q10"]["accuracy"],
    "gap": lambda table: table["gap"]["value"],
}
"""What is said of every view, from its table in result.json."""


@dataclass(frozen=True)
class Row:
    """A method with one kind of its weights.

    Attributes:
        name: of the method in the study.
        model: what it trained.
        weights: which of its weights.
        wanted: number of seeds.
        results: finished evaluations by seed.
        seconds: of training by seed, with those of the runs that it starts or learns from.
        about: data and threat.
    """

    name: str
    model: str
    weights: str
    wanted: int
    results: Mapping[int, Result]
    seconds: Mapping[int, float]
    about: str = ""

    def values(self, view: str, measure: str) -> list[float]:
        """Return a measure of a view for each seed; undefined ones are left out."""
        found = (MEASURES[measure](result.table(view)) for result in self.results.values())
        return [value for value in found if value is not None]

    @property
    def worst_classes(self) -> list[str]:
        """The worst class under attack of every seed."""
        return [str(result.table(WORST_CASE)["worst"]["class"]) for result in self.results.values()]

    def record(self) -> dict[str, Any]:
        """Return the row for JSON, with every attack."""
        views = list(next(iter(self.results.values())).outcomes.views) if self.results else []
        return {
            "name": self.name,
            "model": self.model,
            "weights": self.weights,
            "seeds": list(self.results),
            "wanted": self.wanted,
            "about": self.about,
            "worst_classes": self.worst_classes,
            "seconds": list(self.seconds.values()),
            "views": {view: {measure: spread(self.values(view, measure)) for measure in MEASURES} for view in views},
        }


def rows(study: Study, trials: Iterable[Trial], out: Path) -> list[Row]:
    """Gather what is finished of a study, in the order of its file."""
    place = {name: number for number, name in enumerate(study.names)}
    found: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in trials:
        for weights in trial.weights:
            model = trial.model if trial.recipe is not None else GIVEN
            found.setdefault((trial.name, model, weights), []).append(trial)
    made = []
    for (name, model, weights), group in found.items():
        results = {trial.seed: trial.results(out).get(weights) for trial in group}
        done = {seed: result for seed, result in results.items() if result is not None}
        trained = [trial for trial in group if trial.seed in done and trial.recipe is not None]
        seconds = {trial.seed: training_seconds(trial, out) for trial in trained}
        about = f"{group[0].data}, {group[0].threat}"
        made.append(Row(name, model, weights, len(group), done, seconds, about))
    return sorted(made, key=lambda row: place[row.name])


def training_seconds(trial: Trial, out: Path) -> float:
    """Return the seconds of a run's training, with those of all runs that it starts or learns from."""
    before = {source.key: source for source in _all_sources(trial)}
    return math.fsum(line["seconds"] for each in (trial, *before.values()) for line in log(each.folder(out)))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, sample standard deviation and the values themselves; None for undefined.

    Example:
        >>> spread([0.5, 0.25])["mean"], spread([0.5])["std"]
        (0.375, None)
    """
    return {
        "mean": fmean(values) if values else None,
        "std": stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def sheet(study: Study, found: Sequence[Row]) -> Sheet:
    """Lay the rows out as a table, in per cent; the best worst class under attack is marked."""
    several, mixed = len(study.model) > 1, len({row.about for row in found}) > 1
    columns = (
        Column("method", ("name",), words=True),
        *((Column("data", ("data",), words=True),) if mixed else ()),
        *((Column("model", ("model",), words=True),) if several else ()),
        Column("weights", ("weights",), words=True),
        *(
            Column(f"{said} {measure}", (f"{view}_{measure}", f"{view}_{measure}_std"), spare=view == CLEAN or spare)
            for view, said in ((CLEAN, "clean"), (WORST_CASE, "robust"))
            for measure, spare in zip(MEASURES, (False, False, True, True), strict=True)
        ),
        Column("worst classes", ("worst_classes",), words=True),
        Column("seconds", ("seconds",), spare=True),
        Column("seeds", ("seeds",), spare=True),
    )
    worst = [row.values(WORST_CASE, "worst") for row in found]
    means = [fmean(values) if values else -math.inf for values in worst]
    marked = max(range(len(found)), key=means.__getitem__) if any(worst) else None
    caption = f"{study.name}: per cent, mean ± standard deviation over seeds"
    return Sheet(study.name, caption, columns, tuple(_cells(row, several, mixed) for row in found), marked)


def write(study: Study, trials: Sequence[Trial], found: Sequence[Row], out: Path, verdicts: str = "") -> list[Path]:
    """Write ``table.md``, with what the analyses say below it, and ``table.json``; return their paths."""
    states = sorted({code for trial in trials for code in _codes(trial, out)})
    remark = f"{sum(len(row.results) for row in found)} of {sum(row.wanted for row in found)} evaluations finished"
    if len(states) > 1:
        remark += f"; made by {len(states)} states of the code, {', '.join(states)}"
    table = sheet(study, found)
    said = "; seconds of training include the runs that a method starts or learns from" if study.method else ""
    trained = f"{trials[0].images} training images of {study.data}, {trials[0].threat}; " if study.method else ""
    head = (
        f"{table.caption}.\n\n{trained}attacks {study.evaluate.attacks} on {_test_images(trials)} test images, robust "
        f"is right under all of them{said}. {remark}.\n\n"
    )
    record = {
        "study": study.name,
        "classwise": classwise.__version__,
        "code": states,
        "data": study.data,
        "threat": str(trials[0].threat),
        "training_images": trials[0].images,
        "evaluation": trials[0].evaluation,
        "rows": [row.record() for row in found],
    }
    files.write_text(out / "table.md", head + to_markdown(table) + verdicts)
    files.write_json(out / "table.json", record)
    return [out / "table.md", out / "table.json"]


def _test_images(trials: Sequence[Trial]) -> str:
    """Return how many images the evaluations have, as a text; of several data sets each number once."""
    return " or ".join(str(count) for count in dict.fromkeys(trial.evaluation["images"] for trial in trials))


def _cells(row: Row, several: bool, mixed: bool) -> tuple[Cell, ...]:
    words = [row.name, *([row.about] if mixed else []), *([row.model] if several else []), row.weights]
    numbers = [_cell(spread(row.values(view, measure))) for view in (CLEAN, WORST_CASE) for measure in MEASURES]
    classes = ", ".join(row.worst_classes)
    seconds = fmean(row.seconds.values()) if row.seconds else None
    return (
        *(Cell(word, (word,)) for word in words),
        *numbers,
        Cell(classes or "–", (classes,)),
        Cell("–" if seconds is None else f"{seconds:.0f}", (seconds,)),
        Cell(f"{len(row.results)}/{row.wanted}", (len(row.results),)),
    )


def _cell(found: Mapping[str, Any]) -> Cell:
    mean, std = found["mean"], found["std"]
    text = "–" if mean is None else f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")
    return Cell(text, (mean, std))


def _all_sources(trial: Trial) -> list[Trial]:
    return [each for source in trial.sources for each in (source, *_all_sources(source))]


def _codes(trial: Trial, out: Path) -> list[str]:
    path = trial.folder(out) / TRIAL_FILE
    return list(json.loads(path.read_text())["code"]) if path.exists() else []
