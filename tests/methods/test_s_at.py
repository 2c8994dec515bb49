"""S-AT: who is attacked, with which weight, and its two limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods.strategies import Watched, attack, batch, network
from torch import Tensor

from classwise.errors import InputError
from classwise.methods import AT, SAT, Standard, Step
from classwise.methods.s_at import increasing_weight
from classwise.threat import ThreatModel

Y = torch.arange(24) % 3


def made(method: Any) -> tuple[Step, Tensor]:
    """Return the step, and the images that the network was trained on."""
    model = Watched(network(3)).train()
    x, noise = batch(Y)
    step = method(model, x, Y, noise)
    return step, next(images for training, images in reversed(model.seen) if training)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_images_of_other_classes_are_exactly_as_they_were(mode: str) -> None:
    x, _ = batch(Y)
    _, seen = made(SAT(3, attack(mode=mode), classes=(0, 2)))
    assert torch.equal(seen[Y == 1], x[Y == 1])
    moved = (seen - x).abs().flatten(1).amax(1)[Y != 1]
    assert (moved > 0).all()
    assert attack().threat.contains(seen, x).all()


def test_attacked_images_are_those_of_adversarial_training() -> None:
    _, seen = made(SAT(3, attack(), classes=(1,)))
    _, plain = made(AT(3, attack()))
    torch.testing.assert_close(seen[Y == 1], plain[Y == 1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_with_all_classes_it_is_adversarial_training(mode: str) -> None:
    ours, plain = (
        made(method)[0] for method in (SAT(3, attack(mode=mode), classes=(2, 0, 1)), AT(3, attack(mode=mode)))
    )
    assert torch.equal(ours.loss, plain.loss)
    assert torch.equal(ours.logits_adv, plain.logits_adv)


def test_without_classes_it_is_standard_training_and_no_step_is_spent() -> None:
    model, (x, noise) = Watched(network(3)), batch(Y)
    step = SAT(3, attack(), classes=())(model, x, Y, noise)
    assert len(model.seen) == 1
    plain = Standard(3, attack())(network(3), x, Y, noise)
    assert torch.equal(step.loss, plain.loss)
    assert torch.equal(step.logits, plain.logits)
    assert step.logits_adv is None


def test_the_loss_weighs_attacked_images_alone() -> None:
    step, _ = made(SAT(3, attack(), classes=(1,), weight=2.5))
    errors = F.cross_entropy(step.logits_adv, Y, reduction="none")
    torch.testing.assert_close(step.loss, (errors[Y != 1].sum() + 2.5 * errors[Y == 1].sum()) / 24)


def test_it_takes_any_norm() -> None:
    x, _ = batch(Y)
    one = replace(attack(), threat=ThreatModel("L2", 0.5), step_size=0.2)
    _, seen = made(SAT(3, one, classes=(0,)))
    assert one.threat.contains(seen, x).all()
    assert (seen - x).flatten(1).norm(dim=1)[Y == 0].amin() > 0.1


def test_the_increasing_weight_is_that_of_the_paper() -> None:
    """Ten bins: n = 1 gives (1 + 1)·9/1 = 18, n = 9 gives 10·1/9 = 1.11; twenty of a hundred classes are n = 2."""
    assert increasing_weight(1, 10) == pytest.approx(18)
    assert increasing_weight(9, 10) == pytest.approx(1.11, abs=2e-3)
    assert increasing_weight(20, 100) == pytest.approx(3 * 80 / 20)
    assert increasing_weight(0, 10) == increasing_weight(10, 10) == 1
    assert SAT(10, attack(), classes=(4,), weight="increasing").weight == 18


def test_which_classes_are_attacked_is_a_setting_and_no_state() -> None:
    assert SAT(3, attack(), classes=(0,)).state_dict() == {}


def test_the_log_says_which_classes_have_a_radius() -> None:
    assert SAT(3, attack(), classes=(0, 2)).class_radius().tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "say which"),
        ({"classes": (3,)}, "no class 3; the data have classes 0 to 2"),
        ({"classes": (-1,)}, "setting classes"),
        ({"classes": "cat"}, "setting classes"),
        ({"classes": (0,), "weight": -1}, "setting weight"),
        ({"classes": (0,), "weight": "more"}, "setting weight"),
    ],
)
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SAT(3, attack(), **wrong)
