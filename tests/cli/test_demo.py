"""The demo: the whole path on embedded digits, run once for all checks."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from classwise import files
from classwise.cli.commands import COMMANDS
from classwise.cli.main import main
from classwise.cli.parser import parser
from classwise.data import load
from classwise.metrics.result import Result

RELATIVE = Path("classwise demo")


class Demo(NamedTuple):
    """A demo that has run."""

    folder: Path
    out: str


def demonstrate(folder: Path) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main(["demo", "--out", str(folder)]) == 0
    return shown.getvalue()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    where = tmp_path_factory.mktemp("where the demo goes")
    with contextlib.chdir(where):  # so that records name it as it was typed
        return Demo(where / "classwise demo", demonstrate(RELATIVE))


def test_it_ends_by_naming_the_report_and_what_to_try_next(demo: Demo) -> None:
    report = (demo.folder / "evaluation" / "report.html").resolve()
    assert report.stat().st_size > 1_000_000, "the page holds everything it needs"
    end = demo.out[demo.out.index("The report: ") :]
    assert str(report) in end.splitlines()[0]
    commands = [shlex.split(line) for line in end.splitlines() if line.strip().startswith("classwise ")]
    assert len(commands) >= 3
    assert ["classwise", "evaluate", f"run:{RELATIVE / 'run'}"] in [words[:3] for words in commands]


def test_what_to_try_next_can_be_typed(demo: Demo) -> None:
    commands = [line for line in demo.out.splitlines() if line.strip().startswith("classwise ")]
    assert len(commands) == 3
    for line in commands:
        parser(COMMANDS).parse_args([word.replace("data-dir", "data_dir") for word in shlex.split(line)[1:]])


def test_every_test_digit_meets_the_fast_plan_and_its_audit(demo: Demo) -> None:
    result = Result.read(demo.folder / "evaluation")
    assert len(result.outcomes.y) == len(load("digits"))
    assert list(result.outcomes.attacks) == ["fast"]
    assert result.header["attacks"]["fast"]["audit"]["at_most"] <= 9
    assert result.header["threat"] == {"norm": "Linf", "eps": 0.15, "eps_text": "0.15"}
    assert result.header["model"]["name"] == f"run:{RELATIVE / 'run'}"


def test_the_figures_are_those_of_the_readme(demo: Demo) -> None:
    # Rounding differs between processors, so not to the last image.
    worst_case = Result.read(demo.folder / "evaluation").table()
    assert Result.read(demo.folder / "evaluation").table("clean")["accuracy"] > 0.96
    assert 0.70 < worst_case["accuracy"] < 0.84
    assert worst_case["worst"]["class"] == "8"
    assert 0.40 < worst_case["worst"]["accuracy"] < 0.70


def test_the_training_log_shows_it_learning(demo: Demo) -> None:
    log = [json.loads(line) for line in (demo.folder / "run/log.jsonl").read_text().splitlines()]
    assert len(log) == 30
    assert log[-1]["valid"]["robust"]["accuracy"] > log[0]["valid"]["robust"]["accuracy"] + 0.5


def test_the_page_can_be_made_again_from_the_command_it_shows(demo: Demo) -> None:
    command = shlex.split(Result.read(demo.folder / "evaluation").header["command"])
    assert command[:3] == ["classwise", "evaluate", f"run:{RELATIVE / 'run'}"]
    assert command[-2:] == ["--out", str(RELATIVE / "evaluation")]


def test_run_again_it_attacks_nothing_and_shows_the_same_figures(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    def figures() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in demo.folder.rglob("*") if p.is_file() and p.suffix != ".html"}

    before = figures()
    monkeypatch.setattr("classwise.attacks.nearest.NearestPGD.__call__", lambda *_, **__: pytest.fail("attacked again"))
    monkeypatch.chdir(demo.folder.parent)
    again = demonstrate(RELATIVE)
    assert figures() == before
    assert again[again.index("The report: ") :] == demo.out[demo.out.index("The report: ") :]


def test_another_seed_does_not_overwrite_it(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    before = files.sha256(demo.folder / "evaluation" / "result.json")
    assert main(["demo", "--out", str(demo.folder), "--seed", "1"]) == 2
    assert "seed = 0, and now seed = 1" in capsys.readouterr().err
    assert files.sha256(demo.folder / "evaluation" / "result.json") == before
