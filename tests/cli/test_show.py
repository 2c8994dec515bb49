"""What a person sees while something runs: pictures in a terminal, a line now and then in a pipe."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.trials_for_tests import trial
from torch import nn

from classwise import files
from classwise.attacks import build
from classwise.cli.show import lines as show_lines
from classwise.cli.show import live, results, study
from classwise.data import Images, load
from classwise.evaluation.engine import EvaluationProgress
from classwise.methods import Pass
from classwise.metrics.stats import ClassStats
from classwise.studies.trials import Trial
from classwise.threat import ThreatModel
from classwise.training.loop import TrainingProgress
from classwise.training.recipes import Recipe
from classwise.training.run import Run

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
    monkeypatch.setattr("classwise.cli.show.live.time.monotonic", lambda: next(clock))


def evaluated(digits: Images) -> Callable[[], None]:
    """Return a function that reports two batches of an evaluation in which threes are weak."""

    def report() -> None:
        with live.evaluating(nn.Identity(), replace(digits, note=""), build("pgd", THREAT)) as watch:
            for done in (100, 500):
                seen = torch.full((10,), done // 10)
                correct = seen - torch.nn.functional.one_hot(torch.tensor(3), 10) * (done // 20)
                watch(EvaluationProgress("pgd", done, 901, correct, seen))

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
    with live.evaluating(nn.Identity(), digits, build("pgd", THREAT), quiet=True):
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
    with live.training(run, digits, Path("out")) as watch:
        watch(TrainingProgress(0, 9, 3, 14, Pass(ClassStats.zeros(10), stats), None))
        watch(TrainingProgress(4, 9, 3, 14, Pass(stats, ClassStats.zeros(10)), last))
        watch(TrainingProgress(5, 9, 3, 14, Pass(stats, stats), {"valid": None}))
    shown = capsys.readouterr().out
    assert "Training 'at' on 901 images of digits at Linf 0.1, into out" in shown
    assert "epoch 1/9" in shown
    assert "epoch 5/9  held out: clean 75.0% (worst 25.0%), robust 75.0% (worst 25.0%)" in shown
    assert "epoch 6/9  held out: nothing" in shown
    assert "training images under attack: 100.0% right" in shown
    assert "training images: 100.0% right" in shown


def test_of_many_classes_the_weakest_are_shown_and_unseen_ones_last() -> None:
    correct, seen = np.full(40, 9), np.full(40, 10)
    correct[17], seen[5], correct[5] = 1, 0, 0
    frame = live._Frame("", 1, 2, [f"c{k}" for k in range(40)], correct, seen, "pgd")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(frame.picture())
    shown = console.export_text()
    assert "c17" in shown
    assert "c5 " not in shown
    assert shown.count("%") == 1 + live._SHOWN
    assert "worst c17 10.0%" in frame.line()


def test_before_anything_is_seen_no_class_is_called_the_worst() -> None:
    frame = live._Frame("start", 0, 9, ["a", "b"], np.zeros(2), np.zeros(2), "clean")
    assert frame.line().strip() == "start · clean: 0.0% right"
    frame.picture()


def test_markup_in_names_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_lines.say("[bold]cat[/bold] [/nope]")
    assert capsys.readouterr().out == "[bold]cat[/bold] [/nope]\n"


@pytest.mark.parametrize(("epochs", "said"), [(1, "Trained 1 epoch in 3 s"), (2, "Trained 2 epochs in 6 s")])
def test_the_end_of_training_names_the_model_string(capsys: pytest.CaptureFixture[str], epochs: int, said: str) -> None:
    results.trained([{"seconds": 3.0, "valid": None}] * epochs, Path("somewhere"))
    shown = capsys.readouterr().out
    assert f"{said}; held out: nothing." in shown
    assert "run:somewhere" in shown


# Studies


@pytest.fixture
def grid(tmp_path: Path) -> tuple[list[Trial], Path]:
    """Write two methods with two seeds: done, two of ten epochs, failed with one evaluation of two, and open."""
    both = ("best", "last")
    runs = [trial(name, seed=seed, weights=both, train_sha256=f"{seed}") for name in ("at", "mart") for seed in (0, 1)]
    for each in runs[:3]:
        folder = each.folder(tmp_path)
        folder.mkdir(parents=True)
        (folder / "trial.json").write_text(json.dumps({"name": each.name, "key": each.key, "code": []}))
        (folder / "log.jsonl").write_text("{}\n{}\n")
    for each, weights in ((runs[0], both), (runs[2], both[:1])):
        (each.folder(tmp_path) / "summary.json").touch()
        for which in weights:
            each.evaluation_folder(tmp_path, which).mkdir()
            (each.evaluation_folder(tmp_path, which) / "result.json").touch()
    (runs[2].folder(tmp_path) / "failure.json").write_text('{"error": "It is [bold]too[/bold] hot."}')
    return runs, tmp_path


def test_the_status_is_a_grid_of_methods_by_seeds(
    grid: tuple[list[Trial], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = grid
    with files.held(runs[1].folder(out) / "running.lock"):
        study.states(runs, out)
    said = capsys.readouterr().out
    lines = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    assert lines[:3] == [["run", "seed 0", "seed 1"], ["at", "done", "running 2/10"], ["mart", "failed", "open"]]
    assert "mart on digits_cnn, seed 0: failed; It is [bold]too[/bold] hot." in said
    assert "4 runs: 1 done, 1 running, 1 failed, 1 open." in said


def test_a_stopped_run_is_begun_and_an_evaluation_is_counted(
    grid: tuple[list[Trial], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = grid
    (runs[2].folder(out) / "failure.json").unlink()
    study.states(runs, out)
    said = capsys.readouterr().out
    assert "begun 2/10" in said
    assert "begun 1/2 evaluated" in said


def test_a_terminal_shows_the_grid_while_a_study_runs_and_a_pipe_only_what_has_ended(
    grid: tuple[list[Trial], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, out = grid
    with study.counting(runs, out) as tell:
        tell(runs[2], "failed")
    piped = capsys.readouterr().out
    assert piped.startswith("[1/4] mart on digits_cnn, seed 0: failed;")
    assert "seed 1" not in piped
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with study.counting(runs, out) as tell:
        tell(runs[2], "failed")
    shown = capsys.readouterr().out
    assert "seed 1" in shown
    assert "begun 2/10" in shown
    assert "[1/4] mart" in shown


def test_where_there_is_no_room_those_at_work_are_shown(tmp_path: Path) -> None:
    runs = [trial(f"m{i}") for i in range(9)]
    states: dict[Trial, Any] = {each: "running" if each.name == "m7" else "done" for each in runs}
    table = study._grid(states, tmp_path, height=2)
    assert [str(cell) for cell in table.columns[0].cells] == ["m7", "m0"]
