"""What a person sees while classwise works: accuracy of each class, redrawn in place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from classwise.report.console import Console, Text

if TYPE_CHECKING:
    from torch import nn

    from classwise.attacks import Attack
    from classwise.attacks.plan import AttackOrPlan
    from classwise.corrections.fit import Progress
    from classwise.data import ImageSet
    from classwise.evaluation.engine import EvaluationProgress
    from classwise.threat import ThreatModel
    from classwise.training.loop import TrainingProgress
    from classwise.training.run import Run
from classwise.cli.show.lines import taken

_SHOWN = 10  # classes in a live view; the weakest of them where there are more
BAR = 30
_QUIET_SECONDS = 15.0  # between two lines where the output is no terminal


@contextmanager
def training(
    run: Run, images: ImageSet, out: Path, *, quiet: bool = False
) -> Iterator[Callable[[TrainingProgress], None]]:
    """Show training while it goes on; yields what :func:`classwise.fit` calls after each step."""
    title = f"Training {run.method!r} on {len(images)} images of {images.name} at {run.threat}, into {out}"

    def draw(progress: TrainingProgress) -> _Frame:
        stats = progress.train.robust if progress.train.robust.n.sum() else progress.train.clean
        label = f"epoch {progress.epoch + 1}/{progress.epochs}" + (
            f"  held out: {held_out_line(progress.last)}" if progress.last else ""
        )
        done, total = progress.epoch * progress.steps + progress.step, progress.epochs * progress.steps
        view = "training images" + (" under attack" if stats is progress.train.robust else "")
        return _Frame(label, done, total, images.classes, as_numpy(stats.correct), as_numpy(stats.n), view)

    with _live(title, quiet) as show:
        yield lambda progress: show(lambda: draw(progress))


@contextmanager
def evaluating(
    network: nn.Module, images: ImageSet, attacks: Mapping[str, AttackOrPlan], *, quiet: bool = False
) -> Iterator[Callable[[EvaluationProgress], None]]:
    """Show an evaluation while it goes on; yields what :func:`classwise.evaluate` calls after each attack."""
    threat = next(iter(attacks.values())).threat
    if not quiet:
        taken(network, images)
    title = f"Attacking {len(images)} images of {images.name} at {threat} with {', '.join(attacks)}"
    with _attacking(images, title, quiet) as watch:
        yield watch


@contextmanager
def narrowing(images: ImageSet, widest: ThreatModel) -> Iterator[Callable[[EvaluationProgress], None]]:
    """Show the search for critical eps; yields what :func:`classwise.critical_eps` calls after each batch."""
    title = f"Looking for the smallest radius up to {widest} that breaks each of {len(images)} images of {images.name}"
    with _attacking(images, title, quiet=False) as watch:
        yield watch


@contextmanager
def _attacking(images: ImageSet, title: str, quiet: bool) -> Iterator[Callable[[EvaluationProgress], None]]:
    def draw(progress: EvaluationProgress) -> _Frame:
        label = f"{progress.done}/{progress.total} images"
        return _Frame(
            label,
            progress.done,
            progress.total,
            images.classes,
            as_numpy(progress.correct),
            as_numpy(progress.seen),
            progress.view,
        )

    with _live(title, quiet) as show:
        yield lambda progress: show(lambda: draw(progress))


@contextmanager
def correcting(
    images: ImageSet, which: str, rule: str, attacks: Mapping[str, Attack]
) -> Iterator[Callable[[Progress], None]]:
    """Show the steps of a fit; yields what :func:`classwise.corrections.fit.repair` calls after each of them."""
    threat = next(iter(attacks.values())).threat
    title = f"Fitting {rule} on {len(images)} images of {images.name} ({which}) at {threat} with {', '.join(attacks)}"

    def draw(progress: Progress) -> _Frame:
        n = np.bincount(images.y.cpu().numpy(), minlength=len(images.classes))
        view = "under attack on the corrected model"
        return _Frame(
            progress.stage, progress.number, progress.steps, images.classes, as_numpy(progress.accuracy) * n, n, view
        )

    with _live(title, quiet=False) as show:
        yield lambda progress: show(lambda: draw(progress))


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
            bar = ProgressBar(total=1.0, completed=0.0 if np.isnan(share) else float(share), width=BAR)
            grid.add_row(Text(self.classes[c]), bar, Text("–" if np.isnan(share) else f"{share:6.1%}"))
        head = Table.grid(padding=(0, 1))
        head.add_row(ProgressBar(total=self.total, completed=self.done, width=BAR), Text(self.label))
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


def held_out_line(line: Mapping[str, Any]) -> str:
    """Say in short what an epoch achieved on the held-out images."""
    measured = (line["valid"] or {}).items()
    parts = [f"{name} {entry['accuracy']:.1%} (worst {entry['worst']:.1%})" for name, entry in measured]
    return ", ".join(parts) or "nothing"


def as_numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a tensor of any device as an array."""
    array: np.ndarray[Any, Any] = tensor.cpu().numpy()
    return array
