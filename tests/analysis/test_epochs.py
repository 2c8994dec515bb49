from __future__ import annotations

import numpy as np
import pytest

from classwise.analysis.epochs import curve, epochs
from classwise.analysis.evidence import Training
from classwise.errors import InputError

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


def training(accuracy: np.ndarray, **changes) -> Training:
    return Training("run", tuple("abcdefgh"), lines(accuracy, **changes))


@pytest.mark.parametrize(
    ("speed", "verdict"),
    [(FINAL, "supported"), (1.2 - FINAL, "refuted"), (np.full(8, 0.5), "undecided")],
)
def test_h10_is_whether_hard_classes_take_longer(speed, verdict: str) -> None:
    assert epochs(training(rising(np.asarray(speed)))).verdict == verdict


def test_the_times_and_the_final_values_by_hand() -> None:
    """Class 0 is at 0.5 from the second epoch on, class 1 climbs to 0.8 in steps of 0.1 and falls back in the last."""
    accuracy = np.array([[0.2, 0.1], [0.5, 0.2], [0.5, 0.4], [0.5, 0.8], [0.5, 0.8], [0.5, 0.6]])
    found = curve(lines(accuracy))
    np.testing.assert_allclose(found.final, [0.5, (0.2 + 0.4 + 0.8 + 0.8 + 0.6) / 5])
    assert found.time.tolist() == [2, 4]  # 0.4 and 0.448
    np.testing.assert_allclose(found.overfitting, [0.0, 0.2])
    worst, average = accuracy.min(1), accuracy.mean(1)
    assert found.jitter == pytest.approx((np.diff(worst).std(), np.diff(average).std()))
    np.testing.assert_allclose(found.band[0, 0], 1.96 * np.sqrt(0.2 * 0.8 / 200))


def test_few_held_out_images_give_way_to_training_batches() -> None:
    few, many = lines(rising(FINAL), n=20), lines(rising(FINAL), n=900, part="train")
    both = [{**a, "train": b["train"]} for a, b in zip(few, many, strict=True)]
    assert curve(both).part == "train"
    assert curve(lines(rising(FINAL))).part == "valid"


def test_a_class_that_is_never_robust_has_no_time() -> None:
    accuracy = rising(FINAL)
    accuracy[:, 0] = 0
    assert np.isnan(curve(lines(accuracy)).time[0])
    assert "over 7 classes" in epochs(training(accuracy)).sentence


@pytest.mark.parametrize("log", [lines(rising(FINAL))[:1], ({"valid": None, "train": {"clean": {}}},) * 3])
def test_one_epoch_or_no_attack_is_no_evidence(log) -> None:
    with pytest.raises(InputError, match="at least two epochs"):
        curve(log)
