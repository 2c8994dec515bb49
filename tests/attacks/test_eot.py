"""Randomised models: the mean as a model, attacks on it, and the share of passes that an image fools."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from classwise.attacks import PGD, EoT, Expectation, build, fooled_share
from classwise.errors import InputError
from classwise.losses import margin
from classwise.noise import Noise
from classwise.threat import ThreatModel

LINF = ThreatModel("Linf", 0.1)


class Turns(nn.Module):
    """Gives one of several linear answers after another, so that every mean is known."""

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        self.weights, self.calls = weights, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.flatten(1) @ self.weights[(self.calls - 1) % len(self.weights)]


class Masked(nn.Module):
    """A linear model that sees a random tenth of the pixels at each pass, in eval mode too."""

    def __init__(self, num_classes: int = 3, pixels: int = 64) -> None:
        super().__init__()
        weight = torch.randn(pixels, num_classes, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        seen = (torch.rand(x.flatten(1).shape) < 0.1) * 10.0
        return ((x.flatten(1) - 0.5) * seen) @ self.weight


def images(n: int = 8, side: int = 8) -> tuple[Tensor, Tensor, Noise]:
    x = 0.3 + 0.4 * torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))
    return x, torch.zeros(n, dtype=torch.int64), Noise(0, torch.arange(n))


def test_the_mean_of_logits_and_of_probabilities_by_hand() -> None:
    x = torch.ones(1, 1, 1, 1)
    first, second = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])
    mean = Expectation(Turns(first, second), 2)(x)
    torch.testing.assert_close(mean, torch.tensor([[0.0, math.log(3) / 2]]))
    # The probabilities are (1/4, 3/4) and (1/2, 1/2).
    log_mean = Expectation(Turns(first, second), 2, "probabilities")(x)
    torch.testing.assert_close(log_mean.exp(), torch.tensor([[3 / 8, 5 / 8]]))


def test_its_gradient_is_the_mean_of_the_gradients() -> None:
    weights = [torch.randn(4, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1, 2)]
    x = torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(Expectation(Turns(*weights), 3)(x)[0, 0], x)
    torch.testing.assert_close(gradient.flatten(), torch.stack([w[:, 0] for w in weights]).mean(0))


def test_each_sample_is_a_pass_of_its_own() -> None:
    turns = Turns(torch.zeros(4, 2))
    Expectation(turns, 7)(torch.rand(3, 1, 2, 2))
    assert turns.calls == 7


@pytest.mark.parametrize("training", [True, False])
def test_wrapping_a_model_keeps_its_mode(training: bool) -> None:
    model = nn.Dropout(0.5).train(training)
    assert Expectation(model).training == training
    EoT(PGD(LINF, steps=1), 2)(nn.Sequential(nn.Flatten(), model), *images(2)[:2], noise=Noise(0, torch.arange(2)))
    assert model.training == training


@pytest.mark.parametrize("name", ["eot-pgd(samples=2)", "eot-pgd(samples=2, mean='probabilities', loss='margin')"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 100])
def test_results_are_repeatable_in_the_set_and_leave_the_random_state_alone(
    name: str, norm: str, num_classes: int
) -> None:
    x, y, noise = images(4)
    (attack,) = build(name, ThreatModel(norm, 0.1)).values()  # type: ignore[arg-type]
    model = Masked(num_classes)
    state = torch.get_rng_state()
    x_adv = attack(model, x, y, noise=noise)
    assert attack.threat.contains(x_adv, x).all()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(attack(model, x, y, noise=noise), x_adv)
    assert not torch.equal(attack(model, x, y, noise=noise.fold("other")), x_adv)
    torch.set_rng_state(state)


def test_a_radius_of_zero_changes_nothing() -> None:
    x, y, noise = images(4)
    (attack,) = build("eot-pgd(samples=2)", ThreatModel("Linf", 0)).values()
    assert torch.equal(attack(Masked(), x, y, noise=noise), x)


def test_on_a_model_that_is_not_random_it_is_the_attack_itself_whatever_the_batch() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    x, y, noise = images()
    x, attack = x.double(), PGD(LINF, keep="success")
    whole = EoT(attack, 3)(model, x, y, noise=noise)
    torch.testing.assert_close(whole, attack(model, x, y, noise=noise))
    part = torch.tensor([6, 1])
    torch.testing.assert_close(EoT(attack, 3)(model, x[part], y[part], noise=noise.select(part)), whole[part])


def test_the_mean_climbs_where_a_single_pass_sees_a_tenth_of_the_gradient() -> None:
    model = Masked()
    x, y, noise = images(20)
    pgd = PGD(LINF, steps=3, step_size=0.05, start="clean", loss="margin")
    with torch.no_grad():
        single, mean = (
            margin((attack(model, x, y, noise=noise).flatten(1) - 0.5) @ model.weight, y).mean()
            for attack in (EoT(pgd, 1), EoT(pgd, 30))
        )
        clean = margin((x.flatten(1) - 0.5) @ model.weight, y).mean()
    assert mean - clean > 2 * (single - clean) > 0


def test_the_share_of_passes_that_an_image_fools() -> None:
    class Coin(nn.Module):
        """Right with the probability that is the first pixel."""

        def forward(self, x: Tensor) -> Tensor:
            right = (torch.rand(len(x)) < x.flatten(1)[:, 0]).float()
            return torch.stack([right, 1 - right], 1)

    x = torch.tensor([0.0, 0.3, 1.0])[:, None, None, None]
    model, y, noise = Coin(), torch.zeros(3, dtype=torch.int64), Noise(0, torch.arange(3))
    state = torch.get_rng_state()
    share = fooled_share(model, x, y, noise=noise, passes=400)
    assert share[[0, 2]].tolist() == [1, 0]
    assert abs(float(share[1]) - 0.7) < 4 * math.sqrt(0.21 / 400)
    assert torch.equal(share, fooled_share(model, x, y, noise=noise, passes=400))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


@pytest.mark.parametrize("samples", [0, -1, 2.0])
def test_a_number_of_passes_that_is_none_is_refused(samples: int) -> None:
    for make in (lambda: EoT(PGD(LINF), samples), lambda: Expectation(nn.Identity(), samples)):
        with pytest.raises(InputError, match="whole number above 0"):
            make()
    x, y, noise = images(2)
    with pytest.raises(InputError, match="whole number above 0"):
        fooled_share(Masked(), x, y, noise=noise, passes=samples)


def test_another_mean_is_refused() -> None:
    with pytest.raises(InputError, match="logits or probabilities"):
        build("eot-pgd(mean='median')", LINF)


def test_its_repr_builds_it_again() -> None:
    (built,) = build("eot-pgd(samples=5, steps=7)", LINF).values()
    assert built == EoT(PGD(LINF, steps=7, keep="success"), 5)
    assert eval(repr(built)) == built
