"""A comparison as one HTML file like the report: leaderboard, classes side by side, who gains and who pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classwise.analysis.comparison import charts
from classwise.analysis.evidence import Subject
from classwise.analysis.finding import Finding, points
from classwise.files.texts import plain
from classwise.files.writing import write_bytes
from classwise.report.charts import SHOWN
from classwise.report.document import render
from classwise.report.palette import SERIES
from classwise.report.tables import percent

PAGE_FILE = "comparison.html"


def write_comparison(
    subjects: Sequence[Subject], findings: Sequence[Finding], directory: Path | str, command: str = ""
) -> Path:
    """Write comparison.html into a folder and return its path.

    Args:
        subjects: the evaluations, of which the first is the baseline.
        findings: what `compare` returned for them.
        directory: the folder.
        command: that makes the page again.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(directory) / PAGE_FILE
    write_bytes(path, page(subjects, findings, command).encode())
    return path


def page(subjects: Sequence[Subject], findings: Sequence[Finding], command: str = "") -> str:
    """Return the comparison as HTML; see :func:`write_comparison`."""
    board, *changes = findings
    view, classes = board.values["view"], subjects[0].result.outcomes.classes
    models, moved = charts.series(subjects, view), charts.shifts(changes)
    drawn = {"class-chart": charts.class_chart(models, classes)}
    drawn |= {f"change-chart-{i}": charts.change_chart(shift, classes) for i, shift in enumerate(moved, 1)}
    return render(
        "comparison.html.j2",
        drawn,
        title=f"{len(subjects)} models compared",
        subtitle=plain(_subtitle(subjects[0], view)),
        cards=[_first_card(board), *map(_card, changes)],
        warnings=[plain(f.sentence) for f in changes if f.values["levelling"].down],
        board=board.sheets[0],
        names=[model.name for model in models[:SERIES]],
        left_out=len(models) - len(models[:SERIES]),
        class_sheet=charts.class_sheet(models, classes, view),
        cut=max(0, len(charts.by_baseline(models)) - SHOWN),
        shown=SHOWN,
        changes=[(plain(f.subject), plain(f.sentence), f.sheets[0]) for f in changes],
        models=[_about(subject) for subject in subjects],
        command=plain(command),
    )


def _subtitle(base: Subject, view: str) -> str:
    header, outcomes = base.result.header, base.result.outcomes
    data, threat = header["data"], header["threat"]
    images = f"{len(outcomes):,} images, {outcomes.num_classes:,} classes"
    return f"{data['name']} {data['split']} · {images} · threat {threat['norm']} {threat['eps_text']} · {_named(view)}"


def _named(view: str) -> str:
    return view.replace("_", " ")


def _first_card(board: Finding) -> Mapping[str, str]:
    best, sort = board.values["order"][0], board.values["sort"]
    value = board.values["metrics"][best][sort].value
    return {
        "figure": f"{percent(value)} %",
        "what": plain(f"{best} is the best by {sort}"),
        "line": plain(board.sentence),
    }


def _card(change: Finding) -> Mapping[str, str]:
    values: Mapping[str, Any] = change.values
    average, gains, pays = values["average_change"], len(values["gains"]), len(values["pays"])
    line = (
        f"Average change, {points(average['interval'])} points. Beyond chance {_count(gains)} "
        f"{'gains' if gains == 1 else 'gain'} and {_count(pays)} {'pays' if pays == 1 else 'pay'}."
    )
    what = plain(f"{change.subject} against {values['baseline']['name']}")
    return {"figure": f"{100 * average['value']:+.2f} points", "what": what, "line": line}


def _count(number: int) -> str:
    return "no class" if number == 0 else "1 class" if number == 1 else f"{number} classes"


def _about(subject: Subject) -> tuple[str, list[tuple[str, str]]]:
    """Return a model's label and what identifies it."""
    header = subject.result.header
    attacks = ", ".join(subject.result.outcomes.attacks)
    lines = {
        "model": str(header["model"]["name"]),
        "weights (SHA-256)": str(header["model"]["sha256"]),
        "folders": ", ".join(str(folder) for folder in subject.folders),
        "attacks": attacks,
    }
    return plain(subject.label), [(key, plain(value)) for key, value in lines.items()]
