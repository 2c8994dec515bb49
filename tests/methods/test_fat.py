"""Friendly adversarial training: when an image stops, where, and that nothing else in the batch moves it."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods.strategies import SHAPE, Watched, attack, batch, network
from torch import Tensor, nn

from classwise.attacks import PGD
from classwise.attacks.base import predict
from classwise.errors import InputError
from classwise.methods import FAT, Epoch, Pass
from classwise.methods.fat import friendly
from classwise.metrics.stats import ClassStats
from classwise.noise import Noise

Y = torch.arange(24) % 3


def trained(method: FAT, epochs: int) -> FAT:
    """Return the method after so many epochs."""
    nothing = Pass(ClassStats.zeros(3), ClassStats.zeros(3))
    for number in range(epochs):
        method.end_epoch(Epoch(number, nothing, None))
    return method


def fitted() -> nn.Module:
    """Return a network that is right on most images, so that each is fooled at a step of its own."""
    model = network(3)
    x, _ = batch(Y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), Y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def slow(steps: int = 10, eps: float = 0.2, mode: str = "eval") -> PGD:
    """Return an attack of small steps."""
    made = attack(eps, steps, mode)
    return PGD(made.threat, steps=steps, step_size=0.03, mode=made.mode)


def alone(model: nn.Module, x: Tensor, y: Tensor, noise: Noise, tau: int, jitter: float, steps: int = 10) -> Tensor:
    """Return the images of algorithm 1 of the paper, one image at a time and written out."""
    found = []
    for i in range(len(y)):
        stream, x_adv, left = noise.select(torch.tensor([i])), None, tau
        x_adv = (x[i] + 0.2 * (2 * stream.fold("start").uniform(SHAPE) - 1)).clamp(0, 1)
        for k in range(steps):
            x_adv = x_adv.detach().requires_grad_(True)
            logits = model(x_adv)
            if logits.argmax() != y[i]:
                if left == 0:
                    break
                left -= 1
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y[i : i + 1]), x_adv)
            step = 0.03 * gradient.sign() + jitter * stream.fold("jitter", k).normal(SHAPE)
            x_adv = (x[i] + (x_adv.detach() + step - x[i]).clamp(-0.2, 0.2)).clamp(0, 1)
        found.append(x_adv.detach())
    return torch.cat(found)


@pytest.mark.parametrize("jitter", [0.0, 0.01])
@pytest.mark.parametrize("tau", [0, 1, 2])
def test_every_image_stops_where_the_algorithm_of_the_paper_stops_it_alone(tau: int, jitter: float) -> None:
    model = fitted()
    x, noise = batch(Y)
    made = friendly(slow(), model, x, Y, noise, tau, jitter)
    torch.testing.assert_close(made, alone(model, x, Y, noise, tau, jitter), atol=1e-5, rtol=0)


def test_with_as_much_patience_as_steps_it_is_pgd() -> None:
    model = fitted()
    x, noise = batch(Y)
    assert torch.equal(friendly(slow(), model, x, Y, noise, tau=10), slow()(model, x, Y, noise=noise))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_in_both_modes_it_is_pgd_if_nothing_stops(mode: str) -> None:
    model = fitted().train()
    x, noise = batch(Y)
    one = slow(mode=mode)
    made = friendly(one, copy.deepcopy(model), x, Y, noise, tau=10)
    assert torch.equal(made, one(copy.deepcopy(model), x, Y, noise=noise))


def test_an_image_does_not_move_after_its_stop() -> None:
    model = fitted()
    x, noise = batch(Y)
    ends = [friendly(slow(steps), model, x, Y, noise, tau=0, jitter=0.01) for steps in range(1, 16)]
    stopped = torch.zeros(len(Y), dtype=torch.bool)
    share = []
    for before, after in itertools.pairwise(ends):
        still = (before == after).flatten(1).all(1)
        assert still[stopped].all()
        stopped |= still
        share.append(float(stopped.float().mean()))
    assert share[0] < share[-1], "images must stop at different steps for this test to say anything"
    # What stopped did so beyond the boundary, with the last step that it took.
    assert (predict(model(ends[-1]), Y) != Y)[stopped].all()


def test_without_patience_an_image_stops_at_its_first_misclassified_iterate() -> None:
    model = fitted()
    x, noise = batch(Y)
    path = [slow().starts(x, noise), *(slow(k)(model, x, Y, noise=noise) for k in range(1, 11))]
    made = friendly(slow(), model, x, Y, noise, tau=0)
    wrong = torch.stack([predict(model(x_adv), Y) != Y for x_adv in path[:-1]])
    for i in range(len(Y)):
        first = int(wrong[:, i].float().argmax()) if wrong[:, i].any() else 10
        assert torch.equal(made[i], path[first][i]), i


def test_the_order_of_the_batch_does_not_matter() -> None:
    model = fitted()
    x, noise = batch(Y)
    order = torch.randperm(len(Y), generator=torch.Generator().manual_seed(0))
    made = friendly(slow(), model, x, Y, noise, 1, 0.01)
    shuffled = friendly(slow(), model, x[order], Y[order], noise.select(order), 1, 0.01)
    torch.testing.assert_close(shuffled, made[order], atol=1e-6, rtol=0)


def test_images_stay_in_the_threat_set_whatever_the_jitter() -> None:
    x, noise = batch(Y)
    made = friendly(slow(), fitted(), x, Y, noise, tau=5, jitter=0.5)
    assert slow().threat.contains(made, x).all()


def test_stopped_images_cost_no_further_pass() -> None:
    model = Watched(fitted()).eval()
    x, noise = batch(Y)
    friendly(slow(40, eps=0.5), model, x, Y, noise, tau=0)
    sizes = [len(seen) for _, seen in model.seen]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) < 20 * len(Y)


def test_the_loss_is_the_cross_entropy_on_its_images_with_labels_in_order() -> None:
    model = fitted().train()
    x, noise = batch(Y)
    twin = copy.deepcopy(model)
    logits = twin(friendly(slow(), copy.deepcopy(model), x, Y, noise, 1, 0.001))
    made = FAT(3, slow(), tau=1)(model, x, Y, noise)
    assert torch.equal(made.logits_adv, logits)
    torch.testing.assert_close(made.loss, F.cross_entropy(logits, Y))
    assert made.logits is None


def test_the_attack_is_in_eval_mode_and_the_loss_in_train_mode() -> None:
    model = Watched(network(3))
    x, noise = batch(Y)
    FAT(3, attack(steps=3), tau=3)(model, x, Y, noise)
    assert [mode for mode, _ in model.seen] == [False] * 3 + [True]


def phase(method: FAT) -> int:
    """Tell which tau a method uses, by the images that it trains on."""
    model = fitted().train()
    x, noise = batch(Y)
    logits = method(copy.deepcopy(model), x, Y, noise).logits_adv
    fits = [
        tau
        for tau in range(4)
        if torch.equal(logits, copy.deepcopy(model)(friendly(slow(), copy.deepcopy(model), x, Y, noise, tau, 0.001)))
    ]
    assert len(fits) == 1
    return fits[0]


@pytest.mark.parametrize(("epochs", "tau"), [(0, 0), (49, 0), (50, 1), (89, 1), (90, 2), (119, 2)])
def test_by_default_patience_grows_after_50_and_90_epochs(epochs: int, tau: int) -> None:
    assert phase(trained(FAT(3, slow()), epochs)) == tau


def test_one_tau_holds_for_the_whole_run() -> None:
    assert [phase(trained(FAT(3, slow(), tau=3), epochs)) for epochs in (0, 200)] == [3, 3]


def test_a_schedule_of_ones_own() -> None:
    assert [phase(trained(FAT(3, slow(), tau=[0, 2], milestones=[1]), epochs)) for epochs in (0, 1, 9)] == [0, 2, 2]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tau": -1}, "setting tau"),
        ({"tau": 1.5}, "setting tau"),
        ({"tau": "a"}, "setting tau"),
        ({"tau": ()}, "setting tau"),
        ({"tau": (0, True)}, "setting tau"),
        ({"milestones": (90, 50)}, "rising order"),
        ({"milestones": (50,)}, "2 milestones"),
        ({"milestones": ("a", "b")}, "setting milestones"),
        ({"milestones": "ab"}, "setting milestones"),
        ({"tau": (0, 1, 2, 3)}, "3 milestones"),
        ({"tau": 1, "milestones": (3,)}, "0 milestones"),
        ({"jitter": -0.1}, "setting jitter"),
        ({"jitter": float("nan")}, "setting jitter"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        FAT(3, slow(), **settings)
