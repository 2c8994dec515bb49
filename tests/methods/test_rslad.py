"""RSLAD against its formula, and what every method with a teacher promises."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods import strategies
from tests.methods.strategies import Watched, attack, batch, network
from torch import Tensor

from classwise import registry
from classwise.errors import InputError
from classwise.losses import kl
from classwise.methods import RSLAD, Distillation, Step
from classwise.models import Teacher

Y = torch.arange(24) % 3
DISTILLATIONS = [name for name in registry.names("method") if "teacher" in strategies.asked(name)]

every_distillation = pytest.mark.parametrize("name", DISTILLATIONS)


def answers(*logits: Tensor) -> Teacher:
    """Return a teacher of fixed logits, the same for every image."""

    class Fixed(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack(logits).expand(len(x), -1)

    return Teacher(Fixed(), "fixed")


def made(method: Distillation, model: torch.nn.Module) -> Step:
    x, noise = batch(Y)
    step: Step = method(model, x, Y, noise)
    return step


def test_the_loss_is_the_formula_of_the_paper_summed_over_classes() -> None:
    teacher, model = strategies.teacher(3), network(3)
    step = made(RSLAD(3, attack(), teacher), model)
    t = teacher(batch(Y)[0]).softmax(1)
    terms = [(t * (t.log() - z.log_softmax(1))).sum(1).mean() for z in (step.logits_adv, step.logits)]
    torch.testing.assert_close(step.loss, 5 / 6 * terms[0] + terms[1] / 6)
    scaled = made(RSLAD(3, attack(), teacher, scale=0.1), network(3))
    torch.testing.assert_close(scaled.loss, 0.1 * step.loss)


def test_the_attack_climbs_the_divergence_from_the_teacher_from_a_jittered_start() -> None:
    method, model = RSLAD(3, attack(steps=5), strategies.teacher(3)), network(3)
    assert method.attack == replace(attack(steps=5), loss="kl", start="jitter")
    x, noise = batch(Y)
    t = method.teacher(x)
    x_adv = method.attack(copy.deepcopy(model), x, Y, noise=noise, loss=lambda logits, y: kl(logits, t))
    assert torch.equal(made(method, copy.deepcopy(model)).logits_adv, copy.deepcopy(model)(x_adv))
    model.eval()
    assert kl(model(x_adv), t).mean() > kl(model(x), t).mean() + 0.05


def test_a_student_that_is_its_teacher_has_nothing_to_learn_on_clean_images() -> None:
    model = network(3).eval()
    clean = made(RSLAD(3, attack(), Teacher(model, "itself"), share=0), model).loss
    assert float(clean.detach()) == pytest.approx(0, abs=1e-6)
    assert made(RSLAD(3, attack(), Teacher(model, "itself")), model).loss > 0.001, "under attack it has"


def test_a_teacher_that_is_certain_gives_the_cross_entropy() -> None:
    step = made(RSLAD(3, attack(), answers(*torch.tensor([0.0, 200.0, 0.0]))), network(3))
    errors = [F.cross_entropy(z, torch.ones_like(Y)) for z in (step.logits_adv, step.logits)]
    torch.testing.assert_close(step.loss, 5 / 6 * errors[0] + errors[1] / 6)


def test_true_classes_are_used_nowhere() -> None:
    x, noise = batch(Y)
    method = RSLAD(3, attack(), strategies.teacher(3))
    losses = [method(network(3), x, y, noise).loss for y in (Y, (Y + 1) % 3)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "1", True])
def test_a_share_outside_its_range_is_refused(share: Any) -> None:
    with pytest.raises(InputError, match="setting share"):
        RSLAD(3, attack(), strategies.teacher(3), share=share)


# Every method with a teacher


@every_distillation
def test_the_teacher_gets_no_gradient_and_keeps_its_mode_and_its_weights(name: str) -> None:
    inner = Watched(network(3, seed=5))
    teacher = Teacher(inner, "watched")
    before = teacher.record()
    x, noise = batch(Y)
    registry.build("method", name, 3, attack(), teacher=teacher)(network(3), x, Y, noise).loss.backward()
    assert teacher.record() == before
    assert {training for training, _ in teacher.network.seen} == {False}
    assert any(torch.equal(images, x) for _, images in teacher.network.seen), "it is asked about the clean images"
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


@every_distillation
def test_the_teacher_is_in_no_optimiser_and_no_checkpoint(name: str) -> None:
    method = strategies.method(name, 3, attack())
    assert list(method.parameters()) == []
    sizes = [value.numel() for value in method.state_dict().values()]
    assert sum(sizes) <= 4 * 3 + 3, "class state alone"


@every_distillation
@pytest.mark.parametrize("teacher", [None, "run:runs/teacher"])
def test_a_method_without_its_teacher_is_refused(name: str, teacher: Any) -> None:
    with pytest.raises(InputError, match=r"learns from a teacher: on the command line name its weights"):
        registry.build("method", name, 3, attack(), teacher=teacher)


@every_distillation
def test_a_teacher_of_another_number_of_classes_is_refused(name: str) -> None:
    method = registry.build("method", name, 3, attack(), teacher=strategies.teacher(4))
    x, noise = batch(Y)
    with pytest.raises(InputError, match="'a tiny teacher' knows 4 classes and its student is to learn 3"):
        method(network(3), x, Y, noise)


@pytest.mark.parametrize("name", [name for name in DISTILLATIONS if name != "fair-ard"])  # there the base has it
@pytest.mark.parametrize("scale", [-1, float("inf"), "1"])
def test_a_scale_outside_its_range_is_refused(name: str, scale: Any) -> None:
    with pytest.raises(InputError, match="setting scale"):
        registry.build("method", name, 3, attack(), teacher=strategies.teacher(3), scale=scale)
