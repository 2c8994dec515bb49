"""Whatever a model is and does, the images of its caller stay as they were, and its failures are sentences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.odd_models import REFUSED, WORKS, WRITES, Odd, WithLogits, after, votes
from torch import Tensor, nn

from classwise.attacks import attacking, build
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.runtime.classifier import Classifier, as_classifier, failures_said, logits_of
from classwise.threat import ThreatModel

ATTACKS = (
    "fgsm,pgd(steps=5),pgd(steps=5,keep='last'),kl-pgd(steps=5),targeted-pgd(steps=5),mi-pgd(steps=5),apgd-ce(steps=5),"
    "apgd-t(steps=5),fab(steps=5),fab-t(steps=5),square(queries=10),nearest-pgd(steps=5),temperature-pgd(steps=5),"
    "eot-pgd(steps=5,samples=2),narrowing(steps=3,fab_steps=3)"
)
X = 0.3 + 0.4 * torch.rand(6, 1, 3, 2, generator=torch.Generator().manual_seed(0))
Y = votes(X).argmax(1)


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("grad", [False, True])
def test_an_odd_model_returns_the_logits_of_the_plain_one_and_leaves_the_images_alone(name: str, grad: bool) -> None:
    x = X.clone().requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        logits = as_classifier(WORKS[name])(x)
        assert torch.is_grad_enabled() == grad
    assert torch.equal(x, X)
    assert torch.allclose(logits.float(), votes(X), atol=1e-5)
    assert logits.requires_grad == grad


@pytest.mark.parametrize("attack", build(ATTACKS, ThreatModel("Linf", 0.1)).items(), ids=lambda pair: pair[0])
@pytest.mark.parametrize("name", WRITES)
def test_every_attack_finds_the_same_images_whether_a_model_writes_to_its_input_or_not(name: str, attack: Any) -> None:
    x = X.clone()
    found = attack[1](WRITES[name], x, Y, noise=Noise(0, torch.arange(len(X))))
    expected = attack[1](Odd(lambda model, x: votes(model.weight * x)), X, Y, noise=Noise(0, torch.arange(len(X))))
    assert torch.equal(x, X)
    # Another order of operations rounds otherwise, which may turn a step where a gradient is all but zero.
    assert ((found - expected).flatten(1).abs().amax(1) < 1e-4).float().mean() >= 5 / 6


@pytest.mark.parametrize("name", [name for name in REFUSED if "single" not in name and name not in ("squeezed",)])
def test_what_cannot_be_taken_is_refused_in_a_sentence(name: str) -> None:
    model, said = REFUSED[name]
    with pytest.raises(InputError, match=said.replace(".*fixed_shape", "")):
        as_classifier(model)(X)


def test_the_gradient_of_an_image_passes_through_an_in_place_model() -> None:
    x = X.clone().requires_grad_(True)
    logits = as_classifier(WRITES["subtracts and divides in place"])(x)
    assert torch.allclose(torch.autograd.grad(logits.sum(), x)[0], torch.full_like(X, 5.0))


def test_a_sentence_names_model_shape_and_mode() -> None:
    with pytest.raises(InputError, match=r"pass of mine, on images \(6, 1, 3, 2\) with gradients: RuntimeError: no"):
        Classifier(Odd(lambda model, x: (_ for _ in ()).throw(RuntimeError("no"))), "mine")(X)


def test_a_shape_that_changes_later_is_refused() -> None:
    model = as_classifier(after(2, lambda x: votes(x)[:, :2]), num_classes=3)
    assert model(X).shape == model(X).shape == (6, 3)
    with pytest.raises(InputError, match="returns 2 logits"):
        model(X)


def test_ctrl_c_and_memory_that_has_run_out_pass_through() -> None:
    for error in (KeyboardInterrupt(), MemoryError()):
        with pytest.raises(type(error)), failures_said("In the forward pass"):
            raise error


def test_a_buffer_that_a_model_returns_again_keeps_what_it_returned_first() -> None:
    kept = torch.zeros(6, 3)
    model = as_classifier(Odd(lambda model, x: kept.copy_(votes(x).detach())))
    first = model(X)
    model(1 - X)
    assert torch.equal(first, votes(X))


def test_a_frozen_script_is_attacked_like_any_other() -> None:
    with pytest.warns(FutureWarning) if hasattr(torch, "export") else pytest.warns():  # torch.jit is deprecated
        script = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).eval()))
    attack = build("pgd", ThreatModel("Linf", 0.1))["pgd"]
    assert attack(script, X, Y, noise=Noise(0, torch.arange(6))).shape == X.shape


def test_modes_are_put_back_and_set_by_the_methods_of_the_model() -> None:
    model = WORKS["modes that return nothing"]
    model.train()
    with attacking(model) as called:
        assert not model.training
        assert not called.training
    assert model.training


def test_the_images_are_handed_over_contiguous() -> None:
    seen = list[bool]()

    def forward(model: Odd, x: Tensor) -> Tensor:
        seen.append(x.is_contiguous())
        return votes(x)

    as_classifier(Odd(forward))(X.expand(6, 1, 3, 2).transpose(2, 3).contiguous().transpose(2, 3))
    assert seen == [True]


@pytest.mark.parametrize(
    ("output", "how"),
    [
        (X.flatten(1), ""),
        ({"logits": X.flatten(1)}, "the entry 'logits' of its dict"),
        (WithLogits(X.flatten(1)), "the attribute logits of its WithLogits"),
        ((X, X.flatten(1)), "element 1 of its tuple"),
        ((X.flatten(1), X.flatten(1)), ""),
        ({"logits": None}, ""),
    ],
)
def test_the_logits_of_an_output_are_picked_only_where_they_can_be_told(output: Any, how: str) -> None:
    logits, said = logits_of(output, 6)
    assert said == how
    assert (logits is None) == (how == "" and not isinstance(output, Tensor))
