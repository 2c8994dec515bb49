"""Projected gradient descent: known optima of linear models, restarts, targets, and every setting."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models_for_tests import Affine, Smooth, Stateful, Tallest, affine, labelled, pair, planted
from tests.strategies import NORMS
from torch import Tensor, nn

from classwise import losses
from classwise.attacks import PGD, build, predict
from classwise.errors import InputError
from classwise.losses import kl, margin
from classwise.noise import Noise
from classwise.registry import names
from classwise.threat import ThreatModel

LINF = ThreatModel("Linf", 0.1)
LOSSES = ("cross_entropy", "margin", "dlr", "soft_margin", "tempered_cross_entropy(temperature=2)")


def noise(n: int, seed: int = 0) -> Noise:
    return Noise(seed, torch.arange(n))


def inner(n: int, pixels: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images of pixels in 0.4 … 0.6, which a radius up to 0.4 cannot take out of range, of classes 0 and 1."""
    x = 0.4 + 0.2 * torch.rand(n, 1, 1, pixels, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(n) % 2


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(model(x_adv), y) != y


def margins(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return margin(model(x), y)


class Counting(nn.Module):
    """Counts the images that pass through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.batches = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.model(x)


# Closed form.


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_margin_of_a_linear_model_falls_by_eps_times_the_dual_norm(norm: str, num_classes: int, loss: str) -> None:
    model = pair(num_classes, 12)
    x, y = inner(20)
    attack = PGD(ThreatModel(norm, 0.3), steps=10, start="clean", loss=loss)  # type: ignore[arg-type]
    rise = margins(model, attack(model, x, y, noise=noise(20)), y) - margins(model, x, y)
    torch.testing.assert_close(rise, 0.3 * model.rise(y, 1 - y, norm).detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("start", ["uniform", "jitter"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_ends_at_the_same_optimum(norm: str, start: Any) -> None:
    model = pair(3, 12)
    x, y = inner(20)
    attack = PGD(ThreatModel(norm, 0.3), steps=100, step_size=0.06, start=start)  # type: ignore[arg-type]
    rise = margins(model, attack(model, x, y, noise=noise(20)), y) - margins(model, x, y)
    best = 0.3 * model.rise(y, 1 - y, norm).detach()
    assert (rise <= best * (1 + 1e-4)).all()
    assert (rise >= best * 0.99).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "margin-pgd", "dlr-pgd", "targeted-pgd"])
@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 100])
def test_it_succeeds_exactly_where_the_known_margin_is_within_reach(norm: str, name: str, num_classes: int) -> None:
    model = pair(num_classes, 12)
    x, y = inner(100)
    y = torch.where(margins(model, x, y) < 0, y, 1 - y)
    eps = (-margins(model, x, y)).median().item() / model.rise(y[:1], 1 - y[:1], norm).item()
    reach = eps * model.rise(y, 1 - y, norm).detach() + margins(model, x, y)
    attack = build(f"{name}(steps=50)", ThreatModel(norm, eps)).popitem()[1]  # type: ignore[arg-type,attr-defined]
    success = fooled(model, attack(model, x, y, noise=noise(100)), y)
    clear = reach.abs() > 0.02 * reach.std()  # the last hundredths take more steps
    assert torch.equal(success[clear], reach[clear] >= 0)
    assert 40 <= success.sum() <= 60
    assert not success[reach < -1e-4].any()


def best_l1(weight: Tensor, x: Tensor, eps: float) -> Tensor:
    """Return the largest rise of w·x within an L1 ball and the pixel range: fill the steepest pixels one by one."""
    order = weight.abs().argsort(descending=True)
    room = torch.where(weight > 0, 1 - x, x)[:, order]
    spent = room.cumsum(1).clamp_max(eps)
    return (spent.diff(dim=1, prepend=torch.zeros(len(x), 1)) * weight.abs()[order]).sum(1)


@pytest.mark.parametrize("eps", [0.3, 1.0, 3.0])
def test_l1_comes_near_the_optimum_where_pixels_reach_their_limits(eps: float) -> None:
    model = pair(3, 16)
    x, y = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(50, dtype=torch.long)
    attack = PGD(ThreatModel("L1", eps), steps=100, start="clean", loss="margin")
    rise = margins(model, attack(model, x, y, noise=noise(50)), y) - margins(model, x, y)
    best = best_l1((model.weight[1] - model.weight[0]).detach(), x.flatten(1), eps)
    assert (rise <= best * (1 + 1e-4)).all()
    assert (rise >= best * 0.95).all()


@pytest.mark.parametrize("eps", [0.04, 0.1, 0.16])
def test_the_robust_images_of_a_planted_unfair_model_are_known_class_by_class(eps: float) -> None:
    leads = [[0.3] * 3, [0.05, 0.15, 0.25, 0.35], [0.01, 0.02], [0.1, 0.22]]
    x, y = planted(leads)
    attack = build("pgd", ThreatModel("Linf", eps))["pgd"]
    robust = ~fooled(Tallest(), attack(Tallest(), x, y, noise=noise(len(x))), y)
    assert robust.tolist() == [lead > 2 * eps for group in leads for lead in group]


# Metamorphic relations, on linear models, where the attack is exact.


def robust_count(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **settings: Any) -> int:
    attack = PGD(threat, **{"keep": "success", **settings})
    return int((~fooled(model, attack(model, x, y, noise=noise(len(x))), y)).sum())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", [2, 10])
def test_a_larger_radius_never_raises_the_robust_count(norm: str, num_classes: int) -> None:
    model = affine(num_classes, 12)
    x, y = labelled(model, 60, (1, 3, 4))
    counts = [robust_count(model, x, y, ThreatModel(norm, e)) for e in (0, 0.02, 0.05, 0.1, 0.2, 0.4)]  # type: ignore[arg-type]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 60
    assert counts[-1] < 60


@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_never_raise_the_robust_count(norm: str) -> None:
    model = affine(4, 12)
    x, y = labelled(model, 60, (1, 3, 4))
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    counts = [robust_count(model, x, y, threat, steps=s, step_size=0.02) for s in (1, 2, 4, 8, 16, 32)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


def test_more_restarts_never_raise_the_robust_count() -> None:
    """A short attack on a bent model, so that the start matters; the first restarts are the same ones."""
    model = Smooth(6, 9, factor=10)
    x, y = labelled(model, 80, (1, 3, 3))
    counts = [robust_count(model, x, y, LINF, steps=1, step_size=0.05, restarts=r) for r in (1, 2, 4, 8, 16)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


@pytest.mark.parametrize("norm", NORMS)
def test_permuting_the_classes_permutes_nothing_else(norm: str) -> None:
    model = affine(5, 12)
    x, y = labelled(model, 30, (1, 3, 4))
    order = torch.tensor([3, 1, 4, 0, 2])
    renamed = Affine(model.weight.detach()[order], model.bias.detach()[order])
    attack = PGD(ThreatModel(norm, 0.1), start="uniform")  # type: ignore[arg-type]
    first = attack(model, x, y, noise=noise(30))
    second = attack(renamed, x, order.argsort()[y], noise=noise(30))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


# The first fooling iterate is kept.


def iterates(attack: PGD, model: nn.Module, x: Tensor, y: Tensor, steps: int) -> list[Tensor]:
    """Return the candidates of every number of steps up to ``steps``, which are the iterates of one run."""
    return [x] + [replace(attack, steps=s)(model, x, y, noise=noise(len(x))) for s in range(1, steps + 1)]


def test_success_keeps_the_first_iterate_that_fools_and_else_the_last() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 40, (1, 3, 3))
    y[:3] = (y[:3] + 1) % 4  # these are wrong from the beginning
    run = PGD(LINF, step_size=0.01, start="clean")
    path = iterates(run, model, x, y, 8)
    expected = path[-1].clone()
    for iterate in reversed(path):
        broken = fooled(model, iterate, y)
        expected[broken] = iterate[broken]
    found = replace(run, steps=8, keep="success")(model, x, y, noise=noise(40))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(found[:3], x[:3])
    assert 3 < fooled(model, found, y).sum() < 40


def test_an_attack_that_keeps_successes_fools_wherever_the_last_iterate_does() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 60, (1, 3, 3))
    stream = noise(60)
    last = PGD(LINF)(model, x, y, noise=stream.fold("attempt", 0, 0))
    kept = PGD(LINF, keep="success")(model, x, y, noise=stream)
    hit = fooled(model, last, y)
    assert 0 < hit.sum() < 60
    assert fooled(model, kept, y)[hit].all()


def test_search_tells_which_candidates_fool() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 60, (1, 3, 3))
    x_adv, success = PGD(LINF, keep="success", restarts=2).search(model, x, y, noise(60))
    assert torch.equal(success, fooled(model, x_adv, y))
    assert 0 < success.sum() < 60


def test_every_step_is_one_gradient_and_the_last_iterate_is_looked_at() -> None:
    model = Counting(pair(2, 12))
    x, y = inner(4)
    PGD(ThreatModel("Linf", 0.0), steps=7)(model, x, y, noise=noise(4))
    assert model.batches == [4] * 7
    model.batches.clear()
    y = model.model(x).argmax(1)
    PGD(ThreatModel("Linf", 0.0), steps=7, keep="success")(model, x, y, noise=noise(4))
    assert model.batches == [4] * 8


def test_no_step_is_spent_on_an_image_that_is_fooled() -> None:
    x, y = planted([[0.05, 0.15, 0.25, 0.95]])
    x, model = torch.cat([x, 0.4 + 0 * x], dim=3), Counting(Tallest())  # a second class to fall for
    PGD(ThreatModel("Linf", 0.2), steps=4, step_size=0.05, start="clean", keep="success")(model, x, y, noise=noise(4))
    assert model.batches == [4, 4, 3, 2, 1]  # the clean images, then each step of 0.05 closes 0.1 of the lead


@pytest.mark.parametrize("settings", [{"restarts": 3}, {"targets": 2}, {"steps": 9}])
def test_nothing_is_computed_once_all_images_are_fooled(settings: dict[str, Any]) -> None:
    model = Counting(pair(3, 12))
    x, y = inner(4)
    y = torch.full_like(y, 2)  # the class that never wins
    PGD(LINF, keep="success", **settings)(model, x, y, noise=noise(4))
    assert model.batches == [4] * (2 if "targets" in settings else 1)


# Restarts and targets.


def test_restarts_are_per_image_and_independent() -> None:
    """With zero steps worth of movement only the start counts: each restart breaks its own images for good."""
    model = Smooth(6, 9, factor=10)
    x, y = labelled(model, 100, (1, 3, 3))
    one = PGD(LINF, steps=1, step_size=0.0, keep="success")
    stream = noise(100)
    single = [fooled(model, LINF.sample(x, stream.fold("attempt", r, 0, "start")), y) for r in range(6)]
    together = replace(one, restarts=6)(model, x, y, noise=stream)
    assert torch.equal(fooled(model, together, y), torch.stack(single).any(0))
    assert torch.stack(single).any(0).sum() > max(s.sum() for s in single)


def test_a_later_restart_does_not_replace_an_earlier_success() -> None:
    model = Smooth(6, 9, factor=10)
    x, y = labelled(model, 60, (1, 3, 3))
    one = PGD(LINF, steps=2, keep="success")
    first, success = one.search(model, x, y, noise(60))
    several = replace(one, restarts=5)(model, x, y, noise=noise(60))
    assert 0 < success.sum() < 60
    assert torch.equal(several[success], first[success])


def test_a_target_is_reached() -> None:
    model = affine(5, 12)
    x, y = labelled(model, 40, (1, 3, 4))
    rival = model(x).topk(2, dim=1).indices[:, 1]
    attack = PGD(ThreatModel("Linf", 0.5), targets=1, start="clean", keep="success", step_size=0.02, steps=50)
    x_adv = attack(model, x, y, noise=noise(40))
    assert torch.equal(predict(model(x_adv), y), rival)


def test_later_targets_are_tried_where_the_first_is_out_of_reach() -> None:
    """Class 1 is always half a logit behind class 0, so only class 2 can win."""
    direction = torch.tensor([1.0, -1.0])
    model = Affine(torch.stack([0 * direction, 0 * direction, direction]), torch.tensor([0.0, -0.1, -0.3]))
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    for targets, hit in ((1, False), (2, True), (9, True)):
        for loss in ("cross_entropy", "margin"):
            attack = PGD(ThreatModel("Linf", 0.2), targets=targets, start="clean", loss=loss, keep="success")
            assert fooled(model, attack(model, x, y, noise=noise(1)), y).tolist() == [hit]


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr", "soft_margin(temperature=0.1)"])
def test_targeted_losses_go_towards_the_target(loss: str) -> None:
    """Towards, not away: one fault of other packages."""
    model = affine(6, 12)
    x, y = labelled(model, 40, (1, 3, 4))
    target = model(x).topk(2, dim=1).indices[:, 1]
    attack = PGD(ThreatModel("Linf", 0.02), loss=loss, targets=1, steps=1, start="clean", keep="success")
    x_adv = attack(model, x, y, noise=noise(40))
    before, after = model(x), model(x_adv)
    lead = (after - before).gather(1, target[:, None]) - (after - before).gather(1, y[:, None])
    assert (lead > 0).float().mean() > 0.9
    assert lead.mean() > 0


def test_no_more_targets_than_there_are_wrong_classes() -> None:
    model = Counting(pair(3, 12))
    x, y = inner(1)
    y = model.model(x).argmax(1)
    PGD(ThreatModel("Linf", 0.0), steps=1, targets=9, keep="success")(model, x, y, noise=noise(1))
    assert len(model.batches) == 1 + 2 * 2  # one look at the clean image, two targets of two batches


def test_targets_are_combined_with_restarts() -> None:
    model = Counting(pair(4, 12))
    x, y = inner(1)
    y = model.model(x).argmax(1)
    PGD(ThreatModel("Linf", 0.0), steps=1, targets=2, restarts=3, keep="success")(model, x, y, noise=noise(1))
    assert len(model.batches) == 1 + 2 * 3 * 2


# Starts.


def untouched(threat: ThreatModel, start: Any, x: Tensor, stream: Noise) -> Tensor:
    """Return where an attack starts: a step of length 0 moves nothing."""
    y = torch.zeros(len(x), dtype=torch.long)
    return PGD(threat, steps=1, step_size=0.0, start=start)(pair(2, x[0].numel()), x, y, noise=stream)


@pytest.mark.parametrize("norm", NORMS)
def test_where_an_attack_starts(norm: str) -> None:
    threat, (x, _) = ThreatModel(norm, 0.2), inner(500)  # type: ignore[arg-type]
    clean, uniform, jitter = (untouched(threat, s, x, noise(500)) for s in ("clean", "uniform", "jitter"))
    torch.testing.assert_close(clean, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(uniform, threat.sample(x, noise(500).fold("start")), rtol=0, atol=1e-6)
    assert (jitter - x).std() == pytest.approx(0.001, rel=0.05)
    assert threat.contains(jitter, x).all()


def test_a_jittered_start_stays_in_a_tiny_ball() -> None:
    threat, (x, _) = ThreatModel("Linf", 0.0005), inner(50)
    assert threat.contains(untouched(threat, "jitter", x, noise(50)), x).all()


def test_two_images_start_differently_and_two_streams_too() -> None:
    x = torch.full((2, 1, 1, 12), 0.5)
    first, second = (untouched(LINF, "uniform", x, noise(2, seed)) for seed in (0, 1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


# Settings of a batch.


@pytest.mark.parametrize("norm", NORMS)
def test_radii_and_steps_of_their_own_are_those_of_each_image_alone(norm: str) -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 4, (1, 3, 3))
    eps, step_size = torch.tensor([0.0, 0.05, 0.1, 0.4]), torch.tensor([0.1, 0.0, 0.02, 0.1])
    attack = PGD(ThreatModel(norm, 0.2), steps=5)  # type: ignore[arg-type]
    together = attack(model, x, y, noise=noise(4), eps=eps, step_size=step_size)
    for i in range(4):
        alone = PGD(ThreatModel(norm, eps[i].item()), steps=5, step_size=step_size[i].item())  # type: ignore[arg-type]
        one = slice(i, i + 1)
        expected = alone(model, x[one], y[one], noise=noise(4).select(torch.tensor([i])))
        torch.testing.assert_close(together[one], expected, rtol=0, atol=1e-5)


def test_a_bound_loss_is_climbed_in_place_of_the_named_one() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 10, (1, 3, 3))
    expected = PGD(LINF, loss="margin")(model, x, y, noise=noise(10))
    bound = PGD(LINF, loss="cross_entropy")(model, x, y, noise=noise(10), loss=margin)
    assert torch.equal(bound, expected)


@pytest.mark.parametrize(
    "given",
    [{"eps": torch.ones(3)}, {"step_size": torch.ones(3)}, {"loss": margin}, {"begin": torch.ones(3, 1, 3, 4)}],
    ids=["eps", "step_size", "loss", "begin"],
)
def test_settings_of_a_batch_need_an_attack_that_keeps_its_batch(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='keep="last"'):
        PGD(LINF, keep="success")(pair(2, 12), *inner(3), noise=noise(3), **given)


def test_a_climb_begins_where_the_caller_says() -> None:
    """Steps of length 0 lead nowhere, so that what comes back is the start; the attack's own draw does not count."""
    x, y = inner(3)
    begin = (x + 0.01).clamp(0, 1)
    moved = PGD(LINF, steps=2, start="uniform")(
        pair(2, 12), x, y, noise=noise(3), step_size=torch.zeros(3), begin=begin
    )
    torch.testing.assert_close(moved, begin)


def test_the_kl_divergence_is_from_the_clean_prediction() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 10, (1, 3, 3))
    clean = model(x).detach()
    attack = PGD(LINF, loss="kl", start="jitter")
    by_name = attack(model, x, y, noise=noise(10))
    by_hand = attack(model, x, y, noise=noise(10), loss=lambda z, _: kl(z, clean))
    assert torch.equal(by_name, by_hand)
    assert (kl(model(by_name), clean) > 1e-3).all()


def test_the_labels_do_not_matter_to_the_kl_divergence() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 10, (1, 3, 3))
    attack = PGD(LINF, loss="kl")
    first, second = (attack(model, x, labels, noise=noise(10)) for labels in (y, (y + 1) % 4))
    assert torch.equal(first, second)


def test_kl_keeps_each_image_s_own_clean_prediction_when_others_drop_out() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 40, (1, 3, 3))
    attack = build("kl-pgd", LINF)["kl-pgd"]
    together = attack(model, x, y, noise=noise(40))
    assert 0 < fooled(model, together, y).sum() < 40
    for i in (0, 7, 39):
        alone = attack(model, x[i : i + 1], y[i : i + 1], noise=noise(40).select(torch.tensor([i])))
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-5)


def test_train_mode_attacks_the_statistics_of_the_batch() -> None:
    model = Stateful().eval()
    model.drop.p = 0.0
    x, y = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    evaluated, trained = (PGD(LINF, mode=mode)(model, x, y, noise=noise(8)) for mode in ("eval", "train"))  # type: ignore[arg-type]
    assert not torch.equal(evaluated, trained)
    model.train()
    batch_norm = PGD(LINF, mode="train")(model, x, y, noise=noise(8))
    assert torch.equal(batch_norm, trained)
    assert model.training


# Settings.


def test_the_step_defaults_to_two_and_a_half_radii_in_all() -> None:
    assert PGD(LINF, steps=10).length == pytest.approx(0.025)
    assert PGD(LINF, steps=10, step_size=0.5).length == 0.5
    assert PGD(LINF, steps=10, step_size=0.0).length == 0.0


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_a_step_has_the_length_that_is_said(steps: int) -> None:
    x, y = inner(5)
    attack = PGD(ThreatModel("Linf", 0.3), steps=steps, step_size=0.01, start="clean")
    moved = attack(pair(2, 12), x, y, noise=noise(5)) - x
    torch.testing.assert_close(moved.abs(), torch.full_like(x, 0.01 * steps), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pgd", {"loss": "cross_entropy"}),
        ("margin-pgd", {"loss": "margin"}),
        ("dlr-pgd", {"loss": "dlr"}),
        ("kl-pgd", {"loss": "kl", "start": "jitter"}),
        ("targeted-pgd", {"loss": "cross_entropy", "targets": 9}),
    ],
)
def test_the_presets_are_20_steps_of_a_quarter_radius(name: str, settings: dict[str, Any]) -> None:
    threat = ThreatModel("Linf", 8 / 255)
    defaults: dict[str, Any] = {"steps": 20, "step_size": 2 / 255, "keep": "success", "start": "uniform"}
    assert build(name, threat)[name] == PGD(threat, **{**defaults, **settings})


def test_a_preset_of_other_steps_takes_their_own_length() -> None:
    attacks = build("pgd(steps=100), pgd(steps=100, step_size=0.001), pgd(restarts=3)", LINF)
    hundred, own, restarts = attacks.values()
    assert hundred.length == pytest.approx(2.5 * 0.1 / 100)  # type: ignore[attr-defined]
    assert own.length == 0.001  # type: ignore[attr-defined]
    assert restarts.length == 0.1 / 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "steps and restarts of at least 1"),
        ({"steps": 2.5}, "whole numbers"),
        ({"steps": "20"}, "whole numbers"),
        ({"restarts": 0}, "steps and restarts of at least 1"),
        ({"restarts": 1.5, "keep": "success"}, "whole numbers"),
        ({"targets": -1}, "targets of at least 0"),
        ({"step_size": -0.1}, "step size -0.1 must be a finite number of at least 0"),
        ({"step_size": float("nan")}, "finite"),
        ({"step_size": float("inf")}, "finite"),
        ({"start": "random"}, "no start 'random': use one of clean, uniform, jitter"),
        ({"keep": "best"}, "no keep 'best'"),
        ({"mode": "test"}, "no mode 'test'"),
        ({"loss": "crossentropy"}, "did you mean 'cross_entropy'"),
        ({"loss": "margin(temperature=1)"}, "takes no setting"),
        ({"loss": "kl", "start": "clean"}, "flat at the clean image"),
        ({"loss": "kl", "targets": 1, "keep": "success"}, "has no targets"),
        ({"restarts": 2}, 'need keep="success"'),
        ({"targets": 2}, 'need keep="success"'),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PGD(LINF, **settings)


def test_settings_are_frozen_and_their_repr_builds_them_again() -> None:
    attack = PGD(LINF, steps=7, step_size=2 / 255, start="jitter", loss="soft_margin(temperature=0.1)", mode="train")
    assert eval(repr(attack)) == attack
    assert hash(eval(repr(attack))) == hash(attack)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.steps = 8  # type: ignore[misc]


def test_every_registered_loss_can_be_climbed() -> None:
    model = Smooth(4, 9)
    x, y = labelled(model, 20, (1, 3, 3))
    for name in names("loss"):
        x_adv = PGD(LINF, loss=name)(model, x, y, noise=noise(20))
        assert (losses.named(name)(model(x_adv), y) > losses.named(name)(model(x), y)).float().mean() > 0.9
