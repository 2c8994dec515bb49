"""What all attacks share: the model's state while attacked, gradients, predictions, and building by name."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from tests.models_for_tests import MASKS, Cut, Frozen, NotANumber, Rounded, Stateful, Steep, affine
from tests.strategies import NORMS, examples, labelled_logits
from torch import Tensor, nn

from classwise import registry
from classwise.attacks import PGD, TemperaturePGD, attacking, build, fgsm, predict
from classwise.attacks.base import INVALID, input_gradient
from classwise.errors import InputError
from classwise.metrics import outcomes
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 8 / 255)
NAN, INF = float("nan"), float("inf")


# The model's state.


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("before", [True, False])
def test_every_module_gets_its_mode_back(mode: str, before: bool) -> None:
    model = Stateful().train(before)
    model.norm.train(not before)
    original = modes(model)
    with attacking(model, mode):  # type: ignore[arg-type]
        assert set(modes(model)) == {mode == "train"}
    assert modes(model) == original


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_module_gets_its_mode_back_after_an_error(mode: str) -> None:
    model = Stateful().train()
    model.norm.eval()
    original, statistics = modes(model), model.norm.running_mean.clone()
    with pytest.raises(RuntimeError), attacking(model, mode):  # type: ignore[arg-type]
        model.head(model.norm(model.conv(torch.rand(4, 1, 7, 7))))  # the head does not fit
    assert modes(model) == original
    assert torch.equal(model.norm.running_mean, statistics)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_statistics_are_left_as_they_were(mode: str) -> None:
    model = Stateful().train()
    before = [buffer.clone() for buffer in model.buffers()]
    with attacking(model, mode):  # type: ignore[arg-type]
        model(torch.rand(8, 1, 6, 6))
        moved = [not torch.equal(now, then) for now, then in zip(model.buffers(), before, strict=True)]
    assert any(moved) == (mode == "train")
    assert all(torch.equal(now, then) for now, then in zip(model.buffers(), before, strict=True))


@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode])
def test_gradients_are_recorded_inside_and_as_before_outside(outer: type[torch.no_grad]) -> None:
    model, x = affine(3, 4), torch.rand(2, 1, 2, 2)
    with outer():
        with attacking(model):
            z = x.clone().requires_grad_(True)
            assert input_gradient(model(z).sum(1), z).abs().sum() > 0
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (outer is torch.inference_mode)


# Gradients.


def test_the_input_gradient_is_that_of_each_image_s_loss() -> None:
    model = affine(3, 4)
    x = torch.rand(2, 1, 2, 2, requires_grad=True)
    gradient = input_gradient(model(x)[:, 1], x)
    torch.testing.assert_close(gradient.flatten(1), model.weight[1].detach().expand(2, 4))


def test_the_input_gradient_leaves_no_gradient_at_the_weights() -> None:
    model = affine(3, 4)
    x = torch.rand(2, 1, 2, 2, requires_grad=True)
    input_gradient(model(x)[:, 1], x)
    assert model.weight.grad is None
    assert x.grad is None


@pytest.mark.parametrize(
    ("mask", "value"), [(Rounded, 0.0), (Cut, 0.0), (Frozen, 0.0), (NotANumber, 0.0), (Steep, torch.finfo().max)]
)
def test_a_masked_gradient_is_a_finite_number(mask: type[Rounded], value: float) -> None:
    x = torch.rand(2, 1, 2, 2, requires_grad=True)
    gradient = input_gradient(mask(affine(3, 4))(x)[:, 1], x)
    assert (gradient.abs() == value).all()


def test_the_masks_are_all_tried() -> None:
    assert set(MASKS) == {Rounded, Cut, Frozen, NotANumber, Steep}


# Predictions.


@given(labelled_logits())
@examples(60)
def test_without_ties_the_prediction_is_the_largest_logit(drawn: tuple[Tensor, Tensor]) -> None:
    logits, y = drawn
    assert torch.equal(predict(logits, y), logits.argmax(1))


@pytest.mark.parametrize(
    ("logits", "predicted"),
    [
        ([1.0, 0.0, 0.0], 0),
        ([1.0, 1.0, 0.0], 1),
        ([1.0, 0.0, 1.0], 2),
        ([0.0, 0.0, 0.0], 1),
        ([0.0, 0.0, 1.0], 2),
        ([NAN, 0.0, 0.0], INVALID),
        ([1.0, NAN, 0.0], INVALID),
        ([INF, 0.0, 0.0], INVALID),
        ([1.0, 0.0, -INF], INVALID),
    ],
)
def test_a_tie_counts_against_the_true_class_and_a_broken_logit_against_all(
    logits: list[float], predicted: int
) -> None:
    assert predict(torch.tensor([logits]), torch.tensor([0])).tolist() == [predicted]


def test_one_broken_image_does_not_spoil_the_others() -> None:
    logits = torch.tensor([[1.0, 0.0], [NAN, 0.0], [0.0, 1.0]])
    assert predict(logits, torch.tensor([0, 0, 0])).tolist() == [0, INVALID, 1]


@pytest.mark.parametrize("shape", [(0, 3), (2, 1)])
def test_no_image_and_no_rival_are_fine(shape: tuple[int, int]) -> None:
    assert predict(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long)).tolist() == [0] * shape[0]


# By name.


def test_attacks_are_built_in_the_order_named() -> None:
    attacks = build("pgd, margin-pgd(steps=100), fgsm", THREAT)
    assert list(attacks) == ["pgd", "margin-pgd(steps=100)", "fgsm"]
    assert attacks["fgsm"] == fgsm(THREAT)
    assert attacks["pgd"] == PGD(THREAT, step_size=THREAT.eps / 4, keep="success")


def test_a_list_of_names_is_as_good_as_a_text() -> None:
    assert build(["pgd", "fgsm"], THREAT) == build("pgd,fgsm", THREAT)


def test_a_suite_stands_for_its_attacks() -> None:
    attacks = build("quick, kl-pgd", THREAT)
    assert list(attacks) == ["fgsm", "pgd", "margin-pgd", "kl-pgd"]


def test_an_attack_named_twice_is_run_once() -> None:
    assert list(build("pgd,quick,pgd", THREAT)) == ["pgd", "fgsm", "margin-pgd"]


def test_settings_with_commas_are_read() -> None:
    attack = build("temperature-pgd(inverse_temperatures=[1, 2], steps=3)", THREAT).popitem()[1]  # type: ignore[attr-defined]
    assert isinstance(attack, TemperaturePGD)
    assert (attack.inverse_temperatures, attack.pgd.steps) == ((1.0, 2.0), 3)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("", "No attack was named"),
        (" , ", "No attack was named"),
        ([], "No attack was named"),
        ("pgdd", "Unknown attack 'pgdd': did you mean 'pgd'"),
        ("pgd(stepz=3)", "has no setting 'stepz': did you mean 'steps'"),
        ("quick(steps=3)", "has no setting 'steps'"),
        ("pgd(steps=0)", "of at least 1"),
        ("kl-pgd(targets=3)", "KL loss has no targets"),
    ],
)
def test_what_cannot_be_built_is_said(names: str | list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(names, THREAT)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", registry.names("attack"))
def test_every_attack_has_the_threat_it_was_built_with(name: str, norm: str) -> None:
    threat = ThreatModel(norm, 0.2)  # type: ignore[arg-type]
    assert build(name, threat)[name].threat == threat


def test_attacks_and_outcomes_mean_the_same_by_invalid() -> None:
    # Attacks may not import metrics, so the number stands in both.
    assert INVALID == outcomes.INVALID
