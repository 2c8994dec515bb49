"""The page of a study: its tables, the plane of average and worst class, and every run with a link to its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from classwise import files
from classwise.metrics.outcomes import CLEAN, WORST_CASE
from classwise.metrics.result import Result
from classwise.report.document import render
from classwise.report.page import write_page
from classwise.report.plane import Point, legend, plane
from classwise.report.sheet import Cell, Column, Sheet
from classwise.report.tables import ABSENT, percent
from classwise.studies.spec import Study
from classwise.studies.table import Spread, TableRow, remark, sheets
from classwise.studies.trials import Trial

REPORT_FILE = "report.html"


def write(study: Study, trials: Sequence[Trial], rows: Sequence[TableRow], out: Path) -> Path:
    """Write ``study.html`` into the study's folder, and return its path."""
    achieved, price, sampling = sheets(study, rows)
    points = list(_points(study, rows))
    page = render(
        "study.html.j2",
        {"plane-chart": plane(points)} if points else {},
        title=f"Study {study.name}",
        subtitle=f"{len(trials)} runs",
        remark=remark(study, trials, rows, out),
        legend=legend(points),
        reference=study.baseline,
        achieved=achieved,
        price=price,
        sampling=sampling,
        runs=runs(trials, out),
    )
    files.write_bytes(out / "study.html", page.encode())
    return out / "study.html"


def write_reports(trials: Sequence[Trial], out: Path) -> None:
    """Write the report of the first kind of weights of each run that has none, next to its outcomes.

    A report holds the library that draws it, some megabytes; so the other kinds have theirs on request.
    """
    for trial in trials:
        folder = trial.evaluation_folder(out, trial.weights[0])
        result = trial.results(out).get(trial.weights[0])
        if result is not None and not (folder / REPORT_FILE).exists():
            write_page(folder, result=result)


def runs(trials: Sequence[Trial], out: Path) -> Sheet:
    """Return the table of all runs, finished or not, with a row for each kind of weights."""
    columns = (
        Column("run", ("run",), words=True),
        Column("weights", ("weights",), words=True),
        Column("state", ("state",), words=True),
        Column("clean average", ("clean_average",)),
        Column("robust average", ("robust_average",)),
        Column("robust worst", ("robust_worst",)),
        Column("worst class", ("worst_class",), words=True),
        Column("folder, or what went wrong", ("folder",), words=True),
    )
    lines = tuple(line for trial in trials for line in _lines(trial, out))
    return Sheet("runs", "Every run, in per cent", columns, lines)


def _lines(trial: Trial, out: Path) -> Iterator[tuple[Cell, ...]]:
    state, results = trial.state(out), trial.results(out)
    for weights in trial.weights:
        folder = trial.evaluation_folder(out, weights)
        report = (folder / REPORT_FILE).relative_to(out)
        where = trial.failure(out) if state == "failed" else str(folder.relative_to(out))
        yield (
            Cell(trial.title, (trial.title,), link=quote(report.as_posix()) if (out / report).exists() else ""),
            Cell(weights, (weights,)),
            Cell(state, (state,)),
            *_measured(results.get(weights)),
            Cell(where, (where,)),
        )


def _measured(result: Result | None) -> tuple[Cell, ...]:
    """Return averages and worst class of a run, as far as it is evaluated."""
    if result is None:
        return (*(Cell(ABSENT, (None,)),) * 3, Cell(ABSENT, ("",)))
    row = TableRow("", "", "", 1, {0: result}, {})
    measured = ((CLEAN, "average"), (WORST_CASE, "average"), (WORST_CASE, "worst"))
    values = [next(iter(row.values(*key)), None) for key in measured]
    (name,) = row.worst_classes
    return (*(Cell(percent(value, 1), (value,)) for value in values), Cell(name, (name,)))


def _points(study: Study, rows: Sequence[TableRow]) -> Iterator[Point]:
    for row in rows:
        average, worst = (Spread.of(row.values(WORST_CASE, measure)) for measure in ("average", "worst"))
        if average.mean is not None and worst.mean is not None:
            several = [row.model] if len(study.model) > 1 else []
            yield Point(
                ", ".join([row.name, *several, *([row.about] if study.mixed else [])]),
                row.weights,
                average.mean,
                worst.mean,
                (average.std, worst.std),
                row.name == study.baseline,
            )
