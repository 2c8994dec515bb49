"""Folders that an earlier version wrote: a result still opens and counts as done, a begun run still goes on.

Made by commit 2b60c47 with the settings of ``train`` and ``evaluate`` below; ``begun`` was stopped in its second epoch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from classwise import evaluate, load_model, resolve
from classwise.cli.main import main
from classwise.metrics.result import Result

BEFORE = Path(__file__).parent / "before"
RECIPE = "digits(epochs=2, batch_size=20, steps=2, holdout=0.2)"


def test_a_begun_run_goes_on(tmp_path: Path) -> None:
    shutil.copytree(BEFORE / "begun", tmp_path / "run")
    words = ["--model", "digits_cnn", "--data", "digits", "--recipe", RECIPE, "--eps", "0.1", "--norm", "Linf"]
    words += ["--limit", "60", "--wrappers", "ema", "--accelerator", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", "cfol-rw", *words]) == 0
    first, second = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert first == json.loads((BEFORE / "begun" / "log.jsonl").read_text())
    whole = json.loads((BEFORE / "whole" / "log.jsonl").read_text().splitlines()[1])
    assert second["valid"]["n"] == whole["valid"]["n"] if "n" in whole["valid"] else second.keys() == whole.keys()
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_a_result_opens() -> None:
    result = Result.read(BEFORE / "result")
    assert len(result.outcomes.y) == 30
    assert list(result.outcomes.attacks) == ["fgsm", "pgd", "margin-pgd"]


def test_a_result_of_the_same_model_is_taken_as_done(tmp_path: Path) -> None:
    shutil.copytree(BEFORE / "result", tmp_path / "result")
    before = (tmp_path / "result" / "result.json").read_bytes()
    images = resolve.images("digits", None, "test", 30, 0)
    attacks = resolve.named_attacks("quick", resolve.threat("digits", 0.1, "Linf"), images, 0)
    network = load_model(f"run:{BEFORE / 'whole'}", num_classes=10)
    evaluate(network, images, attacks, directory=tmp_path / "result", name="run:whole")
    assert (tmp_path / "result" / "result.json").read_bytes() == before
