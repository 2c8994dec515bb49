"""A model as attacks search it: the same function, computed faster."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classwise import registry
from classwise.errors import InputError
from classwise.models.searched import Searched


def network(seed: int = 0) -> nn.Sequential:
    """Return a network whose BatchNorm has something to do and whose logits are around 5."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)
        )
        nn.init.uniform_(model[1].running_mean)
        nn.init.uniform_(model[1].running_var, 0.5, 2)
        nn.init.constant_(model[6].bias, 5.0)
    return model.eval()


def images(n: int = 50) -> Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def test_in_float32_it_is_the_same_function_with_the_same_gradient() -> None:
    model, x = network(), images().requires_grad_(True)
    searched = Searched(model, x[:2].detach())
    torch.testing.assert_close(searched(x), model(x), rtol=1e-5, atol=1e-5)
    there, here = (torch.autograd.grad(each(x)[:, 0].sum(), x)[0] for each in (searched, model))
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)


def test_batchnorm_is_not_passed_through() -> None:
    model = network()
    searched = Searched(model, images(2))
    assert searched.layers == 2
    with torch.profiler.profile() as seen:
        searched(images())
    assert not any("batch_norm" in event.key for event in seen.key_averages())


def test_bfloat16_is_near_and_its_margins_are_fine() -> None:
    model, x = network(), images()
    found, exact = Searched(model, x[:2], "bfloat16")(x), model(x)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.02)
    assert not torch.equal(found, found.bfloat16().float()), "the last layer is in float32"
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x)
    assert rounded.dtype == torch.bfloat16


def test_the_model_is_left_as_it_was() -> None:
    model, x = network(), images()
    before = model(x)
    Searched(model, x[:2], "bfloat16")(x)
    assert torch.equal(model(x), before)
    assert not any("forward" in vars(layer) for layer in model.modules())


class Cosine(nn.Module):
    """No linear layer, and no graph that could be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 36, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return F.normalize(flat) @ self.weight.T if float(flat.sum()) > 0 else flat[:, :3]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_without_a_linear_layer_or_a_graph_works_too(precision: str) -> None:
    model, x = Cosine().eval(), images()
    found = Searched(model, x[:2], precision)(x)  # type: ignore[arg-type]
    torch.testing.assert_close(found, model(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["small_resnet", "preact_resnet18"])
def test_registered_networks_are_the_same_function(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = registry.build("model", name, num_classes=4, shape=(3, 8, 8)).eval()
        x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(Searched(model, x)(x), model(x), rtol=1e-4, atol=1e-4)


def test_another_precision_is_refused() -> None:
    with pytest.raises(InputError, match="float32 or bfloat16"):
        Searched(network(), images(2), "float16")  # type: ignore[arg-type]
