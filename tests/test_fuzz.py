"""Hostile command lines, study files and records end in one sentence; a seeded part of benchmarks/fuzz.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from classwise.cli.main import main

ROOT = Path(__file__).parents[1]


def campaign(out: Path, lines: int, studies: int, records: int, seed: int) -> dict:
    counts = ["--lines", lines, "--studies", studies, "--records", records, "--seed", seed, "--out", out]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/fuzz.py"), *map(str, counts)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    return json.loads(out.read_text())


def test_a_hostile_call_ends_in_one_sentence_and_runs_nothing(tmp_path: Path) -> None:
    found = campaign(tmp_path / "fuzz.json", 15, 20, 10, seed=1)
    assert found["calls"] == {"lines": 15, "studies": 20, "records": 10}
    assert found["faults"] == []


def test_a_nul_in_an_argument_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["homing", "--out", "a\0b"]) == 2
    assert "NUL" in capsys.readouterr().err


@pytest.mark.slow
def test_hundreds_of_hostile_calls_end_in_one_sentence_and_run_nothing(tmp_path: Path) -> None:
    assert campaign(tmp_path / "fuzz.json", 400, 400, 200, seed=2)["faults"] == []
