"""A model as a file that runs without classwise: an exported program, ONNX, or plain weights."""

from __future__ import annotations

import copy
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from classwise.errors import InputError
from classwise.files.writing import write_bytes
from classwise.models.corrected import Corrected
from classwise.models.heads import linear_head
from classwise.runtime.inference import forward

_SAME = 1e-4  # share of the largest logit that an exported model may differ by: other kernels round otherwise
_ONNX = ("onnx", "onnxscript", "onnxruntime")


def folded(model: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy of a model whose corrections are part of its last linear layer, where it ends in one.

    Every correction is an affine map of the logits, g = A·z + c. As z = W·h + b, a network with A·W and A·b + c in
    place of W and b computes the same. Offsets change nothing but the bias.

    Args:
        model: takes [0, 1], returns logits.
        x: a few images (N, C, H, W), which show where it ends.

    Returns:
        The copy; the model itself where there is no correction, or no linear layer to fold it into.
    """
    if not isinstance(model, Corrected):
        return model
    inner = folded(model.model, x)
    network = copy.deepcopy(inner)
    layer = linear_head(network, x)
    if layer is None:
        return model if inner is model.model else Corrected(inner, model.correction)
    with torch.no_grad():
        zero = torch.zeros(layer.out_features, dtype=torch.float64, device=layer.weight.device)
        correction = copy.deepcopy(model.correction).double()
        shift = correction(zero)
        slope = (correction(torch.eye(len(zero), dtype=torch.float64, device=zero.device)) - shift).T
        bias = zero if layer.bias is None else layer.bias.double()
        layer.weight.copy_(slope @ layer.weight.double())
        layer.bias = nn.Parameter((slope @ bias + shift).to(layer.weight))
    return network


def export(model: nn.Module, x: Tensor, path: Path) -> float:
    """Write a model to a file, after it was read back and compared on some images.

    Args:
        model: takes [0, 1], returns logits; written in eval mode.
        x: two images or more (N, C, H, W) in [0, 1].
        path: ending in .pt2 (`torch.export`, any batch size), .onnx (likewise), or .safetensors (weights alone).

    Returns:
        The largest difference of a logit between the file and the model.

    Raises:
        InputError: another ending, a model that cannot be exported, a package that is missing, logits that differ, or a
            file that cannot be written.
    """
    writers: dict[str, Callable[[nn.Module, Tensor], tuple[bytes, Tensor]]] = {
        ".pt2": _program,
        ".onnx": _onnx,
        ".safetensors": _weights,
    }
    if path.suffix not in writers:
        raise InputError(f"{path} ends in none of {', '.join(writers)}, which say how a model is exported.")
    training = model.training
    try:
        logits = forward(model.eval(), x)
        content, again = writers[path.suffix](model, x)
    finally:
        model.train(training)
    difference = float((again - logits).abs().max())
    if not difference <= _SAME * float(logits.abs().max().clamp_min(1)):
        raise InputError(
            f"The exported model's logits differ by {difference:.3g} from the model's; nothing is written."
        )
    write_bytes(path, content)
    return difference


def _program(model: nn.Module, x: Tensor) -> tuple[bytes, Tensor]:
    try:
        batch = torch.export.Dim("batch")
        program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(f"torch.export cannot export this model ({reason}).") from error
    program.example_inputs = ((torch.zeros_like(x),), {})  # no image of the user's in a file to hand on
    content = io.BytesIO()
    torch.export.save(program, content)
    content.seek(0)
    with torch.no_grad():
        again: Tensor = torch.export.load(content).module()(x)
    return content.getvalue(), again


def _onnx(model: nn.Module, x: Tensor) -> tuple[bytes, Tensor]:
    for package in _ONNX:
        if importlib.util.find_spec(package) is None:
            raise InputError(f"ONNX needs {package}, which is not installed; pip install 'classwise[onnx]'.")
    import onnxruntime

    try:
        batch = torch.export.Dim("batch")
        program = torch.onnx.export(
            model,
            (x,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
        )
        content = b"" if program is None else program.model_proto.SerializeToString()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(f"This model cannot be written as ONNX ({reason}).") from error
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (again,) = session.run(["logits"], {"images": x.cpu().numpy()})
    return content, torch.from_numpy(again)


def _weights(model: nn.Module, x: Tensor) -> tuple[bytes, Tensor]:
    tensors = {name: value.cpu().contiguous().clone() for name, value in model.state_dict().items()}
    content = safetensors.torch.save(tensors)
    again = copy.deepcopy(model)
    again.load_state_dict(safetensors.torch.load(content))
    return content, forward(again, x)
