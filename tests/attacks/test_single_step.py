"""The fast gradient sign method."""

from __future__ import annotations

import pytest
import torch
from tests.models_for_tests import Smooth, labelled, pair
from tests.strategies import NORMS

from classwise.attacks import PGD, build, fgsm
from classwise.losses import cross_entropy, margin
from classwise.noise import Noise
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.1)


def test_fgsm_is_one_full_step_from_the_clean_image() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 20, (1, 3, 3))
    z = x.clone().requires_grad_(True)
    gradient = torch.autograd.grad(cross_entropy(model(z), y).sum(), z)[0]
    expected = (x + 0.1 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(fgsm(THREAT)(model, x, y, noise=Noise(0, torch.arange(20))), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_margin_of_a_linear_model_falls_by_eps_times_the_dual_norm(norm: str, num_classes: int) -> None:
    model = pair(num_classes, 12)
    x = 0.4 + 0.2 * torch.rand(30, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) % 2
    x_adv = fgsm(ThreatModel(norm, 0.3))(model, x, y, noise=Noise(0, torch.arange(30)))  # type: ignore[arg-type]
    rise = margin(model(x_adv), y) - margin(model(x), y)
    torch.testing.assert_close(rise.detach(), 0.3 * model.rise(y, 1 - y, norm), rtol=1e-4, atol=1e-4)


def test_the_noise_does_not_matter() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 5, (1, 3, 3))
    first, second = (fgsm(THREAT)(model, x, y, noise=Noise(seed, torch.arange(5))) for seed in (0, 1))
    assert torch.equal(first, second)


def test_fgsm_returns_its_step_even_where_the_clean_image_is_wrong() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 5, (1, 3, 3))
    x_adv = fgsm(THREAT)(model, x, (y + 1) % 4, noise=Noise(0, torch.arange(5)))
    assert (x_adv != x).flatten(1).any(1).all()


def test_fgsm_is_a_pgd() -> None:
    assert build("fgsm", THREAT)["fgsm"] == PGD(THREAT, steps=1, step_size=0.1, start="clean")
