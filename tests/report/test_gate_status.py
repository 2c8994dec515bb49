"""The exit status of the gate, whatever becomes of its output, its files, and the model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from classwise.cli.main import main
from classwise.cli.parser import gathered
from classwise.metrics.result import Result

PASSED, FAULT, BAD, CLOSED = 0, 1, 2, 3
FLAG = {"flag": "zero_gradient", "message": "Masked.", "attack": None, "classes": [], "value": 0.4}

MODELS = """
import os, sys, time
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, act=lambda: None):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.act = nn.Linear(64, 10), act

    def forward(self, x):
        self.act()
        return self.linear(x.flatten(1))


def interrupted():
    raise KeyboardInterrupt


good = Net
def leaves(): return Net(sys.exit)
def leaves_well(): return Net(lambda: sys.exit(0))
def leaves_with_words(): return Net(lambda: sys.exit("all is well"))
def ends(): return Net(lambda: os._exit(0))
def becomes_another(): return Net(lambda: os.execv("/bin/true", ["true"]))
def crashes(): return Net(lambda: os.kill(os.getpid(), 11))
def waits(): return Net(lambda: (print("waiting", flush=True), time.sleep(60)))
def stops(): return Net(interrupted)
"""


@pytest.fixture
def flagged(tmp_path: Path, make: Callable[..., Result]) -> Path:
    make(flags=[FLAG]).write(tmp_path / "flagged")
    return tmp_path / "flagged"


@pytest.fixture
def planted(tmp_path: Path, make: Callable[..., Result]) -> Path:
    make(classes=tuple("abcd"), attacks=("pgd",)).write(tmp_path / "planted")  # small, as processes read it many times
    return tmp_path / "planted"


def in_shell(command: str) -> tuple[int, str]:
    """Run `classwise` in a shell; return the status of the first command of a pipe, and standard error."""
    line = f'classwise() {{ {sys.executable} -m classwise "$@"; }}; {command}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=os.environ, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize("output", ["| true", ">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_output_that_nobody_reads_does_not_open_the_gate(planted: Path, output: str) -> None:
    assert in_shell(f"classwise report {planted} --fail-under worst=0.9 {output}") == (CLOSED, "")


@pytest.mark.parametrize("output", ["| true", ">&-"])
def test_output_that_nobody_reads_does_not_close_the_gate(planted: Path, output: str) -> None:
    assert in_shell(f"classwise report {planted} --fail-under worst=0 {output}") == (PASSED, "")


def test_output_that_could_not_be_written_is_a_fault_but_for_a_closed_gate(planted: Path) -> None:
    status, said = in_shell(f"classwise report {planted} --fail-under worst=0 >/dev/full")
    assert (status, said) == (FAULT, "classwise: Cannot write to standard output: No space left on device.\n")
    assert in_shell(f"classwise report {planted} --fail-under worst=0.9 >/dev/full")[0] == CLOSED


def test_a_sentence_that_cannot_be_said_keeps_its_status(planted: Path) -> None:
    assert in_shell(f"classwise report {planted} --fail-under wrst=0.1 2>&-")[0] == BAD


@pytest.mark.parametrize(("least", "status"), [(0.9, CLOSED), (0, BAD)])
@pytest.mark.parametrize("option", ["--junit", "--gate-json"])
def test_a_file_that_cannot_be_written_is_said_and_a_closed_gate_stays_closed(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, least: float, status: int
) -> None:
    other, file = {"--junit": ("--gate-json", "gate.json"), "--gate-json": ("--junit", "gate.xml")}[option]
    words = ["report", str(planted), "--fail-under", f"worst={least}", option, "/dev/full", other, str(tmp_path / file)]
    assert main(words) == status
    said = capsys.readouterr()
    assert "annot write /dev/full: No space left on device." in said.err
    assert ("The gate passed, but" in said.err) is (status == BAD)
    assert ("Gate passed." in said.out) is (status == BAD)
    assert (tmp_path / file).exists()
    assert Path("/dev/full").is_char_device()


def test_a_folder_that_vanishes_before_the_files_are_written_does_not_open_the_gate(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from classwise import files

    monkeypatch.setattr(files, "refuse_unwritable", lambda path: None)
    (tmp_path / "file").write_text("")
    words = ["report", str(planted), "--fail-under", "worst=0.9", "--junit", str(tmp_path / "file" / "gate.xml")]
    assert main(words) == CLOSED
    assert "Cannot write" in capsys.readouterr().err


def test_files_that_cannot_be_written_are_refused_before_anything_is_done(planted: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["report", str(planted), "--fail-under", "worst=0", "--junit"]
    assert main([*words, str(tmp_path / "file" / "gate.xml")]) == BAD
    assert main([*words, str(tmp_path)]) == BAD
    assert main([*words, "same", "--gate-json", "same"]) == BAD
    assert not (planted / "report.html").exists()


EXITS = ["leaves", "leaves_well", "leaves_with_words"]


@pytest.mark.parametrize("name", EXITS)
def test_a_model_that_ends_the_program_does_not_pass(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", f"mine.py:{name}", "--data", "digits", "--limit", "20", "--attacks", "fgsm"]
    assert main([*words, "--fail-under", "worst=0"]) == BAD
    assert "SystemExit" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="a child process is watched on Linux alone")
@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("ends", ["--config", "gate.yaml"]),
        ("becomes_another", ["--fail-under", "worst=0"]),
        ("crashes", ["--fail-under=worst=0"]),
    ],
)
def test_a_model_that_ends_the_process_itself_does_not_pass(name: str, condition: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODELS)
    (tmp_path / "gate.yaml").write_text("fail_under: worst=0\n")
    words = ["evaluate", f"{tmp_path}/mine.py:{name}", "--data", "digits", "--limit", "20", "--attacks", "fgsm"]
    command = [sys.executable, "-m", "classwise", *words, *condition]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == BAD
    assert "ended the program" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="a child process is watched on Linux alone")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, BAD), (signal.SIGKILL, -9)])
def test_a_gate_in_a_child_process_gets_the_signals_of_its_parent(sent: int, status: int, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODELS)
    words = ["evaluate", f"{tmp_path}/mine.py:waits", "--data", "digits", "--limit", "20", "--attacks", "fgsm"]
    command = [sys.executable, "-m", "classwise", *words, "--fail-under", "worst=0"]
    # Tests that a shell started in the background ignore Ctrl-C, and so would what they start.
    unignored = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": unignored}
    with subprocess.Popen(command, text=True, cwd=tmp_path, **pipes) as gate:
        try:
            assert gate.stdout is not None
            while "waiting" not in gate.stdout.readline():
                assert gate.poll() is None
            gate.send_signal(sent)
            gate.communicate(timeout=60)  # ends only when the child has closed the pipe, so none is left behind
        finally:
            gate.kill()
    assert gate.returncode == status


def test_ctrl_c_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "mine.py:stops", "--data", "digits", "--limit", "20", "--attacks", "fgsm"]
    assert main([*words, "--fail-under", "worst=0"]) == 128 + signal.SIGINT


def test_a_serious_flag_closes_the_gate_and_is_written_unless_it_is_allowed(
    flagged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--junit", str(tmp_path / "gate.xml"), "--gate-json", str(tmp_path / "gate.json"))
    words = ["report", str(flagged), "--fail-under", "worst=0", *files]
    for allow, status in (((), CLOSED), (("--allow-flag", "zero_gradient"), PASSED)):
        assert main([*words, *allow]) == status
        document = json.loads((tmp_path / "gate.json").read_text())
        assert document["passed"] is (status == PASSED)
        assert [(flag["flag"], flag["waived"]) for flag in document["flags"]] == [("zero_gradient", status == PASSED)]
        assert ET.parse(tmp_path / "gate.xml").getroot().get("failures") == str(int(status == CLOSED))
        assert "zero_gradient" in capsys.readouterr().out


def test_flags_are_allowed_one_by_one_or_together_and_a_misspelt_one_is_refused(
    flagged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", str(flagged), "--fail-under", "worst=0"]
    assert main([*words, "--allow-flag", "short_steps", "--allow-flag", "zero_gradient"]) == PASSED
    assert main([*words, "--allow-flag=short_steps,zero_gradient"]) == PASSED
    assert main([*words, "--allow-flag", "zero-gradent"]) == BAD
    assert "did you mean 'zero_gradient'" in capsys.readouterr().err
    assert main(["report", str(flagged), "--allow-flag", "zero_gradient"]) == BAD


def test_of_conditions_given_in_two_options_both_must_hold(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", str(planted)]
    assert main([*words, "--fail-under", "worst=0.9", "--fail-under", "average=0"]) == CLOSED
    assert main([*words, "--fail-under", "worst=0", "--fail-under=worst=0.9"]) == BAD
    assert "asked for twice" in capsys.readouterr().err


def test_only_what_may_be_repeated_is_joined() -> None:
    words = ["report", "--fail_under", "a=1", "x", "--junit", "j", "--fail_under=b=2", "--allow_flag", "--figures", "f"]
    assert gathered(words) == ["report", "x", "--junit", "j", "--allow_flag", "--figures", "f", "--fail_under=a=1,b=2"]


def test_what_no_model_could_reach_is_said_before_anything_is_attacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "mine.py:good", "--data", "digits", "--limit", "30", "--attacks", "fgsm"]
    assert main([*words, "--fail-under", "worst=0.95"]) == CLOSED
    said = capsys.readouterr().out
    needed = "No model can reach 95.00 % with 3 images: every class needs at least 59."
    assert said.index(f"The gate will fail: worst: {needed}") < said.index("Attacking")
    assert said.count(needed) == 2


def test_an_always_right_model_does_not_pass_with_classes_that_have_no_images(
    tmp_path: Path, make: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(classes=tuple("abcdefg"), absent=[1, 2, 4, 6], attacks=())
    outcomes = made.outcomes
    right = type(outcomes)(outcomes.classes, outcomes.index, outcomes.y, outcomes.y.copy(), {}, {}, {})
    Result(made.header, right).write(tmp_path / "seven")
    assert main(["report", str(tmp_path / "seven"), "--fail-under", "clean.worst=0.1"]) == CLOSED
    assert "4 of 7 classes have no images: 'b', 'c', 'e', 'g'." in capsys.readouterr().out
