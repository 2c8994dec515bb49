"""What a person sees of a finished result: tables, verdicts, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Column, Table

from classwise.metrics.trade_off import CURVE_FILE
from classwise.report.console import Console, Text
from classwise.training import selection

if TYPE_CHECKING:
    from classwise.analysis import Finding, Question
    from classwise.corrections.fitted import PairedChange, Promise, Repair, RoundSummary
    from classwise.data import ImageSet
    from classwise.metrics.critical_eps import CriticalEps
    from classwise.metrics.intervals import Interval
    from classwise.metrics.race import Race
    from classwise.metrics.result import Result
    from classwise.registry import Registration
    from classwise.report.gate import Condition, Gate
from classwise.cli.show.lines import say, warned
from classwise.cli.show.live import held_out_line

_VERDICTS = {
    "supported": "bold green",
    "refuted": "bold red",
    "undecided": "bold yellow",
    "not applicable": "bold",
    "described": "bold",
}


def trained(log: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Say how training ended."""
    seconds = sum(line["seconds"] for line in log)
    epochs = "1 epoch" if len(log) == 1 else f"{len(log)} epochs"
    say(f"Trained {epochs} in {seconds:.0f} s; held out: {held_out_line(log[-1])}.")
    for name, summary in selection.summary(log, len(log)).items():
        say(_selected(name, summary))
    say(f"Weights and log are in {out}; the model string is run:{out}")


def evaluated(result: Result, out: Path | None) -> None:
    """Print the tables and the verdict of an evaluation."""
    from classwise.report import rich_attack_table, rich_class_table, rich_stage_table, verdict, which_number

    console = Console()
    console.print()
    console.print(rich_class_table(result, console.width))
    console.print(rich_attack_table(result, console.width))
    stages = rich_stage_table(result, console.width)
    if stages is not None:
        console.print(stages)
    for line in verdict(result):
        console.print(Text(line, style="bold"), soft_wrap=True)
    console.print(Text(which_number(result)), soft_wrap=True)
    warned(result.header["flags"])
    if out is not None:
        say(f"Outcomes of every image are in {out}; for a page to read: classwise report {shlex.quote(str(out))}")


def critical(result: CriticalEps, radii: Sequence[float]) -> None:
    """Print the critical eps by class, weakest first, and the verdict."""
    from classwise.report.critical import critical_sheet, remark, sentence
    from classwise.report.sheet import to_rich

    console = Console()
    console.print()
    console.print(to_rich(critical_sheet(result, radii), console.width))
    console.print(Text(sentence(result), style="bold"), soft_wrap=True)
    console.print(Text(remark(result)), soft_wrap=True)
    warned(result.about["flags"])


def race_round(race: Race) -> None:
    """Say in one line where a race to the worst class stands."""
    left = len(race.worst)
    say(f"  {int(race.sampled.sum())} images attacked; {left} {'class' if left == 1 else 'classes'} may be the worst")


def warn_unreachable(asked: Sequence[Condition], images: ImageSet) -> None:
    """Warn of conditions that no model could meet with these images, before time is spent on them."""
    from classwise.report.gate import unreachable

    n = np.bincount(images.y.cpu().numpy(), minlength=len(images.classes))
    for condition in asked:
        reason = unreachable(condition, images.classes, n)
        if reason:
            Console().print(Text(f"The gate will fail: {condition.name}: {reason}", style="yellow"), soft_wrap=True)


def gate(decision: Gate) -> None:
    """Say which conditions a result meets, which number was tested, which flags count, and whether the gate is open."""
    console = Console()
    for check in decision.checks:
        console.print(Text(check.sentence, style="green" if check.passed else "red"), soft_wrap=True)
    for flag in decision.flags:
        if flag.serious:
            console.print(Text(f"Flag {flag.sentence}", style="red" if flag.closes else "yellow"), soft_wrap=True)
    console.print(Text(f"{decision.label} {decision.certainty}"), soft_wrap=True)
    console.print(Text("Gate passed." if decision.passed else "Gate failed.", style="bold"))


def corrected(repair: Repair, out: Path) -> None:
    """Print the promise of a fit, the trade-off curve, what was chosen, and where the final number comes from."""
    from classwise.corrections.fitted import FINAL_NUMBER

    if repair.warning:
        warned([{"flag": "fitted_on_test", "message": repair.warning}])
    warned(repair.record.get("flags", []))
    for sentence in repair.warnings:
        Console().print(Text(sentence, style="yellow"), soft_wrap=True)
    Console().print(_curve_table(repair.points))
    say("In per cent of the images it was fitted on, with 95 % intervals; * is the chosen round.")
    say("Not adaptive: worst class on candidates made against the uncorrected model; an illustration, too high.")
    say(_chosen(repair))
    if repair.promise is not None:
        Console().print(Text(_promised(repair.promise), style="bold"), soft_wrap=True)
    say(FINAL_NUMBER.replace("corrected:DIR", shlex.quote(f"corrected:{out}")))
    say(f"The curve is in {out / CURVE_FILE}; the model string is corrected:{out}")


def _curve_table(points: Sequence[RoundSummary]) -> Table:
    headings = ("round", "allowed loss", "average", "worst", "of class", "clean", "not adaptive")
    table = Table(*(Column(name, justify="right") for name in headings), box=None, pad_edge=False)
    for point in points:
        average, worst = point.adaptive.average, point.adaptive.worst
        table.add_row(
            f"{point.number}{'*' if point.chosen else ' '}",
            f"{point.max_loss:g}" if point.number else "–",
            _with_interval(average.accuracy, average.interval),
            _with_interval(worst.accuracy, worst.interval),
            Text(worst.name),
            f"{100 * point.clean.average.accuracy:.1f}",
            f"{100 * point.non_adaptive.worst.accuracy:.1f}",
            style="bold" if point.chosen else None,
        )
    return table


def _promised(promise: Promise) -> str:
    """Say what to expect on new images."""
    before, after = promise.before.worst, promise.weakest
    return (
        f"Promised on new images, by fits that did not see what they are judged on: weakest class "
        f"{before.accuracy:.1%} ({before.name}) to {after.value:.1%} ({_ends(after.interval)}); "
        f"{before.name} {_points(promise.change_of_weakest)}; average {_points(promise.change)}."
    )


def _points(change: PairedChange) -> str:
    value, low, high = (100 * part for part in change)
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def _with_interval(value: float, interval: Interval) -> str:
    return f"{100 * value:.1f} ({_ends(interval)})"


def _ends(interval: Interval) -> str:
    return f"{100 * interval.low:.1f}\u2013{100 * interval.high:.1f}"


def _chosen(repair: Repair) -> str:
    """Say what the chosen round gains and costs, and which classes pay."""
    number = repair.chosen
    if number == 0:
        loss = f"{repair.record['max_loss']:g} points of average"
        return f"No round had a better weakest class for at most {loss}; nothing is changed."
    before, after = (repair.points[k].adaptive.worst.accuracy for k in (0, number))
    point = repair.points[number]
    pays = ", ".join(f"{name} {change:+.1f}" for name, change in sorted(point.paying.items(), key=lambda e: e[1]))
    return (
        f"Round {number}: worst class {before:.1%} to {after:.1%} on these images, average {_points(point.change)}; "
        f"classes that pay: {pays or 'none'}."
    )


def next_steps(page: Path, out: Path) -> None:
    """Say where the demo's report is, and what to try next."""
    run = shlex.quote(f"run:{out / 'run'}")
    say("")
    say(f"The report: {page.resolve()} (open it in a browser; it needs no network).")
    say("What to try next:")
    for purpose, command in (
        ("the same network at a smaller radius", f"classwise evaluate {run} --attacks quick --eps 0.1"),
        ("no defence, to compare", "classwise train standard --model digits_cnn --data digits --out runs/standard"),
        ("your own model", "classwise evaluate FILE.py:FUNCTION --data cifar10 --data-dir DIR --out runs/mine"),
    ):
        say(f"  {purpose}:")
        say(f"    {command}")


def entries(registered: Sequence[Registration]) -> None:
    """Print a registry as a table: name, one line, source."""
    console = Console()
    table = Table(Column("name", no_wrap=True), "what it is", "source", box=None, pad_edge=False)
    for entry in registered:
        table.add_row(Text(entry.name, style="bold"), Text(entry.summary), Text(entry.source))
    console.print(table)


def questions(asked: Mapping[str, Question]) -> None:
    """Print the questions of `classwise analyse`: name, analysis, claims and words."""
    table = Table(Column("name", no_wrap=True), "analysis", "claims", "question", box=None, pad_edge=False)
    for name, question in asked.items():
        claims = ", ".join(question.claims) or "–"
        table.add_row(Text(name, style="bold"), Text(question.analysis), Text(claims), Text(question.about))
    Console().print(table)


def found(findings: Sequence[Finding], unanswered: Sequence[str]) -> None:
    """Print findings with their tables, then the verdicts once more in a list, and what could not be answered."""
    from classwise.report.sheet import to_rich

    console = Console()
    for finding in findings:
        console.print()
        console.print(Text(f"{finding.question}: {finding.subject}", style="bold"), soft_wrap=True)
        console.print(Text(finding.sentence), soft_wrap=True)
        for sheet in finding.sheets:
            console.print(to_rich(sheet, console.width))
    for finding in findings:
        if finding.claim:
            console.print(
                Text(f"{finding.subject}: {finding.sentence}", style=_VERDICTS[finding.verdict]), soft_wrap=True
            )
    for reason in unanswered:
        console.print(Text(f"Not answered: {reason}"), soft_wrap=True)


def _selected(name: str, summary: Mapping[str, Any]) -> str:
    """Say which epoch of a model was selected, and what it and the last epochs achieved under attack."""
    model = "" if name == "plain" else f"{name}: "
    if not summary["last"].get("robust"):
        return f"{model}nothing was held out, so the last epoch stands for the best."
    parts = [
        f"{what} {summary[key]['robust']['accuracy']:.1%} (worst {summary[key]['robust']['worst']:.1%})"
        for what, key in (
            (f"best, epoch {summary['best']['epoch']},", "best"),
            ("last", "last"),
            (f"mean of the last {summary['mean_of_last_5']['epochs']}", "mean_of_last_5"),
        )
    ]
    return f"{model}robust on held-out images: {', '.join(parts)}."
