"""Two processes with one --out: one makes the result, the other waits for it or is refused, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from classwise.cli.main import main
from classwise.metrics.result import Result

ROOT = Path(__file__).parents[1]
EVALUATE = ("evaluate", "digits_cnn", "--data", "digits", "--limit", "40", "--attacks", "pgd")
PAIR = """
import json, os, sys
import classwise.cli.show.live, classwise.cli.show.results
from classwise import evaluation, resolve  # before the fork, as importing takes longer than the work
from classwise.cli.main import main

for turn in range(3):
    begin, go = os.pipe()
    children = []
    for number in (0, 1):
        if not (child := os.fork()):
            os.close(go)
            os.read(begin, 1)  # returns when the parent lets go of the other end
            os.dup2(os.open(f"err{turn}-{number}", os.O_CREAT | os.O_WRONLY), 2)
            os._exit(main([*sys.argv[1:], "--out", f"out{turn}"]))
        children.append(child)
    os.close(go)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
    os.close(begin)
"""


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "partial" in path.name or path.name == ".lock")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="two processes from one import need fork")
def test_of_two_evaluations_into_one_folder_one_ends_and_the_other_waits_or_is_refused(tmp_path: Path) -> None:
    assert main([*EVALUATE, "--out", str(tmp_path / "alone")]) == 0
    expected = Result.read(tmp_path / "alone").outcomes.correct()
    done = python(tmp_path, "-c", PAIR, *EVALUATE)
    turns = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(turns) == 3, done.stderr
    for turn, statuses in enumerate(turns):
        assert sorted(statuses) in ([0, 0], [0, 2]), done.stderr
        for number, status in enumerate(statuses):
            said = (tmp_path / f"err{turn}-{number}").read_text()
            assert status == 0 or "Another process is at work in" in said.splitlines()[-1]
        assert (Result.read(tmp_path / f"out{turn}").outcomes.correct() == expected).all()
        assert left(tmp_path / f"out{turn}") == []


def test_the_processes_of_one_evaluation_share_its_folder(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "classwise", *EVALUATE, "--accelerator", "cpu", "--devices", "2", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert left(tmp_path / "out") == []
    assert Result.read(tmp_path / "out").outcomes.attacks == ("pgd",)
