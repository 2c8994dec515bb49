"""Hypersphere embedding: the margin is in the training loss alone, the scale in the model alone."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods.strategies import Watched, attack, batch
from tests.methods.strategies import network as plain
from torch import Tensor, nn

from classwise import resolve
from classwise.cli import main
from classwise.errors import InputError
from classwise.methods import ALP, AT, HE, TRADES
from classwise.methods.he import _LOSSES, margin_cross_entropy
from classwise.models import cosine_head, load_model

Y = torch.arange(24) % 3
SCALE = 10.0
BASES = {"at": AT(3, attack()), "trades": TRADES(3, attack()), "alp": ALP(3, attack())}

every_base = pytest.mark.parametrize("base", BASES)


def network(scale: float = SCALE) -> nn.Module:
    return plain(3, head=f"cosine(scale={scale})")


def margined(logits: Tensor, margin: float, scale: float = SCALE) -> Tensor:
    """Return the cross-entropy of softmax(s·(cos θ − m·1_y)), written from the cosines."""
    cosines = logits / scale
    cosines = torch.stack([row - margin * torch.eye(3)[y] for row, y in zip(cosines, Y, strict=True)])
    return -(scale * cosines).log_softmax(1)[torch.arange(24), Y].mean()


def passes(base: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the logits of the clean and the attacked images, made by the attack of the base and no margin."""
    x, noise = batch(Y)
    x_adv = BASES[base].attack(copy.deepcopy(model), x, Y, noise=noise)
    twin = copy.deepcopy(model)
    logits = torch.zeros(24, 3) if base == "at" else twin(x)
    return logits, twin(x_adv)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.7])
@every_base
def test_the_loss_is_that_of_its_base_with_margin_in_the_cross_entropy_alone(base: str, margin: float) -> None:
    model = network()
    x, noise = batch(Y)
    beta = {} if base == "at" else {"beta": 2.0}
    logits, logits_adv = passes(base, model)
    made = HE(3, attack(), base, margin=margin, **beta)(model, x, Y, noise)  # type: ignore[arg-type]
    wanted = {
        "at": margined(logits_adv, margin),
        "trades": margined(logits, margin)
        + 2 * F.kl_div(logits_adv.log_softmax(1), logits.softmax(1), reduction="batchmean"),
        "alp": (margined(logits, margin) + margined(logits_adv, margin)) / 2
        + 2 * F.mse_loss(logits / SCALE, logits_adv / SCALE),
    }
    torch.testing.assert_close(made.loss, wanted[base])
    assert torch.equal(made.logits_adv, logits_adv)
    assert made.logits is None if base == "at" else torch.equal(made.logits, logits)


@every_base
def test_without_margin_it_is_its_base_on_the_same_network(base: str) -> None:
    x, noise = batch(Y)
    beta = {} if base == "at" else {"beta": BASES[base].beta}
    made = HE(3, attack(), base, margin=0.0, **beta)(network(1.0), x, Y, noise)  # type: ignore[arg-type]
    torch.testing.assert_close(made.loss, BASES[base](network(1.0), x, Y, noise).loss)


def test_without_margin_and_with_a_scale_of_1_the_loss_is_the_cross_entropy_of_the_cosines() -> None:
    cosines = 2 * torch.rand(24, 3, generator=torch.Generator().manual_seed(0)) - 1
    loss = margin_cross_entropy(cosines, Y, torch.tensor(1.0), 0.0)
    torch.testing.assert_close(loss, F.cross_entropy(cosines, Y, reduction="none"))


def test_a_margin_raises_the_loss_of_every_image() -> None:
    logits, scale = torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), torch.tensor(SCALE)
    losses = [margin_cross_entropy(logits, Y, scale, margin) for margin in (0.0, 0.1, 0.3)]
    assert (losses[0] < losses[1]).all()
    assert (losses[1] < losses[2]).all()


def test_the_gradient_flows_through_both_passes() -> None:
    generator = torch.Generator().manual_seed(0)
    for base in ("trades", "alp"):
        both = [torch.randn(24, 3, generator=generator, dtype=torch.float64).requires_grad_(True) for _ in range(2)]
        scale = torch.tensor(SCALE, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda a, b, f=_LOSSES[base], s=scale: f(a, b, Y, s, 0.2, 6.0), both)


@every_base
def test_the_attack_is_in_eval_mode_and_sees_the_scaled_logits(base: str) -> None:
    model = Watched(network())
    x, noise = batch(Y)
    method = HE(3, attack(steps=4), base)  # type: ignore[arg-type]
    assert method.attack == replace(BASES[base].attack, steps=4, step_size=attack().step_size)
    method(model, x, Y, noise)
    attacked = 4 + (base == "trades")
    assert [mode for mode, _ in model.seen] == [False] * attacked + [True] * (1 if base == "at" else 2)


@pytest.mark.parametrize(
    ("base", "scale", "margin", "beta"), [("at", 10, 0.2, 0.0), ("trades", 15, 0.2, 6.0), ("alp", 20, 0.3, 0.5)]
)
def test_the_defaults_are_those_of_the_released_commands(base: Any, scale: int, margin: float, beta: float) -> None:
    method = HE(3, attack(), base)
    assert (method.head, method.margin, method.beta) == (f"cosine(scale={scale}.0)", margin, beta)


def test_the_head_asked_for_has_the_scale_of_the_settings() -> None:
    assert HE(3, attack(), scale=12.5).head == "cosine(scale=12.5)"
    assert HE(3, attack(), scale=1.23456789).head == "cosine(scale=1.23456789)"


@pytest.mark.parametrize(
    "model", [plain(3), plain(3, head="cosine(bare=True)")], ids=["a linear last layer", "bare cosines"]
)
def test_a_network_without_a_scaled_head_is_refused(model: nn.Module) -> None:
    x, noise = batch(Y)
    with pytest.raises(InputError, match="scaled cosine head"):
        HE(3, attack())(model, x, Y, noise)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base": "mart"}, "no base 'mart': use one of at, trades, alp"),
        ({"beta": 6.0}, "no beta"),
        ({"scale": 0}, "scale .*above 0"),
        ({"scale": -1}, "setting scale"),
        ({"margin": -0.1}, "setting margin"),
        ({"base": "trades", "beta": "a"}, "setting beta"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        HE(3, attack(), **settings)


# From the command line


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("digits_cnn", "digits_cnn(head='cosine(scale=10.0)')"),
        ("small_cnn(dropout=0.2)", "small_cnn(dropout=0.2, head='cosine(scale=10.0)')"),
        ("small_cnn(head='cosine')", "small_cnn(head='cosine(scale=10.0)')"),
        ("small_cnn(head='cosine(scale=10)')", "small_cnn(head='cosine(scale=10.0)')"),
        ("resnet18@a/b.pt", "resnet18(head='cosine(scale=10.0)')@a/b.pt"),
        ("timm:resnet18", "timm:resnet18"),
        ("net.py:make", "net.py:make"),
    ],
)
def test_an_architecture_gets_the_head_of_the_method(model: str, wanted: str) -> None:
    assert resolve.headed(model, "cosine(scale=10.0)") == wanted
    assert resolve.headed(model, None) == model


def test_another_head_than_that_of_the_method_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs the head 'cosine\(scale=10\.0\)'"):
        resolve.headed("small_cnn(head='cosine(scale=3)')", "cosine(scale=10.0)")


def test_a_run_of_the_command_line_has_its_head_inside_and_keeps_it(tmp_path: Path) -> None:
    words = [
        "train",
        "he(scale=12)",
        "--model",
        "digits_cnn",
        "--limit",
        "200",
        "--recipe",
        "digits(epochs=1, steps=2)",
    ]
    assert main.main([*words, "--out", str(tmp_path)]) == 0
    assert "head='cosine(scale=12.0)'" in json.loads((tmp_path / "run.json").read_text())["model"]
    model = load_model(f"run:{tmp_path}")
    head = cosine_head(model)
    assert head is not None
    assert float(head.scale) == 12
    assert (model(torch.rand(20, 1, 8, 8)).abs() <= 12 + 1e-4).all()
    assert main.main([*words, "--out", str(tmp_path)]) == 0, "the same command goes on with the same run"
