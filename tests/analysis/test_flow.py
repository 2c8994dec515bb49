from __future__ import annotations

import numpy as np
import pytest
from tests.analysis.strategies import planted, subject
from tests.metrics.strategies import make

from classwise.analysis.flow import flow
from classwise.errors import InputError


def test_attractors_one_sided_pairs_and_concentration_are_named() -> None:
    """Class 0 loses all of 40 images to class 1, which loses none; class 2 loses 10 to each of both."""
    y = [0] * 60 + [1] * 60 + [2] * 60
    broken = [1] * 40 + [0] * 20 + [1] * 60 + [0] * 10 + [1] * 10 + [2] * 40
    found = flow(subject(make(y, y, pgd=broken)))
    assert "most are class 1." in found.sentence
    assert "3 of 3 pairs are one-sided" in found.sentence
    assert "lose 75.00 % or more" in found.sentence  # the median of 100 % and 50 %
    np.testing.assert_allclose(found.values["net"], [10 / 60 - 40 / 60, 50 / 60, -20 / 60])


def test_the_flow_of_one_attack_can_be_asked_for() -> None:
    both = planted({"pgd": [0.9, 1.0], "apgd-ce": [0.1, 1.0]})
    assert flow(subject(both), "pgd").values["counts"][0, 1] == 10
    assert flow(subject(both)).values["counts"][0, 1] == 90
    with pytest.raises(InputError, match="no view 'fgsm'"):
        flow(subject(both), "fgsm")


def test_without_flow_there_is_nothing_to_describe() -> None:
    assert "no flow" in flow(subject(planted({"pgd": [1.0, 1.0]}))).sentence


def test_control_characters_of_class_names_reach_no_terminal() -> None:
    named = planted({"pgd": [0.5, 0.9]}, classes=("cat\x1b[31m", "dog"))
    found = flow(subject(named))
    assert "\x1b" not in found.sentence + str(found.sheets)
