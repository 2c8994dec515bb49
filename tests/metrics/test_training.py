from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from classwise.errors import InputError
from classwise.metrics.training import Training, arrival, curve, run_folder

FINAL = np.linspace(0.3, 0.9, 8)


def lines(accuracy: np.ndarray, n: int = 200, part: str = "valid") -> tuple[dict, ...]:
    """Return log lines of robust accuracies (E, C)."""
    entries = [
        {"n": [n] * accuracy.shape[1], "correct": (row * n).round().astype(int).tolist()}
        for row in np.asarray(accuracy)
    ]
    other = {"valid": "train", "train": "valid"}[part]
    return tuple({"epoch": e + 1, part: {"robust": entry}, other: None} for e, entry in enumerate(entries))


def rising(speed: np.ndarray, final: np.ndarray = FINAL, length: int = 30) -> np.ndarray:
    """Let each class approach its final value at its own speed."""
    return final * (1 - np.exp(-np.arange(1, length + 1)[:, None] * speed))


def test_the_times_and_the_final_values_by_hand() -> None:
    """Class 0 is at 0.5 from the second epoch on, class 1 climbs to 0.8 in steps of 0.1 and falls back in the last."""
    accuracy = np.array([[0.2, 0.1], [0.5, 0.2], [0.5, 0.4], [0.5, 0.8], [0.5, 0.8], [0.5, 0.6]])
    found = curve(lines(accuracy))
    np.testing.assert_allclose(found.final, [0.5, (0.2 + 0.4 + 0.8 + 0.8 + 0.6) / 5])
    # 0.4 lies two thirds of the way from 0.2 to 0.5, and 0.448 between 0.4 and what 0.8, 0.8 and 0.6 level out to.
    np.testing.assert_allclose(found.time, [1 + 2 / 3, 3 + 0.048 / (2.2 / 3 - 0.4)])
    assert found.n.tolist() == [200, 200]
    np.testing.assert_allclose(found.overfitting, [0.0, 0.2])
    worst, average = accuracy.min(1), accuracy.mean(1)
    assert found.jitter == pytest.approx((np.diff(worst).std(), np.diff(average).std()))
    np.testing.assert_allclose(found.band[0, 0], 1.96 * np.sqrt(0.2 * 0.8 / 200))


def test_one_epoch_that_jumps_over_the_line_is_no_arrival() -> None:
    steady = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5])
    jump = steady.copy()
    jump[1] = 0.41
    assert arrival(steady[:, None]).time[0] == pytest.approx(4)
    assert arrival(jump[:, None]).time[0] == pytest.approx(4)


def test_few_held_out_images_give_way_to_training_batches() -> None:
    few, many = lines(rising(FINAL), n=20), lines(rising(FINAL), n=900, part="train")
    both = [{**a, "train": b["train"]} for a, b in zip(few, many, strict=True)]
    assert curve(both).part == "train"
    assert curve(lines(rising(FINAL))).part == "valid"


@pytest.mark.parametrize("log", [lines(rising(FINAL))[:1], ({"valid": None, "train": {"clean": {}}},) * 3])
def test_one_epoch_or_no_attack_is_no_evidence(log) -> None:
    with pytest.raises(InputError, match="at least two epochs"):
        curve(log)


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no readable log"):
        Training.read(tmp_path)


@pytest.mark.parametrize(("model", "folder"), [("run:a/b", "a/b"), ("run:a b@best", "a b"), ("wide_resnet@x.pt", None)])
def test_a_model_string_names_the_folder_of_its_run(model: str, folder: str | None) -> None:
    assert run_folder(model) == (Path(folder) if folder else None)
