"""Attacks, methods, training (but for checkpoints), evaluation and correction compute the same on another device.

What they make there stays there, and nothing on the CPU meets it: see :mod:`tests.another_device`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from tests.another_device import DEVICE, Elsewhere, FabricElsewhere, another_device, here, moved
from tests.attacks import test_contract as attacks
from tests.methods import test_contract as methods
from tests.methods.strategies import batch
from tests.strategies import NORMS
from torch import Tensor, nn

from classwise import ThreatModel, build_attacks, critical_eps, evaluate, fit, load_data, load_model
from classwise.corrections.fit import repair
from classwise.data.images import Images
from classwise.data.splits import stratified_sample
from classwise.methods import Epoch, Pass
from classwise.metrics.stats import ClassStats
from classwise.noise import Noise
from classwise.registry import build
from classwise.training.run import Run
from classwise.training.state import State

THREAT = ThreatModel("Linf", 0.15)


def digits(split: str, n: int) -> Images:
    data = load_data("digits", None, split)
    assert isinstance(data, Images)
    return data.subset(stratified_sample(data.y, n, seed=0))


def network(name: str = "digits_cnn", shape: tuple[int, int, int] = (1, 8, 8)) -> nn.Module:
    return load_model(name, num_classes=10, shape=shape, seed=0)


def test_tensors_of_both_devices_do_not_mix_and_what_is_computed_there_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = torch.arange(6.0)
    with another_device(monkeypatch):
        there = Elsewhere(numbers.clone())
        total = (there * 2).view(2, 3).sum(0) + torch.tensor(1.0)
        made = torch.zeros(3, device=there.device) + total
        assert made.device == DEVICE
        assert torch.equal(here(there[numbers < 2]), torch.tensor([0.0, 1.0]))  # PyTorch moves the positions
        for mixed in (
            lambda: there + numbers,
            lambda: made + torch.zeros(3),
            lambda: numbers.mul_(there),
            lambda: numbers[there < 2],
            lambda: there.index_select(0, torch.tensor([1])),
            lambda: there.index_put_((torch.tensor([1, 2]),), torch.zeros(2)),
        ):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                mixed()
        back = made.cpu()
    assert torch.equal(back, torch.tensor([7.0, 11.0, 15.0]))
    assert torch.equal(here(made), back)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", attacks.NAMES)
def test_attacks(name: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def crafted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return attacks.brief(name, norm)(model, x, y, noise=Noise(0, torch.arange(len(x))))

    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = network().eval()
    y = model(x).argmax(1)
    expected = crafted(model, x, y)
    with another_device(monkeypatch):
        found = crafted(moved(model), Elsewhere(x), Elsewhere(y))
    assert found.device == DEVICE
    assert torch.equal(here(found), expected)


@methods.every_method
def test_methods_with_their_class_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    y = methods.LABELS["unbalanced"]

    def stepped(there: bool) -> list[Any]:
        method, model, seen = methods.build(name), methods.network(name), methods.epoch(y, 3)
        (x, noise), labels = batch(y), y
        if there:
            moved(method)
            moved(model)
            if method.teacher is not None:
                moved(method.teacher.network)
            seen, x, labels = elsewhere(seen), Elsewhere(x), Elsewhere(y)
        if method.measures:
            assert seen.measured is not None
            method.start_from(seen.measured)
        for number in range(2):
            method.end_epoch(replace(seen, number=number))
        step = method(model, x, labels, noise)
        step.loss.backward()
        return [step.loss.detach(), *(weight.grad for weight in model.parameters()), *method.buffers()]

    expected = stepped(False)
    with another_device(monkeypatch):
        found = stepped(True)
    assert all(value.device == DEVICE for value in found)
    assert all(torch.equal(here(one), other) for one, other in zip(found, expected, strict=True))


def elsewhere(seen: Epoch) -> Epoch:
    def there(sums: Pass | None) -> Pass | None:
        return sums and Pass(*(ClassStats(*(Elsewhere(value) for value in each.tensors())) for each in sums))

    return replace(seen, train=there(seen.train), valid=there(seen.valid), measured=there(seen.measured))


@pytest.mark.parametrize(
    "names",
    ["fast", "upper-bound", "autoattack(steps=3, queries=5)", "eot-pgd(samples=2, steps=2),square(queries=10)"],
)
def test_evaluation_with_flags_and_audit(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, contenders = digits("test", 40), build_attacks(names, THREAT)
    expected = evaluate(network(), data, contenders, batch_size=16, audit=20).outcomes
    with another_device(monkeypatch):
        found = evaluate(moved(network()), data, contenders, batch_size=16, audit=20, device=DEVICE).outcomes
    assert list(found.views) == list(expected.views)
    for view in found.views:
        assert (found.correct(view) == expected.correct(view)).all()


@pytest.mark.parametrize(
    ("method", "wrappers"),
    [("at", "ema,swa(start=0)"), ("at", "awp"), ("cfol", ""), ("cfa", "ema,fawa"), ("confusion-margin", "")],
)
def test_training(method: str, wrappers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(State, "content", lambda state, record: b"")  # torch.save knows no such tensors
    data = digits("train", 120)
    run = Run(
        "digits_cnn",
        method,
        build("recipe", "digits(epochs=2, steps=2, batch_size=30, holdout=0.3)"),
        THREAT,
        0,
        wrappers,
    )

    def trained(fabric: Fabric, model: nn.Module, made: nn.Module, name: str) -> list[dict[str, Any]]:
        return fit(fabric, model, made, data, run, tmp_path / name)  # type: ignore[arg-type]

    def new() -> nn.Module:
        return build("method", method, len(data.classes), run.attack).train()  # type: ignore[no-any-return]

    one = {"accelerator": "cpu", "devices": 1}
    expected = trained(Fabric(**one), network(), new(), "here")  # type: ignore[arg-type]
    with another_device(monkeypatch):
        found = trained(FabricElsewhere(**one), moved(network()), moved(new()), "there")  # type: ignore[arg-type]
    # Equal but for rounding: the gradient to images of one channel is another computation on a CPU.
    for line, other in zip(found, expected, strict=True):
        for part in ("train", "valid"):
            mine, theirs = line[part]["robust"], other[part]["robust"]
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    weights = [load_file(tmp_path / name / "last.safetensors") for name in ("there", "here")]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_smallest_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    data, attack = digits("test", 20), "narrowing(fab_steps=3, halvings=2, steps=3)"
    expected = critical_eps(network(), data, eps_max=0.2, attack=attack, batch_size=8)
    with another_device(monkeypatch):
        found = critical_eps(moved(network()), data, eps_max=0.2, attack=attack, batch_size=8, device=DEVICE)
    assert found.distance == pytest.approx(expected.distance, abs=1e-5)


def test_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    data, fitting = digits("train", 60), build_attacks("pgd(steps=2)", THREAT)
    expected = repair(network(), data, "iv-offsets", fitting, batch_size=20)
    with another_device(monkeypatch):
        found = repair(moved(network()), data, "iv-offsets", fitting, batch_size=20, device=DEVICE)
    assert found.curve() == expected.curve()
