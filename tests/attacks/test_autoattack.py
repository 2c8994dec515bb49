"""AutoAttack: what its versions are made of, and that it is the worst case of its members on any number of classes."""

from __future__ import annotations

import pytest
import torch
from tests.models_for_tests import Cut, Frozen, Smooth, labelled
from torch import nn

from classwise.attacks import APGD, FAB, Ensemble, Square, build, predict
from classwise.attacks.autoattack import members
from classwise.noise import Noise
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.05)
SHAPE = (1, 3, 3)


def test_standard_is_the_four_attacks_of_the_paper_at_their_budgets() -> None:
    attack = build("autoattack", THREAT)["autoattack"]
    assert isinstance(attack, Ensemble)
    assert attack.attacks == (
        APGD(THREAT, steps=100, loss="cross_entropy"),
        APGD(THREAT, steps=100, loss="dlr", targets=9),
        FAB(THREAT, steps=100, targets=9),
        Square(THREAT, queries=5000),
    )
    assert attack.labels == ("apgd-ce(steps=100)", "apgd-t(steps=100)", "fab-t(steps=100)", "square(queries=5000)")


def test_plus_restarts_its_untargeted_attacks_five_times() -> None:
    names = [text.partition("(")[0] for text in members("plus")]
    assert names == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert ["restarts=5" in text for text in members("plus")] == [True, True, True, False, False, False]


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 100])
def test_any_number_of_classes_is_attacked_to_the_end(num_classes: int) -> None:
    # The released AutoAttack raises IndexError below six classes once an image survives APGD-CE.
    model = Smooth(num_classes, 9)
    x, y = labelled(model, 12, SHAPE)
    attack = build("autoattack(steps=5, queries=20)", ThreatModel("Linf", 0.005))
    x_adv = next(iter(attack.values()))(model, x, y, noise=Noise(0, torch.arange(12)))
    assert (predict(model(x_adv), y) == y).any(), "an image survives, so every member was called"


def test_no_image_survives_that_a_member_breaks() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 24, SHAPE)
    noise = Noise(0, torch.arange(24))
    whole = build("autoattack(steps=5, queries=20)", THREAT)["autoattack(steps=5, queries=20)"]
    assert isinstance(whole, Ensemble)
    survives = predict(model(whole(model, x, y, noise=noise)), y) == y
    for place, member in enumerate(whole.attacks):
        broken = predict(model(member(model, x, y, noise=noise.fold("member", place))), y) != y
        assert not (survives & broken).any()


@pytest.mark.parametrize("mask", [Cut, Frozen])
def test_square_breaks_what_masked_gradients_hide(mask: type[nn.Module]) -> None:
    model = mask(Smooth(4, 9))
    x, y = labelled(model, 24, SHAPE)
    noise, threat = Noise(0, torch.arange(24)), ThreatModel("Linf", 0.1)
    gradients, whole = (
        next(iter(build(text, threat).values()))(model, x, y, noise=noise)
        for text in ("ensemble(attacks='apgd-ce(steps=5),fab-t(steps=5)')", "autoattack(steps=5, queries=300)")
    )
    survive = [int((predict(model(x_adv), y) == y).sum()) for x_adv in (gradients, whole)]
    assert survive[1] < survive[0] / 2
