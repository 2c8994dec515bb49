"""BAT: which two images of an attack's path are taken, and the loss on them."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods.strategies import SHAPE, Watched, attack, batch, network
from torch import Tensor, nn

from classwise.attacks import PGD
from classwise.attacks.base import predict
from classwise.errors import InputError
from classwise.methods import BAT
from classwise.methods.bat import both_sides, from_uniform

Y = torch.arange(24) % 3


def fitted() -> nn.Module:
    """Return a network that is right on most images, so that each is fooled at a step of its own."""
    model = network(3)
    x, _ = batch(Y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(x), Y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def slow(steps: int = 10) -> PGD:
    """Return an attack of small steps on the divergence."""
    return replace(attack(0.3, steps), step_size=0.05, loss="kl", start="jitter")


def walk(model: nn.Module, steps: int = 10) -> tuple[list[Tensor], Tensor]:
    """Return all points on the attack's path, the start first, and which images are wrong there, (steps + 1, N)."""
    x, noise = batch(Y)
    path = [slow().starts(x, noise), *(slow(k)(model, x, Y, noise=noise) for k in range(1, steps + 1))]
    return path, torch.stack([predict(model(x_adv), Y) != Y for x_adv in path])


def test_the_two_images_are_those_of_the_release_on_the_path_of_plain_pgd() -> None:
    model = fitted()
    path, wrong = walk(model)
    last_clean, first_adv = both_sides(slow(), model, *batch_of())
    kinds = set()
    for i in range(len(Y)):
        looks = wrong[:-1, i].nonzero().flatten().tolist()  # the result of the last step is not looked at
        before = max(looks[0] - 1, 0) if looks else 10
        after = looks[1] if len(looks) > 1 else 10
        kinds.add((before == 10, after == 10, looks[:1] == [0]))
        assert torch.equal(last_clean[i], path[before][i]), i
        assert torch.equal(first_adv[i], path[after][i]), i
    assert len(kinds) >= 3, "images must stop early, late and at once for this test to say anything"


def batch_of() -> tuple[Tensor, Tensor, Any]:
    x, noise = batch(Y)
    return x, Y, noise


def test_the_last_clean_image_is_right_unless_its_start_is_wrong_or_it_was_never_looked_at() -> None:
    model = fitted()
    last_clean, first_adv = both_sides(slow(), model, *batch_of())
    _, wrong = walk(model)
    excused = wrong[0] | ~wrong[:-1].any(0)
    assert (predict(model(last_clean), Y) == Y)[~excused].all()
    assert (~excused).sum() > 5
    stopped = wrong[:-1].sum(0) > 1
    assert (predict(model(first_adv), Y) != Y)[stopped].all()


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_both_images_are_in_the_threat_set(mode: Any) -> None:
    x, y, noise = batch_of()
    for made in both_sides(replace(slow(), mode=mode), fitted().train(), x, y, noise):
        assert slow().threat.contains(made, x).all()
        assert not made.requires_grad


def test_the_gradient_of_a_batch_is_that_of_its_images_one_at_a_time() -> None:
    whole, single = fitted(), fitted()
    method = BAT(3, slow())
    x, y, noise = batch_of()
    method(whole, x, y, noise).loss.backward()
    for i in range(len(y)):
        one = torch.tensor([i])
        (method(single, x[one], y[one], noise.select(one)).loss / len(y)).backward()
    for mine, other in zip(whole.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_the_order_of_the_batch_does_not_matter() -> None:
    x, y, noise = batch_of()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    straight = both_sides(slow(), fitted(), x, y, noise)
    shuffled = both_sides(slow(), fitted(), x[order], y[order], noise.select(order))
    for one, other in zip(straight, shuffled, strict=True):
        torch.testing.assert_close(other, one[order], atol=1e-6, rtol=0)


def test_a_prediction_is_as_far_from_uniform_as_the_formula_says() -> None:
    """p = (1/2, 1/4, 1/4): log 3 − (½·log 2 + ½·log 4) = log 3 − 1.5·log 2; certainty has log 3."""
    logits = torch.tensor([[0.5, 0.25, 0.25], [1 / 3] * 3, [1.0, 1e-30, 1e-30]]).log()
    wanted = [math.log(3) - 1.5 * math.log(2), 0, math.log(3)]
    assert from_uniform(logits).tolist() == pytest.approx(wanted, abs=1e-6)
    assert from_uniform(torch.full((2, 100), 7.0)).tolist() == pytest.approx([0, 0], abs=1e-5)


def test_the_loss_is_the_four_terms_of_the_release() -> None:
    x, y, noise = batch_of()
    method, model = BAT(3, slow(), beta=2.0, uniform=0.5), fitted()
    made = method(model, x, y, noise)
    last_clean, first_adv = both_sides(method.attack, model, x, y, noise)
    p, p_last, p_first = (model(z).softmax(1) for z in (x, last_clean, first_adv))
    divergence = (p * (p / p_first).log()).sum(1).mean()
    entropies = [-(q * q.log()).sum(1).mean() for q in (p_last, p_first)]
    wanted = F.nll_loss(p_last.log(), y) + 2 * divergence + 0.5 * (2 * math.log(3) - sum(entropies))
    torch.testing.assert_close(made.loss, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(made.logits, model(x))
    assert torch.equal(made.logits_adv, model(first_adv))


def test_each_of_three_kinds_of_images_is_seen_once_in_train_mode() -> None:
    model = Watched(fitted()).train()
    x, y, noise = batch_of()
    last_clean, first_adv = both_sides(slow(), copy.deepcopy(model.model), x, y, noise)
    BAT(3, slow())(model, x, y, noise)
    trained = [images for training, images in model.seen if training]
    assert [images.shape[1:] for images in trained] == [SHAPE] * 3
    for mine, wanted in zip(trained, (x, last_clean, first_adv), strict=True):
        assert torch.equal(mine, wanted)
    assert len(model.seen) == 3 + 1 + 10, "the clean logits and ten steps: as many passes as TRADES, and one more"


@pytest.mark.parametrize("name", ["beta", "uniform"])
@pytest.mark.parametrize("value", [-1, math.inf, "6", True])
def test_a_setting_outside_its_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"setting {name}"):
        BAT(3, attack(), **{name: value})
