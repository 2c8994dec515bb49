"""A fingerprint tells what a model computes apart from rounding."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classwise import load_data, load_model
from classwise.errors import InputError
from classwise.models.fingerprint import Fingerprint, fingerprint, refuse_changed

MODEL = load_model("digits_cnn", num_classes=10, shape=(1, 8, 8))


def pixels(n: int = 8) -> Tensor:
    return load_data("digits", "test").fetch(torch.arange(n))


def of(function: Callable[[Tensor], Tensor]) -> Fingerprint:
    found = fingerprint(function, pixels())
    assert found is not None
    return found


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: MODEL(x - 0.01),
    "scale": lambda x: MODEL(x * 1.01),
    "flip": lambda x: MODEL(x.flip(-1)),
    "pixels rounded to 8 bits": lambda x: MODEL(x + ((x * 255).round() / 255 - x).detach()),
    "classes swapped": lambda x: MODEL(x).flip(1),
    "gradient cut": lambda x: MODEL(x.detach()),
    "gradient scaled": lambda x: MODEL(0.5 * x + 0.5 * x.detach()),
    "temperature": lambda x: MODEL(x) * 1.001,
    "NaN": lambda x: MODEL(x).where(x.mean() > 2, torch.nan),
    "randomised": lambda x: MODEL(x) + 0.01 * torch.randn(len(x), 1),
    "other chance": lambda x: F.dropout(MODEL(x), 0.5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_function_of_the_same_weights_is_told(name: str) -> None:
    assert of(MODEL).change(of(MODEL)) is None
    assert of(MODEL).change(of(CHANGES[name])) is not None


def alone(x: Tensor) -> Tensor:
    return torch.cat([MODEL(part) for part in x.split(1)])


def in_double(x: Tensor) -> Tensor:
    logits: Tensor = copy.deepcopy(MODEL).double()(x.double()).float()
    return logits


@pytest.mark.parametrize("other", [alone, in_double])
def test_other_rounding_is_the_same_function(other: Callable[[Tensor], Tensor]) -> None:
    assert of(MODEL).change(of(other)) is None
    assert of(other).change(of(MODEL)) is None


def test_a_randomised_model_is_given_the_same_numbers_so_that_a_change_below_its_noise_is_told() -> None:
    def dropped(x: Tensor, shift: float = 0.0) -> Tensor:
        return F.dropout(MODEL(x - shift), 0.3)

    state = random.getstate(), torch.get_rng_state()
    first = of(dropped)
    assert first.drawn_on is not None
    assert first.change(of(dropped)) is None
    assert first.change(of(lambda x: dropped(x, 0.01))) is not None
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])


def test_a_model_with_a_generator_of_its_own_is_never_refused_for_its_noise() -> None:
    generator = torch.Generator()

    def noisy(x: Tensor) -> Tensor:
        return MODEL(x) + torch.rand(len(x), 10, generator=generator)

    assert of(noisy).change(of(noisy)) is None
    assert of(noisy).change(of(lambda x: noisy(x) * 20)) is not None


def test_a_record_is_read_again_and_older_ones_without_pass() -> None:
    found = of(MODEL)
    assert Fingerprint.read(found.record) == found
    refuse_changed(None, {"the model": found.record}, "DIR holds the result")
    refuse_changed({"the model": None}, {"the model": found.record}, "DIR holds the result")
    with pytest.raises(
        InputError, match=r"of other code: the weights of the model are the same, but its logits differ"
    ):
        refuse_changed({"the model": found.record}, {"the model": of(CHANGES["mean"]).record}, "DIR holds the result")
    with pytest.raises(InputError, match="damaged"):
        refuse_changed({"the model": {"logits": 3}}, {"the model": found.record}, "DIR holds the result")


def test_a_model_that_cannot_take_the_images_has_none() -> None:
    assert fingerprint(nn.Linear(3, 3), pixels()) is None
