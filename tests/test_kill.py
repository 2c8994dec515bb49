"""SIGKILL: an evaluation that is killed goes on, ends with the same bits, and leaves nothing lying about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_evaluations_killed_at_random_moments_end_like_unbroken_ones(tmp_path: Path) -> None:
    """A short version of the campaign in results/kill-campaign.json; its script compares, and fails on a difference.

    It runs apart from this process, whose threads a fork could not take along.
    """
    command = [
        sys.executable,
        str(ROOT / "benchmarks/kill.py"),
        "--kills",
        "3",
        "--most",
        "3",
        "--seed",
        "5",
        "--cases",
        "added",
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "kills.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert found["kills"] >= 3
    assert (found["different_outcomes"], found["files_left_over"], found["older_results_lost"]) == (0, 0, 0)


def test_the_campaign_on_record_killed_a_hundred_times_and_found_nothing() -> None:
    found = json.loads((ROOT / "results/kill-campaign.json").read_text())
    assert found["kills"] >= 100
    assert set(found["kills_by_case"]) == {"plan", "suite", "added"}
    assert (found["different_outcomes"], found["files_left_over"], found["older_results_lost"]) == (0, 0, 0)
    assert found["left_behind"]["a file half written"] > 0
