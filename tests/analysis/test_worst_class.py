from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from classwise.analysis.fooling import survives
from classwise.analysis.worst_class import until_worst, worst_class
from classwise.attacks.pgd import PGD
from classwise.data import Images
from classwise.metrics import Race
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.1)
CHEAP, STRONG = PGD(THREAT, steps=1, start="clean"), PGD(THREAT, steps=10, start="clean")


class Edge(nn.Module):
    """Right where a pixel lies to the right of 0.5, for both classes: the label is the other pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, label = x[:, 0, 0, 0] - 0.5, x[:, 0, 0, 1]
        sign = torch.where(label > 0.5, 1.0, -1.0)
        return torch.stack([-sign * value, sign * value], 1)


def data(margins: list[list[int]]) -> Images:
    """Return images of two classes, each so many pixel values to the right of the edge at 127.5."""
    rows = [[[[128 + m, 255 * c]]] for c, each in enumerate(margins) for m in each]
    y = [c for c, each in enumerate(margins) for _ in each]
    return Images(torch.tensor(rows, dtype=torch.uint8), torch.tensor(y), ("far", "near"), torch.arange(len(y)))


# A step of the cheap attack has length 0.25 and is cut at the radius, so both attacks reach 25 values.
IMAGES = data([[60] * 90 + [5] * 10, [60] * 40 + [5] * 60])


def test_survivors_are_those_out_of_reach() -> None:
    assert survives(Edge(), IMAGES, STRONG).tolist() == (IMAGES.x[:, 0, 0, 0] > 128 + 25).tolist()


def test_images_that_are_wrong_when_clean_do_not_survive_and_are_not_attacked() -> None:
    wrong = data([[-5, 60], [60, -60]])
    assert survives(Edge(), wrong, STRONG).tolist() == [False, True, True, False]
    assert survives(Edge(), data([[-5], [-6]]), STRONG).tolist() == [False, False]


def test_a_candidate_outside_the_set_is_none() -> None:
    class Leap:
        threat = THREAT

        def __call__(self, model, x, y, *, noise):
            return x - 0.4

    assert survives(Edge(), IMAGES, Leap()).tolist() == [True] * len(IMAGES)


def test_the_race_names_the_class_near_the_edge_and_counts_what_it_took() -> None:
    seen: list[Race] = []
    race = until_worst(Edge(), IMAGES, CHEAP, STRONG, watch=seen.append)
    assert race.worst == [1]
    assert race.survivors.tolist() == [90, 40]
    assert race.broken.sum() == 0
    assert 0 < race.sampled.sum() < 40
    assert [each.sampled.sum() for each in seen] == sorted(each.sampled.sum() for each in seen)


@pytest.mark.parametrize("batch", [1, 50])
def test_the_seed_decides_and_not_the_batch(batch: int) -> None:
    assert until_worst(Edge(), IMAGES, CHEAP, STRONG, batch=batch).worst == [1]


def test_a_tie_is_settled_by_all_survivors() -> None:
    race = until_worst(Edge(), data([[60] * 5 + [5] * 5] * 2), CHEAP, STRONG)
    assert race.worst == [0, 1]
    found = worst_class(race, ("far", "near"), "model")
    assert "far, near tie for the worst class" in found.sentence
    assert "10 of 20 images" in found.sentence


def test_the_finding_names_class_bounds_and_cost() -> None:
    race = Race.start([100, 100], [60, 20]).after([30, 8], [0, 1])
    found = worst_class(race, ("a\x1b", "b"), "model")
    assert "b is the worst class" in found.sentence
    assert "38 of 200 images, 19.00 %" in found.sentence
    assert [row[0].text for row in found.sheets[0].rows] == ["b", "a\\x1b"]
    assert found.values["worst"] == ["b"]
    assert np.all(found.values["sampled"] == [30, 8])
