"""What a person sees of a study: its plan, its states, its progress, its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

from classwise.errors import InputError
from classwise.metrics.result import RESULT_FILE
from classwise.report.console import Console, Text

if TYPE_CHECKING:
    from classwise.metrics.result import Result
    from classwise.report.sheet import Sheet
    from classwise.studies import estimates
    from classwise.studies.trials import State, Trial
from classwise.cli.show.lines import say, wrote
from classwise.cli.show.live import BAR

_STATES: dict[State, str] = {
    "done": "green",
    "running": "bold cyan",
    "failed": "bold red",
    "begun": "yellow",
    "open": "dim",
}
_URGENT: tuple[State, ...] = ("running", "failed", "begun", "open", "done")
_LOOKS_A_SECOND = 0.5  # at the folders of a study


def stand_ins(absent: Sequence[str], stand_in: str) -> None:
    """Say which data sets of a shrunk study another one stands in for."""
    for name in absent:
        say(f"{name} is not there: {stand_in} stand in for it in this shrunk study.")


def plan(times: Mapping[Trial, estimates.TimeEstimate], out: Path, jobs: int, more: Sequence[str] = ()) -> None:
    """List the runs of a study with the time that they are expected to take, and what comes after them."""
    from classwise.studies.estimates import total

    table = Table(Column("run", no_wrap=True), "state", "training", "evaluation", "estimated from", box=None)
    for trial, estimate in times.items():
        left = [duration(estimate.training), duration(estimate.evaluation)]
        table.add_row(*(Text(cell) for cell in (trial.title, trial.state(out), *left, estimate.basis)))
    console = Console()
    console.print(table)
    training, evaluation, unknown = total(times.values())
    say(f"{len(times)} runs: {duration(training)} of training, {duration(evaluation)} of evaluation as far as known.")
    if unknown:
        say(f"What the evaluations of {unknown} runs take is known once one with the same model is done.")
    if jobs > 1:
        say(f"With --jobs {jobs} at best {duration((training + evaluation) / jobs)}, given as many idle cores.")
    for line in more:
        say(f"Then {line}.")


def states(trials: Sequence[Trial], out: Path) -> None:
    """Show how far each run of a study is: the grid, and what is not done and has begun, by its folder or reason."""
    state_of = {trial: trial.state(out) for trial in trials}
    Console().print(_grid(state_of, out))
    for trial, state in state_of.items():
        if state not in ("done", "open"):
            say(f"{trial.title}: {state}; {_remark(trial, state, out)}")
    say(f"{len(trials)} runs: {_counted(state_of)}.")


@contextmanager
def counting(trials: Sequence[Trial], out: Path) -> Iterator[Callable[[Trial, State], None]]:
    """Show the grid of a study while it is worked on, and say of each run how it ended; in a pipe only the latter.

    Yields what :func:`classwise.studies.schedule.run_all` calls.
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
        state_of = {trial: ended.get(trial) or trial.state(out) for trial in trials}
        bar = ProgressBar(total=len(trials), completed=sum(state == "done" for state in state_of.values()), width=BAR)
        return Group(_grid(state_of, out, console.height - 4), bar, Text(_counted(state_of)))

    # What the others print meanwhile goes above the grid.
    with Live(console=console, get_renderable=draw, refresh_per_second=_LOOKS_A_SECOND, transient=True):
        yield tell


def _grid(state_of: Mapping[Trial, State], out: Path, height: int | None = None) -> Table:
    """Return a row for each method and model, a column for each seed; those at work first where there is no room."""
    seeds = sorted({trial.seed for trial in state_of})
    lines: dict[tuple[str, str], dict[int, Trial]] = {}
    for trial in state_of:
        lines.setdefault((trial.name, trial.model), {})[trial.seed] = trial
    visible = list(lines.items())
    if height is not None and len(visible) > height:
        visible.sort(key=lambda line: min(_URGENT.index(state_of[trial]) for trial in line[1].values()))
        visible = visible[: max(1, height)]
    models = len({model for _, model in lines}) > 1
    table = Table(
        Column("run", no_wrap=True),
        *([Column("model", no_wrap=True)] if models else []),
        *(Column(f"seed {seed}", no_wrap=True) for seed in seeds),
        box=None,
        pad_edge=False,
    )
    for (name, model), runs in visible:
        cells = (_progress(runs[seed], state_of[runs[seed]], out) if seed in runs else Text() for seed in seeds)
        table.add_row(Text(name), *([Text(model)] if models else []), *cells)
    return table


def _progress(trial: Trial, state: State, out: Path) -> Text:
    """Say how far a run is: of one that has begun, the epochs, then the evaluations."""
    text: str = state
    if state in ("running", "begun"):
        epochs = 0 if trial.recipe is None else trial.recipe.epochs
        evaluated = sum((trial.evaluation_folder(out, weights) / RESULT_FILE).exists() for weights in trial.weights)
        training = not trial.trained(out)
        text += f" {trial.epochs(out)}/{epochs}" if training else f" {evaluated}/{len(trial.weights)} evaluated"
    return Text(text, style=_STATES[state])


def _counted(state_of: Mapping[Trial, State]) -> str:
    counts = Counter(state_of.values())
    return ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])


def standings(sheets: Sequence[Sheet], paths: Sequence[Path]) -> None:
    """Print the first two tables of a study, as the third is wide, and name the files that hold all."""
    from classwise.report.sheet import to_rich

    console = Console()
    for sheet in sheets[:2]:
        console.print(to_rich(sheet, console.width))
    wrote(paths)


def refuse_unfinished(state_of: Mapping[Trial, State], out: Path) -> None:
    """Say which runs of a study are not done, if any.

    Raises:
        InputError: with the first of those that failed, or what else holds the study up.
    """
    left = [trial for trial, state in state_of.items() if state != "done"]
    failed = [trial for trial in left if state_of[trial] == "failed"]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(state_of)} runs failed, and {len(left) - len(failed)} wait; {failed[0].title}: "
            f"{failed[0].failure(out)}"
        )
    if left:
        raise InputError(
            f"{len(left)} of {len(state_of)} runs belong to another process or wait for one; come back later."
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
    worst = result.worst
    return f"robust {result.average.accuracy:.1%} (worst {worst.name} {worst.accuracy:.1%})"
