"""Transfer: crafted on the source alone, named for the record, and reached from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from classwise import resolve
from classwise.attacks import PGD, Transfer, predict, transfer
from classwise.cli.main import main
from classwise.data import load
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.2)
SOURCE = """import torch
from torch import nn

def build():
    torch.manual_seed({seed})
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


class Unasked(nn.Module):
    """Must not be called."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model under attack was asked")


def linear(num_classes: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))


def batch(model: nn.Module, n: int = 8) -> tuple[Tensor, Tensor, Noise]:
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, model(x).argmax(1), Noise(0, torch.arange(n))


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 100])
def test_it_returns_what_the_attack_makes_of_the_source(num_classes: int) -> None:
    source = linear(num_classes)
    x, y, noise = batch(source)
    x_adv = transfer(PGD(THREAT), source)(Unasked(), x, y, noise=noise)
    assert torch.equal(x_adv, PGD(THREAT)(source, x, y, noise=noise))
    assert THREAT.contains(x_adv, x).all()
    assert (predict(source(x_adv).detach(), y) != y).any()


def test_both_models_keep_their_modes_and_the_process_its_random_numbers() -> None:
    source, target = linear(3).train(), Unasked().eval()
    x, y, noise = batch(source)
    before = torch.get_rng_state()
    transfer(PGD(THREAT), source)(target, x, y, noise=noise)
    assert (source.training, target.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), before)


def test_neither_batch_nor_order_matters() -> None:
    source = linear(3).double()
    attack = transfer(PGD(THREAT), source)
    x, y, noise = batch(linear(3))
    whole = attack(Unasked(), x.double(), y, noise=noise)
    part = torch.tensor([5, 1])
    split = attack(Unasked(), x[part].double(), y[part], noise=noise.select(part))
    torch.testing.assert_close(split, whole[part], rtol=0, atol=1e-6)


def test_a_radius_of_zero_changes_nothing() -> None:
    source = linear(3)
    x, y, noise = batch(source)
    assert torch.equal(transfer(PGD(ThreatModel("Linf", 0)), source)(Unasked(), x, y, noise=noise), x)


def test_its_repr_and_identity_are_its_attack_and_the_name_of_its_source() -> None:
    attack = transfer(PGD(THREAT), linear(3), "run:a")
    assert repr(attack) == f"Transfer(attack={PGD(THREAT)!r}, name='run:a')"
    assert attack == Transfer(PGD(THREAT), "run:a", linear(3, seed=1))
    assert attack != Transfer(PGD(THREAT), "run:b", linear(3))
    assert hash(attack) == hash(transfer(PGD(THREAT), linear(3, seed=1), "run:a"))
    assert transfer(PGD(THREAT), linear(3)).name == "Sequential"


def source_file(folder: Path, seed: int = 0) -> str:
    path = folder / f"source_{seed}.py"
    path.write_text(SOURCE.format(seed=seed))
    return f"{path.name}:build"


def test_the_words_of_a_command_line_load_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load("digits").subset(torch.arange(5))
    one = f"transfer(source='{source_file(tmp_path)}')"
    other = f"transfer(source='{source_file(tmp_path, 1)}', attack='pgd(steps=3, keep=\"last\")')"
    attacks = resolve.named_attacks(f"fgsm,{one},{other}", THREAT, data, 0)
    assert list(attacks) == ["fgsm", one, other]
    first, second = attacks[one], attacks[other]
    assert isinstance(first, Transfer)
    assert isinstance(second, Transfer)
    assert isinstance(first.attack, PGD)
    assert isinstance(second.attack, PGD)
    assert (first.attack.steps, first.attack.keep, second.attack.steps) == (20, "last", 3)
    assert first.name.startswith(source_file(tmp_path))
    assert first.name.split()[-1] != second.name.split()[-1]


@pytest.mark.parametrize("text", ["transfer", "transfer(source=1)", "transfer(source='digits_cnn', steps=3)"])
def test_a_transfer_without_a_source_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(InputError, match="source='run:FOLDER'"):
        resolve.named_attacks(text, THREAT, load("digits").subset(torch.arange(5)), 0)


def test_no_attack_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="No attack"):
        resolve.named_attacks("", THREAT, load("digits").subset(torch.arange(5)), 0)


def test_an_evaluation_records_the_weights_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target, name = source_file(tmp_path, 1), f"transfer(source='{source_file(tmp_path)}')"
    words = ["evaluate", target, "--data", "digits", "--limit", "50", "--attacks", f"{name},square(queries=20)"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    attacks = json.loads((tmp_path / "out" / "result.json").read_text())["attacks"]
    assert "with weights" in attacks[name]["settings"]
    assert "square(queries=20)" in attacks
