"""What a person sees in the terminal: live class accuracies, tables, and what to do next."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

from classwise import selection
from classwise.console import Console, Text
from classwise.errors import InputError
from classwise.metrics.result import RESULT_FILE
from classwise.metrics.trade_off import CURVE_FILE

if TYPE_CHECKING:
    from torch import nn

    from classwise import campaign, evaluation
    from classwise.analysis import Finding, Question
    from classwise.attacks import Attack
    from classwise.attacks.plan import Contender
    from classwise.data import ImageSet
    from classwise.metrics.critical_eps import CriticalEps
    from classwise.metrics.race import Race
    from classwise.metrics.result import Result
    from classwise.registry import Entry
    from classwise.repair import Progress, Repair
    from classwise.report.gate import Condition, Gate
    from classwise.report.sheet import Sheet
    from classwise.runs import Run
    from classwise.threat import ThreatModel
    from classwise.train import Snapshot
    from classwise.trials import State, Trial

_SHOWN = 10  # classes in a live view; the weakest of them where there are more
_BAR = 30
_VERDICTS = {
    "supported": "bold green",
    "refuted": "bold red",
    "undecided": "bold yellow",
    "not applicable": "bold",
    "described": "bold",
}
_STATES: dict[State, str] = {
    "done": "green",
    "running": "bold cyan",
    "failed": "bold red",
    "begun": "yellow",
    "open": "dim",
}
_URGENT: tuple[State, ...] = ("running", "failed", "begun", "open", "done")
_LOOKS_A_SECOND = 0.5  # at the folders of a study
_QUIET_SECONDS = 15.0  # between two lines where the output is no terminal


def say(text: str) -> None:
    """Print a line of plain text; the terminal breaks it, so that paths and commands can be copied."""
    Console().print(Text(text), soft_wrap=True)


def taken(network: nn.Module, images: ImageSet) -> None:
    """Say what was done to weights and images, where they were not taken as they are."""
    from classwise.models.checkpoint import weights_note

    for what, note in (("Weights", weights_note(network)), ("Images", images.note)):
        if note:
            say(f"{what}: {note}.")


@contextmanager
def training(run: Run, images: ImageSet, out: Path, *, quiet: bool = False) -> Iterator[Callable[[Snapshot], None]]:
    """Show training while it goes on; yields what :func:`classwise.fit` calls after each step."""
    title = f"Training {run.method!r} on {len(images)} images of {images.name} at {run.threat}, into {out}"

    def draw(seen: Snapshot) -> _Frame:
        stats = seen.train.robust if seen.train.robust.n.sum() else seen.train.clean
        label = f"epoch {seen.epoch + 1}/{seen.epochs}" + (f"  held out: {_held_out(seen.last)}" if seen.last else "")
        done, total = seen.epoch * seen.steps + seen.step, seen.epochs * seen.steps
        view = "training images" + (" under attack" if stats is seen.train.robust else "")
        return _Frame(label, done, total, images.classes, _numpy(stats.correct), _numpy(stats.n), view)

    with _live(title, quiet) as show:
        yield lambda seen: show(lambda: draw(seen))


@contextmanager
def evaluating(
    network: nn.Module, images: ImageSet, attacks: Mapping[str, Contender], *, quiet: bool = False
) -> Iterator[Callable[[evaluation.Snapshot], None]]:
    """Show an evaluation while it goes on; yields what :func:`classwise.evaluate` calls after each attack."""
    threat = next(iter(attacks.values())).threat
    if not quiet:
        taken(network, images)
    title = f"Attacking {len(images)} images of {images.name} at {threat} with {', '.join(attacks)}"
    with _attacking(images, title, quiet) as watch:
        yield watch


@contextmanager
def narrowing(images: ImageSet, widest: ThreatModel) -> Iterator[Callable[[evaluation.Snapshot], None]]:
    """Show the search for critical eps; yields what :func:`classwise.critical_eps` calls after each batch."""
    title = f"Looking for the smallest radius up to {widest} that breaks each of {len(images)} images of {images.name}"
    with _attacking(images, title, quiet=False) as watch:
        yield watch


@contextmanager
def _attacking(images: ImageSet, title: str, quiet: bool) -> Iterator[Callable[[evaluation.Snapshot], None]]:
    def draw(seen: evaluation.Snapshot) -> _Frame:
        label = f"{seen.done}/{seen.total} images"
        return _Frame(label, seen.done, seen.total, images.classes, _numpy(seen.correct), _numpy(seen.seen), seen.view)

    with _live(title, quiet) as show:
        yield lambda seen: show(lambda: draw(seen))


def trained(log: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Say how training ended."""
    seconds = sum(line["seconds"] for line in log)
    epochs = "1 epoch" if len(log) == 1 else f"{len(log)} epochs"
    say(f"Trained {epochs} in {seconds:.0f} s; held out: {_held_out(log[-1])}.")
    for name, found in selection.summary(log, len(log)).items():
        say(_selected(name, found))
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


def critical(found: CriticalEps, radii: Sequence[float]) -> None:
    """Print the critical eps by class, weakest first, and the verdict."""
    from classwise.report.critical import critical_sheet, remark, sentence
    from classwise.report.sheet import to_rich

    console = Console()
    console.print()
    console.print(to_rich(critical_sheet(found, radii), console.width))
    console.print(Text(sentence(found), style="bold"), soft_wrap=True)
    console.print(Text(remark(found)), soft_wrap=True)
    warned(found.about["flags"])


def warned(flags: Sequence[Mapping[str, Any]]) -> None:
    """Print the signs that a number may be wrong."""
    for flag in flags:
        Console().print(Text(f"Warning ({flag['flag']}): {flag['message']}", style="yellow"), soft_wrap=True)


def round_of(race: Race) -> None:
    """Say in one line where a race to the worst class stands."""
    left = len(race.worst)
    say(f"  {int(race.sampled.sum())} images attacked; {left} {'class' if left == 1 else 'classes'} may be the worst")


def out_of_reach(asked: Sequence[Condition], images: ImageSet) -> None:
    """Warn of conditions that no model could meet with these images, before time is spent on them."""
    from classwise.report.gate import unreachable

    n = np.bincount(images.y.cpu().numpy(), minlength=len(images.classes))
    for condition in asked:
        said = unreachable(condition, images.classes, n)
        if said:
            Console().print(Text(f"The gate will fail: {condition.name}: {said}", style="yellow"), soft_wrap=True)


def gate(found: Gate) -> None:
    """Say which conditions a result meets, which number was tested, which flags count, and whether the gate is open."""
    console = Console()
    for check in found.checks:
        console.print(Text(check.sentence, style="green" if check.passed else "red"), soft_wrap=True)
    for flag in found.flags:
        if flag.serious:
            console.print(Text(f"Flag {flag.sentence}", style="red" if flag.closes else "yellow"), soft_wrap=True)
    console.print(Text(f"{found.label} {found.certainty}"), soft_wrap=True)
    console.print(Text("Gate passed." if found.passed else "Gate failed.", style="bold"))


@contextmanager
def correcting(
    images: ImageSet, which: str, rule: str, attacks: Mapping[str, Attack]
) -> Iterator[Callable[[Progress], None]]:
    """Show the rounds of a fit; yields what :func:`classwise.repair.repair` calls after each round."""
    threat = next(iter(attacks.values())).threat
    title = f"Fitting {rule} on {len(images)} images of {images.name} ({which}) at {threat} with {', '.join(attacks)}"

    def draw(seen: Progress) -> _Frame:
        n = np.bincount(images.y.cpu().numpy(), minlength=len(images.classes))
        label = f"round {seen.number}, at most {seen.rounds}"
        view = "under attack on the corrected model"
        return _Frame(label, seen.number, seen.rounds, images.classes, _numpy(seen.accuracy) * n, n, view)

    with _live(title, quiet=False) as show:
        yield lambda seen: show(lambda: draw(seen))


def corrected(found: Repair, out: Path) -> None:
    """Print the trade-off curve of a fit, what was chosen, and where the final number comes from."""
    curve = found.curve()
    if curve["warning"]:
        warned([{"flag": "fitted_on_test", "message": curve["warning"]}])
    warned(curve.get("flags", []))
    Console().print(_curve_table(curve))
    say("In per cent of the images it was fitted on, with 95 % intervals; * is the chosen round.")
    say("Not adaptive: worst class on candidates made against the uncorrected model; an illustration, too high.")
    say(_chosen(curve))
    say(curve["final_number"].replace("corrected:DIR", shlex.quote(f"corrected:{out}")))
    say(f"The curve is in {out / CURVE_FILE}; the model string is corrected:{out}")


def _curve_table(curve: Mapping[str, Any]) -> Table:
    headings = ("round", "average", "worst", "of class", "clean", "not adaptive")
    table = Table(*(Column(name, justify="right") for name in headings), box=None, pad_edge=False)
    for point in curve["rounds"]:
        seen, worst = point["adaptive"], point["adaptive"]["worst"]
        table.add_row(
            f"{point['round']}{'*' if point['chosen'] else ' '}",
            _with_interval(seen["accuracy"], seen["accuracy_interval"]),
            _with_interval(worst["accuracy"], worst["interval"]),
            Text(worst["class"]),
            f"{100 * point['clean']['accuracy']:.1f}",
            f"{100 * point['non_adaptive']['worst']['accuracy']:.1f}",
            style="bold" if point["chosen"] else None,
        )
    return table


def _with_interval(value: float, ends: Sequence[float]) -> str:
    return f"{100 * value:.1f} ({100 * ends[0]:.1f}\u2013{100 * ends[1]:.1f})"


def _chosen(curve: Mapping[str, Any]) -> str:
    """Say what the chosen round gains and costs, and which classes pay."""
    number = curve["chosen"]
    if number == 0:
        loss = f"{curve['max_loss']:g} points of average"
        return f"No round had a better weakest class for at most {loss}; nothing is changed."
    base, point = (curve["rounds"][k] for k in (0, number))
    before, after = (each["adaptive"]["worst"]["accuracy"] for each in (base, point))
    pays = ", ".join(f"{name} {change:+.1f}" for name, change in sorted(point["paying"].items(), key=lambda e: e[1]))
    low, high = point["average_change_interval"]
    return (
        f"Round {number}: worst class {before:.1%} to {after:.1%}, average {point['average_change']:+.1f} points "
        f"(95 % interval {low:+.1f} to {high:+.1f}); classes that pay: {pays or 'none'}."
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


def wrote(paths: Sequence[Path]) -> None:
    """Name the files that were written."""
    for path in paths:
        say(f"Wrote {path}")


def entries(found: Sequence[Entry]) -> None:
    """Print a registry as a table: name, one line, source."""
    console = Console()
    table = Table(Column("name", no_wrap=True), "what it is", "source", box=None, pad_edge=False)
    for entry in found:
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


def stand_ins(absent: Sequence[str], stand_in: str) -> None:
    """Say which data sets of a shrunk study another one stands in for."""
    for name in absent:
        say(f"{name} is not there: {stand_in} stand in for it in this shrunk study.")


def plan(found: Mapping[Trial, campaign.Estimate], out: Path, jobs: int, more: Sequence[str] = ()) -> None:
    """List the runs of a study with the time that they are expected to take, and what comes after them."""
    from classwise.campaign import total

    table = Table(Column("run", no_wrap=True), "state", "training", "evaluation", "estimated from", box=None)
    for trial, estimate in found.items():
        left = [duration(estimate.training), duration(estimate.evaluation)]
        table.add_row(*(Text(cell) for cell in (trial.title, trial.state(out), *left, estimate.basis)))
    console = Console()
    console.print(table)
    training, evaluation, unknown = total(found.values())
    say(f"{len(found)} runs: {duration(training)} of training, {duration(evaluation)} of evaluation as far as known.")
    if unknown:
        say(f"What the evaluations of {unknown} runs take is known once one with the same model is done.")
    if jobs > 1:
        say(f"With --jobs {jobs} at best {duration((training + evaluation) / jobs)}, given as many idle cores.")
    for line in more:
        say(f"Then {line}.")


def states(trials: Sequence[Trial], out: Path) -> None:
    """Show how far each run of a study is: the grid, and what is not done and has begun, by its folder or reason."""
    found = {trial: trial.state(out) for trial in trials}
    Console().print(_grid(found, out))
    for trial, state in found.items():
        if state not in ("done", "open"):
            say(f"{trial.title}: {state}; {_remark(trial, state, out)}")
    say(f"{len(trials)} runs: {_counted(found)}.")


@contextmanager
def counting(trials: Sequence[Trial], out: Path) -> Iterator[Callable[[Trial, State], None]]:
    """Show the grid of a study while it is worked on, and say of each run how it ended; in a pipe only the latter.

    Yields what :func:`classwise.campaign.run_all` calls.
    """
    ended: dict[Trial, State] = {}

    def tell(trial: Trial, state: State) -> None:
        ended[trial] = state
        say(f"[{len(ended)}/{len(trials)}] {trial.title}: {state}; {_remark(trial, state, out)}")

    console = Console()
    if not console.is_terminal:
        yield tell
        return

    def draw() -> RenderableType:
        found = {trial: ended.get(trial) or trial.state(out) for trial in trials}
        bar = ProgressBar(total=len(trials), completed=sum(state == "done" for state in found.values()), width=_BAR)
        return Group(_grid(found, out, console.height - 4), bar, Text(_counted(found)))

    # What the others print meanwhile goes above the grid.
    with Live(console=console, get_renderable=draw, refresh_per_second=_LOOKS_A_SECOND, transient=True):
        yield tell


def _grid(found: Mapping[Trial, State], out: Path, height: int | None = None) -> Table:
    """Return a row for each method and model, a column for each seed; those at work first where there is no room."""
    seeds = sorted({trial.seed for trial in found})
    lines: dict[tuple[str, str], dict[int, Trial]] = {}
    for trial in found:
        lines.setdefault((trial.name, trial.model), {})[trial.seed] = trial
    shown = list(lines.items())
    if height is not None and len(shown) > height:
        shown.sort(key=lambda line: min(_URGENT.index(found[trial]) for trial in line[1].values()))
        shown = shown[: max(1, height)]
    models = len({model for _, model in lines}) > 1
    table = Table(
        Column("run", no_wrap=True),
        *([Column("model", no_wrap=True)] if models else []),
        *(Column(f"seed {seed}", no_wrap=True) for seed in seeds),
        box=None,
        pad_edge=False,
    )
    for (name, model), runs in shown:
        cells = (_progress(runs[seed], found[runs[seed]], out) if seed in runs else Text() for seed in seeds)
        table.add_row(Text(name), *([Text(model)] if models else []), *cells)
    return table


def _progress(trial: Trial, state: State, out: Path) -> Text:
    """Say how far a run is: of one that has begun, the epochs, then the evaluations."""
    text: str = state
    if state in ("running", "begun"):
        epochs = 0 if trial.recipe is None else trial.recipe.epochs
        evaluated = sum((trial.evaluation_folder(out, each) / RESULT_FILE).exists() for each in trial.weights)
        training = not trial.trained(out)
        text += f" {trial.epochs(out)}/{epochs}" if training else f" {evaluated}/{len(trial.weights)} evaluated"
    return Text(text, style=_STATES[state])


def _counted(found: Mapping[Trial, State]) -> str:
    counts = Counter(found.values())
    return ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])


def standings(sheets: Sequence[Sheet], paths: Sequence[Path]) -> None:
    """Print the first two tables of a study, as the third is wide, and name the files that hold all."""
    from classwise.report.sheet import to_rich

    console = Console()
    for sheet in sheets[:2]:
        console.print(to_rich(sheet, console.width))
    wrote(paths)


def refuse_unfinished(found: Mapping[Trial, State], out: Path) -> None:
    """Say which runs of a study are not done, if any.

    Raises:
        InputError: with the first of those that failed, or what else holds the study up.
    """
    left = [trial for trial, state in found.items() if state != "done"]
    failed = [trial for trial in left if found[trial] == "failed"]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(found)} runs failed, and {len(left) - len(failed)} wait; {failed[0].title}: "
            f"{failed[0].failure(out)}"
        )
    if left:
        raise InputError(
            f"{len(left)} of {len(found)} runs belong to another process or wait for one; come back later."
        )


def duration(seconds: float | None) -> str:
    """Return a time as a person says it.

    Example:
        >>> duration(42.3), duration(125), duration(7300), duration(None)
        ('42 s', '2 min', '2.0 h', '–')
    """
    if seconds is None:
        return "–"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _remark(trial: Trial, state: str, out: Path) -> str:
    """Return what a run that is done has achieved, why one failed, or where another lies."""
    if state == "done":
        return "; ".join(f"{weights} {_robust(result)}" for weights, result in trial.results(out).items())
    return trial.failure(out) if state == "failed" else str(trial.folder(out))


def _robust(result: Result) -> str:
    table = result.table()
    return f"robust {table['accuracy']:.1%} (worst {table['worst']['class']} {table['worst']['accuracy']:.1%})"


class _Frame:
    """One picture of work in progress: a bar for the whole, and a bar for each class."""

    def __init__(
        self,
        label: str,
        done: int,
        total: int,
        classes: Sequence[str],
        correct: np.ndarray[Any, Any],
        seen: np.ndarray[Any, Any],
        view: str,
    ) -> None:
        self.label, self.done, self.total, self.view = label, done, total, view
        self.classes = classes
        with np.errstate(invalid="ignore"):
            self.accuracy = np.where(seen > 0, correct / np.maximum(seen, 1), np.nan)
        self.average = float(correct.sum() / max(1, seen.sum()))

    def picture(self) -> RenderableType:
        order = np.argsort(self.accuracy, kind="stable")[:_SHOWN]
        grid = Table.grid(padding=(0, 1))
        for c in sorted(order) if len(self.classes) > _SHOWN else range(len(self.classes)):
            share = self.accuracy[c]
            bar = ProgressBar(total=1.0, completed=0.0 if np.isnan(share) else float(share), width=_BAR)
            grid.add_row(Text(self.classes[c]), bar, Text("–" if np.isnan(share) else f"{share:6.1%}"))
        head = Table.grid(padding=(0, 1))
        head.add_row(ProgressBar(total=self.total, completed=self.done, width=_BAR), Text(self.label))
        return Group(head, Text(f"{self.view}: {self.average:.1%} right, by class"), grid)

    def line(self) -> str:
        known = ~np.isnan(self.accuracy)
        worst = int(np.nanargmin(self.accuracy)) if known.any() else 0
        lowest = f", worst {self.classes[worst]} {self.accuracy[worst]:.1%}" if known.any() else ""
        return f"  {self.label.strip()} · {self.view}: {self.average:.1%} right{lowest}"


@contextmanager
def _live(title: str, quiet: bool) -> Iterator[Callable[[Callable[[], _Frame]], None]]:
    """Yield a function that shows a frame, at most ten times a second; in a pipe, a line now and then."""
    console = Console(quiet=quiet)
    console.print(Text(title), soft_wrap=True)
    last = [time.monotonic()]
    if not console.is_terminal:

        def note(draw: Callable[[], _Frame]) -> None:
            if time.monotonic() - last[0] > _QUIET_SECONDS:
                last[0] = time.monotonic()
                console.print(Text(draw().line()), soft_wrap=True)

        yield note
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(draw: Callable[[], _Frame]) -> None:
            if time.monotonic() - last[0] > 0.1:
                last[0] = time.monotonic()
                live.update(draw().picture(), refresh=True)

        yield show


def _selected(name: str, found: Mapping[str, Any]) -> str:
    """Say which epoch of a model was selected, and what it and the last epochs achieved under attack."""
    model = "" if name == "plain" else f"{name}: "
    if not found["last"].get("robust"):
        return f"{model}nothing was held out, so the last epoch stands for the best."
    parts = [
        f"{what} {found[key]['robust']['accuracy']:.1%} (worst {found[key]['robust']['worst']:.1%})"
        for what, key in (
            (f"best, epoch {found['best']['epoch']},", "best"),
            ("last", "last"),
            (f"mean of the last {found['mean_of_last_5']['epochs']}", "mean_of_last_5"),
        )
    ]
    return f"{model}robust on held-out images: {', '.join(parts)}."


def _held_out(line: Mapping[str, Any]) -> str:
    measured = (line["valid"] or {}).items()
    parts = [f"{name} {entry['accuracy']:.1%} (worst {entry['worst']:.1%})" for name, entry in measured]
    return ", ".join(parts) or "nothing"


def _numpy(tensor: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.cpu().numpy()
    return array
