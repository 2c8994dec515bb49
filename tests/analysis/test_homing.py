from __future__ import annotations

import json

import numpy as np
import pytest

from classwise.analysis.homing import LEAST, Selected, Verdicts, dissimilar, homing, verdict
from classwise.errors import InputError

CLASSES = ("cat", "dog", "ship")
FORMS = ("replay", "attack again")


def planted(n: int, without: float, another: float, again: float, fewer: float = 0.0, seed: int = 0):
    """Return n cats that were sent to dogs, and which share of them is safe in each network; ship is the control."""
    random = np.random.default_rng(seed)

    def safe(share: float) -> np.ndarray:
        return random.permutation(n) < round(share * n)

    verdicts = Verdicts(np.stack([np.zeros(n, bool), safe(without), safe(another)]), safe(again), safe(fewer))
    other = np.full((3, 3), -1)
    other[0, 1] = 2
    return homing(CLASSES, Selected(np.zeros(n, int), np.ones(n, int)), dict.fromkeys(FORMS, verdicts), other, "study")


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.8, 0.3, 0.3), "supported"),
        ((0.3, 0.6, 0.1), "refuted"),  # any class that is missing helps more
        ((0.8, 0.3, 0.8), "undecided"),  # so much does another seed alone
        ((0.4, 0.38, 0.38), "undecided"),
    ],
)
def test_h7_needs_an_effect_over_another_class_and_over_another_seed(shares, expected: str) -> None:
    assert planted(200, *shares).verdict == expected


def test_a_handful_of_images_decides_nothing() -> None:
    assert planted(LEAST - 1, 1.0, 0.0, 0.0).verdict == "undecided"
    assert planted(LEAST, 1.0, 0.0, 0.0).verdict == "supported"


def test_effects_by_hand() -> None:
    effect = planted(200, 0.8, 0.3, 0.25, fewer=0.5).values["effects"]["attack again"]
    assert effect.treated == 0.8
    assert [change[0] for change in effect[1:]] == pytest.approx([0.5, 0.55, 0.3])
    for value, (low, high) in effect[1:]:
        assert low < value < high


def test_five_images_more_are_no_effect_though_a_bootstrap_of_them_never_falls_to_nothing() -> None:
    """Five of 40 are safe without the class and none in either control: a fair coin falls so in 1 of 16 cases."""
    found = planted(40, 0.125, 0.0, 0.0)
    assert min(ends.low for _, ends in found.values["effects"]["attack again"][1:3]) > 0
    assert found.verdict == "undecided"
    assert planted(40, 0.15, 0.0, 0.0).verdict == "supported"  # six: 1 in 32


def test_h7_errs_within_its_level_where_safety_is_one_coin_and_finds_thirty_points() -> None:
    """100 images, safe at random in every network: of 200 studies at most 5 % go either way."""
    random, other = np.random.default_rng(0), np.full((3, 3), -1)
    other[0, 1] = 2

    def decided(share: float) -> str:
        treated, *controls = (random.random(100) < rate for rate in (share, 0.3, 0.3, 0.3))
        verdicts = Verdicts(np.stack([np.zeros(100, bool), treated, controls[0]]), controls[1], controls[2])
        return verdict(Selected(np.zeros(100, int), np.ones(100, int)), verdicts, other)

    null = [decided(0.3) for _ in range(200)]
    assert null.count("supported") <= 10
    assert null.count("refuted") <= 16
    assert [decided(0.6) for _ in range(50)].count("supported") >= 45


def test_a_pair_is_tested_against_the_control_that_is_closer() -> None:
    sheet = planted(200, 0.8, 0.3, 0.8).sheets[1]
    values = dict(zip([column.title for column in sheet.columns], sheet.rows[0], strict=True))
    assert values["pair"].text == "cat → dog"
    assert values["effect"].values[0] == pytest.approx(0.0)
    assert values["p Holm"].values[0] > 0.2


def test_pairs_with_few_images_are_not_listed() -> None:
    assert [sheet.name for sheet in planted(LEAST - 1, 1.0, 0.0, 0.0).sheets] == ["homing"]


def test_the_finding_is_strict_json() -> None:
    json.dumps(planted(40, 0.8, 0.3, 0.3).as_dict(), allow_nan=False)


def test_without_broken_images_there_is_no_study() -> None:
    nothing = Verdicts(np.zeros((3, 0), bool), np.zeros(0, bool), np.zeros(0, bool))
    with pytest.raises(InputError, match="No image was broken"):
        homing(CLASSES, Selected(np.zeros(0, int), np.zeros(0, int)), dict.fromkeys(FORMS, nothing), np.eye(3), "s")


def test_the_dissimilar_class_is_the_least_confused_one_of_another_superclass() -> None:
    flow = np.array([[50, 9, 1, 5], [9, 50, 2, 3], [1, 2, 50, 9], [5, 3, 9, 50]])
    n = np.full(4, 80)
    found = dissimilar(flow, n, np.zeros(4))
    assert found[0].tolist() == [-1, 2, 3, 2]  # from 0 to 2 the least confused of the others is 3
    assert (np.diagonal(found) == -1).all()
    grouped = dissimilar(flow, n, np.array([0, 0, 0, 1]))
    assert grouped[0].tolist() == [-1, 3, 3, 2]  # 3 alone is of another superclass, unless it is j


def test_two_classes_leave_no_other_class() -> None:
    assert dissimilar(np.eye(2), np.ones(2), np.zeros(2)).tolist() == [[-1, -1], [-1, -1]]
