"""CFOL: probabilities and their update by hand, an unbiased estimate, and draws that follow the probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.strategies import attack, batch, network
from torch import Tensor

from classwise import registry
from classwise.attacks.base import predict
from classwise.data.splits import draw_by_class
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods import AT, CFOL
from classwise.methods.cfol import exp3
from classwise.noise import Noise

Y = torch.tensor([0] * 14 + [1] * 7 + [2] * 3)
totals = st.lists(st.floats(0, 500), min_size=2, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))


def build(text: str) -> CFOL:
    method: CFOL = registry.build("method", text, 3, attack())
    return method


@settings(deadline=None)
@given(totals, st.floats(0, 1))
def test_probabilities_sum_to_1_and_every_class_keeps_its_share(total: Tensor, gamma: float) -> None:
    probs, classes = exp3(total, gamma), len(total)
    assert float(probs.sum()) == pytest.approx(1)
    assert float(probs.min()) >= gamma / classes - 1e-12
    assert float(probs.max()) <= 1 - gamma + gamma / classes + 1e-12


def test_no_class_of_ten_is_drawn_more_often_than_055() -> None:
    probs = exp3(torch.tensor([0.0] * 9 + [1e6]), 0.5)
    assert probs.tolist() == pytest.approx([0.05] * 9 + [0.55])


@pytest.mark.parametrize("text", ["cfol", "cfol-rw"])
def test_an_error_on_an_attacked_image_adds_the_rate_over_the_probability_it_was_drawn_with(text: str) -> None:
    method = build(f"{text}(rate=0.01)")
    method.total.copy_(torch.tensor([1.0, 0.0, 3.0]))
    before, probs = method.total.clone(), exp3(method.total, 0.5)
    x, noise = batch(Y)
    step = method(network(3), x, Y, noise)
    wrong = torch.stack([((predict(step.logits_adv, Y) != Y) & (c == Y)).sum() for c in range(3)])
    assert wrong.sum() > 0
    drawn_by = probs if text == "cfol" else torch.full((3,), 1 / 3)
    assert (method.total - before).tolist() == pytest.approx((0.01 * wrong / drawn_by).tolist())


def test_without_errors_the_probabilities_stay() -> None:
    class Right(torch.nn.Module):
        """Adds a large logit to the true class, whatever the image."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * 9 * torch.nn.functional.one_hot(Y, 3) + 0 * x.flatten(1)[:, :3]

    method = build("cfol")
    x, noise = batch(Y)
    method(Right(), x, Y, noise)
    assert method.total.tolist() == [0, 0, 0]


def test_cfol_is_adversarial_training_on_what_was_drawn() -> None:
    x, noise = batch(Y)
    assert torch.equal(build("cfol")(network(3), x, Y, noise).loss, AT(3, attack())(network(3), x, Y, noise).loss)


def test_the_reweighted_form_multiplies_each_loss_by_c_times_p() -> None:
    method = build("cfol-rw(rate=0)")
    method.total.copy_(torch.tensor([1.0, 0.0, 3.0]))
    x, noise = batch(Y)
    step = method(network(3), x, Y, noise)
    weight = 3 * exp3(method.total, 0.5).float()[Y]
    torch.testing.assert_close(step.loss, (weight * cross_entropy(step.logits_adv, Y)).mean())


def test_only_the_drawing_form_says_how_to_draw() -> None:
    probs = build("cfol").class_probs()
    assert probs is not None
    assert probs.tolist() == pytest.approx([1 / 3] * 3)
    assert build("cfol-rw").class_probs() is None


def test_the_importance_weighted_errors_are_an_unbiased_estimate_of_the_class_errors() -> None:
    """Classes of 14, 7 and 3 images are wrong in 4, 7 and 0 of them; M draws give (1/M)·Σ 1[wrong]/p of each class.

    That has the mean of the class error, 4/14, 1 and 0; with p about 0.24, 0.41 and 0.35 and M = 200,000 its standard
    error is below 0.003.
    """
    wrong = torch.zeros(len(Y), dtype=torch.bool)
    wrong[:4], wrong[14:21] = True, True
    probs, draws = exp3(torch.tensor([0.0, 1.0, 0.7]), 0.5), 200_000
    drawn = draw_by_class(Y, probs, Noise(0, torch.arange(draws)))
    counts = torch.bincount(Y[drawn[wrong[drawn]]], minlength=3)
    assert (counts / draws / probs).tolist() == pytest.approx([4 / 14, 1, 0], abs=0.012)


@pytest.mark.parametrize(("name", "value"), [("rate", -1), ("gamma", 1.1), ("gamma", -0.1)])
@pytest.mark.parametrize("text", ["cfol", "cfol-rw"])
def test_a_setting_outside_its_range_is_refused(text: str, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"setting {name}"):
        build(f"{text}({name}={value})")
