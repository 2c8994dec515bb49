"""The result as one HTML file: it opens from disk, loads nothing, and holds its charts, tables and their data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classwise.files.texts import plain
from classwise.files.writing import write_bytes
from classwise.metrics.examples import Examples
from classwise.metrics.result import Result
from classwise.metrics.trade_off import TradeOff, corrected_folder
from classwise.metrics.training import Curve, run_folder
from classwise.report import charts, tables
from classwise.report.contents import Contents, read
from classwise.report.document import render
from classwise.report.epochs import epoch_chart, epoch_sheet, images_meant, read_curve
from classwise.report.examples import LARGEST, example_sheet, examples
from classwise.report.stages import stage_sheet
from classwise.report.trade_off import read_trade_off, trade_off_chart, trade_off_note, trade_off_sheet


def write_page(directory: Path | str, path: Path | str | None = None, *, result: Result | None = None) -> Path:
    """Write the report of a result folder and return its path.

    Args:
        directory: folder that holds result.json and outcomes.npz.
        path: file to write; ``report.html`` in the folder if None.
        result: what the folder holds, where the caller has read it already.

    Raises:
        InputError: no readable result there, or the file cannot be written.
    """
    folder = Path(directory)
    target = Path(path) if path is not None else folder / "report.html"
    evaluation = Result.read(folder) if result is None else result
    stored = Examples.load(folder, evaluation.header.get("identity"))
    write_bytes(
        target, page(evaluation, folder, stored, read_curve(evaluation, folder), read_trade_off(evaluation)).encode()
    )
    return target


def page(
    result: Result,
    directory: Path | str,
    stored: Examples | None = None,
    training: Curve | None = None,
    correction: TradeOff | None = None,
) -> str:
    """Return the report as HTML.

    Args:
        result: what it is about.
        directory: only named in the command that makes the page again.
        stored: broken images to show.
        training: robustness over the epochs of the run that was evaluated.
        correction: the rounds of the correction of the model that was evaluated.
    """
    contents, drawn = read(result), examples(stored, result.outcomes)
    return render(
        "report.html.j2",
        _charts(contents, training, correction),
        title=f"Class-wise robustness of {plain(contents.header['model']['name'])}",
        subtitle=plain(_subtitle(contents)),
        version=contents.header["classwise"],
        contents=contents,
        **_words(contents),
        **_sheets(contents),
        examples=drawn,
        shrunk=LARGEST if stored is not None and max(stored.x.shape[2:]) > LARGEST else 0,
        example_sheet=example_sheet(drawn, contents),
        epoch_sheet=epoch_sheet(training, contents) if training else None,
        epoch_note=images_meant(training) if training else "",
        epoch_missing=_epoch_missing(contents) if training is None else "",
        trade_off_sheet=trade_off_sheet(correction) if correction else None,
        trade_off_note=trade_off_note(correction) if correction else "",
        trade_off_missing=_trade_off_missing(contents) if correction is None else "",
        legend=charts.legend(contents),
        settings=_settings(contents),
        commands=_commands(contents, directory),
    )


def _words(contents: Contents) -> dict[str, Any]:
    return {
        "verdict": _verdict(contents),
        "label": tables.number_label(contents),
        "flags": [_flag(flag) for flag in contents.header["flags"]],
        "bars_note": _bars_note(contents),
        "flow_note": _flow_note(contents),
        "diagram_note": _diagram_note(contents),
        "group_note": _group_note(contents),
        "robust_note": _robust_note(contents),
    }


def _sheets(contents: Contents) -> dict[str, Any]:
    sheets = {
        "class_sheet": tables.class_sheet(contents, superclasses=True),
        "attack_sheet": tables.attack_sheet(contents),
        "stage_sheet": stage_sheet(contents),
        "spread_sheet": tables.spread_sheet(contents),
        "pair_sheet": tables.pair_sheet(contents),
        "flow_sheet": tables.flow_sheet(contents, charts.flow_classes(contents)),
        "group_sheet": tables.group_sheet(contents),
    }
    # Notes of columns, each heading once, for the reading guide.
    notes = {column.title: column for sheet in sheets.values() if sheet for column in sheet.columns if column.note}
    return {**sheets, "notes": list(notes.values())}


def _charts(contents: Contents, training: Curve | None, correction: TradeOff | None) -> dict[str, Any]:
    drawn = {"bars-chart": charts.class_bars(contents)}
    if training is not None:
        drawn["epoch-chart"] = epoch_chart(training, contents)
    if correction is not None:
        drawn["trade-off-chart"] = trade_off_chart(correction, contents)
    if contents.flow_count:
        drawn["diagram-chart"] = charts.flow_diagram(contents)
        drawn["flow-chart"] = charts.flow_heatmap(contents)
    return drawn


def _verdict(contents: Contents) -> list[tuple[str, str, str]]:
    """Return three triples: the figure, what it is, and the line in full."""
    average, worst, difference = tables.verdict_lines(contents)
    view, p = contents.worst_case, contents.p_value
    lowest = tables.percent(view.by_class[view.worst], contents.decimals)
    if p is None:
        value, meaning = tables.ABSENT, "cannot be tested"
    else:
        value = f"p = {tables.p_text(p)}"
        meaning = "classes differ beyond noise" if p < tables.SIGNIFICANCE else "no difference shown"
    kind = "average robust accuracy" if contents.attacks else "average clean accuracy"
    return [
        (f"{tables.percent(view.average)} %", kind, average),
        (f"{lowest} %", f"worst class: {contents.weakest}", worst),
        (value, meaning, difference),
    ]


def _flag(flag: Mapping[str, Any]) -> dict[str, str]:
    classes = [plain(str(name)) for name in flag.get("classes") or []]
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    return {
        "name": plain(str(flag.get("flag", ""))),
        "attack": plain(str(flag.get("attack") or "")),
        "message": plain(str(flag.get("message", ""))),
        "classes": ", ".join(classes[:10]) + more,
    }


def _subtitle(contents: Contents) -> str:
    data, threat = contents.header["data"], contents.header["threat"]
    images = f"{int(contents.n.sum()):,} images, {len(contents.classes):,} classes"
    return f"{data['name']} {data['split']} · {images} · threat {threat['norm']} {threat['eps_text']}"


def _robust_note(contents: Contents) -> str:
    total, robust = int(contents.n.sum()), int(contents.worst_case.correct.sum())
    return f"{robust:,} of {total:,} images survive everything."


def _bars_note(contents: Contents) -> str:
    count, present = min(charts.SHOWN, len(contents.order)), len(contents.order)
    absent = len(contents.classes) - present
    notes = []
    if count < present:
        notes.append(f"The chart shows the {count} weakest of {present} classes; the table has all of them.")
    if absent:
        notes.append(f"{absent} {'class has' if absent == 1 else 'classes have'} no images and cannot be judged.")
    return " ".join(notes)


def _flow_note(contents: Contents) -> str:
    count, present = len(charts.flow_classes(contents)), len(contents.order)
    if count == present:
        return ""
    return (
        f"Shown are the {count} of {present} classes that lose the most images; what they lose to others is "
        "counted in the table's column “elsewhere”."
    )


def _diagram_note(contents: Contents) -> str:
    count, present = len(charts.flow_classes(contents, charts.BANDS)), len(contents.order)
    return "" if count == present else f"The diagram shows the {count} classes that lose the most images."


def _epoch_missing(contents: Contents) -> str:
    """Say why a training run shows no epochs, "" for a model that is none."""
    run = run_folder(str(contents.header["model"]["name"]))
    if run is None:
        return ""
    return (
        f"The log of {plain(str(run))} could not be read when this page was made, or has fewer than two epochs under "
        "attack; made where the run can be found, the page shows its epochs."
    )


def _trade_off_missing(contents: Contents) -> str:
    """Say why a corrected model shows no rounds, "" for a model that is none."""
    folder = corrected_folder(str(contents.header["model"]["name"]))
    if folder is None:
        return ""
    return (
        f"The curve of {plain(str(folder))} could not be read when this page was made; made where the folder can be "
        "found, the page shows the rounds of the correction."
    )


def _group_note(contents: Contents) -> str:
    """Say which classes belong together, in the order of the heat map."""
    members: dict[str, list[str]] = {}
    for c in charts.flow_classes(contents):
        if contents.groups[c]:
            members.setdefault(contents.groups[c], []).append(contents.classes[c])
    if not members:
        return ""
    listed = "; ".join(f"{group}: {', '.join(names)}" for group, names in members.items())
    return f"Classes stand in superclass order, divided by lines. {listed}."


def _commands(contents: Contents, directory: Path | str) -> list[tuple[str, str]]:
    command = contents.header.get("command") or ""
    evaluate = shlex.join(command) if isinstance(command, list | tuple) else str(command)
    remake = shlex.join(["classwise", "report", str(directory)])
    listed = [("Evaluate again", plain(evaluate))] if evaluate else []
    return [*listed, ("Make this page again from the result folder", plain(remake))]


def _settings(contents: Contents) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return titled lists of what was run on what, with which versions."""
    header = contents.header
    run = {key: header[key] for key in ("seed", "batch_size", "device", "seconds")}
    scale = {f"logits: {key}": value for key, value in header["logits"].items()}
    versions = {"classwise": header["classwise"], "result_schema": header["schema_version"]}
    sections = {
        "Model": _lines(header["model"]),
        "Data": _lines(header["data"]),
        "Threat": _lines(header["threat"]),
        "Attacks": [(view.name, view.settings) for view in contents.attacks],
        "Run": _lines({**run, **scale}),
        "Versions": _lines({**versions, **header["environment"]}),
    }
    return [(title, lines) for title, lines in sections.items() if lines]


def _lines(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return key and value as text, without what is empty."""
    texts = {key: _text(value) for key, value in values.items() if value is not None and value != ""}
    return [(plain(key).replace("_", " "), plain(text)) for key, text in texts.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= 1_000_000:  # the parameters of a model, hardly a seed
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
