from __future__ import annotations

import math

import numpy as np
import pytest
from tests.analysis.strategies import planted, subject
from tests.metrics.strategies import make

from classwise.analysis.temperature import temperature, total_steps
from classwise.attacks import build_attacks
from classwise.attacks.base import described
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
    attack = next(iter(build_attacks(name, ThreatModel("Linf", 0.1)).values()))
    assert total_steps(described(attack)) == pytest.approx(steps, nan_ok=True)


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


def test_pgd_on_another_loss_decides_nothing() -> None:
    found = contest([0.4, 0.6, 0.8], [0.2, 0.5, 0.8], settings="PGD(steps=20, loss='margin', restarts=2, targets=0)")
    assert found.verdict == "undecided"


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
    # Half of the error is for the variance. Of each image 0 or 1 is added: per class shares 0.2, 0.1 and 0 of 500.
    width = 2 * 2.24 * np.sqrt(0.2 * 0.8 + 0.1 * 0.9) / 3 / 500**0.5
    assert found.broken_interval.high - found.broken_interval.low == pytest.approx(width, rel=0.1)


def test_five_images_that_disagree_are_no_effect_however_small_the_bootstrap_finds_their_noise() -> None:
    """All five on one side: no draw has a negative difference, but a fair coin falls so in 1 of 16 cases."""
    found = contest([0.4, 0.6, 0.8], [0.39, 0.6, 0.8])
    assert found.values["contests"]["pgd"].broken_p == pytest.approx(1 / 16)
    assert found.values["contests"]["pgd"].broken_interval.low > 0
    assert found.verdict == "undecided"


def test_h5_is_decided_by_chance_in_at_most_a_twentieth_where_both_attacks_do_the_same() -> None:
    """60 data sets of four classes; images near the border fall to either attack at random. Then power: 3 points."""
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 250)

    def verdict(extra: float) -> str:
        base = random.random(1000) < np.array([0.3, 0.4, 0.6, 0.8])[y]
        kept = [random.random(1000) < share for share in (0.95, 0.95 - extra * (y == 0))]
        predictions = [np.where(base & each, y, (y + 1) % 4) for each in kept]
        outcomes = make(y, y, **{"pgd": predictions[0], "temperature-pgd": predictions[1]})
        attacks = {"pgd": {"settings": EVEN}, "temperature-pgd": {"settings": OURS}}
        return temperature(subject(outcomes, attacks=attacks)).verdict

    null = [verdict(0.0) for _ in range(60)]
    assert null.count("undecided") >= 60 - 8
    strong = [verdict(0.6) for _ in range(15)]
    assert strong.count("supported") >= 12


def test_without_temperature_pgd_there_is_no_answer() -> None:
    with pytest.raises(InputError, match="not attacked with temperature-pgd"):
        temperature(subject(planted({"pgd": [0.5, 0.5]})))
