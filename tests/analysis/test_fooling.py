from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from classwise.analysis.fooling import crafted, predicted, reachable, transferred
from classwise.attacks.pgd import PGD
from classwise.data import Images
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.2)
ATTACK = PGD(THREAT, steps=20)


class Linear(nn.Module):
    """Logits a·x of one grey pixel each, around 0.5."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(rows))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


# Three classes on a line and a fourth that nothing reaches: logits p, −p, and 0.04 in the middle, where p is the pixel.
MODEL = Linear([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.08], [0.0, -9.0]])


def images(pixels: list[float], y: list[int]) -> Images:
    x = torch.tensor([[[[p, 255]]] for p in pixels], dtype=torch.uint8)
    labels = torch.tensor(y)
    return Images(x, labels, ("right", "left", "middle", "never"), torch.arange(len(y)))


DATA = images([160, 220, 95, 128, 128], [0, 0, 1, 2, 0])


def test_adversarial_images_stay_in_the_set_and_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = DATA.fetch(torch.arange(5))
    whole = crafted(MODEL, DATA, ATTACK)
    assert THREAT.contains(whole, x).all()
    monkeypatch.setattr("classwise.analysis.fooling.BATCH", 2)
    torch.testing.assert_close(crafted(MODEL, DATA, ATTACK), whole)


def test_predictions_follow_the_verdict_rule() -> None:
    """160 and 220 lie 0.13 and 0.36 to the right of the middle, 95 lies 0.13 to the left, 128 at 0.002."""
    assert predicted(MODEL, DATA.fetch(torch.arange(5)), DATA.y).tolist() == [0, 0, 1, 2, 2]


def test_reachable_classes_are_those_within_the_radius() -> None:
    """From 160 every class on the line is within 0.2, from 220 none; the last image is wrong when clean."""
    found = reachable(MODEL, DATA, PGD(THREAT, steps=60))
    assert np.argwhere(found).tolist() == [[0, 1], [0, 2], [2, 0], [2, 2], [3, 0], [3, 1]]


def test_a_copy_makes_every_mistake_and_a_constant_model_its_own() -> None:
    copy = transferred(MODEL, MODEL, DATA, ATTACK)
    assert copy.crafted.tolist() == copy.same.tolist()
    assert copy.crafted.sum() > 0
    never = transferred(MODEL, Linear([[0.0, 0.0]] * 3 + [[0.0, 1.0]]), DATA, ATTACK)
    assert never.different.tolist() == never.crafted.tolist()


def test_models_stay_in_their_mode() -> None:
    MODEL.train()
    crafted(MODEL, DATA, ATTACK)
    predicted(MODEL, DATA.fetch(torch.arange(5)), DATA.y)
    assert MODEL.training
