"""What every registered attack, and every attack of every suite, must do on every norm."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models_for_tests import MASKS, Smooth, Stateful, labelled
from tests.strategies import NORMS
from torch import Tensor, nn

from classwise import attacks, registry
from classwise.attacks import PGD, TemperaturePGD, build, predict
from classwise.attacks.base import Attack, described, scaled
from classwise.noise import Noise
from classwise.threat import ThreatModel

RADIUS = {"Linf": 0.05, "L2": 0.2, "L1": 0.5}
SHAPE = (1, 3, 3)
SUITES = {name: list(build(name, ThreatModel("Linf", 0.1))) for name in registry.names("suite")}
# Of a suite whose attacks are no names of their own, such as a curve over one setting, the first stands for all.
NAMES = sorted({*registry.names("attack"), *(attacks[0] for attacks in SUITES.values())})
# Narrowing draws random starts, but on this smooth model what counts in the end is what FAB led to.
DETERMINISTIC = {"fgsm", "fab", "fab-t", "narrowing"}

# What a name is called with here, where its usual budget is one of minutes.
BRIEF = {
    "square": "square(queries=40)",
    "eot-pgd": "eot-pgd(samples=2, steps=3)",
    "ensemble": "ensemble(attacks='pgd(steps=3),square(queries=20)')",
    "autoattack": "autoattack(steps=5, queries=10)",
    "autoattack-plus": "autoattack-plus(steps=3, queries=10)",
    "autoattack-rand": "autoattack-rand(steps=3, samples=2)",
    "nearest-pgd": "nearest-pgd(start='uniform')",  # from the clean image the tiny model breaks before the first draw
    "fab": "fab(steps=5)",
    "fab-t": "fab-t(steps=5)",
    "narrowing": "narrowing(fab_steps=5, halvings=2, steps=5)",
    **{name: f"{name}(steps=10)" for name in ("apgd-ce", "apgd-dlr", "apgd-t", "apgd-margin")},
}

# The smallest budgets with which each still goes through all of its code, for tests to which the effect is nothing.
BRIEFEST = {
    "square": "square(queries=5)",
    "eot-pgd": "eot-pgd(samples=2, steps=2)",
    "ensemble": "ensemble(attacks='pgd(steps=2),square(queries=4)')",
    "autoattack": "autoattack(steps=2, queries=4)",
    "autoattack-plus": "autoattack-plus(steps=2, queries=4)",
    "autoattack-rand": "autoattack-rand(steps=2, samples=2)",
    "nearest-pgd": "nearest-pgd(start='uniform', steps=3)",
    "fab": "fab(steps=2)",
    "fab-t": "fab-t(steps=2)",
    "narrowing": "narrowing(fab_steps=2, halvings=1, steps=2)",
    **{name: f"{name}(steps=4)" for name in ("apgd-ce", "apgd-dlr", "apgd-t", "apgd-margin")},
}

every = pytest.mark.parametrize(("name", "norm"), [(name, norm) for name in NAMES for norm in NORMS])
# Attacks that between them run all code of the loop and of the grid.
some = pytest.mark.parametrize("name", ["fgsm", "pgd", "targeted-pgd", "temperature-pgd"])


def attack_of(name: str, norm: str, eps: float | None = None) -> Attack:
    """Return an attack as it is registered."""
    return _built(BRIEF.get(name, name), norm, eps)


def _built(text: str, norm: str, eps: float | None) -> Attack:
    return build([text], ThreatModel(norm, RADIUS[norm] if eps is None else eps))[text]  # type: ignore[arg-type]


def brief(name: str, norm: str, eps: float | None = None) -> Attack:
    """Return an attack with two steps where it has steps, for tests that do not need more."""
    attack = _built(BRIEFEST.get(name, name), norm, eps)
    if isinstance(attack, TemperaturePGD):
        return replace(attack, pgd=replace(attack.pgd, steps=2))
    return replace(attack, steps=2) if isinstance(attack, PGD) and attack.steps > 2 else attack


def noise(n: int, seed: int = 0) -> Noise:
    return Noise(seed, torch.arange(n))


def smooth(n: int = 12, num_classes: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    model = Smooth(num_classes, 9)
    return model, *labelled(model, n, SHAPE)


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return predict(model(x_adv), y) != y


# Where the result lies.


@every
def test_candidates_are_images_of_the_threat_set(name: str, norm: str) -> None:
    model, x, y = smooth()
    attack = attack_of(name, norm)
    x_adv = attack(model, x, y, noise=noise(12))
    assert attack.threat.contains(x_adv, x).all()
    assert (x_adv.shape, x_adv.dtype) == (x.shape, x.dtype)
    assert not x_adv.requires_grad


@every
def test_candidates_stay_in_the_pixel_range_at_its_limits(name: str, norm: str) -> None:
    model, x, _ = smooth()
    x = x.round()
    attack = brief(name, norm)
    x_adv = attack(model, x, model(x).argmax(1), noise=noise(12))
    assert attack.threat.contains(x_adv, x).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@every
def test_a_radius_of_zero_changes_nothing(name: str, norm: str) -> None:
    model, x, y = smooth()
    assert torch.equal(brief(name, norm, eps=0.0)(model, x, y, noise=noise(12)), x)


@every
def test_an_attack_of_this_radius_breaks_some_images(name: str, norm: str) -> None:
    model, x, y = smooth(60)
    attack = attack_of(name, norm)
    assert 3 < fooled(model, attack(model, x, y, noise=noise(60)), y).sum() < 60


@pytest.mark.parametrize("name", [name for name in NAMES if "kl" not in name])
def test_a_candidate_has_a_larger_margin_than_a_random_point(name: str) -> None:
    model, x, y = smooth(60)
    attack = attack_of(name, "Linf")
    random = attack.threat.sample(x, noise(60).fold("random"))
    assert fooled(model, attack(model, x, y, noise=noise(60)), y).sum() > 2 * fooled(model, random, y).sum()


# What the result depends on.


@every
def test_the_same_noise_gives_the_same_candidates(name: str, norm: str) -> None:
    model, x, y = smooth()
    attack = brief(name, norm)
    first, second = (attack(model, x, y, noise=noise(12)) for _ in range(2))
    assert torch.equal(first, second)


@every
def test_other_noise_gives_other_candidates(name: str, norm: str) -> None:
    model, x, y = smooth()
    attack = brief(name, norm)
    first, second = (attack(model, x, y, noise=noise(12, seed)) for seed in (0, 1))
    assert torch.equal(first, second) == (name in DETERMINISTIC)


@every
def test_neither_batch_nor_order_matters(name: str, norm: str) -> None:
    model, x, y = smooth(8)
    attack = attack_of(name, norm)
    whole = attack(model, x, y, noise=noise(8))
    for parts in ([[0], [1, 2, 3], [4, 5, 6, 7]], [[7, 2, 5, 0], [3, 1, 6, 4]]):
        split = torch.empty_like(whole)
        for positions in map(torch.tensor, parts):
            split[positions] = attack(model, x[positions], y[positions], noise=noise(8).select(positions))
        assert torch.equal(fooled(model, split, y), fooled(model, whole, y))
        torch.testing.assert_close(split, whole, rtol=0, atol=1e-4)


@some
@pytest.mark.parametrize("norm", NORMS)
def test_the_layout_of_the_memory_does_not_matter(name: str, norm: str) -> None:
    model = Smooth(4, 18)
    x, y = labelled(model, 6, (2, 3, 3))
    attack = brief(name, norm)
    first = attack(model, x, y, noise=noise(6))
    second = attack(model, x.to(memory_format=torch.channels_last), y, noise=noise(6))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


# What is left as it was.


@every
def test_the_arguments_are_left_as_they_were(name: str, norm: str) -> None:
    model, x, y = smooth()
    before = x.clone(), y.clone()
    brief(name, norm)(model, x, y, noise=noise(12))
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@every
def test_candidates_do_not_share_memory_with_the_images(name: str, norm: str) -> None:
    model, x, y = smooth()
    for eps in (0.0, None):
        x_adv = brief(name, norm, eps)(model, x, y, noise=noise(12))
        assert x_adv.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@every
def test_images_that_need_a_gradient_get_none(name: str, norm: str) -> None:
    model, x, y = smooth(4)
    x.requires_grad_(True)
    x_adv = brief(name, norm)(model, x, y, noise=noise(4))
    assert x.grad is None
    assert not x_adv.requires_grad


def state(model: nn.Module) -> list[Any]:
    modes = [module.training for module in model.modules()]
    tensors = [tensor.detach().clone() for tensor in model.state_dict().values()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    gradients = [parameter.grad for parameter in model.parameters()]
    return [modes, tensors, flags, gradients]


@every
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(name: str, norm: str, training: bool) -> None:
    model = Stateful().train(training)
    model.norm.train(not training)
    model.head.bias.requires_grad_(False)
    x, y = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    before = state(model)
    brief(name, norm)(model, x, y, noise=noise(4))
    after = state(model)
    assert after[0] == before[0]
    assert all(torch.equal(now, then) for now, then in zip(after[1], before[1], strict=True))
    assert after[2:] == before[2:]


@every
def test_the_model_is_attacked_in_eval_mode(name: str, norm: str) -> None:
    model = Stateful()
    x, y = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    attack = brief(name, norm)
    first, second = (attack(model.train(training), x, y, noise=noise(4)) for training in (True, False))
    assert torch.equal(first, second)


@every
def test_the_random_numbers_of_the_process_are_left_alone(name: str, norm: str) -> None:
    model, x, y = smooth(4)
    before = torch.get_rng_state()
    brief(name, norm)(model, x, y, noise=noise(4))
    assert torch.equal(torch.get_rng_state(), before)


@every
@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode])
def test_gradients_switched_off_outside_do_not_matter(name: str, norm: str, outer: Callable[[], Any]) -> None:
    model, x, y = smooth(6)
    attack = brief(name, norm)
    expected = attack(model, x, y, noise=noise(6))
    with outer():
        assert torch.equal(attack(model, x, y, noise=noise(6)), expected)
        assert not torch.is_grad_enabled()


@some
def test_frozen_weights_do_not_matter(name: str) -> None:
    model, x, y = smooth()
    attack = brief(name, "Linf")
    expected = attack(model, x, y, noise=noise(12))
    model.requires_grad_(False)
    assert torch.equal(attack(model, x, y, noise=noise(12)), expected)


@some
def test_gradients_that_the_weights_have_stay(name: str) -> None:
    model, x, y = smooth()
    model(x).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    brief(name, "Linf")(model, x, y, noise=noise(12))
    assert all(torch.equal(p.grad, then) for p, then in zip(model.parameters(), before, strict=True))


# Any model and any batch.


@every
@pytest.mark.parametrize("num_classes", [2, 3, 100])  # the other tests have 4
def test_any_number_of_classes_is_fine(name: str, norm: str, num_classes: int) -> None:
    model, x, y = smooth(5, num_classes)
    attack = brief(name, norm)
    assert attack.threat.contains(attack(model, x, y, noise=noise(5)), x).all()


@every
def test_no_image_is_a_batch_too(name: str, norm: str) -> None:
    model, x, y = smooth(3)
    assert brief(name, norm)(model, x[:0], y[:0], noise=noise(0)).shape == (0, *SHAPE)


@every
@pytest.mark.parametrize("mask", MASKS)
def test_a_masked_gradient_neither_crashes_nor_leaves_the_set(name: str, norm: str, mask: type[nn.Module]) -> None:
    model, x, y = smooth(5)
    attack = brief(name, norm)
    x_adv = attack(mask(model), x, y, noise=noise(5))
    assert attack.threat.contains(x_adv, x).all()


@every
def test_images_that_are_wrong_already_stay_wrong(name: str, norm: str) -> None:
    model, x, y = smooth(20)
    y = (y + 1) % 4
    attack = attack_of(name, norm)
    x_adv = attack(model, x, y, noise=noise(20))
    assert attack.threat.contains(x_adv, x).all()
    assert fooled(model, x_adv, y).float().mean() > 0.7


@some
def test_logits_that_are_not_finite_do_not_crash(name: str) -> None:
    model, x, y = smooth(5)
    broken = nn.Sequential(model)
    broken.forward = lambda x: model(x) * torch.tensor([float("nan"), 1, 1, 1])  # type: ignore[method-assign]
    attack = brief(name, "Linf")
    assert attack.threat.contains(attack(broken, x, y, noise=noise(5)), x).all()


# Settings.


@every
def test_the_repr_of_an_attack_builds_it_again(name: str, norm: str) -> None:
    attack = brief(name, norm)
    own = vars(sys.modules[type(attack).__module__])
    names = {**vars(attacks), **own, "ThreatModel": ThreatModel}
    assert eval(repr(attack), names) == attack
    assert hash(eval(repr(attack), names)) == hash(attack)
    assert pickle.loads(pickle.dumps(attack)) == attack


@every
def test_an_attack_is_frozen_settings(name: str, norm: str) -> None:
    attack = brief(name, norm)
    assert dataclasses.is_dataclass(attack)
    for field in dataclasses.fields(attack):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(attack, field.name, None)
        assert not isinstance(getattr(attack, field.name), (Tensor, nn.Module, torch.device))


# How many rows the model is given.


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "text",
    ["apgd-t(steps=10, restarts=2)", "fab-t(steps=8, restarts=2)", "nearest-pgd(steps=3)", "square(queries=200)"],
)
def test_room_for_more_rows_changes_no_candidate(text: str, norm: str) -> None:
    model = Smooth(6, 9, factor=2.0)
    x, y = labelled(model, 40, (1, 3, 3))
    attack = build([text], ThreatModel(norm, RADIUS[norm]))[text]  # type: ignore[arg-type]
    alone = attack(model, x, y, noise=noise(40))
    assert 0 < fooled(model, alone, y).sum() < 40
    passes = []
    for rows in (1, 7, 60, 1000):
        watched = Rows(model)
        together = replace(attack, rows=rows)(watched, x, y, noise=noise(40))  # type: ignore[call-arg]
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
        assert max(watched.rows) <= max(rows, 40), "more than there is room for"
        passes.append(len(watched.rows))
    assert passes == sorted(passes, reverse=True)
    assert passes[-1] < passes[0], "it did not use its room"


class Rows(nn.Module):
    """Remembers how many rows each pass had."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.model(x)


@every
def test_at_a_share_of_the_radius_every_threat_and_step_inside_has_that_share(name: str, norm: str) -> None:
    attack = attack_of(name, norm)
    before, after = (lengths(described(each)) for each in (attack, scaled(attack, 0.5)))
    assert after == [0.5 * each for each in before]
    assert before, "an attack has a threat"


def lengths(found: Any) -> list[float]:
    """Return every radius and step in what a record holds of an attack, in order."""
    if isinstance(found, list):
        return [length for each in found for length in lengths(each)]
    if not isinstance(found, dict):
        return []
    mine = [found[key] for key in ("eps", "step_size") if found.get(key) is not None]
    return mine + [length for each in found.values() for length in lengths(each)]
