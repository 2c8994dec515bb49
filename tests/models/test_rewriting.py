"""Layers are rewritten only where nothing could see it: attacks differentiate the model and no other function."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from classwise import ThreatModel, build_attacks, evaluate, load_data, load_model
from classwise.data.images import Images
from classwise.models import rewriting
from classwise.models.rewriting import faster
from classwise.models.searched import Searched

SHAPE = (1, 8, 8)
Change = Callable[[Tensor], Tensor]


def clamp(z: Tensor) -> Tensor:
    return z.clamp(-0.3, 0.3)


def quantised(z: Tensor) -> Tensor:
    """Round to quarters, with the gradient straight through."""
    return z + ((z * 4).round() / 4 - z).detach()


class Net(nn.Module):
    """A convolution, BatchNorm, ReLU and a linear layer, on digits; trained enough that attacks have work to do."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6))
            self.head = nn.Linear(6 * 64, 10)
        norm, generator = self.norm, torch.Generator().manual_seed(1)
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            value.data.copy_(0.3 + 0.5 * torch.rand(value.shape, generator=generator))

    @property
    def conv(self) -> Any:
        return self.features[0]

    @property
    def norm(self) -> Any:
        return self.features[1]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).relu().flatten(1))
        return logits


class Inline(nn.Module):
    """The same function without a layer that could be rewritten."""

    def __init__(self, function: Change) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def inline(net: Net, between: Change = lambda z: z, after: Change = lambda z: z) -> Inline:
    """Write a net down by hand, with something between its convolution and BatchNorm, or after both."""
    conv, norm, head = net.conv, net.norm, net.head

    def function(x: Tensor) -> Tensor:
        z = between(F.conv2d(x, conv.weight, conv.bias, padding=1))
        mean, scale = norm.running_mean, norm.weight / (norm.running_var + norm.eps).sqrt()
        z = after((z - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None])
        return F.linear(z.relu().flatten(1), head.weight, head.bias)

    return Inline(function)


def hooked(change: Change, layer: str = "conv") -> Net:
    net = Net()
    getattr(net, layer).register_forward_hook(lambda module, given, made: change(made))
    return net


def calling_children() -> Net:
    net = Net()
    net.features.register_forward_hook(lambda module, given, made: made + module[0](given[0]))
    return net


def prehooked(layer: str, change: Change) -> Net:
    net = Net()
    getattr(net, layer).register_forward_pre_hook(lambda module, given: (change(given[0]),))
    return net


def backward_hooked() -> Net:
    net = Net()
    net.conv.register_full_backward_hook(lambda module, into, out: (into[0] * 3,))
    return net


def with_weight(change: Callable[[nn.Module], Any]) -> Net:
    net = Net()
    change(net.conv)
    return net


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class OwnTensor(nn.Parameter):
    """Whatever is computed with it is clamped."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
        return clamp(made) if func is torch.conv2d else made


def own_tensor(conv: nn.Module) -> None:
    conv.weight = OwnTensor(conv.weight.detach())


def old_weight_norm(conv: nn.Module) -> None:
    with warnings.catch_warnings(action="ignore"):  # it warns that it is old
        torch.nn.utils.weight_norm(conv)


class FakeQuantised(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return quantised(super()._conv_forward(input, quantised(weight), bias))


class Called(nn.Conv2d):
    def __call__(self, x: Tensor) -> Tensor:
        return clamp(super().__call__(x))


def of_class(kind: type[nn.Conv2d]) -> Net:
    net, new = Net(), kind(1, 6, 3, padding=1)
    new.load_state_dict(net.conv.state_dict())
    net.features[0] = new
    return net


def replaced(layer: str, name: str) -> Net:
    """Replace a method of one object."""
    net = Net()
    kept = getattr(getattr(net, layer), name)
    setattr(getattr(net, layer), name, lambda *given, **named: clamp(kept(*given, **named)))
    return net


class Routed(Net):
    """A net whose pass is another one."""

    def __init__(self, route: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.route = route

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.route(self, x).relu().flatten(1))
        return logits


def twice(net: Any, x: Tensor) -> Tensor:
    z: Tensor = net.norm(net.conv(x)).relu()
    return z + net.conv(z.mean(1, keepdim=True))


def skip(net: Any, x: Tensor) -> Tensor:
    z: Tensor = net.conv(x)
    return x + z + net.norm(z)


def seen_gradient(net: Any, x: Tensor) -> Tensor:
    z = net.conv(x)
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * 0.1)
    made: Tensor = net.norm(z)
    return made


def weight_read(net: Any, x: Tensor) -> Tensor:
    z: Tensor = net.norm(net.conv(x))
    return z * net.conv.weight.norm()


def direct(net: Any, x: Tensor) -> Tensor:
    made: Tensor = net.norm(net.conv.forward(x)) + net.norm(net.conv(x))
    return made


def changed_meanwhile(net: Any, x: Tensor) -> Tensor:
    z, before = net.conv(x), net.norm.weight.data.clone()
    net.norm.weight.data = before * 2
    made: Tensor = net.norm(z)
    net.norm.weight.data = before
    return made


def by_value(net: Any, x: Tensor) -> Tensor:
    z: Tensor = net.conv(x)
    return net.norm(z) if float(z.detach().max()) > 0 else z  # type: ignore[no-any-return]


def by_chance(net: Any, x: Tensor) -> Tensor:
    z: Tensor = net.conv(x)
    return net.norm(z) if random.random() < 0.5 else z  # type: ignore[no-any-return]


def by_mode(net: Any, x: Tensor) -> Tensor:
    z: Tensor = net.conv(x)
    return net.norm(z) if torch.is_grad_enabled() else clamp(z)


def by_keyword(net: Any, x: Tensor) -> Tensor:
    made: Tensor = net.norm(input=net.conv(input=x))
    return made


def monte_carlo(net: Any, x: Tensor) -> Tensor:
    return F.dropout(net.norm(net.conv(x)), 0.3, training=True)


def recomputed(net: Any, x: Tensor) -> Tensor:
    made: Tensor = checkpoint(net.features, x, use_reentrant=False)
    return made


class Clamping(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return clamp(made) if func is torch.conv2d else made


def under_a_mode(net: Any, x: Tensor) -> Tensor:
    with Clamping():
        made: Tensor = net.norm(net.conv(x))
    return made


class TrainMode(Net):
    """BatchNorm goes on measuring the batch."""

    def train(self, mode: bool = True) -> TrainMode:
        super().train(mode)
        self.norm.train()
        self.norm.momentum = 0.0
        return self


class Again(nn.Module):
    """Other code holds the layers as well."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net, self.other = net, nn.Sequential(net.conv)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits + self.other(x).mean()


def scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # it warns that it is old
        return torch.jit.script(model)


ODD: dict[str, Callable[[], nn.Module]] = {
    "clamp hook on the convolution": partial(hooked, clamp),
    "quantiser hook on the convolution": partial(hooked, quantised),
    "clamp hook on BatchNorm": partial(hooked, clamp, "norm"),
    "clamp hook on the Sequential": partial(hooked, clamp, "features"),
    "hook on the Sequential that calls its children": calling_children,
    "pre-hook on the convolution": partial(prehooked, "conv", lambda x: x * 0.5),
    "pre-hook on BatchNorm": partial(prehooked, "norm", clamp),
    "backward hook on the convolution": backward_hooked,
    "parametrised weight": partial(with_weight, lambda c: parametrize.register_parametrization(c, "weight", Halved())),
    "spectral_norm": partial(with_weight, torch.nn.utils.spectral_norm),
    "spectral_norm as a parametrisation": partial(with_weight, parametrizations.spectral_norm),
    "weight_norm": partial(with_weight, old_weight_norm),
    "weight_norm as a parametrisation": partial(with_weight, parametrizations.weight_norm),
    "pruning": partial(with_weight, lambda c: prune.l1_unstructured(c, "weight", 0.5)),
    "weight of a class of its own": partial(with_weight, own_tensor),
    "fake quantisation in a subclass": partial(of_class, FakeQuantised),
    "subclass with a call of its own": partial(of_class, Called),
    "replaced forward of the convolution": partial(replaced, "conv", "forward"),
    "replaced _conv_forward": partial(replaced, "conv", "_conv_forward"),
    "replaced forward of BatchNorm": partial(replaced, "norm", "forward"),
    "convolution called twice": partial(Routed, twice),
    "skip past BatchNorm": partial(Routed, skip),
    "hook on the tensor between": partial(Routed, seen_gradient),
    "weight read in the pass": partial(Routed, weight_read),
    "forward called directly": partial(Routed, direct),
    "BatchNorm changed meanwhile": partial(Routed, changed_meanwhile),
    "route by value": partial(Routed, by_value),
    "route by chance": partial(Routed, by_chance),
    "route by grad mode": partial(Routed, by_mode),
    "layers called by keyword": partial(Routed, by_keyword),
    "Monte-Carlo dropout": partial(Routed, monte_carlo),
    "recomputed activations": partial(Routed, recomputed),
    "function mode around the layers": partial(Routed, under_a_mode),
    "BatchNorm in train mode": TrainMode,
    "layers held twice": lambda: Again(Net()),
    "TorchScript": lambda: scripted(nn.Sequential(*Net().features, nn.Flatten())),
}


def digits(n: int = 40) -> Images:
    data = load_data("digits", "test")
    assert isinstance(data, Images)
    return data.subset(torch.arange(n))


def pixels(n: int = 24) -> Tensor:
    return digits(n).fetch(torch.arange(n))


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        random.seed(3)
        logits = function(x)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


@pytest.mark.parametrize("name", ODD)
def test_attacks_differentiate_the_model_whatever_it_is_made_of(name: str) -> None:
    model, x = ODD[name]().eval(), pixels()
    plain = gradient(model, x)
    searched = Searched(model, x, batches=(x, (x + 0.1).clamp(0, 1)))
    torch.testing.assert_close(gradient(searched, x), plain, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.manual_seed(0)
        random.seed(0)
        expected = model(x)
        torch.manual_seed(0)
        random.seed(0)
        torch.testing.assert_close(searched(x), expected, rtol=1e-4, atol=1e-5)


SEEN = [name for name in ODD if any(word in name for word in ("hook on the c", "hook on B", "hook on the S", "norm"))]


@pytest.mark.parametrize("name", SEEN)
def test_what_is_hooked_is_refused_before_anything_is_compared(name: str) -> None:
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in faster(ODD[name]().eval()))


@contextmanager
def global_hook() -> Iterator[None]:
    def change(module: nn.Module, given: Any, made: Tensor) -> Tensor | None:
        return clamp(made) if isinstance(module, nn.Conv2d) else None

    hook = torch_module.register_module_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()


def test_a_hook_of_all_modules_is_seen_and_so_is_one_that_comes_in_later() -> None:
    model, x = Net().eval(), pixels()
    searched = Searched(model, x)
    assert searched.layers == 2
    with global_hook():
        assert faster(model) == {}
        torch.testing.assert_close(gradient(searched, x), gradient(model, x), rtol=0, atol=0)
    model.features.register_forward_hook(lambda module, given, made: clamp(made))
    torch.testing.assert_close(gradient(searched, x), gradient(model, x), rtol=0, atol=0)


INLINE: dict[str, tuple[Callable[[], Net], Callable[[Net], Inline]]] = {
    "plain": (Net, inline),
    "clamp hook": (partial(hooked, clamp), partial(inline, between=clamp)),
    "quantiser hook": (partial(hooked, quantised), partial(inline, between=quantised)),
    "hook on BatchNorm": (partial(hooked, clamp, "norm"), partial(inline, after=clamp)),
}


def fitted(make: Callable[[], Net]) -> Net:
    """Fit the last layer to the digits, so that there is accuracy to lose."""
    net, data = make().eval(), digits(300)
    optimizer = torch.optim.Adam(net.head.parameters(), lr=0.01)
    with torch.no_grad():
        features = net.features(data.fetch(torch.arange(300))).relu().flatten(1)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net.head(features), data.y).backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("name", INLINE)
def test_pgd_leaves_as_many_images_as_on_the_same_function_written_inline(name: str) -> None:
    make, by_hand = INLINE[name]
    model, data = fitted(make), digits(100)
    attacks = build_attacks("pgd(steps=10)", ThreatModel("Linf", 0.1))
    found, expected = (evaluate(each, data, attacks, examples=0).outcomes for each in (model, by_hand(model)))
    assert 0 < expected.correct().sum() < expected.correct("clean").sum()
    assert (found.correct() == expected.correct()).all()


def test_where_the_comparison_alone_sees_a_difference_the_model_is_searched_as_it_is_and_the_result_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rewriting, "observed", lambda model: False)
    model, data = fitted(partial(hooked, clamp)), digits(100)
    attacks = build_attacks("pgd(steps=10)", ThreatModel("Linf", 0.1))
    found, expected = (evaluate(each, data, attacks, examples=0) for each in (model, inline(model, between=clamp)))
    assert (found.outcomes.correct() == expected.outcomes.correct()).all()
    assert [flag["flag"] for flag in found.header["flags"]].count("plain_search") == 1
    record = found.header["search"]
    assert record["rewritten_layers"] == 0
    assert record["rewriting"]["logits"] > 0.01


def test_limits_that_only_images_off_the_data_reach_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "observed", lambda model: False)
    net, x = Net().eval(), pixels()
    z = net.conv(x)
    net.conv.register_forward_hook(lambda module, given, made: made.clamp(float(z.min()), float(z.max())))
    assert Searched(net, x).layers == 2, "on these very images it is the same function"
    far = (x + 0.3 * torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))).clamp(0, 1)
    assert Searched(net, x, batches=(x, far)).layers == 0


@pytest.mark.parametrize("name", ["small_resnet", "preact_resnet18", "resnet18", "digits_cnn"])
def test_rounding_is_far_below_what_is_taken_for_a_difference(name: str) -> None:
    model = load_model(name, num_classes=10, shape=SHAPE)
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.running_var, layer.weight):
                value.data.copy_(0.5 + torch.rand(value.shape, generator=generator))
    searched = Searched(model, pixels())
    assert searched.layers > 0
    assert searched.difference is not None
    assert searched.difference.logits < rewriting.LOGITS / 10
    assert searched.note is None


def test_bfloat16_says_how_far_its_logits_are_from_the_models() -> None:
    record = Searched(Net().eval(), pixels(), "bfloat16").record
    assert record["precision"] == "bfloat16"
    assert 1e-4 < record["bfloat16"]["logits"] < 0.1
    assert Searched(Net().eval(), pixels()).record["bfloat16"] is None
