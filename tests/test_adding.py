"""The pages on adding an attack and a method: their own text, dropped in as one file, keeps what they promise."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from tests.attacks import test_contract as attack_contract
from tests.methods import test_contract as method_contract
from tests.methods.strategies import pass_of
from torch import nn

import classwise
from classwise import registry
from classwise.attacks import PGD
from classwise.cli.main import main
from classwise.losses import cross_entropy
from classwise.methods import AT, Epoch
from classwise.metrics.result import Result

DOCS = Path(__file__).parents[1] / "docs"
LINF = classwise.ThreatModel("Linf", 0.1)
PAGES = {"attacks": "adding-an-attack.md", "methods": "adding-a-method.md"}


def code(page: str) -> str:
    """Return the only Python block of a page."""
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(block)


@pytest.fixture(params=PAGES)
def package(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dropped(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write the page's file into a folder of the package, as a file in src/classwise/PACKAGE/ would lie there."""
    (tmp_path / "mine.py").write_text(code(PAGES[package]), encoding="utf-8")
    for kind in get_args(registry.Kind):  # before, so that everything else stays registered
        registry.entries(kind)
    home = importlib.import_module(f"classwise.{package}")
    monkeypatch.setattr(home, "__path__", [*home.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.delitem(sys.modules, f"classwise.{package}.mine", raising=False)
    importlib.invalidate_caches()
    return package


only_attacks = pytest.mark.parametrize("package", ["attacks"], indirect=True)
only_methods = pytest.mark.parametrize("package", ["methods"], indirect=True)


def digits(limit: int) -> classwise.Images:
    data = classwise.load_data("digits")
    chosen = data.subset(classwise.stratified_sample(data.y, limit))
    assert isinstance(chosen, classwise.Images)
    return chosen


def linear() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_a_page_has_fewer_than_60_lines(package: str) -> None:
    assert len((DOCS / PAGES[package]).read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.usefixtures("dropped")
def test_the_command_line_lists_what_a_page_adds(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", package])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mine "))
    assert "One line for" in line
    assert "Author et al. Year" in line


@only_attacks
@pytest.mark.usefixtures("dropped")
def test_the_added_attack_is_taken_by_name_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef load():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    command = ["evaluate", f"{tmp_path / 'net.py'}:load", "--data", "digits", "--limit", "40", "--eps", "0.1"]
    main([*command, "--attacks", "mine(steps=3)", "--out", str(tmp_path / "out")])
    assert list(Result.read(tmp_path / "out").outcomes.attacks) == ["mine(steps=3)"]


@only_attacks
@pytest.mark.usefixtures("dropped")
def test_the_added_attack_attacks_real_images_whatever_the_batch() -> None:
    data, model = digits(40), linear()
    x = data.fetch(torch.arange(len(data)))
    y = model(x).argmax(1)  # so that every image is right before
    attack = classwise.build_attacks("mine(steps=5)", LINF)["mine(steps=5)"]
    x_adv = attack(model, x, y, noise=classwise.Noise(0, data.index))
    assert attack.threat.contains(x_adv, x).all()
    assert cross_entropy(model(x_adv), y).mean() > cross_entropy(model(x), y).mean() + 0.1
    seen = classwise.Images.from_arrays(x.numpy(), y.numpy(), classes=data.classes)
    results = [
        classwise.evaluate(model, seen, {"mine": attack}, batch_size=size).outcomes.predictions["mine"].tolist()
        for size in (7, 40)
    ]
    assert results[0] == results[1]


@only_attacks
@pytest.mark.usefixtures("dropped")
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_added_attack_keeps_the_contract_of_attacks(norm: str) -> None:
    contract = attack_contract
    contract.test_candidates_are_images_of_the_threat_set("mine", norm)
    contract.test_a_radius_of_zero_changes_nothing("mine", norm)
    contract.test_neither_batch_nor_order_matters("mine", norm)
    contract.test_the_model_is_left_as_it_was("mine", norm, training=True)
    contract.test_the_repr_of_an_attack_builds_it_again("mine", norm)
    contract.test_an_attack_is_frozen_settings("mine", norm)


@only_methods
@pytest.mark.usefixtures("dropped")
def test_the_added_method_trains_from_the_command_line_with_its_class_state_in_log_and_checkpoint(
    tmp_path: Path,
) -> None:
    recipe = "digits(epochs={}, steps=2)"
    command = ["train", "mine(strength=2)", "--model", "digits_cnn", "--data", "digits", "--limit", "100"]
    main([*command, "--recipe", recipe.format(2), "--out", str(tmp_path / "run")])
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(len(line["class_state"]["weight"]) == 10 for line in log)
    assert log[1]["class_state"]["weight"] != log[0]["class_state"]["weight"]
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert checkpoint["method"]["weight"].tolist() == pytest.approx(log[1]["class_state"]["weight"])


@only_methods
@pytest.mark.usefixtures("dropped")
def test_the_added_method_gives_weak_classes_more_weight() -> None:
    method = registry.build("method", "mine(strength=2)", 10, PGD(LINF, steps=2))
    data, model = digits(40), linear()
    x, noise = data.fetch(torch.arange(len(data))), classwise.Noise(0, data.index)
    plain = method(model, x, data.y, noise).loss
    torch.testing.assert_close(plain, AT(10, method.attack)(model, x, data.y, noise).loss)
    method.end_epoch(Epoch(0, pass_of(robust=[0.2, *[0.8] * 8, math.nan], n=[*[4] * 9, 0]), None))
    weak, strong, absent = method.weight[[0, 1, 9]].tolist()
    assert weak / strong == pytest.approx(math.exp(1.2))
    assert absent == 1, "a class absent from an epoch keeps its value"


@only_methods
@pytest.mark.usefixtures("dropped")
def test_the_added_method_keeps_the_contract_of_methods() -> None:
    contract = method_contract
    for case in ("two classes", "a hundred classes", "one class alone"):
        contract.test_the_loss_is_one_finite_number_whose_gradient_reaches_every_weight("mine", case)
        contract.test_the_class_state_adapts_to_any_epoch_and_stays_finite("mine", case)
    contract.test_the_state_survives_saving_and_loading("mine")
    contract.test_everything_that_an_epoch_changes_is_in_the_state("mine")
    contract.test_at_half_radius_no_attack_of_a_method_leaves_half_the_radius("mine")
