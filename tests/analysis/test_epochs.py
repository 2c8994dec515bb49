from __future__ import annotations

import numpy as np
import pytest
from tests.metrics.test_training import FINAL, lines, rising

from classwise.analysis.epochs import epochs
from classwise.metrics.training import Training, curve


def training(accuracy: np.ndarray, **changes) -> Training:
    return Training("run", tuple("abcdefgh"), lines(accuracy, **changes))


@pytest.mark.parametrize(
    ("speed", "verdict"),
    [(FINAL, "supported"), (1.2 - FINAL, "refuted"), (np.full(8, 0.5), "undecided")],
)
def test_h10_is_whether_hard_classes_take_longer(speed, verdict: str) -> None:
    assert epochs(training(rising(np.asarray(speed)))).verdict == verdict


def test_a_class_that_is_never_robust_has_no_time() -> None:
    accuracy = rising(FINAL)
    accuracy[:, 0] = 0
    assert np.isnan(curve(lines(accuracy)).time[0])
    assert "over 7 classes" in epochs(training(accuracy)).sentence


def test_classes_that_all_take_as_long_have_no_order_and_the_sentence_says_so() -> None:
    found = epochs(training(np.linspace(0.1, 0.8, 6)[:, None] * np.ones(8)))
    assert found.verdict == "undecided"
    assert "cannot be ranked against that accuracy: 8 classes" in found.sentence
    assert "nan" not in found.sentence
