"""PGD with momentum: known optimum, contract, parity with torchattacks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from classwise import registry
from classwise.attacks.base import predict
from classwise.attacks.momentum import MomentumPGD
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.threat import ThreatModel

NORMS = ("Linf", "L2", "L1")


class Smooth(nn.Module):
    """A random network of one tanh layer, in float64 so that the size of a batch changes no bit that counts."""

    def __init__(self, num_classes: int = 4, pixels: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(pixels, 16, generator=generator, dtype=torch.float64))
        self.outer = nn.Parameter(torch.randn(16, num_classes, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).double() - 0.5
        return (4 * (flat @ self.inner / flat.shape[1] ** 0.5).tanh() @ self.outer).float()


def labelled(model: nn.Module, n: int = 20) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, model(x).argmax(1)


def noise(n: int = 20) -> Noise:
    return Noise(0, torch.arange(n))


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(model(x_adv), y) != y


@pytest.mark.parametrize("start", ["clean", "uniform"])
@pytest.mark.parametrize("norm", NORMS)
def test_it_keeps_the_contract(norm: str, start: str) -> None:
    model, threat = Smooth().train(), ThreatModel(norm, {"Linf": 0.03, "L2": 0.1, "L1": 0.3}[norm])
    x, y = labelled(model)
    attack = MomentumPGD(threat, steps=8, start=start)  # type: ignore[arg-type]
    x_adv = attack(model, x, y, noise=noise())
    assert threat.contains(x_adv, x).all()
    assert model.training
    assert eval(repr(attack)) == attack
    assert 0 < int(fooled(model, x_adv, y).sum()) < len(x)
    for part in torch.arange(20).split(3):
        assert torch.equal(attack(model, x[part], y[part], noise=noise().select(part)), x_adv[part])


def test_a_radius_of_zero_gives_the_images_back() -> None:
    x, y = labelled(Smooth())
    for norm in NORMS:
        assert torch.equal(MomentumPGD(ThreatModel(norm, 0), steps=3)(Smooth(), x, y, noise=noise()), x)


def test_without_momentum_it_is_pgd() -> None:
    model, threat = Smooth(), ThreatModel("Linf", 0.03)
    x, y = labelled(model)
    pgd = registry.build("attack", "pgd(steps=8, start='clean')", threat)(model, x, y, noise=noise())
    found = registry.build("attack", "mi-pgd(steps=8, start='clean', decay=0)", threat)(model, x, y, noise=noise())
    torch.testing.assert_close(found, pgd)


def test_the_sum_of_gradients_by_hand() -> None:
    """Along one pixel the loss rises, then falls steeply: gradients +1, then −1 scaled to length 1. With decay 1 the
    sum is 1, then 0, so the second step stays; with decay 0.5 it is 1, then −0.5, so the second step goes back."""

    class Roof(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return torch.cat([torch.full_like(flat, 9.0), torch.minimum(flat, 5 * (0.55 - flat))], 1)

    x, y = torch.full((1, 1, 1, 1), 0.4), torch.zeros(1).long()
    for decay, expected in ((1.0, 0.5), (0.5, 0.4)):
        attack = MomentumPGD(ThreatModel("Linf", 0.3), 2, 0.1, decay, start="clean", loss="margin")
        assert float(attack(Roof(), x, y, noise=noise(1))) == pytest.approx(expected)


def test_images_that_hold_end_where_torchattacks_ends() -> None:
    torchattacks = pytest.importorskip("torchattacks")
    model, eps = Smooth().eval(), 0.01
    x, y = labelled(model)
    ours = MomentumPGD(ThreatModel("Linf", eps), steps=10, step_size=eps / 4, start="clean")(model, x, y, noise=noise())
    theirs = torchattacks.MIFGSM(model, eps=eps, alpha=eps / 4, steps=10, decay=1.0)(x, y)
    holds = ~fooled(model, ours, y)
    assert int(holds.sum()) > 10
    torch.testing.assert_close(ours[holds], theirs[holds])


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"step_size": -1}, {"decay": -0.1}, {"start": "jitter"}, {"loss": "x"}]
)
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        MomentumPGD(ThreatModel("Linf", 0.1), **wrong)  # type: ignore[arg-type]
