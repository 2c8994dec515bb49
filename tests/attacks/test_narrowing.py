"""Narrowing: the radius that it finds is the distance to the boundary, where that is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.models_for_tests import Affine, Smooth, labelled
from tests.strategies import NORMS
from torch import Tensor, nn

from classwise.attacks import FAB, Narrowing, predict
from classwise.attacks.narrowing import _Bracket, clear
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.threat import ThreatModel

SHAPE = (1, 3, 3)
WIDE = {"Linf": 0.5, "L2": 2.0, "L1": 6.0}
BRIEF = {"fab_steps": 10, "halvings": 6, "steps": 10}


def two_classes(n: int = 20) -> tuple[Affine, Tensor, Tensor]:
    """Return an affine model of two classes, and images around 1/2, so near its boundary that no pixel meets 0 or 1."""
    weight = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    model = Affine(weight, -0.5 * weight.sum(1))
    x = 0.5 + 0.1 * (Noise(1, torch.arange(n)).uniform(SHAPE) - 0.5)
    return model, x, model(x).argmax(1)


def distances(attack: Narrowing, model: nn.Module, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    x_adv = attack(model, x, y, noise=Noise(seed, torch.arange(len(x))))
    fooled = predict(model(x_adv).detach(), y) != y
    return torch.where(fooled, attack.threat.distance(x_adv, x), torch.inf)


@pytest.mark.parametrize("norm", NORMS)
def test_the_radius_on_an_affine_model_is_the_lead_over_the_dual_norm(norm: str) -> None:
    """The distance to the plane w·x = b is |w·x − b|/‖w‖ in the dual norm; FAB aims a thousandth beyond it."""
    model, x, y = two_classes()
    logits = model(x).detach()
    exact = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0] / model.rise(y, 1 - y, norm)
    share = distances(Narrowing(ThreatModel(norm, WIDE[norm])), model, x, y) / exact
    assert share.min() > 1 - 1e-5
    assert share.max() < 1 + 2e-3


@pytest.mark.parametrize("norm", NORMS)
def test_it_comes_at_least_as_near_as_fab_and_nearer_to_some(norm: str) -> None:
    model = Smooth(4, 9, factor=20.0)
    x, y = labelled(model, 40, SHAPE)
    threat = ThreatModel(norm, WIDE[norm])
    fab = FAB(threat, steps=3, targets=3)
    alone = fab.minimise(model, x, y, noise=Noise(0, torch.arange(40)).fold("fab"))[1]
    found = distances(Narrowing(threat, fab_steps=3, targets=3, halvings=8), model, x, y)
    # A lead of FAB within rounding is lengthened, by a thousandth at first.
    assert (found <= alone * 1.001 + 1e-7).all()
    assert (found < 0.998 * alone).any()


def test_where_fab_finds_nothing_pgd_looks_in_the_whole_ball() -> None:
    """One step of FAB on a wavy model misses images that PGD then breaks."""
    model = Smooth(4, 9, factor=20.0)
    x, y = labelled(model, 60, SHAPE)
    threat = ThreatModel("Linf", 0.06)
    alone = FAB(threat, steps=1, targets=1).minimise(model, x, y, noise=Noise(0, torch.arange(60)).fold("fab"))[1]
    found = distances(Narrowing(threat, fab_steps=1, targets=1), model, x, y)
    assert ((alone > threat.eps) & found.isfinite()).any()


def test_an_l1_candidate_whose_pixels_are_on_their_limits_is_moved_on_in_others() -> None:
    """Pixels 0 and 1 are full and the model is undecided: no longer perturbation exists but one that moves pixel 2."""
    weight = torch.tensor([[0.0] * 9, [4.0, 3.0, 2.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0]])
    x = torch.zeros(1, *SHAPE)
    on_limits = x.clone().flatten(1).index_fill(1, torch.tensor([0, 1]), 1.0).view_as(x)
    model, y = Affine(weight, torch.tensor([7.0, 0.0])), torch.tensor([0])
    bracket = _Bracket(ThreatModel("L1", 3.0), x, y)
    moved = bracket.cleared(model, on_limits)
    assert not clear(model, on_limits, y).any()
    assert clear(model, moved, y).all()
    assert 2 < bracket.threat.distance(moved, x) < 2.001


def test_an_image_out_of_reach_is_returned_clean() -> None:
    model, x, y = two_classes()
    attack = Narrowing(ThreatModel("Linf", 1e-6), **BRIEF)
    x_adv = attack(model, x, y, noise=Noise(0, torch.arange(len(x))))
    assert torch.equal(x_adv, x)


@pytest.mark.parametrize("norm", NORMS)
def test_more_halvings_never_find_a_larger_radius(norm: str) -> None:
    model = Smooth(4, 9, factor=20.0)
    x, y = labelled(model, 40, SHAPE)
    few = Narrowing(ThreatModel(norm, WIDE[norm]), fab_steps=5, halvings=0)
    coarse, fine = distances(few, model, x, y), distances(replace(few, halvings=8), model, x, y)
    assert (fine <= coarse).all()


@pytest.mark.parametrize(
    "settings", [{"fab_steps": 0}, {"targets": 0}, {"steps": 0}, {"halvings": -1}, {"steps": 2.5}, {"halvings": "a"}]
)
def test_settings_outside_their_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="whole numbers"):
        Narrowing(ThreatModel("Linf", 0.1), **settings)  # type: ignore[arg-type]
