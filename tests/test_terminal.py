"""What a person sees while something runs: pictures in a terminal, a line now and then in a pipe."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from classwise import evaluation, terminal
from classwise.attacks import build
from classwise.data import Images, load
from classwise.methods import Pass
from classwise.metrics.stats import ClassStats
from classwise.recipes import Recipe
from classwise.threat import ThreatModel
from classwise.train import Run, Snapshot

THREAT = ThreatModel("Linf", 0.1)


@pytest.fixture
def digits() -> Images:
    found = load("digits")
    assert isinstance(found, Images)
    return found


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an hour pass between any two looks at the clock."""
    clock = itertools.count(0.0, 3600.0)
    monkeypatch.setattr("classwise.terminal.time.monotonic", lambda: next(clock))


def evaluated(digits: Images) -> Callable[[], None]:
    """Return a function that reports two batches of an evaluation in which threes are weak."""

    def report() -> None:
        with terminal.evaluating(digits, build("pgd", THREAT)) as watch:
            for done in (100, 500):
                seen = torch.full((10,), done // 10)
                correct = seen - torch.nn.functional.one_hot(torch.tensor(3), 10) * (done // 20)
                watch(evaluation.Snapshot("pgd", done, 901, correct, seen))

    return report


@pytest.mark.usefixtures("hours")
def test_a_terminal_shows_every_class_with_a_bar(
    digits: Images, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    evaluated(digits)()
    shown = capsys.readouterr().out
    assert "100/901 images" in shown
    assert "pgd: 95.0% right, by class" in shown
    assert "100.0%" in shown
    assert "50.0%" in shown


@pytest.mark.usefixtures("hours")
def test_a_pipe_gets_a_line_that_names_the_worst_class(digits: Images, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(digits)()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Attacking 901 images of digits at Linf 0.1 with pgd")
    assert lines[1].strip() == "100/901 images · pgd: 95.0% right, worst 3 50.0%"
    assert len(lines) == 3
    assert not any("\x1b" in line for line in lines)


def test_a_pipe_is_not_flooded(digits: Images, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(digits)()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_other_processes_than_the_first_are_quiet(digits: Images, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.evaluating(digits, build("pgd", THREAT), quiet=True):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("hours")
@pytest.mark.parametrize("force", ["", "1"])
def test_training_shows_the_epoch_and_what_was_held_out(
    digits: Images, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, force: str
) -> None:
    monkeypatch.setenv("FORCE_COLOR", force)
    monkeypatch.setenv("COLUMNS", "150")
    stats = ClassStats.zeros(10)
    stats.update(torch.eye(10) * 5, torch.arange(10), torch.zeros(10))
    entry = {"accuracy": 0.75, "worst": 0.25}
    last = {"valid": {"clean": entry, "robust": entry}}
    run = Run("digits_cnn", "at", Recipe(epochs=9), THREAT)
    with terminal.training(run, digits, Path("out")) as watch:
        watch(Snapshot(0, 9, 3, 14, Pass(ClassStats.zeros(10), stats), None))
        watch(Snapshot(4, 9, 3, 14, Pass(stats, ClassStats.zeros(10)), last))
        watch(Snapshot(5, 9, 3, 14, Pass(stats, stats), {"valid": None}))
    shown = capsys.readouterr().out
    assert "Training at on 901 images of digits at Linf 0.1, into out" in shown
    assert "epoch 1/9" in shown
    assert "epoch 5/9  held out: clean 75.0% (worst 25.0%), robust 75.0% (worst 25.0%)" in shown
    assert "epoch 6/9  held out: nothing" in shown
    assert "training images under attack: 100.0% right" in shown
    assert "training images: 100.0% right" in shown


def test_of_many_classes_the_weakest_are_shown_and_unseen_ones_last() -> None:
    correct, seen = np.full(40, 9), np.full(40, 10)
    correct[17], seen[5], correct[5] = 1, 0, 0
    frame = terminal._Frame("", 1, 2, [f"c{k}" for k in range(40)], correct, seen, "pgd")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(frame.picture())
    shown = console.export_text()
    assert "c17" in shown
    assert "c5 " not in shown
    assert shown.count("%") == 1 + terminal._SHOWN
    assert "worst c17 10.0%" in frame.line()


def test_before_anything_is_seen_no_class_is_called_the_worst() -> None:
    frame = terminal._Frame("start", 0, 9, ["a", "b"], np.zeros(2), np.zeros(2), "clean")
    assert frame.line().strip() == "start · clean: 0.0% right"
    frame.picture()


def test_markup_in_names_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("[bold]cat[/bold] [/nope]")
    assert capsys.readouterr().out == "[bold]cat[/bold] [/nope]\n"


@pytest.mark.parametrize(("epochs", "said"), [(1, "Trained 1 epoch in 3 s"), (2, "Trained 2 epochs in 6 s")])
def test_the_end_of_training_names_the_model_string(capsys: pytest.CaptureFixture[str], epochs: int, said: str) -> None:
    terminal.trained([{"seconds": 3.0, "valid": None}] * epochs, Path("somewhere"))
    shown = capsys.readouterr().out
    assert f"{said}; held out: nothing." in shown
    assert "run:somewhere" in shown
