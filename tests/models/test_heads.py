"""The cosine head: what it computes, that it is part of the model, and that it is rebuilt with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classwise import registry
from classwise.errors import InputError
from classwise.models import CosineHead, cosine_head, load_model, put_head, save_weights
from classwise.models.checkpoint import weights_sha256
from classwise.models.wide_resnet import WideResNet

SMALL = "digits_cnn(head='cosine(scale=15)')"


def features(n: int = 50, width: int = 6) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def head(**settings: Any) -> CosineHead:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return CosineHead(6, 4, **settings)


def digits(text: str = SMALL, seed: int = 0) -> nn.Module:
    return load_model(text, num_classes=10, shape=(1, 8, 8), seed=seed)


def test_the_logits_are_the_scaled_cosines_between_features_and_class_weights() -> None:
    made, x = head(scale=7.0), features()
    wanted = 7 * F.cosine_similarity(x[:, None], made.weight[None], dim=2)
    torch.testing.assert_close(made(x), wanted)


def test_no_logit_exceeds_the_scale() -> None:
    assert (head(scale=3.0)(1e3 * features()).abs() <= 3 + 1e-5).all()
    aligned = head(scale=3.0)
    assert aligned(aligned.weight.detach()).diagonal().tolist() == pytest.approx([3.0] * 4)


def test_the_length_of_features_and_of_class_weights_does_not_matter() -> None:
    made, x = head(), features()
    before = made(x).detach()
    made.weight.data *= torch.tensor([[0.1], [1.0], [5.0], [300.0]])
    torch.testing.assert_close(made(x * torch.linspace(0.01, 100, 50)[:, None]), before)


def test_bare_it_returns_the_cosines_alone() -> None:
    torch.testing.assert_close(10 * head(bare=True)(features()), head(scale=10.0)(features()))


def test_features_of_length_zero_give_finite_logits_and_gradients() -> None:
    x = torch.zeros(2, 6, requires_grad=True)
    logits = head()(x)
    logits.sum().backward()
    assert torch.equal(logits, torch.zeros(2, 4))
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_it_has_no_bias_and_a_scale_that_is_saved_but_not_trained() -> None:
    assert [name for name, _ in head().named_parameters()] == ["weight"]
    assert set(head().state_dict()) == {"weight", "scale"}


def test_its_weights_start_as_long_as_those_of_a_linear_layer() -> None:
    ours, linear = (layer.weight.detach().norm(dim=1).mean() for layer in (CosineHead(64, 100), nn.Linear(64, 100)))
    assert float(ours) == pytest.approx(float(linear), rel=0.1)


@pytest.mark.parametrize("name", [name for name in registry.names("model") if not name.startswith("wrn")])
def test_every_architecture_takes_a_cosine_head_in_the_place_of_its_last_layer(name: str) -> None:
    shape = (1, 16, 16)
    plain = load_model(name, num_classes=3, shape=shape)
    headed = load_model(f"{name}(head='cosine(scale=4)')", num_classes=3, shape=shape)
    last = [path for path, layer in plain.named_modules() if isinstance(layer, nn.Linear)][-1]
    assert isinstance(headed.get_submodule(last), CosineHead)
    assert set(headed.state_dict()) == set(plain.state_dict()) - {f"{last}.bias"} | {f"{last}.scale"}
    logits = headed(torch.rand(5, *shape))
    assert logits.shape == (5, 3)
    assert (logits.abs() <= 4 + 1e-5).all()
    assert logits.std() > 0, "the weights must not start at zero, as small_cnn's do"


def test_a_wide_network_takes_one_too() -> None:
    model = WideResNet(3, (1, 16, 16), depth=10, widen=1)
    put_head(model, "cosine")
    assert isinstance(model.fc, CosineHead)
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 3)


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = digits(), digits(), digits(seed=1)
    assert weights_sha256(first) == weights_sha256(second) != weights_sha256(other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_scale_is_part_of_the_identity_of_the_weights() -> None:
    assert weights_sha256(digits()) != weights_sha256(digits("digits_cnn(head='cosine(scale=14)')"))


def test_weights_bring_their_scale_along(tmp_path: Path) -> None:
    model = digits()
    save_weights(model, tmp_path / "w.safetensors")
    again = digits(f"digits_cnn(head='cosine')@{tmp_path / 'w.safetensors'}", seed=5)
    x = torch.rand(4, 1, 8, 8)
    assert float(cosine_head(again).scale) == 15
    assert torch.equal(again(x), model(x))


def test_weights_of_another_scale_than_the_settings_are_refused(tmp_path: Path) -> None:
    save_weights(digits(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"another fc2\.scale than the model; leave scale out of its settings"):
        digits(f"digits_cnn(head='cosine(scale=7)')@{tmp_path / 'w.safetensors'}")


def test_weights_without_a_scale_take_that_of_the_settings(tmp_path: Path) -> None:
    model = digits()
    torch.save({name: v for name, v in model.state_dict().items() if name != "fc2.scale"}, tmp_path / "w.pt")
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(digits(f"{SMALL}@{tmp_path / 'w.pt'}", seed=5)(x), model(x))


def test_weights_of_a_linear_layer_do_not_fit_a_cosine_head(tmp_path: Path) -> None:
    save_weights(digits("digits_cnn"), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"fc2\.bias"):
        digits(f"{SMALL}@{tmp_path / 'w.safetensors'}")


def test_the_head_of_a_run_is_rebuilt(tmp_path: Path) -> None:
    model = digits()
    save_weights(model, tmp_path / "best.safetensors")
    record = {"model": SMALL, "classes": [str(c) for c in range(10)], "shape": [1, 8, 8]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(load_model(f"run:{tmp_path}")(x), model(x))


def test_bare_cosines_of_a_trained_network_for_study(tmp_path: Path) -> None:
    model = digits()
    save_weights(model, tmp_path / "w.safetensors")
    bare = digits(f"digits_cnn(head='cosine(bare=True)')@{tmp_path / 'w.safetensors'}")
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(15 * bare(x), model(x))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cosin", "did you mean 'cosine'"),
        ("cosine(scale=0)", "scale of a cosine head is 0"),
        ("cosine(scale='a')", "scale of a cosine head is 'a'"),
        ("cosine(bare=3)", "setting bare"),
        ("cosine(margin=1)", "margin"),
    ],
)
def test_a_bad_head_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        put_head(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), text)


def test_a_model_without_a_linear_layer_takes_no_head() -> None:
    with pytest.raises(InputError, match="has none"):
        put_head(nn.Flatten(), "cosine")


def test_the_head_takes_the_place_of_the_last_linear_layer_of_any_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 2)))
    put_head(model, "cosine")
    assert isinstance(model[1], nn.Linear)
    assert cosine_head(model) is model[2][0]
