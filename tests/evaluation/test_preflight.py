"""A model that is not one function of one image is flagged, and an ordinary one never."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.odd_models import CLASSES, REFUSED, WORKS, WRITES, Odd, after, images, votes
from torch import Tensor, nn
from torch.nn import functional as F

from classwise.attacks import build
from classwise.errors import InputError
from classwise.evaluation.flags import SERIOUS
from classwise.evaluation.preflight import Preflight, check_passes, preflight
from classwise.evaluation.run import evaluate
from classwise.metrics.result import Result
from classwise.models import preact_resnet18
from classwise.runtime.inference import judging
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.05)


def evaluated(model: Any, attacks: str = "pgd", **settings: Any) -> Result:
    if isinstance(model, nn.Module):
        model.eval()
    return evaluate(model, images(), build(attacks, THREAT), **settings)


def fired(result: Result) -> dict[str, Any]:
    return {flag["flag"]: flag for flag in result.header["flags"]}


def looked_at(model: nn.Module, x: Tensor, batch_size: int = 200) -> Preflight:
    with judging(model.eval(), "cpu") as called:
        return preflight(called, x, torch.zeros(len(x), dtype=torch.long), ("only",), batch_size)


def names(found: Preflight) -> set[str]:
    return {flag.flag for flag in found.flags}


def _first_differs(model: Odd, x: Tensor) -> Tensor:
    logits = votes(x)
    return torch.cat([logits[:1].flip(1), logits[1:]])


def _quantised_together(model: Odd, x: Tensor) -> Tensor:
    step = x.max() / 15
    return votes((x / step).round() * step)


def _switched(at: int) -> Odd:
    return Odd(lambda model, x: votes(x) if len(x) < at else votes(x.flip(2)))


BATCH = {
    "normalised by the batch": Odd(lambda model, x: votes(x / x.max())),
    "BatchNorm without statistics": Odd(
        lambda model, x: votes(F.batch_norm(x, None, None, training=True) / 10 + 0.5),
    ),
    "another answer for one image alone": _switched(2),
    "another answer for a large batch": _switched(70),
    "the first image is special": Odd(_first_differs),
    "a quantiser for the whole batch": Odd(_quantised_together),
}
GRADIENT = {
    "grad mode": Odd(lambda model, x: votes(x.flip(2) if torch.is_grad_enabled() else x)),
    "requires_grad": Odd(lambda model, x: votes(x.flip(2) if x.requires_grad else x)),
    "a graph": Odd(lambda model, x: votes(x.flip(2) if (2 * x).grad_fn is not None else x)),
}


@pytest.mark.parametrize("name", BATCH)
def test_a_model_that_depends_on_the_batch_is_flagged_with_the_size_of_the_effect(name: str) -> None:
    found = fired(evaluated(BATCH[name], batch_size=90))
    assert found["batch_dependent"]["value"] > 0.05
    assert "predictions change" in found["batch_dependent"]["message"]
    assert "gradient_dependent" not in found


@pytest.mark.parametrize("name", GRADIENT)
def test_a_model_that_depends_on_the_grad_mode_is_flagged(name: str) -> None:
    found = fired(evaluated(GRADIENT[name]))
    assert found["gradient_dependent"]["value"] > 0.5
    assert "batch_dependent" not in found


def test_both_flags_are_serious() -> None:
    assert {"batch_dependent", "gradient_dependent"} <= SERIOUS


def test_alone_in_every_pass_a_batch_dependent_model_has_one_figure_and_no_flag() -> None:
    model = BATCH["normalised by the batch"]
    alone = [evaluated(model, fixed_shape=1, batch_size=size) for size in (90, 7)]
    together = [evaluated(model, batch_size=size) for size in (90, 7)]
    assert alone[0].outcomes.correct("pgd").tolist() == alone[1].outcomes.correct("pgd").tolist()
    assert together[0].outcomes.margins["clean"].tolist() != together[1].outcomes.margins["clean"].tolist()
    assert "batch_dependent" not in fired(alone[0])
    assert "batch_dependent" in fired(evaluated(model, fixed_shape=16))


def _dense(dtype: torch.dtype) -> nn.Module:
    """Return a deep network that computes in another precision than it answers in."""
    layers = [layer for _ in range(12) for layer in (nn.Linear(192, 192), nn.Tanh())]
    inner = nn.Sequential(nn.Flatten(), *layers, nn.Linear(192, 10)).to(dtype)
    return Odd(lambda model, x: inner(x.to(dtype)).float())


class Quantised(nn.Module):
    """A network with activations of a few bits, where rounding may carry a value across a step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Linear(16 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(((8 * self.first(x)).round() / 8).relu().flatten(1))
        return logits


class Randomised(Odd):
    """Adds fresh noise at every pass."""

    def __init__(self) -> None:
        super().__init__(lambda model, x: votes(x[:, :1]) + torch.randn(len(x), x.shape[2]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: preact_resnet18(10, (3, 8, 8)),
        lambda: _dense(torch.bfloat16),
        lambda: _dense(torch.float16),
        lambda: _dense(torch.float64),
        Quantised,
        Randomised,
    ],
    ids=["resnet", "bfloat16", "float16", "float64", "quantised", "randomised"],
)
def test_rounding_and_chance_are_no_dependence(make: Any) -> None:
    torch.manual_seed(0)
    assert names(looked_at(make(), torch.rand(32, 3, 8, 8), batch_size=50)) == set()


def test_a_dependence_of_a_network_in_bfloat16_is_seen_all_the_same() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10)).bfloat16()
    x = torch.rand(32, 3, 8, 8) * torch.linspace(0.2, 1, 32)[:, None, None, None]
    normalised = Odd(lambda model, x: inner(F.batch_norm(x, None, None, training=True).bfloat16()).float())
    assert names(looked_at(Odd(lambda model, x: inner(x.bfloat16()).float()), x)) == set()
    assert names(looked_at(normalised, x)) == {"batch_dependent"}


def test_a_model_that_answers_otherwise_after_many_calls_is_flagged() -> None:
    found = fired(evaluated(after(120, lambda x: votes(x.flip(2))), "pgd(steps=200)"))
    assert "After the attacks" in found["non_deterministic"]["message"]
    assert "batch_dependent" not in found


@pytest.mark.parametrize("name", WORKS)
def test_an_odd_model_gets_the_figure_of_the_plain_one(name: str) -> None:
    result = evaluated(WORKS[name], "pgd,square(queries=30)")
    assert result.outcomes.correct("clean").all()
    assert result.outcomes.correct("pgd").sum() == 45
    assert set(fired(result)) <= {"logits_taken", "black_box_gain"}


@pytest.mark.parametrize("name", WRITES)
def test_critical_eps_and_the_probe_see_through_a_model_that_writes_to_its_input(name: str) -> None:
    exact = evaluated(votes, "narrowing(steps=3)").outcomes.distances["narrowing(steps=3)"]
    found = evaluated(WRITES[name], "narrowing(steps=3)").outcomes.distances["narrowing(steps=3)"]
    assert found == pytest.approx(exact, abs=1e-4)


def test_what_was_taken_for_the_logits_is_in_the_record() -> None:
    assert "the entry 'logits' of its dict" in fired(evaluated(WORKS["dict"]))["logits_taken"]["message"]


@pytest.mark.parametrize("name", REFUSED)
def test_an_evaluation_refuses_in_a_sentence_what_it_cannot_take(name: str) -> None:
    model, said = REFUSED[name]
    with pytest.raises(InputError, match=said):
        evaluated(model)


@pytest.mark.parametrize("name", ["fixed batch", "no single image", "squeezed"])
def test_a_fixed_shape_makes_models_of_one_batch_size_work(name: str) -> None:
    assert evaluated(REFUSED[name][0], fixed_shape=32).outcomes.correct("pgd").sum() == 45


def test_an_exception_in_the_middle_of_an_attack_is_a_sentence() -> None:
    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("no more")

    with pytest.raises(InputError, match=r"In the forward pass of Odd, .* gradients: RuntimeError: no more"):
        evaluated(after(120, fail), "pgd(steps=200)")


def test_an_exception_in_the_backward_pass_is_a_sentence() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            raise ValueError("no way back")

    with pytest.raises(InputError, match=r"In the backward pass of the model, .*no way back"):
        evaluated(Odd(lambda model, x: votes(Broken.apply(x))))


def test_training_passes_leave_statistics_and_random_numbers_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, CLASSES))
    x, before = torch.rand(4, 1, 3, 2), {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    assert check_passes(model, x) == ""
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
