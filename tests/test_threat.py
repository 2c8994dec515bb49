"""Threat models: projections as sets, uniform samples, steps, membership, and how a radius is written."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import kstest
from tests.strategies import DUAL, NORMS, SEEDS, examples, images, pairs, threats
from torch import Tensor

from classwise.errors import InputError
from classwise.noise import Noise
from classwise.threat import Norm, ThreatModel, parse_eps, parse_norm

EIGHT = ThreatModel("Linf", 8 / 255)
RADII = st.floats(0.001, 0.4)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norm(delta: Tensor, name: str) -> Tensor:
    """Return the norm of each row in float64, without torch.linalg."""
    flat = delta.flatten(1).double()
    return {"Linf": flat.abs().amax(1), "L2": flat.square().sum(1).sqrt(), "L1": flat.abs().sum(1)}[name]


# Projection.


@given(pairs(), threats())
@examples(150)
def test_a_projected_image_is_in_the_set(pair: tuple[Tensor, Tensor], threat: ThreatModel) -> None:
    x_adv, x = pair
    assert threat.contains(threat.project(x_adv, x), x).all()


@given(pairs(), threats())
@examples(60)
def test_a_projection_changes_neither_argument(pair: tuple[Tensor, Tensor], threat: ThreatModel) -> None:
    x_adv, x = pair
    before = x_adv.clone(), x.clone()
    threat.project(x_adv, x)
    assert torch.equal(x_adv, before[0])
    assert torch.equal(x, before[1])


@given(images(), threats(low=0.001), SEEDS)
@examples(100)
def test_an_image_inside_is_not_moved(x: Tensor, threat: ThreatModel, seed: int) -> None:
    direction = torch.randn(x.shape, generator=generator(seed))
    factor = (0.9 * threat.eps / norm(direction, threat.norm)).float().view(-1, 1, 1, 1)
    x_adv = (x + factor * direction).clamp(0, 1)
    torch.testing.assert_close(threat.project(x_adv, x), x_adv, rtol=0, atol=1.2e-7)


@given(pairs(torch.float64), threats())
@examples(100)
def test_projecting_twice_is_projecting_once(pair: tuple[Tensor, Tensor], threat: ThreatModel) -> None:
    x_adv, x = pair
    once = threat.project(x_adv, x)
    torch.testing.assert_close(threat.project(once, x), once, rtol=0, atol=1e-12)


@given(st.sampled_from(NORMS), RADII, st.integers(1, 48), SEEDS)
@examples(100)
def test_an_image_outside_lands_on_the_surface(name: str, eps: float, pixels: int, seed: int) -> None:
    x = torch.full((3, pixels), 0.5, dtype=torch.float64)
    direction = torch.randn(x.shape, generator=generator(seed), dtype=torch.float64)
    x_adv = x + direction * (1.5 * eps / norm(direction, name))[:, None]
    length = norm(ThreatModel(name, eps).project(x_adv, x) - x, name)
    torch.testing.assert_close(length, torch.full((3,), eps, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@given(st.sampled_from(NORMS), RADII, st.integers(1, 48), st.sampled_from([0.01, 1.0, 30.0]), SEEDS)
@examples(150)
def test_a_projection_is_the_nearest_point_of_the_ball(
    name: str, eps: float, pixels: int, scale: float, seed: int
) -> None:
    """The nearest point p to d is the one where no q of the ball has (d − p)·(q − p) > 0; the largest (d − p)·q over
    the ball is eps times the dual norm of d − p. The pixel range is out of reach here."""
    x = torch.full((3, pixels), 0.5, dtype=torch.float64)
    delta = scale * torch.randn(x.shape, generator=generator(seed), dtype=torch.float64)
    nearest = ThreatModel(name, eps).project(x + delta, x) - x
    rest = delta - nearest
    best = eps * torch.linalg.vector_norm(rest, ord=DUAL[name], dim=1)
    assert (best - (rest * nearest).sum(1) <= 1e-11 * (1 + best)).all()


@given(RADII, st.integers(1, 30), SEEDS)
@examples(60)
def test_the_l1_projection_is_the_soft_threshold_that_scipy_finds(eps: float, pixels: int, seed: int) -> None:
    delta = np.random.default_rng(seed).normal(size=pixels)
    threshold = 0.0
    if np.abs(delta).sum() > eps:
        threshold = brentq(lambda t: np.maximum(np.abs(delta) - t, 0).sum() - eps, 0, np.abs(delta).max(), xtol=1e-15)
    x = torch.full((1, pixels), 0.5, dtype=torch.float64)
    projected = ThreatModel("L1", eps).project(x + torch.tensor(delta), x) - x
    expected = np.sign(delta) * np.maximum(np.abs(delta) - threshold, 0)
    np.testing.assert_allclose(projected[0].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["L2", "L1"])
def test_the_projection_in_the_plane_is_the_nearest_of_all_grid_points(name: str) -> None:
    steps = torch.linspace(-0.3, 0.3, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(steps, steps)
    ball = grid[norm(grid, name) <= 0.3]
    for delta in ([0.5, 0.1], [-0.2, 0.25], [0.0, -0.4], [0.31, 0.3]):
        far = torch.tensor([delta], dtype=torch.float64)
        projected = ThreatModel(name, 0.3).project(0.5 + far, torch.full_like(far, 0.5)) - 0.5
        best = ball[(ball - far).square().sum(1).argmin()]
        torch.testing.assert_close(projected[0], best, rtol=0, atol=0.002)


def test_projections_by_hand() -> None:
    """L2 scales (3, 4) of length 5; L1 takes the same 0.15 from 0.4 and 0.2, and leaves nothing of 0.1."""
    x = torch.full((1, 3), 0.5)
    linf = ThreatModel("Linf", 0.2).project(x + torch.tensor([[0.3, -0.1, -0.4]]), x) - x
    l2 = ThreatModel("L2", 0.25).project(x + torch.tensor([[0.3, 0.4, 0.0]]), x) - x
    l1 = ThreatModel("L1", 0.3).project(x + torch.tensor([[0.4, -0.2, 0.1]]), x) - x
    torch.testing.assert_close(linf, torch.tensor([[0.2, -0.1, -0.2]]))
    torch.testing.assert_close(l2, torch.tensor([[0.15, 0.2, 0.0]]))
    torch.testing.assert_close(l1, torch.tensor([[0.25, -0.05, 0.0]]))


def test_the_l1_projection_shares_ties_evenly() -> None:
    x = torch.full((1, 4), 0.5)
    delta = ThreatModel("L1", 0.2).project(x + torch.tensor([[0.3, -0.3, 0.3, -0.3]]), x) - x
    torch.testing.assert_close(delta, torch.tensor([[0.05, -0.05, 0.05, -0.05]]))


@given(pairs(), st.sampled_from(NORMS))
@examples(60)
def test_a_radius_of_zero_gives_the_image_back(pair: tuple[Tensor, Tensor], name: str) -> None:
    x_adv, x = pair
    assert torch.equal(ThreatModel(name, 0).project(x_adv, x), x)


@given(st.sampled_from(NORMS), SEEDS)
@examples(60)
def test_radii_of_their_own_are_those_of_each_image_alone(name: str, seed: int) -> None:
    x = torch.rand(4, 2, 3, 3, generator=generator(seed))
    x_adv = x + torch.randn(x.shape, generator=generator(seed + 1))
    eps = torch.tensor([0.0, 0.01, 0.1, 1.0])
    together = ThreatModel(name, 0.5).project(x_adv, x, eps)
    for i, radius in enumerate(eps.tolist()):
        alone = ThreatModel(name, radius).project(x_adv[i : i + 1], x[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("name", "eps"), [("Linf", 4 / 255), ("L2", 3.0), ("L2", 40.0), ("L1", 12.0), ("L1", 60.0)])
@pytest.mark.parametrize("scale", [0.001, 0.01, 1.0])
def test_large_images_stay_within_the_tolerance(name: str, eps: float, scale: float) -> None:
    """Norms summed in float32 over 150,528 pixels put the image outside, and its success is not counted."""
    x = 0.1 + 0.8 * torch.rand(2, 3, 224, 224, generator=generator(0))
    threat = ThreatModel(name, eps)
    projected = threat.project(x + scale * torch.randn(x.shape, generator=generator(1)), x)
    assert threat.contains(projected, x).all()
    assert threat.contains(threat.project(projected, x), x).all()


def test_large_images_of_any_other_content_stay_within_the_tolerance() -> None:
    """Here the sum of the sorted pixels loses too much in float32."""
    x = 0.1 + 0.8 * torch.rand(2, 3, 224, 224, generator=generator(0))
    x_adv = (x + torch.rand(x.shape, generator=generator(1))).clamp(0, 1)
    threat = ThreatModel("L1", 12.0)
    assert threat.contains(threat.project(x_adv, x), x).all()


def test_large_images_reach_the_surface() -> None:
    x = torch.full((1, 3, 224, 224), 0.5)
    far = x + 0.05 * torch.randn(x.shape, generator=generator(1))
    for name, eps in (("L2", 3.0), ("L1", 60.0)):
        length = norm(ThreatModel(name, eps).project(far, x) - x, name)
        torch.testing.assert_close(length, torch.tensor([eps], dtype=torch.float64), rtol=2e-4, atol=0)


# Samples.


@given(images(), threats(), SEEDS)
@examples(100)
def test_a_sample_is_in_the_set(x: Tensor, threat: ThreatModel, seed: int) -> None:
    assert threat.contains(threat.sample(x, Noise(seed, torch.arange(len(x)))), x).all()


@pytest.mark.parametrize(("name", "eps"), [("Linf", 4 / 255), ("L2", 3.0), ("L1", 60.0)])
def test_a_sample_of_a_large_image_is_in_the_set(name: str, eps: float) -> None:
    x = torch.rand(2, 3, 224, 224, generator=generator(0))
    assert ThreatModel(name, eps).contains(ThreatModel(name, eps).sample(x, Noise(0, torch.arange(2))), x).all()


def draws(name: str, pixels: int, n: int = 20_000) -> Tensor:
    """Return perturbations (N, pixels) of the ball of radius 1, far from the pixel range."""
    x = torch.full((n, pixels), 0.5)
    return (ThreatModel(name, 0.25).sample(x, Noise(5, torch.arange(n))) - x) / 0.25


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_the_share_of_samples_within_a_radius_is_the_share_of_volume(name: str, pixels: int) -> None:
    """The volume within radius r is r^d, so the d-th power of the norm is uniform."""
    assert kstest(norm(draws(name, pixels), name).numpy() ** pixels, "uniform").pvalue > 0.001


@pytest.mark.parametrize("name", NORMS)
def test_samples_have_no_preferred_side(name: str) -> None:
    delta = draws(name, 4)
    scale = delta.std(0) / len(delta) ** 0.5
    assert (delta.mean(0).abs() < 4 * scale).all()
    correlation = torch.corrcoef(delta.T) - torch.eye(4)
    assert correlation.abs().max() < 0.03


def test_samples_of_linf_are_uniform_in_each_pixel() -> None:
    for column in draws("Linf", 3).T:
        assert kstest(column.numpy(), "uniform", args=(-1, 2)).pvalue > 0.001


def test_samples_of_l2_are_uniform_in_angle() -> None:
    delta = draws("L2", 2)
    angle = torch.atan2(delta[:, 1], delta[:, 0])
    assert kstest(angle.numpy(), "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 0.001


def test_samples_of_l1_are_uniform_along_the_edges() -> None:
    delta = draws("L1", 2)
    share = delta[:, 0].abs() / delta.abs().sum(1)
    assert kstest(share.numpy(), "uniform").pvalue > 0.001


@pytest.mark.parametrize("name", ["L2", "L1"])
def test_length_and_direction_of_a_sample_are_independent(name: str) -> None:
    delta = draws(name, 3)
    length = norm(delta, name)
    along = delta[:, 0].double() / length
    for feature in (along, along.abs()):
        assert torch.corrcoef(torch.stack([length, feature]))[0, 1].abs() < 0.03


@pytest.mark.parametrize("name", NORMS)
def test_a_sample_scales_with_the_radius_of_its_image(name: str) -> None:
    x, noise = torch.full((3, 4), 0.5), Noise(0, torch.arange(3))
    unit = ThreatModel(name, 0.1).sample(x, noise) - x
    delta = ThreatModel(name, 1.0).sample(x, noise, eps=torch.tensor([0.0, 0.1, 0.2])) - x
    torch.testing.assert_close(delta, unit * torch.tensor([[0.0], [1.0], [2.0]]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NORMS)
def test_a_sample_depends_on_its_image_alone(name: str) -> None:
    x, noise = torch.rand(5, 2, 3, 3, generator=generator(0)), Noise(0, torch.arange(5))
    whole = ThreatModel(name, 0.2).sample(x, noise)
    part = ThreatModel(name, 0.2).sample(x[[4, 1]], noise.select(torch.tensor([4, 1])))
    torch.testing.assert_close(part, whole[[4, 1]], rtol=0, atol=1e-7)


# Steps.


@given(st.sampled_from(NORMS), st.integers(1, 60), st.sampled_from([1e-30, 1e-3, 1.0, 1e30]), SEEDS)
@examples(120)
def test_a_step_has_length_1(name: str, pixels: int, scale: float, seed: int) -> None:
    gradient = scale * torch.randn(3, pixels, generator=generator(seed))
    step = ThreatModel(name, 0.1).ascend(gradient, torch.full((3, pixels), 0.5))
    torch.testing.assert_close(norm(step, name), torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)


@given(st.sampled_from(NORMS), st.integers(1, 60), SEEDS)
@examples(60)
def test_a_step_is_the_steepest_of_its_length(name: str, pixels: int, seed: int) -> None:
    """No step of length 1 climbs more than the dual norm; for L1 this holds while 1 % is a single pixel."""
    gradient = torch.randn(3, pixels, generator=generator(seed))
    step = ThreatModel(name, 0.1).ascend(gradient, torch.full((3, pixels), 0.5))
    torch.testing.assert_close((gradient * step).sum(1), torch.linalg.vector_norm(gradient, ord=DUAL[name], dim=1))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_zero_gradient_gives_a_zero_step(name: str, dtype: torch.dtype) -> None:
    zero = torch.zeros(2, 3, 4, 4, dtype=dtype)
    assert torch.equal(ThreatModel(name, 0.1).ascend(zero, zero + 0.5), zero)


@pytest.mark.parametrize("tiny", [1e-30, 1e-38, 1e-44])
def test_a_tiny_gradient_gives_a_whole_l2_step(tiny: float) -> None:
    """The square of 1e-30 is zero in float32; 1e-44 is a subnormal number."""
    gradient = torch.tensor([[tiny, 0.0, -tiny, 0.0]])
    step = ThreatModel("L2", 0.1).ascend(gradient, torch.full((1, 4), 0.5))
    torch.testing.assert_close(step, torch.tensor([[1.0, 0.0, -1.0, 0.0]]) / 2**0.5)


@pytest.mark.parametrize("name", NORMS)
def test_one_image_of_a_batch_with_a_zero_gradient_does_not_touch_the_others(name: str) -> None:
    gradient = torch.randn(3, 2, 2, 2, generator=generator(0))
    gradient[1] = 0
    step = ThreatModel(name, 0.1).ascend(gradient, torch.full_like(gradient, 0.5))
    assert norm(step, name).tolist() == pytest.approx([1, 0, 1])


def test_an_l1_step_gives_half_to_the_steepest_and_spreads_the_rest_over_one_pixel_in_a_hundred() -> None:
    gradient = torch.arange(1.0, 1001.0)[None] * torch.tensor([1.0, -1.0]).repeat(500)
    step = ThreatModel("L1", 0.1).ascend(gradient, torch.full((1, 1000), 0.5))
    assert step.nonzero()[:, 1].tolist() == list(range(990, 1000))
    torch.testing.assert_close(step[0, 990:], torch.tensor([0.05, -0.05]).repeat(5) - 0.5 * torch.eye(10)[9])


def test_an_l1_step_goes_on_to_the_next_pixel_where_one_meets_its_limit() -> None:
    """A step of 1 from the image 1/2 has room for half of it in each pixel: two of them spend it."""
    gradient = torch.tensor([[1.0, -4.0, 3.0, -2.0]])
    step = ThreatModel("L1", 9.0).ascend(gradient, torch.full((1, 4), 0.5), 1.0)
    assert step.tolist() == [[0, -0.5, 0.5, 0]]


@given(st.integers(1, 400), st.floats(0.01, 50), SEEDS)
@examples(60)
def test_an_l1_step_spends_its_length_and_rises_at_least_four_fifths_as_much_as_the_steepest(
    pixels: int, length: float, seed: int
) -> None:
    x = torch.rand(3, pixels, generator=generator(seed)).round(decimals=1)
    gradient = torch.randn(3, pixels, generator=generator(seed + 1)) ** 5  # heavy tails
    step = length * ThreatModel("L1", 1.0).ascend(gradient, x, length)
    assert ((x + step >= -1e-5) & (x + step <= 1 + 1e-5)).all()
    room = torch.where(gradient > 0, 1 - x, x)
    spent = room.sum(1).clamp_max(length)
    torch.testing.assert_close(step.abs().sum(1), spent, rtol=1e-4, atol=1e-5)
    size, order = gradient.abs().sort(1, descending=True)
    filled = room.gather(1, order).cumsum(1).clamp_max(length).diff(dim=1, prepend=torch.zeros(3, 1))
    assert ((gradient * step).sum(1) >= 0.8 * (filled * size).sum(1) * (1 - 1e-4)).all()


def test_an_l1_step_leaves_out_pixels_that_cannot_move() -> None:
    gradient = torch.tensor([[5.0, -4.0, 3.0, -2.0]])
    x_adv = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    step = ThreatModel("L1", 0.1).ascend(gradient, x_adv)
    assert step.tolist() == [[0, 0, 1, 0]]


def test_an_l1_step_is_zero_where_no_pixel_can_move() -> None:
    step = ThreatModel("L1", 0.1).ascend(torch.tensor([[5.0, -4.0]]), torch.tensor([[1.0, 0.0]]))
    assert step.tolist() == [[0, 0]]


# Membership.


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 77])
def test_eight_bit_pixels_moved_by_whole_steps_are_inside(sign: int, steps: int) -> None:
    """In float32, |(x + 8/255) − x| exceeds 8/255 by up to 6e-8 for some x: comparing exactly is a known failure."""
    pixels = torch.arange(256.0)
    pixels = pixels[(pixels + sign * steps >= 0) & (pixels + sign * steps <= 255)]
    x = (pixels / 255)[:, None]
    by_sum, by_grid = x + sign * torch.tensor(steps / 255), ((pixels + sign * steps) / 255)[:, None]
    threat = ThreatModel("Linf", steps / 255)
    assert threat.contains(by_sum.clamp(0, 1), x).all()
    assert threat.contains(by_grid, x).all()
    assert ((by_grid - x).abs() > steps / 255).any() or steps == 77


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(("factor", "inside"), [(0.999, True), (1.0, True), (1.001, False), (2.0, False)])
def test_a_thousandth_beyond_the_radius_is_outside(name: str, factor: float, inside: bool) -> None:
    x = torch.full((5, 3, 2, 2), 0.5)
    direction = torch.randn(x.shape, generator=generator(0))
    delta = direction * (factor * 0.1 / norm(direction, name)).float().view(-1, 1, 1, 1)
    assert ThreatModel(name, 0.1).contains(x + delta, x).tolist() == [inside] * 5


@pytest.mark.parametrize("pixel", [-1e-9, 1 + 2e-7, -0.01, 1.01, float("nan"), float("inf")])
def test_a_pixel_out_of_range_is_outside(pixel: float) -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[1, 0, 1, 1] = pixel
    assert ThreatModel("L1", 2.0).contains(x_adv, x).tolist() == [True, False]


@pytest.mark.parametrize(("name", "eps"), [("L1", 12.0), ("L1", 600.0), ("L2", 3.0)])
def test_a_large_image_is_measured_exactly(name: str, eps: float) -> None:
    """The float32 sum of 150,528 equal pixels is wrong by up to a thousandth."""
    x = torch.full((1, 3, 224, 224), 0.5)
    ones = torch.ones(x.shape, dtype=torch.float64)
    x_adv = (x + ones * 0.99 * eps / norm(ones, name)).float()
    expected = norm(x_adv.double() - x.double(), name)
    torch.testing.assert_close(ThreatModel(name, eps).distance(x_adv, x).double(), expected, rtol=1e-6, atol=0)
    assert ThreatModel(name, eps).contains(x_adv, x).all()
    assert not ThreatModel(name, expected.item() * 0.99999).contains(x_adv, x).any()


def test_the_limits_of_the_pixel_range_are_inside() -> None:
    x = torch.tensor([[0.0, 1.0, 0.5]])
    assert ThreatModel("Linf", 0).contains(x, x).all()


@pytest.mark.parametrize("name", NORMS)
def test_a_distance_is_the_norm_of_the_difference(name: str) -> None:
    x, x_adv = torch.rand(2, 4, 3, 2, 2, generator=generator(0)).unbind()
    order = {"Linf": np.inf, "L2": 2, "L1": 1}[name]
    expected = [np.linalg.norm(row, order) for row in (x_adv - x).flatten(1).numpy()]
    assert ThreatModel(name, 0.1).distance(x_adv, x).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", NORMS)
def test_no_image_is_a_batch_too(name: str) -> None:
    threat, none = ThreatModel(name, 0.1), torch.rand(0, 3, 4, 4)
    noise = Noise(0, torch.arange(0))
    for result in (threat.project(none, none), threat.sample(none, noise), threat.ascend(none, none)):
        assert result.shape == none.shape
    assert threat.contains(none, none).shape == threat.distance(none, none).shape == (0,)


# How a radius and a norm are written.


@pytest.mark.parametrize(
    ("written", "eps"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.25/255", 0.25 / 255),
        (8 / 255, 8 / 255),
        ("0.3", 0.3),
        ("3e-2", 0.03),
        (0, 0.0),
        (1, 1.0),
    ],
)
def test_a_radius_is_a_number_or_a_fraction(written: float | str, eps: float) -> None:
    assert parse_eps(written) == eps


@pytest.mark.parametrize(
    "written",
    [
        "",
        "8/",
        "eight",
        "8/0",
        "8/2/255",
        "-1",
        -0.1,
        "nan",
        float("nan"),
        float("inf"),
        "1e400",
        10**400,
        None,
        [8, 255],
    ],
)
def test_anything_else_is_no_radius(written: object) -> None:
    with pytest.raises(InputError, match="radius"):
        parse_eps(written)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Linf", "Linf"),
        ("linf", "Linf"),
        ("inf", "Linf"),
        (float("inf"), "Linf"),
        (2, "L2"),
        ("2", "L2"),
        ("l1", "L1"),
    ],
)
def test_norms_have_aliases(written: str | float, name: str) -> None:
    assert parse_norm(written) == name


@pytest.mark.parametrize("written", ["L0", "3", "", "L", 0])
def test_another_norm_is_refused(written: str | int) -> None:
    with pytest.raises(InputError, match="use Linf, L2 or L1"):
        parse_norm(written)


def test_aliases_and_fractions_build_the_same_threat() -> None:
    assert ThreatModel("inf", "8/255") == EIGHT  # type: ignore[arg-type]
    assert hash(ThreatModel("inf", "8/255")) == hash(EIGHT)  # type: ignore[arg-type]


@given(threats(high=1.0))
@examples(60)
def test_the_repr_of_a_threat_builds_it_again(threat: ThreatModel) -> None:
    assert eval(repr(threat)) == threat


def test_a_threat_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EIGHT.eps = 1.0  # type: ignore[misc]


def test_a_radius_in_pixel_steps_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match="write 8/255"):
        ThreatModel("Linf", 8)


def test_an_l2_radius_may_be_above_1() -> None:
    assert ThreatModel("L2", 3).eps == 3


@pytest.mark.parametrize(
    ("threat", "text"),
    [
        (EIGHT, "Linf 8/255"),
        (ThreatModel("Linf", 0.5 / 255), "Linf 0.5/255"),
        (ThreatModel("Linf", 0.031), "Linf 0.031"),
        (ThreatModel("Linf", 0.3), "Linf 0.3"),
        (ThreatModel("L2", 0.5), "L2 0.5"),
        (ThreatModel("L2", 8 / 255), "L2 8/255"),
        (ThreatModel("Linf", 0), "Linf 0"),
    ],
)
def test_a_threat_is_printed_as_the_field_writes_it(threat: ThreatModel, text: str) -> None:
    assert str(threat) == text


@given(st.integers(1, 255))
@examples(60)
def test_a_printed_fraction_is_read_as_the_same_radius(steps: int) -> None:
    threat = ThreatModel("Linf", f"{steps}/255")  # type: ignore[arg-type]
    assert threat.eps_text == (f"{steps / 255:g}" if steps in (51, 102, 153, 204, 255) else f"{steps}/255")
    assert parse_eps(threat.eps_text) == threat.eps


@given(st.floats(0, 1), st.sampled_from(["Linf", "L2", "L1"]))
@examples(60)
@example(128 / 255, "L2")
@example(1 / 3, "Linf")
def test_a_printed_radius_is_read_as_the_same_radius(eps: float, norm: Norm) -> None:
    assert parse_eps(ThreatModel(norm, eps).eps_text) == pytest.approx(eps, rel=0, abs=1e-12)
