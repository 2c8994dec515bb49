"""Whoever shares a folder does not share the folders of their machine: no file names an absolute path."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from classwise.cli.main import main
from classwise.models import load_model

RECIPE = "digits(epochs=2,steps=2,milestones=())"
STUDY = """
name = "tiny"
data = "digits"
model = "digits_cnn"
recipe = "{recipe}"
limit = 100
method = [{{method = "at", start = "digits_cnn@{weights}"}}]
[evaluate]
attacks = "fgsm"
limit = 40
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bit of everything, made by commands with absolute paths in another working folder."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("somebody")
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        patch.chdir(elsewhere)
        run, seen = f"run:{place}/run", ["--data", "digits", "--limit", "60"]
        (place / "study.toml").write_text(STUDY.format(recipe=RECIPE, weights=f"{place}/run/best.safetensors"))
        for words in (
            ["train", "at", "--model", "digits_cnn", "--recipe", RECIPE, "--limit", "200", "--out", f"{place}/run"],
            ["evaluate", run, *seen, "--attacks", f"transfer(source='{run}'),pgd(steps=3)", "--out", f"{place}/e"],
            ["critical-eps", run, *seen, "--attack", "narrowing(fab_steps=2)", "--out", f"{place}/critical"],
            ["correct", run, *seen, "--attacks", "fgsm", "--rule", "iv-offsets(rounds=1)", "--out", f"{place}/fixed"],
            ["evaluate", f"corrected:{place}/fixed", *seen, "--attacks", "fgsm", "--out", f"{place}/again"],
            ["evaluate", run, *seen, "--attacks", "fgsm", "--out", f"{place}/plain"],
            ["report", f"{place}/e", "--markdown", f"{place}/e/t.md", "--latex", f"{place}/e/t.tex"],
            ["analyse", f"{place}/e", f"{place}/run", "--json", f"{place}/f.json", "--markdown", f"{place}/f.md"],
            ["compare", f"{place}/plain", f"{place}/again", "--out", f"{place}/cmp", "--json", f"{place}/cmp.json"],
            ["study", f"{place}/study.toml", "--out", f"{place}/study"],
        ):
            assert main(words) == 0, words
        (place / "study.toml").unlink()  # which holds what was typed
        yield place


def test_no_file_holds_the_folder_that_it_was_made_in(made: Path) -> None:
    written = [path for path in made.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path.name for path in written if str(made).encode() in path.read_bytes()] == []


def test_no_file_holds_the_name_of_the_computer_or_its_kernel(made: Path) -> None:
    records = [json.loads(path.read_text()) for path in made.rglob("*.json")]
    said = {each["environment"]["platform"] for each in records if "environment" in each}
    assert said
    assert not [text for text in said if platform.node() in text.split("-") or platform.release() in text]


def test_what_a_record_names_is_found_from_its_folder_wherever_that_went(made: Path, tmp_path: Path) -> None:
    record = json.loads((made / "fixed" / "corrected.json").read_text())
    assert record["model"] == "run:$FOLDER/../run"
    assert load_model(f"corrected:{made}/fixed", num_classes=10, shape=(1, 8, 8))
    moved = tmp_path / "moved"
    for name in ("run", "fixed"):
        (moved / name).mkdir(parents=True)
        for path in (made / name).glob("*.*"):
            (moved / name / path.name).write_bytes(path.read_bytes())
    assert load_model(f"corrected:{moved}/fixed", num_classes=10, shape=(1, 8, 8))


AGAIN = {
    "critical": "critical-eps {0} {1} --attack narrowing(fab_steps=2)",
    "again": "evaluate corrected:{2}/fixed {1} --attacks fgsm",
}


@pytest.mark.parametrize("name", AGAIN)
@pytest.mark.parametrize("folder", ["..", "run"])
def test_a_command_that_is_repeated_from_any_folder_writes_the_same_bytes(
    name: str, folder: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in (made / name).iterdir()}
    monkeypatch.chdir(made / folder)
    words = AGAIN[name].format(f"run:{made}/run", "--data digits --limit 60", made).split()
    assert main([*words, "--out", os.path.relpath(made / name)]) == 0
    assert {path: path.read_bytes() for path in (made / name).iterdir()} == before
