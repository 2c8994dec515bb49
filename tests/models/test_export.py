"""Models as files that run without classwise: the same function, any batch size, and nothing written that is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from classwise.corrections import Offset, Scale, WeightNorm
from classwise.errors import InputError
from classwise.models import load_model
from classwise.models.corrected import Corrected
from classwise.models.export import export, folded
from classwise.runtime.inference import forward

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
B = torch.linspace(-1, 1, 10)
CORRECTIONS: dict[str, nn.Module] = {
    "offset": Offset(B),
    "scale": Scale(1 + 0.3 * B),
    "weight-norm": WeightNorm(2 + B, 0.5 * B, torch.tensor(0.7)),
}


def network() -> nn.Module:
    return load_model("digits_cnn", num_classes=10, shape=(1, 8, 8)).eval()


class Squared(nn.Module):
    """Ends in no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) ** 2


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_folded_correction_is_the_same_function_without_it(name: str) -> None:
    base = network()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    model = Corrected(base, CORRECTIONS[name])
    plain = folded(model, X[:2])
    torch.testing.assert_close(forward(plain, X), forward(model, X))
    assert plain.state_dict().keys() == base.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items()), "the model is left alone"


def test_offsets_change_one_bias_and_nothing_else() -> None:
    base = network()
    plain = folded(Corrected(base, Offset(B)), X[:2]).state_dict()
    changed = [key for key, value in base.state_dict().items() if not torch.equal(plain[key], value)]
    assert len(changed) == 1
    torch.testing.assert_close(plain[changed[0]] - base.state_dict()[changed[0]], B)


def test_a_layer_without_bias_gets_one() -> None:
    base = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    model = Corrected(base, Offset(B))
    torch.testing.assert_close(forward(folded(model, X[:2]), X), forward(model, X))


def test_a_correction_of_a_corrected_model_is_folded_as_well() -> None:
    model = Corrected(Corrected(network(), Offset(B)), Scale(1 + 0.3 * B))
    plain = folded(model, X[:2])
    assert not any(isinstance(part, Corrected) for part in plain.modules())
    torch.testing.assert_close(forward(plain, X), forward(model, X))


def test_where_there_is_no_last_linear_layer_the_correction_stays() -> None:
    model = Corrected(Squared(), Offset(B))
    assert folded(model, X[:2]) is model


@pytest.mark.parametrize("model", [Corrected(network(), Offset(B)), Corrected(Squared(), Scale(1 + 0.3 * B))])
def test_an_exported_program_is_read_by_export_at_any_batch_size(model: nn.Module, tmp_path: Path) -> None:
    export(model, X, tmp_path / "model.pt2")
    loaded = load_model(f"export:{tmp_path / 'model.pt2'}", num_classes=10, shape=(1, 8, 8), trust_code=True)
    for size in (1, 3, 6):
        torch.testing.assert_close(forward(loaded, X[:size]), forward(model.eval(), X[:size]))


def test_onnx_says_the_same_at_any_batch_size(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = Corrected(network(), Offset(B))
    export(model, X, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for size in (1, 4):
        (logits,) = session.run(["logits"], {"images": X[:size].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), forward(model, X[:size]), rtol=1e-4, atol=1e-4)


def test_weights_are_those_of_the_architecture(tmp_path: Path) -> None:
    model = Corrected(network(), Offset(B))
    export(folded(model, X[:2]), X, tmp_path / "model.safetensors")
    loaded = load_model(f"digits_cnn@{tmp_path / 'model.safetensors'}", num_classes=10, shape=(1, 8, 8))
    torch.testing.assert_close(forward(loaded.eval(), X), forward(model, X))
    assert safetensors.torch.load_file(tmp_path / "model.safetensors").keys() == network().state_dict().keys()


def test_the_mode_of_the_model_is_put_back(tmp_path: Path) -> None:
    model = network().train()
    export(model, X, tmp_path / "model.safetensors")
    assert model.training


class Branches(nn.Module):
    """Cannot be traced: what it does depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] if float(x.sum()) > 0 else -x.flatten(1)[:, :10]


@pytest.mark.parametrize(
    ("name", "says"), [("model.pth", "ends in none of .pt2, .onnx"), ("model.pt2", "torch.export cannot export")]
)
def test_what_cannot_be_exported_is_said_and_nothing_written(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        export(Branches(), X, tmp_path / name)
    assert not list(tmp_path.iterdir())
