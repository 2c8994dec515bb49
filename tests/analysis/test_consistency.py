from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.strategies import model, planted, subject
from tests.metrics.strategies import make

from classwise.analysis.agreement import measure
from classwise.analysis.consistency import consistency
from classwise.analysis.defences import defences
from classwise.analysis.evidence import Subject
from classwise.errors import InputError

ORDER = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        ({"pgd": ORDER, "square": [rate - 0.05 for rate in ORDER]}, "supported"),
        ({"pgd": ORDER, "margin-pgd": [rate - 0.05 for rate in ORDER]}, "undecided"),  # PGD with PGD
        ({"pgd": ORDER, "square": ORDER[::-1]}, "refuted"),
        # The same order with differences that forty images cannot show.
        ({"pgd": [0.5] * 8, "square": [0.4] * 8}, "undecided"),
    ],
)
def test_h2_needs_a_strong_attack_that_gives_the_same_order(rates, verdict: str) -> None:
    assert consistency(subject(planted(rates, 40, shared=False))).verdict == verdict


def test_halves_take_the_noise_and_the_shared_images_out_of_a_correlation() -> None:
    """Equal classes under two attacks that break nearly the same images: the plain correlation is all noise.

    Across halves nothing is shared, so the mean correlation is 0 but for the finite number of images.
    """
    random, plain, across = np.random.default_rng(0), [], []
    y = np.repeat(np.arange(8), 50)
    for seed in range(40):
        first = random.random(400) < 0.5
        second = first ^ (random.random(400) < 0.02)
        pair = measure(("a", "b"), np.array([first, second]), y, seed).pairs["a / b"]
        plain.append(pair.spearman)
        across.append(pair.across)
    assert np.mean(plain) > 0.8
    assert abs(np.mean(across)) < 0.1


def test_a_corrected_correlation_is_that_of_the_true_accuracies() -> None:
    """Two different orders: their true Spearman correlation is 1 − 6·8/(8·63) = 0.905."""
    swapped = [0.2, 0.1, 0.4, 0.3, 0.6, 0.5, 0.8, 0.7]
    outcomes = planted({"a": ORDER, "b": swapped}, 300, shared=False)
    verdicts = np.array([outcomes.correct(name) for name in "ab"])
    pair = measure("ab", verdicts, outcomes.y).pairs["a / b"]
    assert pair.corrected == pytest.approx(0.905, abs=0.03)
    assert pair.ceiling < 1


def tried(order: list[int], times: int, n: int = 80) -> list[str]:
    """Return verdicts on two attacks whose class accuracies are in such an order, on images that both meet."""
    random, y = np.random.default_rng(2), np.repeat(np.arange(10), n)
    rates = np.linspace(0.1, 0.8, 10)
    found = []
    for _ in range(times):
        level = random.random(y.size)
        right = {"pgd": level < rates[y], "square": level < rates[order][y] - 0.05}
        predictions = {name: np.where(each, y, (y + 1) % 10) for name, each in right.items()}
        found.append(consistency(subject(make(y, y, **predictions))).verdict)
    return found


def test_h2_is_not_supported_where_the_true_correlation_is_just_below_its_threshold() -> None:
    """True Spearman correlation 1 − 6·34/990 = 0.794; half of the estimates are above 0.8."""
    order = [5, 0, 2, 1, 3, 4, 7, 6, 8, 9]
    assert sum((place - c) ** 2 for c, place in enumerate(order)) == 34
    assert tried(order, 40).count("supported") <= 3


def test_h2_is_supported_where_the_orders_are_one_and_refuted_where_they_are_far_apart() -> None:
    assert tried(list(range(10)), 10).count("supported") >= 9
    assert tried([5, 6, 7, 8, 9, 0, 1, 2, 3, 4], 10).count("refuted") >= 9


def test_one_attack_agrees_with_nothing() -> None:
    with pytest.raises(InputError, match="at least two"):
        consistency(subject(planted({"pgd": ORDER})))


def defended(tmp_path: Path, method: str, seed: int, rates: list[float]) -> Subject:
    folder = tmp_path / f"{method}-{seed}"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"method": method}))
    outcomes = planted({"pgd": rates}, 60, shared=False, seed=seed)
    return subject(outcomes, folder.name, model=model(f"run:{folder}") | {"sha256": f"{seed:064d}"})


def test_h3_compares_methods_with_the_seeds_of_one(tmp_path: Path) -> None:
    rates = {"at": ORDER, "trades": [rate + 0.05 for rate in ORDER], "mart": [rate - 0.05 for rate in ORDER]}
    models = [
        defended(tmp_path, method, 10 * m + seed, rates[method]) for m, method in enumerate(rates) for seed in range(2)
    ]
    found = defences(models)
    assert found.verdict == "supported"
    assert found.values["methods"] == ["at", "at", "trades", "trades", "mart", "mart"]
    assert "3 training methods (6 models)" in found.sentence


def test_h3_is_refuted_by_a_method_with_another_order_and_undecided_without_seeds(tmp_path: Path) -> None:
    at, again, other = (
        defended(tmp_path, method, seed, rates)
        for method, seed, rates in (("at", 0, ORDER), ("at", 1, ORDER), ("mart", 2, ORDER[::-1]))
    )
    assert defences([at, again, other]).verdict == "refuted"
    alone = defences([at, other])
    assert alone.verdict == "undecided"
    assert "not known across seeds, of which each has one" in alone.sentence


def test_classes_without_images_are_left_out(tmp_path: Path) -> None:
    outcomes = planted({"pgd": ORDER, "square": ORDER}, 40, shared=False)
    found = consistency(subject(outcomes.select(outcomes.y != 3)))
    assert "over 7 classes" in found.sentence
    assert found.verdict == "supported"


def test_attacks_that_break_everything_leave_the_order_of_the_classes_undecided() -> None:
    """All accuracies tie at 0, so that no correlation is defined; none is made up, and nothing warns."""
    found = consistency(subject(planted({"pgd": [0.0] * 8, "square": [0.0] * 8}, 4)))
    assert found.verdict == "undecided"
    assert np.isnan(found.values["pairs"]["pgd / square"].corrected)
