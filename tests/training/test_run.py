"""The record of a run describes the objects that are trained, or nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from tests.methods import strategies
from torch import nn

from classwise.attacks import PGD
from classwise.data import Images
from classwise.errors import InputError
from classwise.methods import AT, TRADES, Method
from classwise.models import Teacher, load_model
from classwise.threat import ThreatModel
from classwise.training.loop import fit
from classwise.training.recipes import Recipe
from classwise.training.run import Run, named_method, refuse_other_method, settings_of

THREAT = ThreatModel("Linf", 0.1)
RECIPE = Recipe(epochs=1, batch_size=8, steps=2, augment="none", holdout=0.0)
CNN = "digits_cnn(mean=[0.3], std=[0.4])"


def images(num_classes: int = 3) -> Images:
    names = tuple(f"class {c}" for c in range(num_classes))
    x = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(24) % num_classes, names, torch.arange(24), split="train")


def run(method: str, **changes: Any) -> Run:
    return replace(Run("a network", method, RECIPE, THREAT), **changes)


ATTACK = run("at").attack
WRONG: dict[str, tuple[str, Callable[[], Method], str]] = {
    "another method": ("trades", lambda: AT(3, ATTACK), r"method\.kind = \"TRADES\".*method\.kind = \"AT\""),
    "another setting": ("trades", lambda: TRADES(3, ATTACK, beta=3.0), r"method\.beta = 6\.0.*method\.beta = 3\.0"),
    "a setting of the name": ("trades(beta=2)", lambda: TRADES(3, ATTACK), r"method\.beta = 2\.0.*method\.beta = 6\.0"),
    "another radius": (
        "at",
        lambda: AT(3, replace(ATTACK, threat=ThreatModel("Linf", 0.2))),
        r"attack\.threat\.eps = 0\.1,.*attack\.threat\.eps = 0\.2",
    ),
    "another norm": ("at", lambda: AT(3, replace(ATTACK, threat=ThreatModel("L2", 0.1))), "threat.norm = .Linf.*L2"),
    "more steps": ("at", lambda: AT(3, replace(ATTACK, steps=9)), r"attack\.steps = 2.*attack\.steps = 9"),
    "another step": ("at", lambda: AT(3, replace(ATTACK, step_size=0.5)), r"step_size = 0\.025.*step_size = 0\.5"),
    "another mode": ("at", lambda: AT(3, replace(ATTACK, mode="train")), "mode = .eval.*train"),
    "other classes": ("at", lambda: AT(7, ATTACK), r"num_classes = 3.*num_classes = 7"),
    "another radius of its own method": (
        "one of its own",
        lambda: AT(3, PGD(ThreatModel("Linf", 0.3), steps=2, step_size=0.025)),
        r"attack\.threat\.eps = 0\.1,.*attack\.threat\.eps = 0\.3",
    ),
    "other steps of its own method": ("mine", lambda: AT(3, replace(ATTACK, steps=9)), "steps = 2.*steps = 9"),
}


@pytest.mark.parametrize(("name", "made", "sentence"), WRONG.values(), ids=WRONG)
def test_a_run_that_does_not_describe_the_method_is_refused_by_the_first_difference(
    name: str, made: Callable[[], Method], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        refuse_other_method(run(name), made(), images())


@pytest.mark.parametrize("name", [*strategies.registry.names("method"), *strategies.SOON.values()])
def test_every_method_is_described_by_the_name_that_built_it(name: str) -> None:
    method = strategies.method(name, 3, ATTACK)
    refuse_other_method(run(name), method, images())
    described = settings_of(method)
    assert json.loads(json.dumps(described)) == described
    assert described["kind"] == type(method).__name__


def test_another_teacher_than_the_named_one_is_refused() -> None:
    method = named_method("ard", images(), ATTACK, teacher=Teacher(strategies.network(3), "run:one"))
    refuse_other_method(run("ard(teacher='run:one')"), method, images())
    with pytest.raises(InputError, match=r"method\.teacher = .run:two.*run:one"):
        refuse_other_method(run("ard(teacher='run:two')"), method, images())


def test_names_of_classes_stand_for_their_numbers() -> None:
    method = named_method("s-at(classes=('class 1',))", images(), ATTACK)
    refuse_other_method(run("s-at(classes=('class 1',))"), method, images())
    with pytest.raises(InputError, match="classes"):
        refuse_other_method(run("s-at(classes=('class 2',))"), method, images())


def trained(folder: Path, network: nn.Module, **changes: Any) -> list[dict[str, Any]]:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    chosen = run("at", **{"model": CNN, **changes})
    return fit(fabric, network, AT(3, ATTACK), images(), chosen, folder)


def network(text: str = CNN) -> nn.Module:
    return load_model(text, num_classes=3, shape=(1, 8, 8))


def changed() -> nn.Module:
    """Return the named network with a step that its weights do not tell."""
    model = network()
    model.register_forward_hook(lambda module, given, logits: logits.tanh())
    return model


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "names 'digits_cnn.* and fit was given another"),
        (
            lambda: network("digits_cnn(mean=[0.1], std=[0.4])"),
            "and fit was given another network: .*another normalize.mean",
        ),
        (changed, "the network that fit was given computes other logits with its weights"),
    ],
)
def test_another_network_than_the_named_one_is_refused_and_nothing_is_written(
    made: Callable[[], nn.Module], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        trained(tmp_path / "run", made())
    assert not (tmp_path / "run").exists()


def test_the_record_holds_the_settings_of_the_method_and_resuming_with_others_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, network())
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["method_settings"] == settings_of(AT(3, ATTACK))
    assert record["method_settings"]["attacks"]["attack"]["threat"] == {
        "kind": "ThreatModel",
        "norm": "Linf",
        "eps": 0.1,
    }
    record["method_settings"]["num_classes"] = 4
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"method_settings\.num_classes = 4, and now method_settings\.num_classes = 3"):
        trained(tmp_path, network())
    del record["method_settings"]
    (tmp_path / "run.json").write_text(json.dumps(record))  # as older versions wrote it
    assert len(trained(tmp_path, network())) == 1
