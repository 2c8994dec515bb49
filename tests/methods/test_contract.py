"""What every training method promises, whatever its loss; a method that is registered is tested here."""

from __future__ import annotations

import ast
import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.methods import strategies
from tests.methods.strategies import attack, batch, in_action
from torch import Tensor, nn

import classwise.methods
from classwise import registry
from classwise.attacks import APGD, PGD, Ensemble, EoT
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.methods import Epoch, Method, Pass, Step
from classwise.methods.base import refuse_hidden_attacks, weakened
from classwise.metrics.stats import ClassStats
from classwise.threat import ThreatModel

NAMES = registry.names("method")
FILES = sorted(
    path for path in Path(classwise.methods.__file__).parent.glob("*.py") if path.stem not in ("__init__", "base")
)

LABELS = {
    "balanced": torch.arange(24) % 3,
    "two classes": torch.arange(24) % 2,
    "a hundred classes": torch.arange(24) * 4,
    "unbalanced": torch.tensor([0] * 20 + [1] * 3 + [2]),
    "one class alone": torch.full((24,), 2),
}
SIZES = {"balanced": 3, "two classes": 2, "a hundred classes": 100, "unbalanced": 3, "one class alone": 3}
MORE_PASSES = {"bat": 1}  # on images whose logits a step has no place for
ROUNDING = {"bat": 0.1}  # of a loss in bfloat16, 0.05 for others: here a verdict decides which image is trained on

every_method = pytest.mark.parametrize("name", NAMES)
every_batch = pytest.mark.parametrize("case", LABELS)


def build(name: str, num_classes: int = 3, eps: float = 0.1, mode: str = "eval") -> Method:
    return strategies.method(in_action(name), num_classes, attack(eps, mode=mode)).train()


def adapted(name: str, y: Tensor, num_classes: int = 3, mode: str = "eval") -> Method:
    """Return the method after what it meets at the start of training and in two epochs."""
    method, seen = build(name, num_classes, mode=mode), epoch(y, num_classes)
    assert seen.measured is not None
    if method.measures:
        method.start_from(seen.measured)
    for number in range(2):
        method.end_epoch(replace(seen, number=number))
    return method


def network(name: str, num_classes: int = 3) -> nn.Module:
    """Return a small network with the last layer that the method asks for."""
    return strategies.network(num_classes, head=build(name, num_classes).head)


def step(method: Method, model: nn.Module, y: Tensor) -> Step:
    x, noise = batch(y)
    return method(model, x, y, noise)


def epoch(y: Tensor, num_classes: int) -> Epoch:
    """Return the sums of an epoch in which class c is right with frequency 1/(c + 1)."""

    def sums() -> ClassStats:
        stats = ClassStats.zeros(num_classes)
        wrong = torch.arange(len(y)) % (y + 1) != 0
        logits = 4 * nn.functional.one_hot((y + wrong) % num_classes, num_classes).float()
        stats.update(logits, y, cross_entropy(logits, y))
        return stats

    return Epoch(0, *(Pass(sums(), sums()) for _ in range(3)))


@every_method
@every_batch
def test_the_loss_is_one_finite_number_whose_gradient_reaches_every_weight(name: str, case: str) -> None:
    model, y = network(name, SIZES[case]), LABELS[case]
    made = step(adapted(name, y, SIZES[case]), model, y)
    assert made.loss.shape == ()
    assert made.loss.isfinite()
    made.loss.backward()
    for weight, parameter in model.named_parameters():
        assert parameter.grad is not None, weight
        assert parameter.grad.isfinite().all(), weight
    assert sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None) > 0


@every_method
@every_batch
def test_the_logits_are_those_of_the_batch(name: str, case: str) -> None:
    made = step(build(name, SIZES[case]), network(name, SIZES[case]), LABELS[case])
    given = [logits for logits in (made.logits, made.logits_adv) if logits is not None]
    assert given, "a method must give the logits it made, for the statistics by class"
    assert all(logits.shape == (24, SIZES[case]) for logits in given)


@every_method
@every_batch
def test_the_class_state_adapts_to_any_epoch_and_stays_finite(name: str, case: str) -> None:
    method = adapted(name, LABELS[case], SIZES[case])
    assert all(buffer.isfinite().all() for buffer in method.buffers() if buffer.is_floating_point())
    assert step(method, network(name, SIZES[case]), LABELS[case]).loss.isfinite()


@every_method
def test_the_same_noise_gives_the_same_step(name: str) -> None:
    model, y = network(name), LABELS["balanced"]
    first, second = (step(adapted(name, y), copy.deepcopy(model), y) for _ in range(2))
    assert torch.equal(first.loss, second.loss)


@every_method
def test_an_attack_leaves_no_trace_in_the_global_generator(name: str) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    step(build(name), network(name), LABELS["balanced"])
    assert torch.equal(torch.random.get_rng_state(), before)


@every_method
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_only_the_forward_passes_of_the_loss_move_batchnorm(name: str, mode: str) -> None:
    # A forward pass in train mode moves the statistics by its own batch; gradients of the attack must not. So the
    # count of batches is that of the logits that the method hands out.
    model = network(name)
    made = step(adapted(name, LABELS["unbalanced"], mode=mode), model, LABELS["balanced"])
    passes = sum(logits is not None for logits in (made.logits, made.logits_adv))
    assert int(model[2].num_batches_tracked) == passes + MORE_PASSES.get(name, 0)


@every_method
def test_the_mode_of_every_module_is_left_as_it_was(name: str) -> None:
    model = network(name)
    model[2].eval()
    step(build(name), model, LABELS["balanced"])
    assert [module.training for module in model] == [True, True, False, True, True, True]


@every_method
def test_no_gradient_of_the_attack_is_left_in_the_weights(name: str) -> None:
    model = network(name)
    step(build(name), model, LABELS["balanced"])
    assert all(parameter.grad is None for parameter in model.parameters())


@every_method
def test_images_and_labels_are_not_changed(name: str) -> None:
    y = LABELS["balanced"].clone()
    x, noise = batch(y)
    before = x.clone()
    build(name)(network(name), x, y, noise)
    assert torch.equal(x, before)
    assert torch.equal(y, LABELS["balanced"])
    assert not x.requires_grad


@every_method
def test_the_state_survives_saving_and_loading(name: str) -> None:
    method, fresh = adapted(name, LABELS["unbalanced"]), build(name)
    fresh.load_state_dict(method.state_dict())
    assert method.state_dict().keys() == fresh.state_dict().keys()
    for key, value in method.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[key]), key
    model, y = network(name), LABELS["balanced"]
    assert torch.equal(step(method, copy.deepcopy(model), y).loss, step(fresh, copy.deepcopy(model), y).loss)


@every_method
def test_everything_that_an_epoch_changes_is_in_the_state(name: str) -> None:
    method = build(name)
    settings = {key: value for key, value in vars(method).items() if not key.startswith("_")}
    method.end_epoch(epoch(LABELS["unbalanced"], 3))
    after = {key: value for key, value in vars(method).items() if not key.startswith("_")}
    assert settings == after, "what changes while training must be a buffer"


@every_method
def test_at_half_radius_no_attack_of_a_method_leaves_half_the_radius(name: str) -> None:
    model, y, method = network(name), LABELS["balanced"], build(name)
    x, noise = batch(y)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    attacks = dict(method.attacks)
    with weakened(method, 0.5):
        method(model, x, y, noise)
        if method.measures:
            method.measure(model.eval(), x, y, noise)
    # Some passes are of a part of the batch: each image has moved at most as far as to the nearest clean one.
    reached = max(float(torch.cdist(given.flatten(1), x.flatten(1), torch.inf).amin(1).max()) for given in seen)
    assert reached <= 0.05 + 1e-6
    # Two of its three steps of half the radius carry most pixels to the border.
    assert reached > 0.04 or name == "standard"
    assert method.attacks == attacks
    refuse_hidden_attacks(method)


class Several(Method):
    """A method that keeps attacks in several places."""

    def __init__(self, **places: object) -> None:
        super().__init__(3, attack())
        for name, value in places.items():
            setattr(self, name, value)


STRONG = PGD(ThreatModel("Linf", 0.1), steps=20)


def test_an_attack_assigned_to_an_attribute_is_one_of_the_attacks_until_something_else_is() -> None:
    method = Several(strong=STRONG)
    assert method.attacks == {"attack": attack(), "strong": STRONG}
    assert method.strong is STRONG
    with weakened(method, 0.5):
        assert (method.strong.threat.eps, method.strong.length) == (0.05, 2.5 * 0.05 / 20)
    assert copy.deepcopy(method).attacks == method.attacks
    method.strong = None
    assert list(method.attacks) == ["attack"]
    assert method.strong is None
    with pytest.raises(AttributeError, match="weak"):
        _ = method.weak


def test_attacks_put_among_the_attacks_by_hand_are_weakened_whatever_they_are_made_of() -> None:
    method, threat = Several(), STRONG.threat
    method.attacks |= {"several": Ensemble((STRONG, APGD(threat))), "mean": EoT(replace(STRONG, step_size=0.02))}
    with weakened(method, 0.5):
        assert method.attacks["several"].threat.eps == method.attacks["several"].attacks[1].threat.eps == 0.05
        assert method.attacks["mean"].attack.length == 0.01
        assert method.attacks["mean"].threat.eps == 0.05


class Held:
    def __init__(self) -> None:
        self.inside = STRONG


HIDDEN = {
    "a tuple": (1, STRONG),
    "a list": [STRONG],
    "a dictionary of lists": {"late": [STRONG]},
    "an object": Held(),
    "a bound argument": partial(min, STRONG),
    "a bound method": STRONG.search,
    "a function": (lambda attack: lambda: attack)(STRONG),
    "a module that is no method": nn.Module(),
}
HIDDEN["a module that is no method"].extra = STRONG  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", HIDDEN.values(), ids=HIDDEN)
def test_an_attack_that_is_kept_elsewhere_is_refused_by_the_name_of_its_place(place: object) -> None:
    refuse_hidden_attacks(Several(extra=7))
    with pytest.raises(InputError, match=r"Several keeps an attack in 'extra'.*self\.attacks\['extra'\]"):
        refuse_hidden_attacks(Several(extra=place))


def test_an_attack_that_cannot_be_weakened_is_refused_in_a_sentence() -> None:
    class Own:
        threat = STRONG.threat

        def __call__(self) -> None: ...

    with (
        pytest.raises(InputError, match="The attack Own cannot be given a smaller radius"),
        weakened(Several(own=Own()), 0.5),
    ):
        pass


@every_method
def test_weakened_by_nothing_a_method_is_as_it_was(name: str) -> None:
    method = build(name)
    with weakened(method, 1.0):
        whole = step(method, network(name), LABELS["balanced"])
    assert torch.equal(whole.loss, step(build(name), network(name), LABELS["balanced"]).loss)


def test_the_attacks_of_a_method_inside_a_method_are_weakened_and_put_back_after_an_error() -> None:
    outer = build("at")
    inner = outer.base = build("trades")

    def fail() -> None:
        with weakened(outer, 0.5):
            assert (outer.attack.threat.eps, inner.attack.threat.eps, inner.attack.length) == (0.05, 0.05, 0.025)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (outer.attack.threat.eps, inner.attack.threat.eps) == (0.1, 0.1)


@every_method
@every_batch
def test_the_probabilities_of_drawing_a_class_sum_to_1_if_there_are_any(name: str, case: str) -> None:
    method = adapted(name, LABELS[case], SIZES[case])
    step(method, network(name, SIZES[case]), LABELS[case])
    probs = method.class_probs()
    if probs is not None:
        assert probs.shape == (SIZES[case],)
        assert (probs >= 0).all()
        assert float(probs.sum()) == pytest.approx(1)


@every_method
@every_batch
def test_each_class_is_attacked_within_the_radius_that_the_method_says(name: str, case: str) -> None:
    method, y, model = adapted(name, LABELS[case], SIZES[case]), LABELS[case], network(name, SIZES[case])
    watched = strategies.Watched(model)
    x, noise = batch(y)
    method(watched, x, y, noise)
    radius = method.class_radius()
    eps = method.attack.threat.eps * (torch.ones(SIZES[case]) if radius is None else radius)
    for training, seen in watched.seen:
        if training:
            moved = (seen - x).abs().amax((1, 2, 3))
            assert (moved <= eps[y] + 1e-6).all()


@every_method
def test_what_a_method_measures_itself_it_measures_on_images_that_are_held_out(name: str) -> None:
    method, model = build(name), network(name).eval()
    assert method.validates or not method.measures
    if method.measures:
        x, noise = batch(LABELS["balanced"])
        found = method.measure(model, x, LABELS["balanced"], noise)
        assert found.logits.shape == found.logits_adv.shape == (24, 3)
        assert found.loss.shape == (24,)
        assert not any(value.requires_grad for value in found), "a graph of every batch would fill the memory"


@every_method
def test_a_method_has_no_weights_of_its_own_that_decay(name: str) -> None:
    assert list(build(name).parameters()) == []


@every_method
def test_mixed_precision_gives_nearly_the_same_loss(name: str) -> None:
    model, y = network(name), LABELS["balanced"]
    exact = step(adapted(name, y), copy.deepcopy(model), y).loss
    with torch.autocast("cpu", torch.bfloat16):
        made = step(adapted(name, y), copy.deepcopy(model), y)
    made.loss.backward()
    assert float(made.loss.detach()) == pytest.approx(float(exact.detach()), rel=ROUNDING.get(name, 0.05))


@every_method
def test_the_entry_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    entry = registry.entry("method", name)
    assert len(entry.summary) > 10
    assert entry.source


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_registers_the_methods_of_one_source_and_nothing_else(path: Path) -> None:
    found = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "register"
    ]
    kinds = [argument.value for node in found for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    assert set(kinds) == {"method"}
    sources = [keyword.value for node in found for keyword in node.keywords if keyword.arg == "source"]
    papers = {str(source.value).partition(",")[0] for source in sources if isinstance(source, ast.Constant)}
    assert len(papers) == 1, "one paper, one file"


def test_an_unknown_method_offers_the_nearest() -> None:
    with pytest.raises(registry.InputError, match="did you mean 'standard'"):
        registry.build("method", "standart", 3, attack())


@every_method
def test_an_unknown_setting_of_a_method_is_refused_by_name(name: str) -> None:
    with pytest.raises(registry.InputError, match="gamma_ray"):
        registry.build("method", f"{name}(gamma_ray=1)", 3, attack())
