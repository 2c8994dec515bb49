"""FAB: exact projections, closed-form minima, the contract of an attack, and parity with torchattacks."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize_scalar
from tests.models_for_tests import network_by_others
from torch import Tensor, nn

import classwise
from classwise.attacks import FAB, build, fab
from classwise.attacks.fab import crossing
from classwise.data import Images, load
from classwise.errors import InputError
from classwise.evaluation.run import evaluate
from classwise.noise import Noise
from classwise.threat import ThreatModel

NORMS = ("Linf", "L2", "L1")
ORDER = {"Linf": torch.inf, "L2": 2, "L1": 1}
DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
SHAPE = (1, 4, 5)
PIXELS = 20


# --- Models whose nearest misclassified image is known ----------------------------------------------------------------


class Affine(nn.Module):
    """Logits W·x + b, counting the forward passes of images and the shares that need gradients."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return x.flatten(1) @ self.weight.T + self.bias

    def distances(self, x: Tensor, norm: str) -> Tensor:
        """Return the distance of each image (N,) to the nearest other class, where the pixel range does not bind."""
        with torch.no_grad():
            logits = self(x)
            y = logits.argmax(1)
            difference = self.weight[:, None] - self.weight[None]
            length = torch.linalg.vector_norm(difference, ord=DUAL[norm], dim=2)[:, y].T
            away = (logits.gather(1, y[:, None]) - logits) / length
        return away.scatter(1, y[:, None], torch.inf).amin(1)


class Wedges(nn.Module):
    """Class 0 wins where no pair of affine functions is positive: class j > 0 scores max(a_j·x, a'_j·x) + bias."""

    def __init__(self, num_classes: int, norm: str, seed: int = 0) -> None:
        super().__init__()
        weight = torch.randn(num_classes - 1, 2, PIXELS, generator=torch.Generator().manual_seed(seed))
        # Slopes of one length, so that the larger of a pair is the nearer one: what a local method can see.
        self.weight = weight / torch.linalg.vector_norm(weight, ord=DUAL[norm], dim=2, keepdim=True)

    def heights(self, x: Tensor) -> Tensor:
        return torch.einsum("nd,kpd->nkp", x.flatten(1) - 0.5, self.weight) - 0.1

    def forward(self, x: Tensor) -> Tensor:
        rivals = self.heights(x).amax(2)
        return torch.cat([torch.zeros_like(rivals[:, :1]), rivals], 1)


def affine(num_classes: int, seed: int = 0) -> Affine:
    weight = torch.randn(num_classes, PIXELS, generator=torch.Generator().manual_seed(seed))
    return Affine(weight, -0.5 * weight.sum(1))


def pair(num_classes: int) -> Affine:
    """Return a model where only classes 0 and 1 ever win, as mirror images: the others are 50 logits behind."""
    half = affine(1).weight.detach()[0]
    weight, bias = torch.zeros(num_classes, PIXELS), torch.full((num_classes,), -50.0)
    weight[0], weight[1], bias[0], bias[1] = half, -half, -0.5 * half.sum(), 0.5 * half.sum()
    return Affine(weight, bias)


def grey(n: int, spread: float = 0.03, seed: int = 1) -> Tensor:
    """Return images near 1/2, so that no nearest point is outside the pixel range."""
    return 0.5 + spread * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Smooth(nn.Module):
    """A random tanh network in float64: rounding then does not depend on the size of the batch."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(PIXELS, 16, generator=generator, dtype=torch.float64))
        self.outer = nn.Parameter(torch.randn(16, num_classes, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (((x.flatten(1).double() - 0.5) @ self.inner).tanh() @ self.outer).float()


def smooth(num_classes: int, n: int = 12) -> tuple[nn.Module, Tensor, Tensor, Noise]:
    model, x = Smooth(num_classes), torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model, x, model(x).argmax(1), Noise(0, torch.arange(n))


# --- Projections ------------------------------------------------------------------------------------------------------


@st.composite
def hyperplanes(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Draw points, heights and gradients in float64; some pixels on the limits, some slopes zero or alike."""
    n, d = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    x = (2 * torch.rand(n, d, generator=generator, dtype=torch.float64) - 0.5).clamp(0, 1)
    gradient = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        gradient = gradient.round()
    gradient = gradient * draw(st.sampled_from([1e-20, 1.0, 1e6]))
    reach = (gradient.abs() * torch.rand(n, d, generator=generator, dtype=torch.float64)).sum(1)
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]))
    return x, share * reach * torch.randn(n, generator=generator, dtype=torch.float64).sign(), gradient


def parts(x: Tensor, height: Tensor, gradient: Tensor, norm: Any) -> list[tuple[Any, ...]]:
    """Return (x, height, gradient, step, room) an image, in NumPy, the linear function scaled to a slope of 1."""
    scale = gradient.abs().amax(1).clamp_min(1e-300)
    step = crossing(x, height, gradient, norm)
    height, gradient = height / scale, gradient / scale[:, None]
    down = -height.sign()[:, None] * gradient > 0
    room = torch.where(gradient != 0, torch.where(down, 1 - x, x), 0)
    return [tuple(part.numpy() for part in row) for row in zip(x, height, gradient, step, room, strict=True)]


@given(hyperplanes(), st.sampled_from(NORMS))
@settings(deadline=None, max_examples=150)
def test_a_projection_stays_in_the_box_and_reaches_the_plane_or_the_nearest_corner(
    plane: tuple[Tensor, Tensor, Tensor], norm: str
) -> None:
    for x, height, gradient, step, room in parts(*plane, norm):
        assert (x + step >= -1e-12).all()
        assert (x + step <= 1 + 1e-12).all()
        assert (step[gradient == 0] == 0).all()
        short = max(0.0, abs(height) - np.abs(gradient) @ room)  # what even the best corner leaves
        assert abs(height + gradient @ step) == pytest.approx(short, abs=1e-9)


@given(hyperplanes(), st.sampled_from(["Linf", "L1"]))
@settings(deadline=None, max_examples=100)
def test_no_linear_program_finds_a_shorter_step_in_linf_or_l1(plane: tuple[Tensor, Tensor, Tensor], norm: str) -> None:
    for x, height, gradient, step, room in parts(*plane, norm):
        d = len(x)
        if abs(height) > np.abs(gradient) @ room - 1e-9:
            continue
        # Variables: the step, then bounds on the sizes of its coordinates (L1), or of all of them at once (Linf).
        extra = d if norm == "L1" else 1
        size = -np.eye(d) if norm == "L1" else -np.ones((d, 1))
        above = np.block([[np.eye(d), size], [-np.eye(d), size]])
        solved = linprog(
            np.r_[np.zeros(d), np.ones(extra)],
            A_ub=above,
            b_ub=np.zeros(2 * d),
            A_eq=np.r_[gradient, np.zeros(extra)][None],
            b_eq=[-height],
            bounds=[*zip(-x, 1 - x, strict=True), *[(0, None)] * extra],
        )
        assert solved.status == 0
        assert np.linalg.norm(step, ORDER[norm]) == pytest.approx(solved.fun, abs=1e-7)


@given(hyperplanes())
@settings(deadline=None, max_examples=60)
def test_the_dual_of_the_quadratic_program_proves_the_l2_step_shortest(plane: tuple[Tensor, Tensor, Tensor]) -> None:
    for x, height, gradient, step, room in parts(*plane, "L2"):
        if abs(height) > np.abs(gradient) @ room - 1e-9:
            continue

        def dual(price: float, x: Any = x, height: Any = height, gradient: Any = gradient) -> float:
            best = np.clip(-price * gradient, -x, 1 - x)  # minimises |d|²/2 + price·(height + <gradient, d>) in the box
            return float(0.5 * best @ best + price * (height + gradient @ best))

        # Any price bounds |d|²/2 from below for every step that reaches the plane; the best of them meets it.
        moved = (gradient != 0) & (np.abs(step) < room - 1e-9) & (step != 0)
        if moved.any():
            price = float(np.median(-step[moved] / gradient[moved]))
        else:
            price = float(minimize_scalar(lambda p: -dual(p), bounds=(-1e3, 1e3), method="bounded").x)
        assert 0.5 * step @ step == pytest.approx(dual(price), rel=1e-6, abs=1e-6)


def test_float32_projections_of_large_images_reach_the_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.rand(3, 3, 64, 64, generator=generator), torch.randn(3, 3, 64, 64, generator=generator)
    height = torch.tensor([0.5, -300.0, 2000.0])
    for norm in NORMS:
        moved = height + (gradient * crossing(x, height, gradient, norm)).flatten(1).sum(1)
        assert (moved.abs() < 1e-5 * height.abs() + 1e-4).all(), norm


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_projection_ends_where_rooms_equal_their_level_up_to_rounding(
    norm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Newton's level fell by a bit, opened a room that had been full, and so on for ever: `fast` hung in an audit.
    turns = iter(range(500))

    def counted(*args: Any) -> Tensor:
        assert next(turns, None) is not None, "the projection goes on and on"
        return as_numbers(*args)

    as_numbers = fab._as_numbers
    monkeypatch.setattr(fab, "_as_numbers", counted)
    drawn = torch.Generator().manual_seed(0)
    weight, level = torch.rand(64, 256, generator=drawn), torch.rand(64, 1, generator=drawn)
    weight /= weight.amax(1, keepdim=True)
    level = level if norm == "Linf" else level * weight
    x = level * (1 + 2e-7 * torch.randint(-2, 3, (64, 256), generator=drawn))
    height = (weight * torch.minimum(x, level)).sum(1)
    step = crossing(x, height, weight, norm)
    torch.testing.assert_close((weight * step).sum(1), -height, rtol=1e-5, atol=0)


def test_a_flat_function_moves_nothing_and_an_infinite_height_goes_to_the_corner() -> None:
    x = torch.full((2, 3), 0.25)
    for norm in NORMS:
        flat = crossing(x, torch.tensor([1.0, -1.0]), torch.zeros(2, 3), norm)
        assert (flat == 0).all()
        corner = crossing(x, torch.tensor([torch.inf, -torch.inf]), torch.tensor([[1.0, -2.0, 0.0]] * 2), norm)
        assert torch.equal(x + corner, torch.tensor([[0.0, 1.0, 0.25], [1.0, 0.0, 0.25]])), norm


# --- Closed-form minima -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targets", [0, 99])
@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 100])
@pytest.mark.parametrize("make", [affine, pair])
def test_the_nearest_image_on_an_affine_model_is_found(make: Any, num_classes: int, targets: int, norm: Any) -> None:
    model, x = make(num_classes), grey(8)
    y = model(x).argmax(1)
    attack = FAB(ThreatModel(norm, 0.1), steps=4, targets=targets)
    x_adv, distance = attack.minimise(model, x, y, noise=Noise(0, torch.arange(8)))
    known = model.distances(x, norm)
    assert (model(x_adv).argmax(1) != y).all()
    assert (distance <= 1.01 * known + 1e-6).all(), (distance / known).max()
    assert (distance >= known - 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targets", [0, 9])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_nearest_of_two_pieces_of_every_boundary_is_found(num_classes: int, targets: int, norm: Any) -> None:
    model, x = Wedges(num_classes, norm), grey(8, spread=0.01)
    known = -model.heights(x).flatten(1).amax(1)
    assert (known > 0).all()
    attack = FAB(ThreatModel(norm, 0.1), steps=12, targets=targets)
    y = torch.zeros(8, dtype=torch.int64)
    _, distance = attack.minimise(model, x, y, noise=Noise(0, torch.arange(8)))
    assert (distance <= 1.01 * known + 1e-6).all(), (distance / known).max()
    assert (distance >= known - 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("targets", [0, 9])
def test_an_attack_succeeds_exactly_where_the_known_distance_is_below_eps(targets: int, batch: int, norm: Any) -> None:
    model, x = affine(5), grey(8)
    y = model(x).argmax(1)
    known = model.distances(x, norm)
    middle = known.sort().values[3].item()
    for eps in (0.985 * middle, 1.015 * middle):
        attack = FAB(ThreatModel(norm, eps), steps=5, targets=targets)
        parts = [torch.arange(8)[i : i + batch] for i in range(0, 8, batch)]
        x_adv = torch.cat([attack(model, x[part], y[part], noise=Noise(0, part)) for part in parts])
        assert attack.threat.contains(x_adv, x).all()
        assert torch.equal(model(x_adv).argmax(1) != y, known < eps)
        assert torch.equal(x_adv[known > eps], x[known > eps])


def test_the_final_search_only_shortens_and_sharpens_a_coarse_result() -> None:
    model, x, y, noise = smooth(5)
    coarse = FAB(ThreatModel("L2", 0.1), steps=2, final_search=0)
    _, before = coarse.minimise(model, x, y, noise=noise)
    _, after = replace(coarse, final_search=3).minimise(model, x, y, noise=noise)
    assert (after <= before).all()
    assert (after < 0.999 * before).any()


def test_more_steps_targets_and_restarts_never_lengthen() -> None:
    model, x, y, noise = smooth(5)
    attack = FAB(ThreatModel("Linf", 0.05), steps=5, targets=1, final_search=0)
    distances = [
        replace(attack, **more).minimise(model, x, y, noise=noise)[1]
        for more in ({}, {"targets": 3}, {"targets": 3, "restarts": 3})
    ]
    longer = replace(attack, steps=15).minimise(model, x, y, noise=noise)[1]
    assert (longer <= distances[0]).all()
    assert all((b <= a).all() for a, b in itertools.pairwise(distances))
    assert (distances[2] < distances[0]).any()


# --- The contract of an attack ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 100])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targets", [0, 9])
def test_candidates_are_in_the_threat_set_and_fool_or_are_clean(targets: int, norm: Any, num_classes: int) -> None:
    model, x, y, noise = smooth(num_classes)
    eps = {"Linf": 0.05, "L2": 0.2, "L1": 0.6}[norm]
    x_adv = FAB(ThreatModel(norm, eps), steps=4, targets=targets)(model, x, y, noise=noise)
    fooled = model(x_adv).argmax(1) != y
    assert ThreatModel(norm, eps).contains(x_adv, x).all()
    assert torch.equal(x_adv[~fooled], x[~fooled])
    assert fooled.any()


@pytest.mark.parametrize("targets", [0, 3])
def test_a_result_does_not_depend_on_the_batch_or_its_order(targets: int) -> None:
    model, x, y, noise = smooth(4)
    attack = FAB(ThreatModel("Linf", 0.03), steps=5, restarts=2, targets=targets)
    whole = attack(model, x, y, noise=noise)
    for some in (torch.tensor([4]), torch.tensor([7, 2, 9]), torch.arange(12).flip(0)):
        part = attack(model, x[some], y[some], noise=noise.select(some))
        assert torch.allclose(part, whole[some], atol=1e-6)


def test_restarts_draw_from_the_noise_alone() -> None:
    model, x, y, noise = smooth(4)
    attack = FAB(ThreatModel("Linf", 0.5), steps=1, restarts=3)
    first = attack.minimise(model, x, y, noise=noise)[0]
    torch.manual_seed(5)
    assert torch.equal(first, attack.minimise(model, x, y, noise=noise)[0])
    assert not torch.equal(first, attack.minimise(model, x, y, noise=replace(noise, seed=1))[0])


@pytest.mark.parametrize("targets", [0, 3])
def test_leaving_early_changes_no_verdict(targets: int) -> None:
    model, x, y, noise = smooth(4)
    attack = FAB(ThreatModel("Linf", 0.03), steps=8, targets=targets)
    fooled = model(attack(model, x, y, noise=noise)).argmax(1) != y
    nearest, distance = attack.minimise(model, x, y, noise=noise)
    assert torch.equal(fooled, attack.threat.contains(nearest, x) & distance.isfinite())
    assert fooled.any()
    assert not fooled.all()


def test_a_radius_of_zero_returns_the_clean_images() -> None:
    model, x, y, noise = smooth(3)
    for norm in NORMS:
        assert torch.equal(FAB(ThreatModel(norm, 0), steps=3, restarts=2)(model, x, y, noise=noise), x)


def test_an_image_that_is_wrong_already_has_distance_zero_and_costs_one_pass() -> None:
    model, x = affine(3), grey(4)
    y = (model(x).argmax(1) + 1) % 3
    model.forwards = 0
    x_adv, distance = FAB(ThreatModel("L2", 0.1)).minimise(model, x, y, noise=Noise(0, torch.arange(4)))
    assert torch.equal(x_adv, x)
    assert (distance == 0).all()
    assert model.forwards == 1


@pytest.mark.parametrize("targets", [0, 4])
def test_every_step_takes_one_forward_pass(targets: int) -> None:
    model, x = affine(5), grey(4)
    y = model(x).argmax(1)
    model.forwards = 0
    FAB(ThreatModel("L2", 1e-9), steps=7, targets=targets, final_search=0)(model, x, y, noise=Noise(0, torch.arange(4)))
    # Steps and the check of the last iterate for each target, and one pass to choose the targets.
    assert model.forwards == (4 * 8 + 1 if targets else 8)


def test_the_mode_and_statistics_of_the_model_are_put_back() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(PIXELS), nn.Dropout(0.5), nn.Linear(PIXELS, 3))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = grey(6)
    with torch.no_grad():
        FAB(ThreatModel("Linf", 0.1), steps=3)(model, x, torch.zeros(6).long(), noise=Noise(0, torch.arange(6)))
    assert [module.training for module in model] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Masked(nn.Module):
    """Hides the gradient of a model: it is zero, absent, without a graph, not a number or infinite."""

    def __init__(self, model: nn.Module, how: str) -> None:
        super().__init__()
        self.model, self.how = model, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "frozen":
            with torch.no_grad():
                return self.model(x)
        if self.how in ("nan", "inf"):
            odd = (0 * x if self.how == "nan" else x - x.detach()).sqrt()
            return self.model(x) + odd.flatten(1).sum(1, keepdim=True) * torch.arange(4)
        return self.model(x.round() if self.how == "rounded" else x.detach())


@pytest.mark.parametrize("how", ["rounded", "cut", "frozen", "nan", "inf"])
@pytest.mark.parametrize("targets", [0, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_a_masked_model_gets_valid_candidates(norm: Any, targets: int, how: str) -> None:
    inner, x, _, noise = smooth(4)
    model = Masked(inner, how)
    y = model(x).argmax(1)
    attack = FAB(ThreatModel(norm, 0.1), steps=3, restarts=2, targets=targets)
    x_adv = attack(model, x, y, noise=noise)
    assert attack.threat.contains(x_adv, x).all()


def test_logits_that_are_not_finite_count_as_found() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x.flatten(1)[:, :1] > 0.6, torch.nan, torch.tensor([[1.0, 0.0]]) - x.flatten(1)[:, :2])

    x, y = torch.full((1, *SHAPE), 0.7), torch.zeros(1, dtype=torch.int64)
    _, distance = FAB(ThreatModel("Linf", 0.1), steps=2).minimise(Broken(), x, y, noise=Noise(0, torch.arange(1)))
    assert distance.item() == 0


def test_inference_mode_attacks_all_the_same() -> None:
    model, x, y, noise = smooth(3)
    attack = FAB(ThreatModel("Linf", 0.1), steps=3)
    with torch.inference_mode():
        inside = attack(model, x.clone(), y, noise=noise)
    assert torch.equal(inside, attack(model, x, y, noise=noise))


def test_settings_are_a_record_and_names_build_them() -> None:
    threat = ThreatModel("Linf", 8 / 255)
    assert build("fab,fab-t,fab-t(targets=3, steps=5)", threat) == {
        "fab": FAB(threat),
        "fab-t": FAB(threat, targets=9),
        "fab-t(targets=3, steps=5)": FAB(threat, targets=3, steps=5),
    }
    attack = FAB(threat, restarts=2, beta=0.8)
    assert eval(repr(attack), {"FAB": classwise.FAB, "ThreatModel": ThreatModel}) == attack


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"restarts": 0},
        {"targets": -1},
        {"final_search": -1},
        {"alpha_max": 1.1},
        {"beta": -0.1},
        {"beta": 1.1},
        {"eta": 0.9},
        {"eta": float("inf")},
        {"eta": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="FAB needs"):
        FAB(ThreatModel("Linf", 0.1), **wrong)


def test_the_evaluator_rejects_no_candidate_and_counts_the_known_distances() -> None:
    model, x = affine(4), (grey(40) * 255).round() / 255
    data = Images.from_arrays(x.numpy(), model(x).argmax(1).numpy())
    known = model.distances(data.fetch(torch.arange(40)), "Linf")
    eps = known.sort().values[19:21].mean().item()
    result = evaluate(model, data, build("fab(steps=6),fab-t(steps=6)", ThreatModel("Linf", eps)), batch_size=16)
    assert not [flag for flag in result.document["flags"] if "reject" in flag["flag"]]
    for view in ("fab(steps=6)", "fab-t(steps=6)"):
        assert int(result.outcomes.counts(view).sum()) == 20


# --- Parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.skipif(
    not {"CLASSWISE_DATA", "CLASSWISE_SHARED"} <= set(os.environ),
    reason="CLASSWISE_DATA and CLASSWISE_SHARED do not name the real data and networks",
)
@pytest.mark.parametrize(
    ("name", "data", "eps", "steps", "targets", "nearer"),
    [
        ("cifar_resnet2b_adv", "cifar10", 4 / 255, 15, 0, 1),
        ("cifar_resnet2b_adv", "cifar10", 4 / 255, 15, 3, 1),
        # At 40 steps neither attack is done here. With 3 targets ours broke 2 images more when this
        # bound was written (183 robust against 185), which a verified candidate proves, so that side has a bound of 2.
        pytest.param("mnist_smallcnn_trades", "mnist", 0.3, 100, 0, 1, marks=pytest.mark.slow),
        pytest.param("mnist_smallcnn_trades", "mnist", 0.3, 100, 3, 2, marks=pytest.mark.slow),
    ],
)
def test_robust_images_of_real_networks_are_those_of_torchattacks(
    name: str, data: str, eps: float, steps: int, targets: int, nearer: int
) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    model, images = network_by_others(name), load(data, os.environ["CLASSWISE_DATA"])
    x, y = images.fetch(torch.arange(200)), images.y[:200]
    threat = ThreatModel("Linf", eps)
    peer = torchattacks.FAB(model, norm="Linf", eps=eps, steps=steps, multi_targeted=targets > 0, n_classes=10)
    peer.n_target_classes = targets or 9  # it goes through the most likely ones in this order

    def robust(x_adv: Tensor) -> Tensor:
        with torch.no_grad():
            return (model(x).argmax(1) == y) & ((model(x_adv).argmax(1) == y) | ~threat.contains(x_adv, x))

    ours = robust(FAB(threat, steps=steps, targets=targets)(model, x, y, noise=Noise(0, torch.arange(200))))
    theirs = robust(peer(x, y))
    assert int((ours & ~theirs).sum()) <= 1
    assert int((theirs & ~ours).sum()) <= nearer
