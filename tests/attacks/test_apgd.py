"""Auto-PGD: the contract of an attack, known optima, the rules of its steps, and parity with torchattacks."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from tests.models_for_tests import network_by_others
from torch import Tensor, nn

from classwise import losses, registry
from classwise.attacks.apgd import APGD, checkpoints, halves, sparse_direction
from classwise.attacks.base import predict
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.threat import ThreatModel, project_l1_box

NORMS = ("Linf", "L2", "L1")
DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
NAMES = ("apgd-ce", "apgd-dlr", "apgd-t", "apgd-margin")
RADIUS = {"Linf": 0.06, "L2": 0.3, "L1": 1.0}


class Smooth(nn.Module):
    """A random network of one tanh layer, in float64 so that the size of a batch changes no bit that counts."""

    def __init__(self, num_classes: int, pixels: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(num_classes)
        self.inner = nn.Parameter(torch.randn(pixels, 16, generator=generator, dtype=torch.float64))
        self.outer = nn.Parameter(torch.randn(16, num_classes, generator=generator, dtype=torch.float64))
        self.images: list[int] = []  # how many, at each call
        self.gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images.append(len(x))
        if x.requires_grad:
            x.register_hook(self._count)
        flat = x.flatten(1).double() - 0.5
        return (4 * (flat @ self.inner / flat.shape[1] ** 0.5).tanh() @ self.outer).float()

    def _count(self, gradient: Tensor) -> None:
        self.gradients += 1


class Affine(nn.Module):
    """Logits W·x + b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def affine(num_classes: int, pixels: int, seed: int = 0) -> Affine:
    """Return random weights whose classes are balanced at the image 1/2."""
    weight = 3 * torch.randn(num_classes, pixels, generator=torch.Generator().manual_seed(seed))
    return Affine(weight, -0.5 * weight.sum(1))


def pair(num_classes: int, pixels: int) -> Affine:
    """Return an affine model where only classes 0 and 1 ever win: the others are 50 logits behind."""
    weight, bias = torch.zeros(num_classes, pixels), torch.full((num_classes,), -50.0)
    two = affine(2, pixels)
    weight[:2], bias[:2] = two.weight.detach(), two.bias.detach()
    return Affine(weight, bias)


def labelled(model: nn.Module, n: int, shape: tuple[int, ...], low: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return random images in [low, 1 − low] with the model's own labels."""
    x = low + (1 - 2 * low) * torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    if isinstance(model, Smooth):
        model.images.clear()
    return x, y


def noise(n: int, seed: int = 0) -> Noise:
    return Noise(seed, torch.arange(n))


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(model(x_adv), y) != y


def critical(model: Affine, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """Return the smallest radius at which some wrong class wins, where the pixel range is out of reach, (N,)."""
    with torch.no_grad():
        logits = model(x)
        margin = logits.gather(1, y[:, None]) - logits
        rise = torch.linalg.vector_norm(model.weight[None] - model.weight[y][:, None], ord=DUAL[norm], dim=2)
        return (margin / rise).scatter(1, y[:, None], torch.inf).amin(1)


# The contract.


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 100])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NAMES)
def test_candidates_are_in_the_threat_set_for_any_number_of_classes(name: str, norm: str, num_classes: int) -> None:
    model = Smooth(num_classes)
    x, y = labelled(model, 12, (3, 2, 2))
    threat = ThreatModel(norm, RADIUS[norm])
    x_adv = registry.build("attack", f"{name}(steps=7)", threat)(model, x, y, noise=noise(12))
    assert x_adv.shape == x.shape
    assert threat.contains(x_adv, x).all()
    assert not x_adv.requires_grad
    assert fooled(model, x_adv, y).any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NAMES)
def test_a_radius_of_zero_gives_the_images_back(name: str, norm: str) -> None:
    model = Smooth(4)
    x, y = labelled(model, 6, (3, 2, 2))
    attack = registry.build("attack", f"{name}(steps=5)", ThreatModel(norm, 0))
    assert torch.equal(attack(model, x, y, noise=noise(6)), x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t"])
def test_an_image_has_the_same_candidate_in_every_batch(name: str, norm: str) -> None:
    model = Smooth(5)
    x, y = labelled(model, 12, (3, 2, 2))
    attack = registry.build("attack", f"{name}(steps=12, restarts=2)", ThreatModel(norm, 0.5 * RADIUS[norm]))
    whole = attack(model, x, y, noise=noise(12))
    assert 0 < int(fooled(model, whole, y).sum()) < 12
    for size in (1, 5):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(size))
        for part in order.split(size):
            assert torch.equal(attack(model, x[part], y[part], noise=noise(12).select(part)), whole[part])


@pytest.mark.parametrize("norm", NORMS)
def test_the_same_noise_gives_the_same_candidates_and_another_seed_others(norm: str) -> None:
    model = Smooth(5)
    x, y = labelled(model, 8, (3, 2, 2))
    attack = APGD(ThreatModel(norm, RADIUS[norm]), steps=3)
    first = attack(model, x, y, noise=noise(8))
    assert torch.equal(first, attack(model, x, y, noise=noise(8)))
    assert not torch.equal(first, attack(model, x, y, noise=noise(8, seed=1)))


def test_the_model_comes_back_in_the_mode_it_went_in() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3)).train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    APGD(ThreatModel("L2", 0.5), steps=3)(model, torch.rand(4, 3, 2, 2), torch.zeros(4).long(), noise=noise(4))
    assert model.training
    assert not model[1].training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_attacks_where_gradients_are_switched_off(context: type) -> None:
    model = Smooth(3)
    x, y = labelled(model, 6, (3, 2, 2))
    attack = APGD(ThreatModel("Linf", 0.1), steps=5)
    with context():
        x_adv = attack(model, x.clone(), y, noise=noise(6))
    assert torch.equal(x_adv, attack(model, x, y, noise=noise(6)))


def test_settings_are_a_record() -> None:
    attack = registry.build("attack", "apgd-ce(steps=7, loss='soft_margin(temperature=0.1)')", ThreatModel("L1", 12))
    assert attack == APGD(ThreatModel("L1", 12), steps=7, loss="soft_margin(temperature=0.1)")
    assert eval(repr(attack)) == attack
    assert registry.build("attack", "apgd-t", ThreatModel("Linf", 0.1)).targets == 9


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"restarts": 0},
        {"targets": -1},
        {"rho": 1.5},
        {"loss": "kl"},
        {"large_eps": True},
        {"large_eps": "yes"},
    ],
)
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        APGD(ThreatModel("Linf", 0.1), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_and_one_that_is_no_number_leave_the_start(norm: str) -> None:
    class Broken(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return torch.tensor([5.0, 0, 0, 0]) + (flat.detach()[:, :4] + (self.factor * (0 * flat).sqrt()).sum())

    x, threat = torch.rand(5, 3, 2, 2), ThreatModel(norm, 0.2)
    for factor in (0.0, 1.0):
        x_adv = APGD(threat, steps=5)(Broken(factor), x, torch.zeros(5).long(), noise=noise(5))
        assert threat.contains(x_adv, x).all()


# What it costs.


def test_a_step_is_one_forward_and_one_backward_pass_and_nothing_else_runs() -> None:
    model = Smooth(5)
    x, y = labelled(model, 6, (3, 2, 2))
    APGD(ThreatModel("Linf", 1e-6), steps=9)(model, x, y, noise=noise(6))
    assert (len(model.images), model.gradients) == (10, 9)
    model.images.clear()
    APGD(ThreatModel("Linf", 1e-6), steps=9, targets=2, restarts=2)(model, x, y, noise=noise(6))
    assert len(model.images) == 1 + 2 * 2 * 10


def test_fooled_images_leave_the_batch() -> None:
    model = Smooth(5)
    x, y = labelled(model, 30, (3, 2, 2))
    x_adv = APGD(ThreatModel("Linf", 0.03), steps=9, restarts=2)(model, x, y, noise=noise(30))
    sizes = tuple(model.images)
    left = int((~fooled(model, x_adv, y)).sum())
    assert list(sizes) == sorted(sizes, reverse=True)
    assert sizes[0] == 30 > sizes[-1] >= left > 0


def test_nothing_runs_once_all_images_are_fooled() -> None:
    model = Smooth(5)
    x, y = labelled(model, 6, (3, 2, 2))
    APGD(ThreatModel("Linf", 1e-6), steps=100, restarts=3)(model, x, (y + 1) % 5, noise=noise(6))
    assert (len(model.images), model.gradients) == (1, 0)


# Known optima.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", [2, 3, 4, 10])
def test_an_affine_pair_breaks_exactly_where_its_margin_is_below_the_known_rise(
    num_classes: int, norm: str, name: str
) -> None:
    """The rise of the rival over a ball is eps times the dual norm of the difference of weights."""
    model = pair(num_classes, 16)
    x, y = labelled(model, 60, (1, 4, 4), low=0.45)
    radius = critical(model, x, y, norm)
    eps = float(radius.median()) * 1.001
    x_adv = registry.build("attack", f"{name}(steps=50)", ThreatModel(norm, eps))(model, x, y, noise=noise(60))
    clear = (radius / eps - 1).abs() > 0.01
    assert int(clear.sum()) > 50
    assert torch.equal(fooled(model, x_adv, y)[clear], (radius < eps)[clear])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", [3, 5, 10])
def test_the_targeted_form_finds_the_nearest_of_many_classes(num_classes: int, norm: str) -> None:
    model = affine(num_classes, 16)
    x, y = labelled(model, 60, (1, 4, 4), low=0.45)
    radius = critical(model, x, y, norm)
    eps = float(radius.median()) * 1.001
    attack = APGD(ThreatModel(norm, eps), steps=50, targets=num_classes - 1)
    clear = (radius / eps - 1).abs() > 0.02
    assert int(clear.sum()) > 50
    assert torch.equal(fooled(model, attack(model, x, y, noise=noise(60)), y)[clear], (radius < eps)[clear])


def test_in_l1_it_fills_the_steepest_pixels_up_to_their_limits() -> None:
    """Every pixel is within 0.2 of the limit that the attack pushes it to, so the best L1 perturbation moves pixels in
    the order of their weights, each to its limit, until eps is spent. The bias puts half of the images in reach."""
    weight, eps = pair(2, 16).weight.detach(), 0.5
    toward = weight[1] - weight[0]
    room = 0.2 * torch.rand(80, 16, generator=torch.Generator().manual_seed(0))
    x, y = torch.where(toward > 0, 1 - room, room), torch.zeros(80).long()
    order = toward.abs().argsort(descending=True)
    before = room[:, order].cumsum(1) - room[:, order]
    spent = (eps - before).clamp_min(0).minimum(room[:, order])
    rise = spent @ toward[order].abs()
    assert float((spent > 0).sum(1).float().mean()) > 3
    lead = (rise - x @ toward).median()
    share = (x @ -toward + lead) / rise
    model = Affine(weight, torch.tensor([lead, 0.0]))
    x_adv = APGD(ThreatModel("L1", eps), steps=100, loss="margin")(model, x.view(80, 1, 4, 4), y, noise=noise(80))
    clear = (share - 1).abs() > 0.01
    assert int(clear.sum()) > 60
    assert torch.equal(fooled(model, x_adv, y)[clear], (share < 1)[clear])


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_that_holds_gets_the_point_of_the_largest_loss(norm: str) -> None:
    """Below the critical radius the margin left is the margin less the rise, to a per cent of the rise."""
    model = pair(2, 16)
    x, y = labelled(model, 40, (1, 4, 4), low=0.45)
    radius = critical(model, x, y, norm)
    eps = 0.9 * float(radius.quantile(0.3))
    x_adv = APGD(ThreatModel(norm, eps), steps=60, loss="margin")(model, x, y, noise=noise(40))
    holds = radius > eps
    with torch.no_grad():
        before, after = losses.margin(model(x), y)[holds], losses.margin(model(x_adv), y)[holds]
    rise = (before / -radius[holds]) * eps
    assert bool(((after - before) >= 0.99 * rise).all())


@pytest.mark.parametrize("large", [True, False])
def test_what_fools_in_a_larger_ball_does_not_count(large: bool) -> None:
    model = pair(2, 16)
    x, y = labelled(model, 60, (1, 4, 4), low=0.45)
    radius = critical(model, x, y, "L1")
    eps = float(radius.quantile(0.3))
    threat = ThreatModel("L1", eps)
    between = (radius > 1.02 * eps) & (radius < 2.5 * eps)
    x_adv = APGD(threat, steps=50, loss="margin", large_eps=large)(model, x, y, noise=noise(60))
    assert int(between.sum()) > 5
    assert threat.contains(x_adv, x).all()
    assert not fooled(model, x_adv, y)[between].any()


# More of it.


@pytest.mark.parametrize("more", [{"restarts": 3}, {"targets": 4}])
@pytest.mark.parametrize("norm", NORMS)
def test_more_restarts_or_targets_never_lose_an_image(norm: str, more: dict[str, int]) -> None:
    """The first attempts are the same, so what they fooled stays fooled: by the same candidate if a restart follows.

    Targets run side by side, so another may succeed in fewer steps.
    """
    model = Smooth(5)
    x, y = labelled(model, 60, (3, 2, 2))
    few = APGD(ThreatModel(norm, 0.4 * RADIUS[norm]), steps=4, targets=1 if "targets" in more else 0)
    first, all_of_them = few(model, x, y, noise=noise(60)), replace(few, **more)(model, x, y, noise=noise(60))
    gone = fooled(model, first, y)
    assert 0 < int(gone.sum()) < 60
    assert fooled(model, all_of_them, y)[gone].all()
    assert torch.equal(all_of_them[gone], first[gone]) == ("restarts" in more)


def test_more_restarts_never_lower_the_loss_of_an_image_that_holds() -> None:
    model = Smooth(5)
    x, y = labelled(model, 40, (3, 2, 2))
    one = APGD(ThreatModel("L2", 0.1), steps=4, loss="margin")
    with torch.no_grad():
        less, more = (
            losses.margin(model(attack(model, x, y, noise=noise(40))), y) for attack in (one, replace(one, restarts=4))
        )
    assert bool((more >= less)[less < 0].all())
    assert bool((more > less)[less < 0].any())


@pytest.mark.parametrize(
    "norm", ["Linf", "L2"]
)  # L1 below: with 48 pixels, PGD's steps along one pixel are hard to beat
def test_it_breaks_at_least_what_pgd_breaks_at_equal_steps(norm: str) -> None:
    model = Smooth(10, 48)
    x, y = labelled(model, 200, (3, 4, 4))
    threat = ThreatModel(norm, 0.5 * RADIUS[norm])
    pgd = registry.build("attack", "margin-pgd(steps=50)", threat)(model, x, y, noise=noise(200))
    apgd = registry.build("attack", "apgd-margin(steps=50)", threat)(model, x, y, noise=noise(200))
    assert int(fooled(model, apgd, y).sum()) >= int(fooled(model, pgd, y).sum()) - 1


# The rules of the steps.


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (100, (22, 41, 57, 70, 80, 87, 93, 99)),
        (1000, (220, 410, 570, 700, 800, 870, 930, 990)),
        (20, (5, 9, 12, 14, 16, 18, 19, 20)),
        (10, (3, 5, 6, 7, 8, 9, 10)),
        (3, (1, 2, 3)),
        (1, (1,)),
    ],
)
def test_checkpoints_are_those_of_the_paper(steps: int, expected: tuple[int, ...]) -> None:
    """p = 0.22, then + 0.19, 0.16, 0.13, 0.10, 0.07, 0.06, 0.06: 0.22 0.41 0.57 0.70 0.80 0.87 0.93 0.99."""
    assert checkpoints(steps) == expected


@given(st.integers(1, 2000))
def test_checkpoints_rise_and_end_by_the_last_step(steps: int) -> None:
    found = checkpoints(steps)
    assert list(found) == sorted(set(found))
    assert found[0] > 0
    assert 0.99 * steps <= found[-1] <= steps


@pytest.mark.parametrize(
    ("rises", "halved", "best", "best_before", "expected"),
    [
        (16, False, 2.0, 1.0, True),  # 16 of 22 is below 0.75·22 = 16.5
        (17, False, 2.0, 1.0, False),  # enough rises, and the best moved on
        (17, False, 1.0, 1.0, True),  # same step as before, same best: condition 2
        (17, True, 1.0, 1.0, False),  # the step was halved just now, so condition 2 waits
        (0, True, 1.0, 1.0, True),  # condition 1 does not wait
    ],
)
def test_the_step_is_halved_by_the_two_conditions(
    rises: int, halved: bool, best: float, best_before: float, expected: bool
) -> None:
    one = torch.tensor
    found = halves(one([rises]), 22, 0.75, one([halved]), one([best]), one([best_before]))
    assert found.tolist() == [expected]


def test_exactly_the_share_of_rises_is_enough() -> None:
    assert not halves(
        torch.tensor([12]), 16, 0.75, torch.tensor([True]), torch.tensor([1.0]), torch.tensor([1.0])
    ).any()


def test_steps_halve_where_they_overshoot() -> None:
    """On −|x − 0.53| seen through one pixel, steps of 2·eps jump back and forth: after 22 steps they must shrink, and
    by the end the iterate is within eps/16 of the top, which a step of 2·eps never is."""

    class Peak(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            height = -(x.flatten(1) - 0.53).abs()
            return torch.cat([torch.full_like(height, 5.0), height], 1)

    x = torch.full((4, 1, 1, 1), 0.5)
    y = torch.zeros(4).long()
    x_adv = APGD(ThreatModel("Linf", 0.08), steps=100, loss="margin")(Peak(), x, y, noise=noise(4))
    assert bool(((x_adv - 0.53).abs() < 0.08 / 16).all())


# The L1 step.


def test_a_sparse_direction_by_hand() -> None:
    gradient = torch.tensor([[3.0, -5.0, 1.0, 0.0]]).repeat(4, 1)
    found = sparse_direction(gradient, torch.tensor([0.0, 2.9, 3.0, 40.0]), torch.full((4, 4), 0.5))
    third = 1 / 3
    expected = [[0, -1, 0, 0], [0.5, -0.5, 0, 0], [third, -third, third, 0], [third, -third, third, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_sparse_direction_of_nothing_is_nothing() -> None:
    nothing = torch.zeros(2, 3, 2, 2)
    assert torch.equal(sparse_direction(nothing, torch.tensor([1.0, 5.0]), nothing), nothing)


def test_a_sparse_direction_passes_over_coordinates_on_the_limit_that_they_are_pushed_to() -> None:
    gradient = torch.tensor([[3.0, -5.0, 1.0, 2.0]]).repeat(3, 1)
    x = torch.tensor([[0.5, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.9], [1.0, 0.0, 1.0, 1.0]])
    found = sparse_direction(gradient, torch.tensor([2.0, 2.0, 2.0]), x)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0, 0.5, 0], [0.5, -0.5, 0, 0], [0, 0, 0, 0]]))


def far(seed: int, pixels: int, scale: float, n: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = (1.6 * torch.rand(n, pixels, generator=generator) - 0.3).clamp(0, 1)  # a third of the pixels on the limits
    return x + scale * torch.randn(n, pixels, generator=generator), x


@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([0.05, 1.0, 20.0]), st.floats(0.01, 8))
@settings(deadline=None, max_examples=150)
def test_the_l1_projection_is_the_threshold_that_scipy_finds(seed: int, pixels: int, scale: float, eps: float) -> None:
    x_adv, x = far(seed, pixels, scale)
    found = project_l1_box(x_adv.double(), x.double(), eps).numpy()
    for row, (u, c) in enumerate(zip(x_adv.double().numpy(), x.double().numpy(), strict=True)):
        size, room = np.abs(u - c), np.where(u > c, 1 - c, c)

        def excess(t: float, size: np.ndarray = size, room: np.ndarray = room) -> float:
            return float(np.minimum(np.maximum(size - t, 0), room).sum() - eps)

        t = 0.0 if excess(0) <= 0 else brentq(excess, 0, size.max(), xtol=1e-14, rtol=1e-14)
        expected = c + np.sign(u - c) * np.minimum(np.maximum(size - t, 0), room)
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-10)


@given(st.integers(0, 10**6), st.integers(1, 400), st.sampled_from([1e-6, 0.05, 1.0, 20.0]), st.floats(0, 30))
@settings(deadline=None, max_examples=150)
def test_the_l1_projection_is_in_the_threat_set_and_leaves_what_is_inside(
    seed: int, pixels: int, scale: float, eps: float
) -> None:
    x_adv, x = far(seed, pixels, scale)
    once = project_l1_box(x_adv, x, eps)
    assert ThreatModel("L1", eps).contains(once, x).all()
    torch.testing.assert_close(project_l1_box(once, x, eps), once, rtol=0, atol=2e-7)


def test_a_large_image_stays_within_the_l1_tolerance() -> None:
    x_adv, x = far(0, 3 * 224 * 224, 1.0, n=2)
    for eps in (0.5, 12.0, 255.0):
        moved = project_l1_box(x_adv, x, eps)
        assert ThreatModel("L1", eps).contains(moved, x).all()
        assert bool(((moved - x).double().abs().sum(1) > 0.999 * eps).all())


# Other implementations, on real networks.

needs_real_data = pytest.mark.skipif(
    not {"CLASSWISE_DATA", "CLASSWISE_SHARED"} <= set(os.environ),
    reason="CLASSWISE_DATA and CLASSWISE_SHARED do not name the real data and networks",
)


def real(name: str, data: str, n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network and those of the first ``n`` test images that it gets right."""
    from classwise.data import load

    images, model = load(data, os.environ["CLASSWISE_DATA"]), network_by_others(name).eval()
    x, y = images.fetch(torch.arange(n)), images.y[:n]
    with torch.no_grad():
        right = model(x).argmax(1) == y
    return model, x[right], y[right]


@pytest.mark.real_data
@needs_real_data
@pytest.mark.parametrize(
    ("name", "data", "norm", "eps", "kind", "steps"),
    [
        ("cifar_resnet2b_adv", "cifar10", "Linf", 2 / 255, "ce", 30),
        ("cifar_resnet2b_adv", "cifar10", "Linf", 2 / 255, "dlr", 30),
        ("cifar_resnet2b_adv", "cifar10", "Linf", 2 / 255, "t", 8),
        ("cifar_resnet2b_adv", "cifar10", "L2", 0.25, "ce", 30),
        ("cifar_resnet2b_adv", "cifar10", "L2", 0.25, "dlr", 30),
        ("mnist_smallcnn_trades", "mnist", "Linf", 0.3, "ce", 15),
    ],
)
def test_it_leaves_as_many_images_as_torchattacks_to_one_in_200(
    name: str, data: str, norm: str, eps: float, kind: str, steps: int
) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    model, x, y = real(name, data, 200)
    threat = ThreatModel(norm, eps)
    ours = registry.build("attack", f"apgd-{kind}(steps={steps})", threat)(model, x, y, noise=noise(len(x)))
    common = {"norm": norm, "eps": eps, "steps": steps, "n_restarts": 1, "seed": 0, "rho": 0.75}
    if kind == "t":
        theirs = torchattacks.APGDT(model, n_classes=10, **common)(x, y)
    else:
        theirs = torchattacks.APGD(model, loss=kind, **common)(x, y)
    assert threat.contains(ours, x).all()
    left = [int((~fooled(model, x_adv.detach(), y)).sum()) for x_adv in (ours, theirs)]
    print(f"{name} {norm} {eps:.4g} {kind}: ours {left[0]}, torchattacks {left[1]} of {len(x)}")  # noqa: T201
    assert 0 < left[0] < len(x)
    assert abs(left[0] - left[1]) <= 1


@pytest.mark.real_data
@needs_real_data
def test_in_l1_it_breaks_more_than_pgd_at_equal_steps() -> None:
    model, x, y = real("cifar_resnet2b_adv", "cifar10", 100)
    left = {}
    for text in ("apgd-ce(steps=50)", "apgd-ce(steps=50, large_eps=False)", "pgd(steps=50)"):
        x_adv = registry.build("attack", text, ThreatModel("L1", 3))(model, x, y, noise=noise(len(x)))
        left[text] = int((~fooled(model, x_adv, y)).sum())
    large, single, pgd = left.values()
    print(f"CIFAR-10 L1 3: large {large}, single {single}, pgd {pgd} of {len(x)}")  # noqa: T201
    assert max(large, single) < pgd
