"""The curve of a correction as it is read back from the folder that a fit wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from classwise.errors import InputError
from classwise.metrics.trade_off import CURVE_FILE, TradeOff, corrected_folder


def entry(average: float, worst: float, name: str = "cat") -> dict[str, Any]:
    adaptive = {"accuracy": average, "accuracy_interval": [average - 0.03, average + 0.03]}
    lowest = {"class": name, "accuracy": worst, "interval": [worst - 0.1, worst + 0.1]}
    moved = {"average_change": 100 * (average - 0.5), "average_change_interval": [-1.5, 0.5]}
    return {"clean": {"accuracy": 0.8}, "adaptive": {**adaptive, "worst": lowest}, **moved}


def document(chosen: int = 1) -> dict[str, Any]:
    rounds = [entry(0.5, 0.2), entry(0.495, 0.3), entry(0.48, 0.35, "dog")]
    about = {"rule": "iv-offsets", "data": {"n": 1000}, "images": "held out", "max_loss": 1.0}
    return {**about, "rounds": rounds, "chosen": chosen}


def write(folder: Path, found: Any) -> Path:
    (folder / CURVE_FILE).write_text(json.dumps(found))
    return folder


def test_a_curve_is_read_with_its_intervals_and_the_chosen_round(tmp_path: Path) -> None:
    found = TradeOff.read(write(tmp_path, document()))
    assert (found.rule, found.n, found.images, found.max_loss, found.chosen) == ("iv-offsets", 1000, "held out", 1.0, 1)
    assert [(point.average, point.worst, point.worst_class) for point in found.points] == [
        (0.5, 0.2, "cat"),
        (0.495, 0.3, "cat"),
        (0.48, 0.35, "dog"),
    ]
    assert found.points[1].change == pytest.approx(-0.5)
    assert found.points[1].change_interval == (-1.5, 0.5)


@pytest.mark.parametrize("broken", [[], {}, {**document(), "rounds": [{}]}, document(chosen=3), "text"])
def test_what_is_no_curve_is_refused_in_one_sentence(tmp_path: Path, broken: Any) -> None:
    with pytest.raises(InputError, match="no readable curve"):
        TradeOff.read(write(tmp_path, broken))


def test_a_folder_without_a_curve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no readable curve"):
        TradeOff.read(tmp_path)


@pytest.mark.parametrize("name", ["run:runs/at", "mine.py:load", "corrected:"])
def test_other_models_have_no_folder_of_a_correction(name: str) -> None:
    assert corrected_folder(name) is None
