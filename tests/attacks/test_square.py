"""Square Attack: its schedule and windows by hand, linear models with known optima, and parity on real networks."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from typing import Any, NamedTuple

import pytest
import torch
from tests.models_for_tests import network_by_others, trained_on_digits
from torch import Tensor, nn

from classwise.attacks import PGD, Square, build, predict
from classwise.attacks.square import _corner, _stripes, _tiles, eta, side, window
from classwise.errors import InputError
from classwise.losses import margin
from classwise.noise import Noise
from classwise.threat import ThreatModel

RADIUS = {"Linf": 0.08, "L2": 0.6, "L1": 1.5}
norms = pytest.mark.parametrize("norm", sorted(RADIUS))


class Affine(nn.Module):
    """Random logits W·(x − 1/2), in float64 so that the size of a batch changes no bit that counts."""

    def __init__(self, num_classes: int, shape: tuple[int, int, int], seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = scale * torch.randn(num_classes, math.prod(shape), generator=generator)
        self.weight = nn.Parameter(weight.double())

    def forward(self, x: Tensor) -> Tensor:
        return ((x.flatten(1).double() - 0.5) @ self.weight.T).float()


class Unbeatable(nn.Module):
    """Ranks images by a linear score, and predicts class 0 whatever they are."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.score = Affine(1, shape)

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = self.score(x)
        return torch.cat([200 - score, torch.zeros_like(score)], 1)


class Watched(nn.Module):
    """Remembers how many images each pass had, and that none was asked for a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.batches = model, []

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not self.training
        self.batches.append(len(x))
        logits: Tensor = self.model(x)
        return logits


def attack_of(norm: str, eps: float | None = None, **settings: Any) -> Square:
    return Square(ThreatModel(norm, RADIUS[norm] if eps is None else eps), **{"queries": 60, **settings})  # type: ignore[arg-type]


def noise(n: int, seed: int = 0) -> Noise:
    return Noise(seed, torch.arange(n))


def batch(n: int = 10, num_classes: int = 4, shape: tuple[int, int, int] = (2, 8, 8)) -> tuple[Affine, Tensor, Tensor]:
    """Return a linear model and images, black and white pixels among them, that the model itself labels."""
    model = Affine(num_classes, shape)
    x = (1.4 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(0)) - 0.2).clamp(0, 1)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(model(x_adv), y) != y


# The contract.


@norms
@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 100])
def test_candidates_are_in_the_threat_set_for_any_number_of_classes(norm: str, num_classes: int) -> None:
    model, x, y = batch(8, num_classes)
    attack = attack_of(norm)
    x_adv = attack(model, x, y, noise=noise(8))
    assert attack.threat.contains(x_adv, x).all()
    assert (attack.threat.distance(x_adv, x) > 0.2 * RADIUS[norm]).all()


@norms
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (3, 1, 7), (1, 4, 9), (3, 11, 6), (5, 12, 12)])
def test_images_of_any_shape_can_be_attacked(norm: str, shape: tuple[int, int, int]) -> None:
    model, x, y = batch(3, shape=shape)
    attack = attack_of(norm)
    assert attack.threat.contains(attack(model, x, y, noise=noise(3)), x).all()


@pytest.mark.parametrize(("norm", "eps"), [("L2", 3.0), ("L1", 12.0), ("Linf", 0.03)])
def test_rounding_does_not_lead_out_of_the_set_in_many_queries_on_large_images(norm: str, eps: float) -> None:
    model = nn.Sequential(nn.AvgPool2d(8), Unbeatable((3, 12, 12)))
    x, y = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)), torch.zeros(2, dtype=torch.int64)
    x_adv = attack_of(norm, eps, queries=100)(model, x, y, noise=noise(2))
    assert ThreatModel(norm, eps).contains(x_adv, x).all()  # type: ignore[arg-type]
    assert (ThreatModel(norm, eps).distance(x_adv, x) > 0.7 * eps).all()  # type: ignore[arg-type]


@norms
def test_a_radius_of_zero_changes_nothing_and_asks_nothing(norm: str) -> None:
    model, x, y = batch()
    watched = Watched(model)
    assert torch.equal(attack_of(norm, eps=0.0)(watched, x, y, noise=noise(10)), x)
    assert watched.batches == []


@norms
def test_the_same_noise_gives_the_same_candidates_and_other_noise_others(norm: str) -> None:
    model, x, y = batch()
    first, second, other = (attack_of(norm)(model, x, y, noise=noise(10, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@norms
def test_neither_batch_nor_order_matters(norm: str) -> None:
    model, x, y = batch()
    attack = attack_of(norm, queries=40, restarts=2)
    whole = attack(model, x, y, noise=noise(10))
    assert 0 < fooled(model, whole, y).sum() < 10
    for positions in map(torch.tensor, ([0], [1, 2, 3], [7, 2, 5, 0], [9, 3, 1, 6, 4, 8])):
        part = attack(model, x[positions], y[positions], noise=noise(10).select(positions))
        torch.testing.assert_close(part, whole[positions], rtol=0, atol=1e-6)


@norms
def test_modes_random_state_and_arguments_are_left_as_they_were(norm: str) -> None:
    model, x, y = batch(4)
    network = nn.Sequential(nn.Dropout(0.5), model).train()
    network[0].eval()
    before = torch.get_rng_state(), x.clone(), y.clone()
    attack_of(norm)(network, x, y, noise=noise(4))
    assert (network.training, network[0].training, model.training) == (True, False, True)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(x, before[1])
    assert torch.equal(y, before[2])


@norms
def test_no_gradient_is_computed_and_the_model_is_in_eval_mode(norm: str) -> None:
    model, x, y = batch()
    x_adv = attack_of(norm)(Watched(model), x.requires_grad_(True), y, noise=noise(10))
    assert not x_adv.requires_grad


def test_no_image_is_a_batch_too() -> None:
    model, x, y = batch(3)
    assert attack_of("L2")(model, x[:0], y[:0], noise=noise(0)).shape == (0, 2, 8, 8)


def test_logits_that_are_not_finite_fool() -> None:
    model, x, y = batch(3)
    broken = Watched(lambda x: model(x) * torch.tensor([math.nan, 1, 1, 1]))  # type: ignore[arg-type]
    attack_of("Linf")(broken, x, y, noise=noise(3))
    assert broken.batches == [3]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"queries": 0}, "queries"),
        ({"queries": 1.5}, "whole"),
        ({"restarts": 0}, "restarts"),
        ({"p_init": 0}, "p_init"),
        ({"p_init": 1.1}, "p_init"),
        ({"loss": "marging"}, "margin"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        attack_of("Linf", **settings)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(3, 5\)"):
        attack_of("Linf")(nn.Identity(), torch.rand(3, 5), torch.zeros(3, dtype=torch.int64), noise=noise(3))


def test_it_is_built_by_name_and_its_repr_builds_it_again() -> None:
    attack = build("square(queries=100, loss='cross_entropy')", ThreatModel("L2", 0.5))
    (built,) = attack.values()
    assert built == Square(ThreatModel("L2", 0.5), queries=100, loss="cross_entropy")
    assert eval(repr(built)) == built


# Schedule, sides, windows, bumps.


@pytest.mark.parametrize(
    ("query", "halvings"),
    [(at + past, k + past) for k, at in enumerate((10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)) for past in (0, 1)],
)
def test_the_share_halves_as_the_paper_says(query: int, halvings: int) -> None:
    assert attack_of("Linf", queries=10_000).share(query) == 0.8 / 2**halvings
    assert attack_of("Linf", queries=1000).share(query // 10 + (query % 10 > 0)) == 0.8 / 2**halvings
    assert attack_of("Linf", queries=1000, rescale_schedule=False).share(query) == 0.8 / 2**halvings


def test_the_schedule_is_that_of_torchattacks() -> None:
    square = pytest.importorskip("torchattacks").Square(nn.Identity(), n_queries=700)
    assert [attack_of("Linf", queries=700).share(i) for i in range(700)] == [square.p_selection(i) for i in range(700)]


@pytest.mark.parametrize(
    ("share", "height", "width", "plain", "bump"),
    [
        (0.8, 28, 28, 25, 25),
        (0.8, 32, 32, 29, 29),
        (0.4, 32, 32, 20, 21),
        (0.05, 28, 28, 6, 7),
        (1e-6, 32, 32, 1, 3),
        (1.0, 32, 32, 32, 31),
        (1.0, 4, 16, 4, 3),
        (1.0, 2, 2, 2, 1),
        (0.5, 1, 9, 1, 1),
    ],
)
def test_the_side_of_a_square_by_hand(share: float, height: int, width: int, plain: int, bump: int) -> None:
    assert side(share, height, width, bump=False) == plain
    assert side(share, height, width, bump=True) == bump


def test_a_window_is_the_square_at_its_corner_in_every_channel() -> None:
    image = torch.zeros(3, 2, 5, 6)
    image[window(torch.tensor([[0, 0], [2, 3], [1, 2]]), 3, 2)] = 1
    expected = torch.zeros(3, 2, 5, 6)
    expected[0, :, 0:3, 0:3] = expected[1, :, 2:5, 3:6] = expected[2, :, 1:4, 2:5] = 1
    assert torch.equal(image, expected)


def test_every_position_that_fits_is_drawn_equally_often() -> None:
    draw = noise(7000).integers(1 << 31, (2,))
    counts = Counter(map(tuple, _corner(draw, torch.zeros(1, 1, 4, 9), 3).tolist()))
    assert set(counts) == {(row, column) for row in range(2) for column in range(7)}
    assert max(abs(count - 500) for count in counts.values()) < 5 * math.sqrt(500)


def test_the_bump_of_side_three_by_hand() -> None:
    # Upper part: one row, 1/4 at the sides and 1/4 + 1 in the middle. Lower part: a row of 1/4, then the same row.
    upper = torch.tensor([[0.25, 1.25, 0.25]])
    lower = torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    expected = torch.cat([upper / upper.norm(), -lower / lower.norm()]) / math.sqrt(2)
    torch.testing.assert_close(eta(3), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 12, 21, 29])
def test_the_bump_is_that_of_torchattacks(size: int) -> None:
    square = pytest.importorskip("torchattacks").Square(nn.Identity(), norm="L2")
    with torch.random.fork_rng():
        theirs = square.eta(size) if size > 1 else -torch.ones(1, 1)
    assert any(torch.allclose(theirs, ours, atol=1e-6) for ours in (eta(size), eta(size).T))
    torch.testing.assert_close(eta(size).norm(), torch.tensor(1.0))


def test_the_linf_start_is_vertical_stripes() -> None:
    x = torch.full((50, 3, 6, 7), 0.5)
    delta = _stripes(ThreatModel("Linf", 0.1), x, noise(50)) - x
    torch.testing.assert_close(delta.abs(), torch.full_like(x, 0.1))
    assert torch.equal(delta, delta[:, :, :1].expand_as(delta))
    assert abs(delta[:, :, 0].sign().mean()) < 5 / math.sqrt(50 * 3 * 7)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_the_start_in_a_round_ball_uses_all_of_the_radius(norm: str) -> None:
    x = torch.full((4, 3, 13, 11), 0.5)
    threat = ThreatModel(norm, 0.7)  # type: ignore[arg-type]
    start = _tiles(threat, x, noise(4))
    torch.testing.assert_close(threat.distance(start, x), torch.full((4,), 0.7), rtol=1e-4, atol=0)
    assert not torch.equal(start[0], start[1])


# What it costs.


def test_no_image_is_asked_about_more_often_than_allowed() -> None:
    _, x, _ = batch(3)
    watched = Watched(Unbeatable((2, 8, 8)))
    attack_of("Linf", queries=37, restarts=2)(watched, x, torch.zeros(3, dtype=torch.int64), noise=noise(3))
    assert watched.batches == [3] * 74


def test_fooled_images_leave_and_the_attack_stops_with_the_last() -> None:
    model, x, y = batch(30)
    watched = Watched(model)
    x_adv = attack_of("Linf", eps=0.12, queries=400)(watched, x, y, noise=noise(30))
    assert fooled(model, x_adv, y).all()
    assert watched.batches == sorted(watched.batches, reverse=True)
    assert len(watched.batches) < 400
    assert sum(watched.batches) < 0.5 * 30 * len(watched.batches)


def test_a_candidate_of_the_last_query_counts() -> None:
    class Third(Unbeatable):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) if self.calls < 3 else -super().forward(x)

    x, y = torch.full((2, 1, 9, 9), 0.5), torch.zeros(2, dtype=torch.int64)
    third = Third((1, 9, 9))
    x_adv = attack_of("L2", queries=3)(third, x, y, noise=noise(2))
    assert third.calls == 3
    assert (attack_of("L2", queries=2)(Unbeatable((1, 9, 9)), x, y, noise=noise(2)) != x_adv).flatten(1).any(1).all()


def test_later_restarts_attack_survivors_only_and_never_lose_a_success() -> None:
    model, x, y = batch(40)
    watched = Watched(model)
    once = fooled(model, attack_of("L2", queries=20)(model, x, y, noise=noise(40)), y)
    thrice = fooled(model, attack_of("L2", queries=20, restarts=3)(watched, x, y, noise=noise(40)), y)
    assert watched.batches[20] == 40 - once.sum() > 0
    assert (thrice >= once).all()
    assert thrice.sum() > once.sum()


# Closed form.


class Line(nn.Module):
    """Two logits ±(lead + w·(x − 1/2)), so that the margin of class 0 at the grey image is −2·lead."""

    def __init__(self, weight: Tensor, lead: float) -> None:
        super().__init__()
        self.weight, self.lead = nn.Parameter(weight.double()), lead

    def forward(self, x: Tensor) -> Tensor:
        half = self.lead + (x.double() - 0.5).flatten(1) @ self.weight
        return torch.stack([half, -half], 1).float()


def linear(n: int, norm: str, share: float) -> tuple[nn.Module, Tensor, Tensor]:
    """Return grey images whose margin is a ``share`` of what the norm's ball can change: eps times the dual norm."""
    weight = Affine(1, (1, 6, 6)).weight.detach()[0]
    reach = RADIUS[norm] * torch.linalg.vector_norm(weight, ord={"Linf": 1, "L2": 2, "L1": math.inf}[norm])
    return Line(weight, share * float(reach)), torch.full((n, 1, 6, 6), 0.5), torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize(("norm", "share"), [("Linf", 0.9), ("L2", 0.6), ("L1", 0.25)])
def test_a_linear_model_breaks_where_the_margin_is_generous(norm: str, share: float) -> None:
    model, x, y = linear(20, norm, share)
    assert fooled(model, attack_of(norm, queries=500)(model, x, y, noise=noise(20)), y).all()


@norms
def test_a_linear_model_never_breaks_where_no_image_of_the_set_breaks_it(norm: str) -> None:
    model, x, y = linear(20, norm, 1.001)
    assert not fooled(model, attack_of(norm, queries=500)(model, x, y, noise=noise(20)), y).any()


def test_the_linf_attack_reaches_the_optimum_of_a_linear_model() -> None:
    model, x, y = linear(10, "Linf", 1.001)
    x_adv = attack_of("Linf", queries=2000)(model, x, y, noise=noise(10))
    with torch.no_grad():
        before, after = (margin(model(images), y) for images in (x, x_adv))
    assert ((after - before) / (-before / 1.001) > 0.999).all()


@norms
def test_more_queries_raise_the_margin(norm: str) -> None:
    model, x, y = linear(10, norm, 1.001)
    candidates = [attack_of(norm, queries=n)(model, x, y, noise=noise(10)) for n in (1, 20, 300)]
    reached = [float(margin(model(x_adv), y).detach().mean()) for x_adv in candidates]
    assert reached == sorted(reached)
    assert reached[2] > reached[0]


@norms
def test_masked_gradients_do_not_help_against_it(norm: str) -> None:
    class Stairs(nn.Module):
        """Sees 16 grey values, so that every gradient is zero."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.model((16 * x).round() / 16)
            return logits

    model, x, y = batch(40)
    stairs = Stairs(model)
    right = ~fooled(stairs, x, y)
    x, y = x[right], y[right]
    threat = ThreatModel(norm, 2 * RADIUS[norm])  # type: ignore[arg-type]
    gradient = PGD(threat, start="clean", keep="success")(stairs, x, y, noise=noise(len(x)))
    scores = Square(threat, queries=300)(stairs, x, y, noise=noise(len(x)))
    assert fooled(stairs, gradient, y).sum() == 0
    assert fooled(stairs, scores, y).float().mean() > 0.5


# Parity with torchattacks.


def by_torchattacks(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other package
        torchattacks = pytest.importorskip("torchattacks")
    with torch.random.fork_rng():
        candidates: Tensor = torchattacks.Square(model, **settings)(x, y)
    return candidates


def survivors(model: nn.Module, x_adv: Tensor, y: Tensor) -> int:
    return int((~fooled(model, x_adv, y)).sum())


def inner(draw: Tensor, x: Tensor, size: int) -> Tensor:
    """Draw corners as torchattacks does, whose squares never reach the last row and column."""
    return torch.stack([draw[:, axis] % max(1, x.shape[2 + axis] - size) for axis in (0, 1)], dim=1)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.08), ("L2", 0.4)])
def test_as_many_digits_survive_as_with_torchattacks_with_the_squares_it_draws(
    norm: Any, eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One channel. With squares at the last row and column as well 65 and 35 fewer of 818 survive.

    Torchattacks draws one square for all images of a batch, so batches are small: the count then varies by about six
    images from seed to seed, as ours does.
    """
    monkeypatch.setattr("classwise.attacks.square._corner", inner)
    model, x, y = trained_on_digits()
    settings = {"norm": norm, "eps": eps, "n_queries": 300}
    batches = [(x[first::8], y[first::8], first) for first in range(8)]
    theirs = sum(
        survivors(model, by_torchattacks(model, few, labels, **settings, seed=seed), labels)
        for few, labels, seed in batches
    )
    ours = survivors(model, Square(ThreatModel(norm, eps), queries=300)(model, x, y, noise=noise(len(x))), y)
    assert 0.5 * len(x) < theirs < 0.8 * len(x)
    assert abs(ours - theirs) <= 0.015 * len(x)


# Parity on real networks that others trained.

real = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not {"CLASSWISE_DATA", "CLASSWISE_SHARED"} <= set(os.environ),
        reason="CLASSWISE_DATA and CLASSWISE_SHARED do not name the real data and networks",
    ),
]


def real_images(model: nn.Module, name: str, n: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Return the images of a stratified sample of ``n`` that the network gets right: x, y, index."""
    from classwise.data import load, stratified_sample

    data = load(name, os.environ["CLASSWISE_DATA"], "test")
    positions = stratified_sample(data.y, n, 0)
    x, y = data.fetch(positions), data.y[positions]
    right = ~fooled(model, x, y)
    return x[right], y[right], data.index[positions][right]


class Case(NamedTuple):
    """Images of CIFAR-10 that a network by others gets right, and which of them PGD breaks."""

    model: nn.Module
    threat: ThreatModel
    x: Tensor
    y: Tensor
    index: Tensor
    near: Tensor


def case_of(norm: Any, eps: float) -> Case:
    model, threat = network_by_others("cifar_resnet2b_adv"), ThreatModel(norm, eps)
    x, y, index = real_images(model, "cifar10")
    pgd = PGD(threat, steps=20, loss="margin", keep="success")
    return Case(model, threat, x, y, index, fooled(model, pgd(model, x, y, noise=Noise(0, index)), y))


def near_survivors_of_torchattacks(case: Case, queries: int) -> int:
    """Return how many survive of the images that PGD breaks; random search breaks none of the others."""
    x, y, threat = case.x[case.near], case.y[case.near], case.threat
    settings = {"norm": threat.norm, "eps": threat.eps, "n_queries": queries, "seed": 0}
    return survivors(case.model, by_torchattacks(case.model, x, y, **settings), y)


# Both attacks are random: from seed to seed each varies by up to three images of 200.


@pytest.mark.parametrize(
    ("norm", "eps"), [pytest.param("Linf", 2 / 255, marks=real), pytest.param("L2", 0.5, marks=real)]
)
def test_robust_accuracy_is_that_of_torchattacks_with_the_squares_it_draws(
    norm: str, eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classwise.attacks.square._corner", inner)
    case = case_of(norm, eps)
    x_adv = Square(case.threat, queries=200)(case.model, case.x, case.y, noise=Noise(0, case.index))
    assert case.threat.contains(x_adv, case.x).all()
    broken = fooled(case.model, x_adv, case.y)
    assert not broken[~case.near].any()
    assert abs(int((~broken[case.near]).sum()) - near_survivors_of_torchattacks(case, 200)) <= 3


@pytest.mark.parametrize("queries", [pytest.param(1000, marks=real)])
def test_squares_at_the_last_row_and_column_are_what_it_has_over_torchattacks(
    queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of("Linf", 8 / 255)
    x, y, noise = case.x[case.near], case.y[case.near], Noise(0, case.index[case.near])
    attack, theirs = Square(case.threat, queries=queries), near_survivors_of_torchattacks(case, queries)
    assert survivors(case.model, attack(case.model, x, y, noise=noise), y) < theirs
    monkeypatch.setattr("classwise.attacks.square._corner", inner)
    assert abs(survivors(case.model, attack(case.model, x, y, noise=noise), y) - theirs) <= 3


@pytest.mark.parametrize("norm", [pytest.param("Linf", marks=real), pytest.param("L2", marks=real)])
def test_batches_change_no_verdict_on_a_real_network(norm: str) -> None:
    model = network_by_others("cifar_resnet2b_adv")
    x, y, index = real_images(model, "cifar10", 100)
    attack = Square(ThreatModel(norm, {"Linf": 2 / 255, "L2": 0.5}[norm]), queries=200)  # type: ignore[arg-type]
    whole = fooled(model, attack(model, x, y, noise=Noise(0, index)), y)
    parts = [
        fooled(model, attack(model, x[at], y[at], noise=Noise(0, index[at])), y[at])
        for at in torch.arange(len(x)).split(16)
    ]
    assert torch.equal(torch.cat(parts), whole)
