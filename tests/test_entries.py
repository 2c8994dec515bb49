"""Odd models through every entry: the command line, critical eps, the drop-in, training and correction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from tests.odd_models import REFUSED, WORKS, WRITES, Odd, images, votes

from classwise.attacks import build
from classwise.cli.main import main
from classwise.corrections.fit import repair
from classwise.data import Images
from classwise.errors import InputError
from classwise.evaluation.critical_eps import critical_eps
from classwise.interop.autoattack import AutoAttack
from classwise.methods.trades import TRADES
from classwise.threat import ThreatModel
from classwise.training.loop import fit
from classwise.training.recipes import Recipe
from classwise.training.run import Run

THREAT = ThreatModel("Linf", 0.05)
NEAREST = "nearest-pgd(steps=3)"
CODE = """
import sys, torch
from torch import nn

def logits(x):
    return 10 * x.flatten(1)[:, :10]

class Net(nn.Module):
    def forward(self, x):
        {body}

def make():
    {make}

def predict(x):
    return logits(x)
"""


def run_odd(capsys: Any, folder: Path, body: str = "return logits(x)", make: str = "return Net()", **given: Any) -> Any:
    """Evaluate an odd model of ten digits by the command line; returns status, errors and result."""
    (folder / "mine.py").write_text(CODE.format(body=body, make=make))
    words = ["evaluate", f"{folder / 'mine.py'}:{given.pop('name', 'make')}", "--data", "digits", "--limit", "20"]
    words += ["--attacks", "fgsm", "--out", str(folder / "out"), *given.pop("options", [])]
    status = main(words)
    result = folder / "out" / "result.json"
    return status, capsys.readouterr().err, json.loads(result.read_text()) if result.exists() else None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"body": "sys.exit(0)"}, r"on images (2, 1, 8, 8) without gradients: SystemExit: 0"),
        ({"body": "sys.exit()"}, "SystemExit"),
        ({"body": "raise GeneratorExit"}, "GeneratorExit"),
        ({"body": "return None"}, "returns None on images"),
        ({"body": "return {'out': logits(x)}"}, "returns a dict on images"),
        ({"body": "import nothing_of_this_name"}, "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ({"body": "return logits(x.view(8, 1, 8, 8))"}, "in the forward pass of model"),
        ({"make": "raise ValueError('no weights')"}, "make failed (ValueError: no weights)"),
        ({"make": "sys.exit(0)"}, "make failed (SystemExit: 0)"),
        ({"make": "raise GeneratorExit"}, "make failed (GeneratorExit)"),
        ({"make": "return Net"}, "returns the class Net; return an instance, Net()"),
        ({"make": "return None"}, "returns a NoneType"),
    ],
)
def test_the_command_line_says_in_a_sentence_what_is_wrong_with_a_model(
    given: dict[str, Any], said: str, capsys: Any, tmp_path: Path
) -> None:
    status, error, result = run_odd(capsys, tmp_path, **given)
    assert status == 2
    assert said.lower() in error.lower()
    assert "should not happen" not in error
    assert error.count("\n") == 1
    assert result is None


@pytest.mark.parametrize(
    "given",
    [
        {"make": "return logits"},
        {"make": "return lambda images: logits(images)"},
        {"name": "predict"},
        {"body": "return {'logits': logits(x)}"},
        {"body": "return logits(x.sub_(0.5)) + 5"},
        {"body": "return logits(x.view(8, 1, 8, 8))", "options": ["--fixed-shape", "8"]},
    ],
)
def test_the_command_line_takes_functions_and_odd_modules(given: dict[str, Any], capsys: Any, tmp_path: Path) -> None:
    status, _, result = run_odd(capsys, tmp_path, **given)
    assert status == 0
    (tmp_path / "plain").mkdir()
    assert result["clean"]["correct"] == run_odd(capsys, tmp_path / "plain")[2]["clean"]["correct"]


def test_the_command_line_shows_the_flag_of_a_batch_dependent_model(capsys: Any, tmp_path: Path) -> None:
    result = run_odd(capsys, tmp_path, body="return logits(x / x.mean())")[2]
    assert "batch_dependent" in {flag["flag"] for flag in result["flags"]}


@pytest.mark.parametrize("name", ["function", "dict", *WRITES])
def test_critical_eps_are_those_of_the_plain_model(name: str) -> None:
    found, plain = (
        critical_eps(model, images(4), eps_max=0.2, attack="narrowing(steps=3,fab_steps=3,halvings=1)")
        for model in (WORKS[name], votes)
    )
    assert found.distance == pytest.approx(plain.distance, abs=1e-3)


def _tensors(each: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    data = images(each)
    return data.fetch(torch.arange(len(data))), data.y


DROP_IN = {"norm": "Linf", "eps": 0.05, "version": "custom", "attacks_to_run": ["apgd-ce"], "verbose": False}


@pytest.fixture(scope="module")
def broken_of_the_plain_model() -> torch.Tensor:
    x, y = _tensors()
    return (AutoAttack(votes, **DROP_IN).run_standard_evaluation(x, y) != x).flatten(1).any(1)


@pytest.mark.parametrize("name", WORKS)
def test_the_drop_in_breaks_the_images_of_the_plain_model(name: str, broken_of_the_plain_model: torch.Tensor) -> None:
    x, y = _tensors()
    found = AutoAttack(WORKS[name], **DROP_IN).run_standard_evaluation(x, y)
    assert torch.equal((found != x).flatten(1).any(1), broken_of_the_plain_model)


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ("class", "text")])
def test_the_drop_in_refuses_in_a_sentence(name: str) -> None:
    x, y = _tensors()
    with pytest.raises(InputError, match=REFUSED[name][1]):
        AutoAttack(REFUSED[name][0], eps=0.05, verbose=False).run_standard_evaluation(x, y)


def test_the_drop_in_warns_of_a_batch_dependent_model(capsys: Any) -> None:
    x, y = _tensors()
    model = Odd(lambda model, x: votes(x / x.max()))
    AutoAttack(model, eps=0.05, version="custom", attacks_to_run=["apgd-ce"]).run_standard_evaluation(x, y)
    assert "warning (batch_dependent)" in capsys.readouterr().out


def _held_out() -> Images:
    return replace(images(4), split="train")


@pytest.mark.parametrize("name", ["function", "dict", *WRITES])
def test_a_correction_of_an_odd_model_is_that_of_the_plain_one(name: str) -> None:
    curves = [
        [point.average for point in repair(model, _held_out(), "iv-offsets", build(NEAREST, THREAT)).rounds]
        for model in (WORKS[name], votes)
    ]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "fixed batch"])
def test_a_correction_refuses_in_a_sentence(name: str) -> None:
    with pytest.raises(InputError, match=REFUSED[name][1]):
        repair(REFUSED[name][0], _held_out(), "iv-offsets", build(NEAREST, THREAT))


def test_a_correction_records_the_flags_of_the_model() -> None:
    model = Odd(lambda model, x: votes(x / x.max()))
    found = repair(model, _held_out(), "iv-offsets", build(NEAREST, THREAT))
    assert [flag["flag"] for flag in found.curve()["flags"]] == ["batch_dependent"]


def _fitted(model: Any, folder: Path) -> list[dict[str, Any]]:
    recipe = Recipe(epochs=1, batch_size=6, holdout=0.5, steps=2, augment="none", normalize=False)
    run = Run("odd", "trades", recipe, THREAT)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fit(fabric, model, TRADES(3, run.attack), images(4), run, folder)


def _trained(name: str, folder: Path) -> Any:
    model = Odd(WORKS[name].function) if name != "plain" else Odd(lambda model, x: votes(model.weight * x))
    log = _fitted(model, folder)
    return log[-1]["train"], float(model.weight.detach())


@pytest.mark.parametrize("name", ["dict", "ModelOutput", *WRITES])
def test_training_an_odd_model_is_training_the_plain_one(name: str, tmp_path: Path) -> None:
    found, plain = (_trained(each, tmp_path / each.replace(" ", "-")) for each in (name, "plain"))
    assert found[1] == pytest.approx(plain[1], abs=1e-4)


@pytest.mark.parametrize("name", [*(name for name in REFUSED if name != "class"), "function"])
def test_training_refuses_in_a_sentence_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        _fitted(votes if name == "function" else REFUSED[name][0], tmp_path / "run")
    assert not (tmp_path / "run").exists()
