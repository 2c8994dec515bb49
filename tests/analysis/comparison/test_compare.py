from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.strategies import model, planted, subject

from classwise.analysis.comparison.compare import Change, compare
from classwise.analysis.evidence import Subject
from classwise.analysis.leaderboard import METRICS
from classwise.errors import InputError
from classwise.metrics import std_corrected
from classwise.metrics.result import Result
from classwise.metrics.training import weakest_held_out

BASE = [0.3, 0.6, 0.9]


def given(**rates: list[float]) -> list[Subject]:
    return [
        subject(planted({"pgd": values}, 300, seed=i), name, model=model(name))
        for i, (name, values) in enumerate(rates.items())
    ]


def test_who_gains_and_who_pays_is_named_beyond_chance_only() -> None:
    board, change = compare(given(base=BASE, other=[0.6, 0.61, 0.7]))
    assert "beyond chance (McNemar, Holm 5 %) class 0 gains and class 2 pays." in change.sentence
    assert "worst class 30.00 % to 60.00 %" in change.sentence
    assert "Levelling down" not in change.sentence
    assert change.values["levelling"].losing == 1
    assert board.values["order"] == ["other", "base"]


def test_the_change_of_a_class_is_found_by_its_name() -> None:
    change = Change(*given(base=BASE, other=[0.6, 0.61, 0.7]), ("base", "other"), "pgd")
    entry = change.by_class["class 1"]
    assert (entry.index, entry.images) == (1, 300)
    assert entry.change == pytest.approx((entry.gained - entry.lost) / 300)
    assert entry.change == pytest.approx(entry.after - entry.before)
    assert (entry.interval.low, entry.p_holm) == (change.intervals.low[1], change.p_holm[1])


def held_out(folder: Path, by_class: list[float | None]) -> str:
    """Write what a run achieved on its held-out images with its averaged weights; return its model string."""
    folder.mkdir()
    entry = {"epoch": 3, "robust": {"by_class": by_class}}
    (folder / "summary.json").write_text(json.dumps({"plain": {}, "ema": {"best": entry}}))
    return f"run:{folder}@ema-best"


@pytest.mark.parametrize("by_class", [[0.5, 0.4, 0.9], [None, 0.4, 0.9]])
def test_the_class_that_held_out_images_fix_has_a_change_of_its_own(
    tmp_path: Path, by_class: list[float | None]
) -> None:
    """Class 1 was weakest there, class 0 is on the test images; one paired interval is narrower than one of three."""
    name = held_out(tmp_path / "run", by_class)
    base, other = given(base=BASE, other=[0.6, 0.7, 0.7])
    header = {**base.result.header, "model": model(name)}
    change = compare([replace(base, result=Result(header, base.result.outcomes)), other])[1]
    fixed, intervals = change.values["fixed"], change.values["intervals"]
    assert fixed.name == "class 1"
    assert fixed.change == pytest.approx(change.values["change"][1])
    assert intervals.low[1] < fixed.interval.low < fixed.change < fixed.interval.high < intervals.high[1]
    assert change.as_dict()["values"]["fixed"]["class"] == "class 1"
    assert "On class 1, the weakest class of the images that the baseline held out: +10.00 points" in change.sentence


def test_without_a_run_no_class_is_fixed(tmp_path: Path) -> None:
    change = compare(given(base=BASE, other=BASE))[1]
    assert change.values["fixed"] is None
    assert "held out" not in change.sentence
    assert weakest_held_out(f"run:{tmp_path}@best") is None
    held_out(tmp_path / "run", [None, None])
    assert weakest_held_out(f"run:{tmp_path / 'run'}@ema-best") is None
    assert weakest_held_out(f"run:{tmp_path / 'run'}@best") is None


def test_equality_by_loss_is_called_levelling_down() -> None:
    change = compare(given(base=BASE, other=[0.3, 0.4, 0.5]))[1]
    assert "Levelling down" in change.sentence
    assert "2 classes lose 30.0 points" in change.sentence


def test_changes_are_paired_and_hold_at_once() -> None:
    change = compare(given(base=BASE, other=[0.6, 0.61, 0.7]))[1]
    np.testing.assert_allclose(change.values["change"], [0.3, 0.01, -0.2])
    low, high = change.values["intervals"]
    assert (low < change.values["change"]).all()
    assert (high > change.values["change"]).all()
    assert change.values["largest_gain"] == (low[0], high[0])
    assert change.values["delta"] == pytest.approx((0.3, 0.11 / 3, 0.3 / (0.11 / 3)))
    assert change.values["baseline"] == {"name": "base", "sha256": model("base")["sha256"]}


@pytest.mark.parametrize(
    ("metric", "order"),
    [("average", ["high", "even"]), ("worst", ["even", "high"]), ("gap", ["even", "high"]), ("nsd", ["even", "high"])],
)
def test_the_leaderboard_is_sorted_by_any_metric_the_right_way_round(metric: str, order: list[str]) -> None:
    board = compare(given(high=[0.4, 0.9, 0.95], even=[0.5, 0.55, 0.6]), sort=metric)[0]
    assert board.values["order"] == order
    assert f"By {metric} the best is {order[0]}" in board.sentence


def test_every_number_of_the_leaderboard_has_an_interval_around_it() -> None:
    board = compare(given(base=BASE, other=[0.6, 0.61, 0.7]))[0]
    for measured in board.values["metrics"].values():
        assert list(measured) == list(METRICS)
        for value, (low, high) in measured.values():
            assert low <= value <= high
    assert board.values["rho_wat"]["base"] == 0


def test_a_best_that_is_within_noise_is_said_to_be() -> None:
    assert "its interval meets that of base" in compare(given(base=BASE, other=[0.31, 0.6, 0.9]))[0].sentence


def test_the_interval_of_the_corrected_spread_covers_it() -> None:
    """True rates 0.3 to 0.7, 100 images each: 60 data sets, coverage far above what a naive bootstrap reaches."""
    rates, random, covered = np.linspace(0.3, 0.7, 10), np.random.default_rng(0), 0
    for _ in range(60):
        right, n = random.binomial(100, rates), np.full(10, 100)
        low, high = METRICS["std_corrected"].estimate(right, n, 0.95).interval
        covered += low <= rates.std() <= high
    assert covered / 60 >= 0.88
    assert std_corrected(np.full(10, 50), np.full(10, 100)) == 0


def test_other_attacks_and_unknown_names_are_refused() -> None:
    one = given(base=BASE)
    other = [subject(planted({"apgd-ce": BASE}, 300), "b", model=model("b"))]
    with pytest.raises(InputError, match="attacks: pgd and apgd-ce"):
        compare(one + other)
    with pytest.raises(InputError, match="metric 'wrost': did you mean 'worst'"):
        compare(one + other, sort="wrost")
    with pytest.raises(InputError, match="at least two models"):
        compare(one)
    with pytest.raises(InputError, match="no view 'fgsm'"):
        compare(given(base=BASE, other=BASE), view="fgsm")


def test_an_absent_class_is_no_row() -> None:
    subjects = given(base=BASE, other=[0.6, 0.61, 0.7])
    smaller = [
        subject(s.result.outcomes.select(s.result.outcomes.y != 1), s.label, model=model(s.label)) for s in subjects
    ]
    board, change = compare(smaller)
    assert [row[0].text for row in change.sheets[0].rows] == ["class 2", "class 0"]
    assert board.values["order"] == ["other", "base"]
