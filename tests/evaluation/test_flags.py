"""Every flag fires on a model built to fire it, and on no plain model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests.models_for_tests import Stateful, labelled
from torch import Tensor, nn
from torch.autograd import grad
from torch.utils.checkpoint import checkpoint

from classwise.attacks import (
    APGD,
    PGD,
    Attack,
    Ensemble,
    EoT,
    MomentumPGD,
    Square,
    TemperaturePGD,
    attacking,
    build,
    transfer,
)
from classwise.data import Images
from classwise.errors import InputError
from classwise.evaluation import flags
from classwise.evaluation.flags import SERIOUS, Flag, affected_classes, black_box_gain, distinct, members, of_model
from classwise.evaluation.run import evaluate
from classwise.metrics.outcomes import Outcomes
from classwise.metrics.result import Result
from classwise.models import load_model
from classwise.noise import Noise
from classwise.threat import ThreatModel

ROOT = Path(__file__).parents[2]
Change = Callable[[Tensor], Tensor]
THREAT = ThreatModel("Linf", 0.05)


class Plain(nn.Module):
    """A linear model on images of C rows: row c votes for class c."""

    scale = 10.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x[:, 0].mean(2)


class Rounded(Plain):
    """Hides its gradient behind a step function."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 16).round() / 16)


class Randomised(Plain):
    """Adds fresh noise at every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.01 * torch.randn(len(x), x.shape[2], generator=self.generator)


class Saturated(Plain):
    """Multiplies its logits until the softmax is exactly 0 or 1, where the cross-entropy has no gradient."""

    scale = 1e5


def images(num_classes: int = 3, each: int = 30) -> Images:
    """Return images whose margin is evenly spread over 0 … 0.2."""
    y = torch.arange(num_classes).repeat_interleave(each)
    x = torch.full((len(y), 1, num_classes, 2), 100, dtype=torch.uint8)
    x[torch.arange(len(y)), 0, y] += (torch.linspace(1, 51, each).to(torch.uint8))[:, None].repeat(num_classes, 1)
    return Images(x, y, tuple(f"class {c}" for c in range(num_classes)), torch.arange(len(y)))


def fired(result: Result) -> set[str]:
    return {flag["flag"] for flag in result.header["flags"]}


def test_no_flag_fires_on_a_plain_model() -> None:
    result = evaluate(Plain().eval(), images(), build("pgd,margin-pgd,dlr-pgd,temperature-pgd", THREAT))
    assert fired(result) == set()


def test_masked_gradients_are_flagged_with_their_classes() -> None:
    result = evaluate(Rounded().eval(), images(), build("pgd", THREAT))
    flags = {flag["flag"]: flag for flag in result.header["flags"]}
    assert flags["zero_gradient"]["value"] > 0.9
    assert flags["zero_gradient"]["classes"] == ["class 0", "class 1", "class 2"]


class Backward(torch.autograd.Function):
    """Passes images on by one function and gradients by another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Change, back: Change) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return ctx.back(gradient), None, None


def through(back: Change, there: Change = torch.clone) -> Plain:
    model = Plain().eval()
    model.register_forward_pre_hook(lambda module, given: (Backward.apply(given[0], there, back),))  # type: ignore[no-untyped-call]
    return model


def to_levels(levels: int) -> Change:
    return lambda x: (x * levels).round() / levels


@pytest.mark.parametrize(
    "back", [torch.neg, lambda g: g.flip(2), torch.randn_like], ids=["reversed", "of other pixels", "random"]
)
def test_a_gradient_that_is_not_the_derivative_is_flagged(back: Change) -> None:
    found = {flag["flag"]: flag for flag in evaluate(through(back), images(), build("pgd", THREAT)).header["flags"]}
    assert found["misleading_gradient"]["value"] < 0.25
    assert set(found["misleading_gradient"]["classes"]) <= {"class 0", "class 1", "class 2"}
    assert "misleading_gradient" in SERIOUS


@pytest.mark.parametrize(
    "model",
    [through(torch.clone, to_levels(255)), through(torch.clone, to_levels(15)), through(lambda g: g / 2), Saturated()],
    ids=["8 bits straight through", "4 bits straight through", "of another length", "saturated"],
)
def test_gradients_that_lead_uphill_are_not_called_misleading(model: nn.Module) -> None:
    data = images()
    y = data.y[::3]
    found = of_model(model, data.fetch(torch.arange(0, len(data), 3)), y, data.classes)
    assert "misleading_gradient" not in {flag.flag for flag in found}


def test_a_randomised_model_is_flagged() -> None:
    assert "non_deterministic" in fired(evaluate(Randomised().eval(), images(), build("pgd", THREAT)))


class Late(Plain):
    """Adds a constant from its sixth pass on: the fifth of those that are compared, after one with a graph."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x) + (self.passes == 6)


def test_five_passes_are_compared() -> None:
    data = images()
    x, y = data.fetch(torch.arange(4)), data.y[:4]
    assert "non_deterministic" in {flag.flag for flag in of_model(Late().eval(), x, y, data.classes)}


def test_saturated_logits_are_flagged_and_margin_attacks_see_through_them() -> None:
    result = evaluate(Saturated().eval(), images(), build("pgd,margin-pgd", THREAT))
    assert {"zero_gradient", "logit_scale"} <= fired(result)
    outcomes = result.outcomes
    assert outcomes.correct("margin-pgd").sum() < outcomes.correct("pgd").sum()


def test_the_scale_flag_names_the_attack_that_is_too_weak() -> None:
    result = evaluate(Saturated().eval(), images(), build("pgd,margin-pgd", THREAT))
    assert [f["attack"] for f in result.header["flags"] if f["flag"] == "logit_scale"] == ["pgd"]


@pytest.mark.parametrize(("step_size", "expected"), [(0.01, set()), (0.0099, {"short_steps"})])
def test_steps_too_short_to_cross_the_ball_are_flagged(step_size: float, expected: set[str]) -> None:
    attack = PGD(THREAT, steps=10, step_size=step_size, keep="success")
    assert fired(evaluate(Plain().eval(), images(), {"mine": attack})) == expected


@pytest.mark.parametrize(
    ("start", "share", "short"),
    [("clean", 1, False), ("clean", 0.9, True), ("uniform", 1, True), ("uniform", 2, False)],
)
def test_a_single_step_must_reach_the_edge_of_the_ball(start: Any, share: float, short: bool) -> None:
    attack = PGD(THREAT, steps=1, step_size=share * THREAT.eps, start=start)
    found = after(outcomes([0, 1], 2, [0, 1], mine=[0, 1]), {"mine": attack}, [0])
    assert [flag.flag for flag in found] == ["short_steps"] * short


@pytest.mark.parametrize(("num_classes", "expected"), [(2, {"few_classes"}), (3, set())])
@pytest.mark.parametrize("name", ["dlr-pgd", "apgd-dlr(steps=3)"])
def test_dlr_on_too_few_classes_is_flagged(name: str, num_classes: int, expected: set[str]) -> None:
    assert fired(evaluate(Plain().eval(), images(num_classes), build(name, THREAT))) == expected


@pytest.mark.parametrize(("num_classes", "expected"), [(3, {"few_classes"}), (4, set())])
def test_targeted_dlr_on_too_few_classes_is_flagged(num_classes: int, expected: set[str]) -> None:
    assert fired(evaluate(Plain().eval(), images(num_classes), build("apgd-t(steps=3)", THREAT))) == expected


def test_a_model_in_train_mode_is_flagged() -> None:
    assert fired(evaluate(Plain().train(), images(), build("pgd", THREAT))) == {"train_mode"}


def test_an_attack_that_leaves_the_ball_is_flagged_by_name() -> None:
    class Cheat:
        threat = THREAT

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
            return 1 - x

    result = evaluate(Plain().eval(), images(), {"cheat": Cheat()})
    assert ("outside_threat", "cheat") in [(f["flag"], f["attack"]) for f in result.header["flags"]]


class Descending(Plain):
    """Moves each image by a gradient of its own before it is classified, as a test-time defence does."""

    def __init__(self, take: Callable[[Plain, Tensor], Tensor]) -> None:
        super().__init__()
        self.take = take

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - 1e-3 * self.take(self, x.detach()))


def loss_at(model: Plain, x: Tensor) -> Tensor:
    return Plain.forward(model, x).square().sum()


def by_grad(model: Plain, x: Tensor) -> Tensor:
    with torch.enable_grad():
        return grad(loss_at(model, x.requires_grad_()), x)[0]


def by_backward(model: Plain, x: Tensor) -> Tensor:
    with torch.enable_grad():
        loss_at(model, x.requires_grad_()).backward()
    assert x.grad is not None
    return x.grad


def by_function(model: Plain, x: Tensor) -> Tensor:
    return torch.func.grad(lambda inner: loss_at(model, inner))(x)


def only_when_nobody_looks(model: Plain, x: Tensor) -> Tensor:
    return torch.zeros_like(x) if torch.is_grad_enabled() else by_grad(model, x)


def everything(data: Images) -> tuple[Tensor, Tensor]:
    return data.fetch(torch.arange(len(data))), data.y


def seen(model: nn.Module, data: Images | None = None) -> dict[str, Flag]:
    data = data or images()
    with attacking(model):
        return {flag.flag: flag for flag in of_model(model, *everything(data), data.classes)}


@pytest.mark.parametrize("take", [by_grad, by_backward, by_function, only_when_nobody_looks])
def test_a_model_that_takes_gradients_while_it_predicts_is_flagged(take: Callable[[Plain, Tensor], Tensor]) -> None:
    assert "in_forward_optimisation" in seen(Descending(take))


def test_the_number_of_gradients_a_forward_pass_is_told() -> None:
    assert seen(Descending(by_grad))["in_forward_optimisation"].value == 1


class Half(torch.autograd.Function):
    """Halves its input; the gradient is written by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


class Halved(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Half.apply(x))


class Checkpointed(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class Enabled(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.training):
            return super().forward(x)


def parametrised() -> nn.Module:
    layers = nn.utils.parametrizations
    return nn.Sequential(nn.Flatten(), layers.weight_norm(nn.Linear(9, 5)), layers.spectral_norm(nn.Linear(5, 3)))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still in files
        return torch.jit.script(Stateful())


@pytest.mark.parametrize("make", [Halved, Checkpointed, Enabled, Stateful, parametrised, scripted])
def test_nothing_is_seen_on_an_ordinary_model(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    x, y = labelled(model, 20, (1, 3, 3))
    with attacking(model):
        assert list(of_model(model, x, y, ("a", "b", "c"))) == []


def test_an_exported_program_is_not_said_to_optimise(tmp_path: Path) -> None:
    x, _ = everything(images())
    program = torch.export.export(Plain().eval(), (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    torch.export.save(program, tmp_path / "plain.pt2")
    assert seen(load_model(f"export:{tmp_path}/plain.pt2")) == {}


def test_autograd_is_put_back_after_a_look_even_at_a_model_that_is_refused() -> None:
    before = dict(vars(torch.autograd))
    seen(Plain())
    with pytest.raises(InputError, match="2 classes"):
        list(of_model(Plain(), *everything(images(3)), ("a", "b")))
    assert dict(vars(torch.autograd)) == before


def test_a_torch_without_the_watched_name_is_looked_at_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classwise.evaluation.flags._ENGINE", "no_such_name")
    assert seen(Descending(by_grad)).keys() == set()


class Wants255(Plain):
    """Prefers later classes by more than an image in [0, 1] can tell, and by less than one in 0 … 255 does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 8 * torch.arange(x.shape[2])


class Strict(Wants255):
    """Refuses what is not in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 1:
            raise ValueError("not in [0, 1]")
        return super().forward(x)


class Permuted(Plain):
    """Has its classes in another order than the data set."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).roll(1, 1)


def test_a_model_that_wants_other_pixels_is_flagged_with_what_it_wants() -> None:
    flags = {
        flag["flag"]: flag for flag in evaluate(Wants255().eval(), images(), build("fgsm", THREAT)).header["flags"]
    }
    assert flags.keys() == {"input_range", "near_chance"}
    assert "0 … 255" in flags["input_range"]["message"]
    assert flags["near_chance"]["value"] == pytest.approx(1 / 3)


def test_a_gradient_that_is_zero_on_wrong_images_only_is_not_masked() -> None:
    data = images()
    x, y = everything(data)
    x[y == 0] = 0.5

    class Cut(Plain):
        def forward(self, x: Tensor) -> Tensor:
            flat = (x == 0.5).flatten(1).all(1)[:, None]
            return torch.where(flat, torch.tensor([0.0, 1.0, 0.0]), super().forward(x))

    with attacking(model := Cut()):
        assert list(of_model(model, x, y, data.classes)) == []


def test_a_model_that_refuses_other_pixels_is_not_asked_again() -> None:
    assert "input_range" not in seen(Strict())


def test_a_handful_of_images_says_nothing_about_the_input_range() -> None:
    assert seen(Wants255(), images(3, 3)) == {}


def test_classes_in_another_order_are_flagged_by_the_clean_accuracy() -> None:
    assert fired(evaluate(Permuted().eval(), images(), build("fgsm", THREAT))) == {"near_chance"}


def outcomes(y: list[int], num_classes: int, clean: list[int], **predictions: list[int]) -> Outcomes:
    names = tuple(f"class {c}" for c in range(num_classes))
    return Outcomes(names, list(range(len(y))), y, clean, predictions, {}, {})


def after(*given: object) -> list[Flag]:
    """Return what is seen of outcomes besides that few of their classes have images, which is tested by itself."""
    return [flag for flag in flags.of_outcomes(*given) if flag.flag != "unmeasured_classes"]


def test_classes_without_images_are_counted_and_named() -> None:
    y = [0] * 9 + [2] * 9
    (flag,) = flags.of_outcomes(outcomes(y, 7, y), {}, [])
    assert (flag.flag, flag.value) == ("unmeasured_classes", 5.0)
    assert flag.classes == ("class 1", "class 3", "class 4", "class 5", "class 6")
    assert flag.message.startswith("5 of 7 classes have no images: 'class 1', 'class 3'")
    (many,) = flags.of_outcomes(outcomes(y, 100, y), {}, [])
    assert "'class 6' and 93 more. Nothing is known" in many.message
    (one,) = flags.of_outcomes(outcomes(y, 3, y), {}, [])
    assert one.message.startswith("1 of 3 classes has no images: 'class 1'. ")
    assert list(flags.of_outcomes(outcomes([0, 1], 2, [0, 1]), {}, [])) == []


@pytest.mark.parametrize(("right", "expected"), [(18, {"near_chance"}), (20, set())])
def test_clean_accuracy_is_near_chance_below_a_tenth_of_the_way_up(right: int, expected: set[str]) -> None:
    clean = [0] * right + [1] * (100 - right)  # of class 0, the only one present of ten
    assert {flag.flag for flag in after(outcomes([0] * 100, 10, clean), {}, [])} == expected


def test_a_constant_guess_is_near_chance_however_common_its_class() -> None:
    assert {flag.flag for flag in after(outcomes([0] * 90 + [1] * 10, 2, [0] * 100), {}, [])} == {"near_chance"}


def test_one_class_cannot_be_near_chance() -> None:
    assert list(after(outcomes([0] * 20, 1, [0] * 20), {}, [])) == []


@pytest.mark.parametrize(("n", "expected"), [(9, 0), (10, 1)])
def test_a_handful_of_images_is_not_called_chance(n: int, expected: int) -> None:
    assert len(list(after(outcomes([0] * n, 2, [1] * n), {}, []))) == expected


@pytest.mark.parametrize(("more", "expected"), [(2, []), (3, [("class 1",)])])
def test_a_black_box_gain_above_a_fifth_of_a_point_is_flagged_with_its_classes(
    more: int, expected: list[tuple[str, ...]]
) -> None:
    y = np.repeat([0, 1], 500)
    gradient, score = y == 0, np.arange(1000) < 500 + more
    found = list(black_box_gain(gradient, score, y, ("class 0", "class 1", "class 2")))
    assert [flag.classes for flag in found] == expected
    assert [flag.value for flag in found] == ([0.003] if expected else [])


def test_one_image_is_no_black_box_gain() -> None:
    broken = np.array([True, False, False])
    assert list(black_box_gain(~broken & False, broken, [0, 0, 0], ("class 0",))) == []


SEARCH = Square(THREAT, queries=60)


@pytest.mark.parametrize("search", [SEARCH, Ensemble((SEARCH, SEARCH)), EoT(SEARCH, 2)], ids=["alone", "both", "mean"])
def test_masked_gradients_are_found_out_by_random_search(search: Attack) -> None:
    result = evaluate(Rounded().eval(), images(), {"pgd": PGD(THREAT, keep="success"), "search": search})
    flags = {flag["flag"]: flag for flag in result.header["flags"]}
    assert flags["black_box_gain"]["attack"] == "search"
    assert flags["black_box_gain"]["classes"] == ["class 0", "class 1", "class 2"]


def test_random_search_gains_nothing_on_a_plain_model() -> None:
    assert fired(evaluate(Plain().eval(), images(), {"pgd": PGD(THREAT, keep="success"), "search": SEARCH})) == set()


@pytest.mark.parametrize("other", [Ensemble((PGD(THREAT), SEARCH)), transfer(SEARCH, Plain())], ids=["mixed", "moved"])
def test_a_gain_is_asked_of_pure_searches_of_this_model_only(other: Attack) -> None:
    views = {"pgd": PGD(THREAT), "other": other}
    found = after(outcomes([0] * 9, 2, [0] * 9, pgd=[0] * 9, other=[1] * 9), views, [0, 0])
    assert "black_box_gain" not in {flag.flag for flag in found}


@dataclass(frozen=True)
class Brighter:
    """An attack of one's own that asks nothing at all."""

    threat: ThreatModel = THREAT
    black_box: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        return self.threat.project(x + self.threat.eps, x)


def test_an_attack_says_itself_that_it_is_black_box() -> None:
    asked = [Brighter(), SEARCH, Ensemble((Brighter(), SEARCH)), PGD(THREAT), Ensemble((Brighter(), PGD(THREAT)))]
    assert [flags.is_black_box(attack) for attack in asked] == [True, True, True, False, None]
    assert flags.is_black_box(transfer(SEARCH, Plain())) is None
    assert eval(repr(Brighter())) == Brighter(), "what it says is no setting"


def test_an_attack_with_both_kinds_of_members_hides_no_gain() -> None:
    views = {"pgd": PGD(THREAT), "mixed": Ensemble((PGD(THREAT), SEARCH)), "search": SEARCH}
    found = after(outcomes([0] * 9, 2, [0] * 9, pgd=[0] * 9, mixed=[1] * 9, search=[1] * 9), views, [0, 0, 0])
    assert [(flag.flag, flag.attack) for flag in found] == [("black_box_gain", "search")]


def test_members_are_found_at_every_depth_with_a_readable_label() -> None:
    inner = Ensemble((SEARCH, transfer(PGD(THREAT), Plain())))
    found = list(members(Ensemble((APGD(THREAT), EoT(inner, 2))), "mine"))
    assert [type(member.attack) for member in found] == [APGD, Square, PGD]
    assert [member.transferred for member in found] == [False, False, True]
    assert found[0].label == "mine, member 1 (APGD)"
    assert found[2].label == "mine, member 2 (EoT), member 2 (Transfer)"


SHORT = PGD(THREAT, steps=10, step_size=0.0099, keep="success")
AROUND = {
    "ensemble": Ensemble((PGD(THREAT, keep="success"), SHORT)),
    "eot": EoT(SHORT, 2),
    "transfer": transfer(SHORT, Plain()),
    "temperature": TemperaturePGD(SHORT, (1.0, 2.0)),
    "momentum": MomentumPGD(THREAT, steps=10, step_size=0.0099),
}


@pytest.mark.parametrize("name", AROUND)
def test_steps_too_short_are_seen_inside_other_attacks(name: str) -> None:
    found = list(after(outcomes([0, 1], 2, [0, 1], mine=[0, 1]), {"mine": AROUND[name]}, [0]))
    assert [(flag.flag, flag.attack) for flag in found] == [("short_steps", "mine")]
    assert ("member 2 (PGD)" in found[0].message) == (name == "ensemble")


@pytest.mark.parametrize(
    ("attack", "few"),
    [
        (Ensemble((PGD(THREAT), APGD(THREAT, targets=1))), 3),
        (EoT(PGD(THREAT, loss="dlr"), 2), 2),
        (transfer(APGD(THREAT), Plain()), 2),
        (MomentumPGD(THREAT, loss="dlr"), 2),
        (Square(THREAT, loss="dlr()"), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_losses_without_enough_classes_are_seen_inside_other_attacks(attack: Attack, few: int) -> None:
    for num_classes in (few, few + 1):
        found = list(after(outcomes([0, 1], num_classes, [0, 1], mine=[0, 1]), {"mine": attack}, [0]))
        assert [flag.flag for flag in found] == (["few_classes"] if num_classes == few else [])


def test_the_loss_that_temperature_pgd_replaces_is_no_loss_of_its_own() -> None:
    attack = TemperaturePGD(PGD(THREAT, loss="dlr", keep="success"))
    assert list(after(outcomes([0, 1], 2, [0, 1], mine=[0, 1]), {"mine": attack}, [0])) == []


def test_the_scale_flag_names_the_classes_where_the_margin_is_ahead() -> None:
    y = [0] * 10 + [1] * 10
    views = {"ce": PGD(THREAT), "margin": PGD(THREAT, loss="margin")}
    found = list(after(outcomes(y, 3, y, ce=y, margin=[1] * 5 + y[5:]), views, [0, 0]))
    assert [(flag.flag, flag.classes, flag.value) for flag in found] == [("logit_scale", ("class 0",), 0.25)]


@pytest.mark.parametrize("more", [{"restarts": 10, "keep": "success"}, {"step_size": 0.05}, {"start": "clean"}])
def test_a_margin_attack_with_other_settings_says_nothing_of_the_scale(more: dict[str, Any]) -> None:
    y = [0] * 10 + [1] * 10
    views = {"ce": PGD(THREAT), "margin": PGD(THREAT, loss="margin", **more)}
    assert list(after(outcomes(y, 3, y, ce=y, margin=[1] * 5 + y[5:]), views, [0, 0])) == []


def test_a_class_is_named_by_its_own_share() -> None:
    y = [0] * 10 + [1] * 10
    names = affected_classes([True] * 3 + [False] * 7 + [True] * 4 + [False] * 6, y, ("a", "b", "c"), share=0.3)
    assert names == ("b",)


def test_flags_of_the_model_are_joined_and_flags_of_attacks_are_not() -> None:
    small = Flag("zero_gradient", "clean", classes=("a",), value=0.2)
    large = Flag("zero_gradient", "on the way", classes=("b",), value=0.4)
    members = [Flag("short_steps", text, attack="mine") for text in ("first", "second")]
    assert distinct([small, *members, large]) == [replace(large, classes=("a", "b")), *members]
    assert distinct([large, replace(small, classes=())])[0].classes == ()


def test_every_flag_is_in_the_docs_and_every_serious_one_exists() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src" / "classwise").rglob("*.py"))
    names = set(re.findall(r'\bFlag\(\s*"(\w+)"', source))
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "evaluation.md").read_text(), flags=re.MULTILINE))
    assert len(names) > 10
    assert names <= documented
    assert names >= SERIOUS


class Attentive(Plain):
    """Has an attention layer, whose kernel without gradients rounds differently from that with them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = x[:, 0].mean(2, keepdim=True).expand(-1, -1, 4)
        return super().forward(x) + self.attention(tokens, tokens, tokens)[0].mean(2)


def test_kernels_that_round_differently_without_gradients_are_no_randomness() -> None:
    assert "non_deterministic" not in seen(Attentive().eval())
