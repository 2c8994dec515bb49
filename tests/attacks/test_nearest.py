"""Nearest-PGD: known optima, the choice of targets, what it returns, and its settings."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tests.models_for_tests import Affine, Smooth, Tallest, affine, labelled, pair, planted
from tests.strategies import NORMS
from torch import Tensor, nn

from classwise.attacks import NearestPGD, build, predict
from classwise.errors import InputError
from classwise.losses import margin
from classwise.noise import Noise
from classwise.threat import Norm, ThreatModel

CLASSES = [2, 3, 4, 5, 10, 100]


def noise(n: int, seed: int = 0) -> Noise:
    return Noise(seed, torch.arange(n))


def inner(n: int, pixels: int = 12) -> Tensor:
    """Return images of pixels in 0.4 … 0.6, which a radius up to 0.4 cannot take out of range."""
    return 0.4 + 0.2 * torch.rand(n, 1, 1, pixels, generator=torch.Generator().manual_seed(0))


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(model(x_adv), y) != y


def critical(model: Affine, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """Return the smallest radius at which some wrong class wins, where the pixel range is out of reach, (N,)."""
    with torch.no_grad():
        logits = model(x)
        behind = logits.gather(1, y[:, None]) - logits
        rivals = torch.arange(logits.shape[1])[None].expand_as(logits)
        rise = torch.stack([model.rise(y, rivals[:, c], norm) for c in range(logits.shape[1])], 1)
        return (behind / rise).scatter(1, y[:, None], torch.inf).amin(1)


# Closed form.


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", CLASSES)
def test_it_breaks_an_affine_model_a_little_beyond_the_radius_that_is_needed(norm: Norm, num_classes: int) -> None:
    model, x = affine(num_classes, 12), inner(40)
    y = model(x).argmax(1)
    radius = critical(model, x, y, norm)
    for i in (radius < 0.35).nonzero().squeeze(1).tolist()[:4]:
        attack = NearestPGD(ThreatModel(norm, 1.05 * float(radius[i])), steps=40, targets=3)
        one = slice(i, i + 1)
        assert fooled(model, attack(model, x[one], y[one], noise=noise(1)), y[one]).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", CLASSES)
def test_it_never_breaks_an_affine_model_short_of_that_radius(norm: Norm, num_classes: int) -> None:
    model, x = affine(num_classes, 12), inner(20)
    y = model(x).argmax(1)
    attack = NearestPGD(ThreatModel(norm, 0.99 * float(critical(model, x, y, norm).min())), steps=20, targets=9)
    assert not fooled(model, attack(model, x, y, noise=noise(20)), y).any()


@pytest.mark.parametrize("start", ["clean", "uniform"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", CLASSES)
def test_the_margin_of_a_survivor_is_the_largest_there_is(norm: Norm, num_classes: int, start: str) -> None:
    model, x = pair(num_classes, 12), inner(20)
    y = model(x).argmax(1)
    eps = 0.8 * float(critical(model, x, y, norm).clamp(max=0.35).min())
    attack = NearestPGD(ThreatModel(norm, eps), steps=60, targets=2, start=start)  # type: ignore[arg-type]
    reached = margin(model(attack(model, x, y, noise=noise(20))), y)
    best = margin(model(x), y) + eps * model.rise(y, 1 - y, norm)
    assert not (reached > best + 1e-4).any()
    torch.testing.assert_close(reached, best, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("eps", [0.02, 0.07, 0.12])
def test_counts_on_a_planted_unfair_model_are_exact(eps: float) -> None:
    leads = [[0.3] * 5, [0.2, 0.2, 0.1], [0.05, 0.1, 0.2, 0.3]]
    x, y = planted(leads)
    broken = fooled(Tallest(), NearestPGD(ThreatModel("Linf", eps))(Tallest(), x, y, noise=noise(len(y))), y)
    assert broken.tolist() == [lead <= 2 * eps for group in leads for lead in group]


# Targets.


class Misleading(nn.Module):
    """Class 1 is nearest on the clean image and falls behind on the way; class 2 is farther and can be reached.

    The path of the cross-entropy shows it: pixel 0 raises class 2 three times as fast as it lowers class 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        first, second = x[:, 0, 0, 0], x[:, 0, 0, 1]
        zero = torch.zeros_like(first)
        return torch.stack([zero + 1, 0.9 - 1e-3 * second, 0.2 + 3 * first - second, zero - 5], 1)


class Aims(nn.Module):
    """Remembers the class whose logit the gradient raises, of every row of every pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.raised = model, list[list[int]]()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.raised.append(gradient.argmax(1).tolist()))
        return logits


def aimed_at(model: nn.Module, x: Tensor, y: Tensor, attack: NearestPGD) -> list[int]:
    """Return the classes that the climbs after the first aim at, side by side."""
    watched = Aims(model)
    attack(watched, x, y, noise=noise(1))
    aims = watched.raised[attack.steps :]
    assert all(each == aims[0] for each in aims), "a climb keeps to its class"
    return aims[0] if aims else []


def test_the_first_target_is_the_class_that_came_nearest_on_any_iterate() -> None:
    model, x, y = Misleading(), torch.full((1, 1, 1, 2), 0.1), torch.tensor([0])
    clean = model(x)
    assert clean[0, 1] > clean[0, 2], "the clean logits mislead"
    attack = NearestPGD(ThreatModel("Linf", 0.15), steps=10, targets=3)
    assert not fooled(model, attack(model, x, y, noise=noise(1)), y).any()
    assert aimed_at(model, x, y, attack)[0] == 2


@pytest.mark.parametrize("targets", [0, 1, 3, 5, 9])
def test_every_class_is_aimed_at_once_at_most(targets: int) -> None:
    model, x = Smooth(6, 9, factor=1.0), torch.full((1, 1, 3, 3), 0.3)
    y = model(x).argmax(1)
    aims = aimed_at(model, x, y, NearestPGD(ThreatModel("Linf", 0.001), steps=3, targets=targets))
    assert len(aims) == len(set(aims)) == min(targets, 5)
    assert int(y) not in aims


def test_more_targets_never_break_less() -> None:
    model = Smooth(8, 9)
    x, y = labelled(model, 60, (1, 3, 3))
    attacks = [NearestPGD(ThreatModel("Linf", 0.05), steps=5, targets=targets) for targets in (0, 1, 3, 7)]
    broken = [fooled(model, attack(model, x, y, noise=noise(60)), y) for attack in attacks]
    for fewer, more in itertools.pairwise(broken):
        assert (more >= fewer).all()


# What it returns.


class Recording(nn.Module):
    """Remembers every image that passes through."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.points = model, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.points.append(x.detach().clone())
        return self.model(x)


@pytest.mark.parametrize("start", ["clean", "uniform"])
def test_the_candidate_is_the_first_iterate_that_fooled_the_model(start: str) -> None:
    model = Smooth(6, 9, factor=20.0)
    x, y = labelled(model, 100, (1, 3, 3))
    attack = NearestPGD(ThreatModel("Linf", 0.06), start=start)  # type: ignore[arg-type]
    late = 0
    for i in range(100):
        recording = Recording(model)
        x_adv = attack(recording, x[i : i + 1], y[i : i + 1], noise=noise(100).select(torch.tensor([i])))
        wrong = [fooled(model, points, y[i].expand(len(points))) for points in recording.points]
        assert not any(each.any() for each in wrong[:-1]), "it went on after success"
        if wrong[-1].any():  # of several targets that succeed in one step the first counts
            assert torch.equal(x_adv[0], recording.points[-1][wrong[-1]][0])
            late += len(wrong) > 3
    assert late > 2, late


def test_an_image_that_is_wrong_already_comes_back_as_it_was() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 10, (1, 3, 3))
    wrong = (y + 1) % 4
    assert torch.equal(NearestPGD(ThreatModel("Linf", 0.1))(model, x, wrong, noise=noise(10)), x)


def test_a_survivor_s_candidate_is_the_end_of_its_best_climb() -> None:
    model, eps = Smooth(4, 9), 0.01
    x, y = labelled(model, 30, (1, 3, 3))
    attack = NearestPGD(ThreatModel("Linf", eps), steps=4, targets=3)
    for i in range(30):
        recording = Recording(model)
        given = x[i : i + 1], y[i : i + 1]
        x_adv = attack(recording, *given, noise=noise(30).select(torch.tensor([i])))
        if not fooled(model, x_adv, given[1]).any():
            ends = torch.cat(recording.points[4::5])
            assert len(ends) == 4
            margins = margin(model(ends), given[1].expand(4))
            assert torch.equal(x_adv[0], ends[margins.argmax()])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("settings", [{"steps": 1}, {"steps": 2, "targets": 0}, {"steps": 25, "start": "uniform"}])
def test_candidates_are_images_of_the_threat_set(norm: Norm, settings: dict[str, int]) -> None:
    model, threat = Smooth(5, 9), ThreatModel(norm, 0.3)
    x, y = labelled(model, 40, (1, 3, 3))
    x[:10] = x[:10].round()
    x_adv = NearestPGD(threat, **settings)(model, x, y, noise=noise(40))  # type: ignore[arg-type]
    assert threat.contains(x_adv, x).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_result_does_not_depend_on_the_batch(norm: Norm) -> None:
    model, radius = Smooth(5, 9), {"Linf": 0.04, "L2": 0.15, "L1": 0.4}[norm]
    x, y = labelled(model, 40, (1, 3, 3))
    attack = NearestPGD(ThreatModel(norm, radius), start="uniform")
    whole = attack(model, x, y, noise=noise(40))
    assert 5 < fooled(model, whole, y).sum() < 38
    for size in (1, 7, 33):
        parts = [attack(model, x[i], y[i], noise=noise(40).select(i)) for i in torch.arange(40).split(size)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)


def test_logits_that_are_not_finite_count_as_fooled() -> None:
    class Cracked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return torch.where(flat[:, :1] > 0.55, torch.nan, torch.cat([flat + 5, -flat], 1)[:, [0, 10]] * 10)

    x, y = torch.full((2, 1, 3, 3), 0.5), torch.tensor([0, 0])
    x_adv = NearestPGD(ThreatModel("Linf", 0.1), start="uniform")(Cracked(), x, y, noise=noise(2))
    assert ThreatModel("Linf", 0.1).contains(x_adv, x).all()


# Settings.


def test_by_name_it_takes_ten_steps_and_three_targets() -> None:
    threat = ThreatModel("Linf", 0.1)
    assert build("nearest-pgd", threat)["nearest-pgd"] == NearestPGD(threat, steps=10, targets=3, start="clean")
    text = "nearest-pgd(steps=40, targets=9, start='uniform')"
    assert build(text, threat)[text] == replace(NearestPGD(threat), steps=40, targets=9, start="uniform")


@pytest.mark.parametrize("settings", ["steps=0", "steps=-3", "steps=2.5", "steps='9'", "targets=-1", "targets=1.5"])
def test_steps_and_targets_that_cannot_be_are_refused(settings: str) -> None:
    with pytest.raises(InputError, match=r"needs whole numbers: at least 1 step and at least 0 targets\.$"):
        build(f"nearest-pgd({settings})", ThreatModel("Linf", 0.1))


@pytest.mark.parametrize("start", ["'jitter'", "1", "None", "[1]"])
def test_a_start_that_cannot_be_is_refused(start: str) -> None:
    with pytest.raises(InputError, match=r"has no start .*: use clean or uniform\.$"):
        build(f"nearest-pgd(start={start})", ThreatModel("Linf", 0.1))
