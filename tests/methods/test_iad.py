"""IAD: the trust in the teacher, when it begins, and distillation without doubt as the limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods import strategies
from tests.methods.strategies import attack, batch, network
from torch import Tensor

from classwise.errors import InputError
from classwise.methods import ARD, IAD, Epoch, Pass, Step
from classwise.methods.iad import trust
from classwise.metrics.stats import ClassStats
from classwise.models import Teacher

Y = torch.arange(24) % 3
TEACHER = strategies.teacher(3)
DOUBTFUL = Teacher(network(3, seed=4), "untrained")


def trained(method: IAD, epochs: int) -> IAD:
    nothing = Pass(ClassStats.zeros(3), ClassStats.zeros(3))
    for number in range(epochs):
        method.end_epoch(Epoch(number, nothing, None))
    return method


def made(method: Any) -> Step:
    x, noise = batch(Y)
    step: Step = method(network(3), x, Y, noise)
    return step


def doubt(step: Step, x_adv: Tensor, power: float = 0.1) -> Tensor:
    """Return (1 − a)·KL(p(x) ‖ p(x_adv)) of a doubtful teacher, averaged over the images."""
    assert step.logits is not None
    a = DOUBTFUL(x_adv).softmax(1)[torch.arange(24), Y] ** power
    own = F.kl_div(step.logits_adv.log_softmax(1), step.logits.softmax(1), reduction="none").sum(1)
    return ((1 - a) * own).mean()


def test_the_trust_is_a_power_of_the_teachers_probability_of_the_true_class() -> None:
    """p = (0.8, 0.2) and the true class 1: 0.2^0.1; a certain teacher has 1, and one that is certainly wrong 0."""
    taught = torch.tensor([[0.8, 0.2], [0.0, 1.0], [1.0, 0.0]]).log()
    found = trust(taught, torch.ones(3, dtype=torch.int64), 0.1)
    assert found.tolist() == pytest.approx([0.2**0.1, 1, 0])
    many = trust(100 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0)), torch.arange(500) % 4, 0.1)
    assert ((many >= 0) & (many <= 1)).all()


def test_the_loss_is_that_of_the_release_summed_over_classes() -> None:
    x, noise = batch(Y)
    method = IAD(3, attack(eps=0.5), DOUBTFUL, begin=1)
    step = made(method)
    x_adv = method.attack(network(3), x, Y, noise=noise)
    taught = F.kl_div(step.logits_adv.log_softmax(1), DOUBTFUL(x).softmax(1), reduction="batchmean")
    torch.testing.assert_close(step.loss, taught + doubt(step, x_adv))
    assert doubt(step, x_adv) > 1e-4, "the test is empty if nothing is doubted"


def test_a_teacher_without_doubt_gives_ard_at_temperature_1() -> None:
    plain = made(ARD(3, attack(), TEACHER, temperature=1.0))
    for method in (IAD(3, attack(), TEACHER, power=0, begin=1), IAD(3, attack(), TEACHER)):
        torch.testing.assert_close(made(method).loss, plain.loss)
        assert torch.equal(made(method).logits_adv, plain.logits_adv)


def test_the_gradient_reaches_the_students_own_clean_prediction() -> None:
    """On a student that is fixed on attacked images nothing but its clean prediction can lower the loss."""
    x, _ = batch(Y)
    method = IAD(3, attack(), DOUBTFUL, begin=1)
    clean = torch.zeros(24, 3, requires_grad=True)

    def student(images: Tensor) -> Tensor:
        return clean if torch.equal(images, x) else torch.arange(3.0).expand(24, 3)

    method.errors(student, x, x + 0.1, Y, DOUBTFUL(x)).loss.sum().backward()
    assert (clean.grad.abs().sum(1) > 1e-3).all()


def test_the_teacher_is_trusted_until_the_epoch_that_doubt_begins_in() -> None:
    method = IAD(3, attack(eps=0.5), DOUBTFUL, begin=3)
    steps = [made(trained(method, epochs)) for epochs in range(4)]
    x, noise = batch(Y)
    x_adv = method.attack(network(3), x, Y, noise=noise)
    plain, doubted = steps[0].loss, doubt(steps[0], x_adv)
    assert doubted > 1e-4, "the test is empty if nothing is doubted"
    # The doubt itself, whose size no processor's rounding comes near.
    torch.testing.assert_close(torch.stack([step.loss for step in steps]) - plain, doubted * torch.tensor([0, 0, 1, 1]))
    fresh = IAD(3, attack(eps=0.5), DOUBTFUL, begin=3)
    fresh.load_state_dict(trained(IAD(3, attack(), DOUBTFUL, begin=3), 2).state_dict())
    torch.testing.assert_close(made(fresh).loss, steps[2].loss)


def test_a_teacher_that_is_wrong_everywhere_is_doubted_in_full() -> None:
    class Wrong(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * F.one_hot((Y + 1) % 3, 3).float()

    step = made(IAD(3, attack(), Teacher(Wrong(), "wrong"), begin=1))
    taught = F.cross_entropy(step.logits_adv, (Y + 1) % 3)
    own = F.kl_div(step.logits_adv.log_softmax(1), step.logits.softmax(1), reduction="batchmean")
    torch.testing.assert_close(step.loss, taught + own)


@pytest.mark.parametrize("wrong", [{"power": -1}, {"power": math.nan}, {"begin": 0}, {"begin": 1.5}])
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"setting {next(iter(wrong))}"):
        IAD(3, attack(), TEACHER, **wrong)
