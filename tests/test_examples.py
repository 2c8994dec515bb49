"""The examples run, and say what their names promise."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_your_own_model_is_evaluated_class_by_class(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "evaluate_your_model.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:10]] == [f"class {c}" for c in range(10)]
    assert lines[10].startswith("weakest class: ")


def test_there_is_a_test_for_every_example() -> None:
    assert [path.name for path in sorted(EXAMPLES.glob("*.py"))] == ["evaluate_your_model.py"]
