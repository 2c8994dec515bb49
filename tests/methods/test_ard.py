"""ARD against its formula, its limits, and a temperature so large that float32 must carry it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods import strategies
from tests.methods.strategies import attack, batch, network

from classwise.errors import InputError
from classwise.methods import ARD, AT, Standard, Step
from classwise.methods.ard import softened
from classwise.models import Teacher

Y = torch.arange(24) % 3
TEACHER = strategies.teacher(3)


def made(method: Any, model: torch.nn.Module | None = None) -> Step:
    x, noise = batch(Y)
    step: Step = method(model or network(3), x, Y, noise)
    return step


@pytest.mark.parametrize("temperature", [1.0, 30.0])
def test_the_loss_is_that_of_the_released_codes_summed_over_classes(temperature: float) -> None:
    step = made(ARD(3, attack(), TEACHER, temperature=temperature, share=0.7))
    t, log_p = (TEACHER(batch(Y)[0]) / temperature).softmax(1), (step.logits_adv / temperature).log_softmax(1)
    divergence = F.kl_div(log_p, t, reduction="batchmean")
    wanted = 0.7 * temperature**2 * divergence + 0.3 * F.cross_entropy(step.logits, Y)
    torch.testing.assert_close(step.loss, wanted, rtol=1e-3, atol=1e-5)
    released = 0.7 * temperature**2 * F.kl_div(log_p, t, reduction="none").mean()
    scaled = made(ARD(3, attack(), TEACHER, temperature=temperature, share=0.7, scale=1 / 3))
    torch.testing.assert_close(scaled.loss - 0.1 * F.cross_entropy(step.logits, Y), released, rtol=1e-3, atol=1e-5)


def test_for_a_large_temperature_it_compares_centred_logits() -> None:
    """τ²·KL(softmax(a/τ) ‖ softmax(b/τ)) → ½·Σ(d − mean d)²/K for d = a − b: here d = (1, 2, −3), so 14/6."""
    taught, logits = torch.tensor([[1.0, 2.0, -3.0]]), torch.zeros(1, 3)
    assert float(softened(logits, taught, 300.0)) == pytest.approx(14 / 6, rel=0.02)


def test_the_clean_images_are_not_looked_at_where_they_have_no_weight() -> None:
    model = network(3)
    step = made(ARD(3, attack(), TEACHER), model)
    assert step.logits is None
    assert int(model[2].num_batches_tracked) == 1


def test_the_attacked_images_are_those_of_adversarial_training() -> None:
    assert torch.equal(made(ARD(3, attack(), TEACHER)).logits_adv, made(AT(3, attack())).logits_adv)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_where_nothing_is_attacked() -> None:
    model = network(3).eval()
    loss = made(ARD(3, attack(eps=0.0), Teacher(model, "itself")), model).loss
    assert float(loss.detach()) == pytest.approx(0, abs=1e-3)
    attacked = made(ARD(3, attack(eps=0.5), Teacher(model, "itself")), model).loss
    assert float(attacked.detach()) > 0.01


def test_without_a_share_of_the_teacher_it_is_the_clean_cross_entropy() -> None:
    torch.testing.assert_close(made(ARD(3, attack(), TEACHER, share=0)).loss, made(Standard(3, attack())).loss)


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"temperature": -1}, {"temperature": math.inf}, {"share": 2}])
def test_a_setting_outside_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"setting {next(iter(wrong))}"):
        ARD(3, attack(), TEACHER, **wrong)
