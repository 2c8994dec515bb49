from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from classwise.cli.main import main
from classwise.data import Images, load
from classwise.studies.homing import without

RECIPE = ("--recipe", "digits(epochs=3, steps=2)", "--limit", "300")
WORDS = ("homing", *RECIPE, "--test-limit", "80", "--attacks", "pgd(steps=2)", "--out", "study")


def test_leaving_a_class_out_closes_the_gap_in_the_labels() -> None:
    digits = load("digits", None, "test", False)
    assert isinstance(digits, Images)
    left = without(digits, 3)
    assert left.classes == tuple("012456789")
    kept = digits.y != 3
    assert [left.classes[label] for label in left.y] == [digits.classes[label] for label in digits.y[kept]]
    assert torch.equal(left.index, digits.index[kept])
    assert len(without(digits, 10)) == len(digits)


def test_the_study_trains_every_network_once_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(list(WORDS)) == 0
    assert "H7 is " in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "study").iterdir()}
    assert names == {"all", "again", "fewer", "homing.json", *(f"without-{c}" for c in range(10))}
    first = (tmp_path / "study/homing.json").read_text()
    assert json.loads(first)["findings"][0]["claim"] == "H7"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("best.safetensors")}
    assert len(before) == 13
    assert main(list(WORDS)) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "study/homing.json").read_text() == first
