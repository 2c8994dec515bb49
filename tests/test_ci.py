"""What CI runs besides the two commands of the README."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci"
pytestmark = pytest.mark.skipif(sys.platform == "win32" or not CI.exists(), reason="scripts of bash in the repository")


@pytest.fixture
def calls(tmp_path: Path) -> tuple[Path, Path]:
    """Return a stand-in for Python that writes down how it was called and fails as avx2, and the file it writes to."""
    log = tmp_path / "calls"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$ATEN_CPU_CAPABILITY $ONEDNN_MAX_CPU_ISA $*" >> {log}\n'
        'test "$ATEN_CPU_CAPABILITY" != "${FAILS:-none}"\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python, log


def processors(python: Path, **environment: str) -> int:
    run = [str(CI / "processors")]
    return subprocess.run(run, env={**os.environ, "PYTHON": str(python), **environment}, capture_output=True).returncode


def test_ci_computes_the_numeric_tests_as_other_processors_do(calls: tuple[Path, Path]) -> None:
    assert (CI / "run").read_text().rstrip().endswith(".ci/processors")
    python, log = calls
    assert processors(python) == 0
    lines = log.read_text().splitlines()
    assert sorted(line.split()[:2] for line in lines) == [["avx2", "AVX2"], ["default", "AVX2"]]
    for line in lines:
        named = re.findall(r"tests/\S+", line)
        assert {"tests/methods", "tests/attacks/test_closed_form.py", "tests/training/test_loop.py"} <= set(named)
        assert all((CI.parent / path).exists() for path in named)


@pytest.mark.parametrize("processor", ["default", "avx2"])
def test_a_failure_as_either_processor_fails(processor: str, calls: tuple[Path, Path]) -> None:
    assert processors(calls[0], FAILS=processor) == 1
