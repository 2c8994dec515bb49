from __future__ import annotations

import math

import numpy as np
import pytest
from tests.analysis.strategies import planted, subject

from classwise.analysis.temperature import temperature, total_steps
from classwise.attacks import contenders
from classwise.errors import InputError
from classwise.threat import ThreatModel

OURS = "TemperaturePGD(pgd=PGD(steps=20, restarts=1, targets=0), inverse_temperatures=(0.1, 1.0))"
EVEN = "PGD(steps=20, loss='cross_entropy', restarts=2, targets=0)"


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("pgd", 20),
        ("pgd(steps=50, restarts=3)", 150),
        ("targeted-pgd", 180),
        ("temperature-pgd", 200),
        ("temperature-pgd(inverse_temperatures=[1])", 20),
        ("mi-pgd(steps=7)", 7),
        ("apgd-ce", 100),
        ("apgd-t", 900),
        ("square", math.nan),
        ("autoattack", math.nan),
    ],
)
def test_steps_are_read_from_the_settings_that_attacks_have(name: str, steps: float) -> None:
    attack = next(iter(contenders(name, ThreatModel("Linf", 0.1)).values()))
    assert total_steps(repr(attack)) == pytest.approx(steps, nan_ok=True)


def contest(pgd: list[float], ours: list[float], settings: str = EVEN):
    outcomes = planted({"pgd": pgd, "temperature-pgd": ours}, 500)
    attacks = {"pgd": {"settings": settings}, "temperature-pgd": {"settings": OURS}}
    return temperature(subject(outcomes, attacks=attacks))


@pytest.mark.parametrize(
    ("pgd", "ours", "verdict"),
    [
        ([0.4, 0.6, 0.8], [0.2, 0.5, 0.8], "supported"),  # more broken, classes farther apart
        ([0.4, 0.6, 0.8], [0.4, 0.5, 0.5], "refuted"),  # more broken, classes closer
        ([0.2, 0.5, 0.8], [0.4, 0.6, 0.8], "refuted"),  # fewer broken
        ([0.4, 0.6, 0.8], [0.4, 0.6, 0.8], "undecided"),
    ],
)
def test_h5_needs_more_broken_and_classes_farther_apart(pgd, ours, verdict: str) -> None:
    assert contest(pgd, ours).verdict == verdict


def test_unequal_steps_decide_nothing() -> None:
    found = contest([0.4, 0.6, 0.8], [0.2, 0.5, 0.8], settings="PGD(steps=20, restarts=1)")
    assert found.verdict == "undecided"
    assert "no attack of as many steps" in found.sentence


def test_differences_by_hand() -> None:
    """Shares broken 0.4 and 0.5; variances of (0.4, 0.6, 0.8) and (0.2, 0.5, 0.8) are 0.08/3 and 0.06."""
    found = contest([0.4, 0.6, 0.8], [0.2, 0.5, 0.8]).values["contests"]["pgd"]
    assert found.broken == pytest.approx(0.1)
    assert found.variance == pytest.approx(0.06 - 0.08 / 3)
    assert found.gap == pytest.approx(0.2)
    assert found.broken_interval.low < 0.1 < found.broken_interval.high
    # Of each image 0 or 1 is added: per class shares 0.2, 0.1 and 0 of 500.
    width = 2 * 1.96 * np.sqrt(0.2 * 0.8 + 0.1 * 0.9) / 3 / 500**0.5
    assert found.broken_interval.high - found.broken_interval.low == pytest.approx(width, rel=0.1)


def test_without_temperature_pgd_there_is_no_answer() -> None:
    with pytest.raises(InputError, match="not attacked with temperature-pgd"):
        temperature(subject(planted({"pgd": [0.5, 0.5]})))
