"""A model without its source: a program written by ``torch.export.save``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from classwise.errors import InputError
from classwise.models.foreign import foreign_code


class ExportedModel(nn.Module):
    """An exported program as a module that has modes, though they change nothing: the program is what it was.

    Args:
        program: exported in eval mode from a function of one tensor of images, with a dynamic batch dimension.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        # torch makes these raise on the instance, which would break model.eval() of anything around it.
        for method in ("train", "eval"):
            vars(self.program).pop(method, None)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to what the program returns.

        Raises:
            InputError: the program's guards refuse the shape of ``x``.
        """
        try:
            logits: Tensor = self.program(x)
        except (AssertionError, RuntimeError) as error:
            # Guards raise AssertionError, up to torch 2.8 a RuntimeError of this form; any other is not about shapes.
            if isinstance(error, RuntimeError) and not str(error).startswith("Expected input at"):
                raise
            shape = "x".join(map(str, x.shape))
            raise InputError(
                f"The exported program refuses a batch of shape {shape} ({error}); use images and a batch size "
                "that it allows, or export it again."
            ) from error
        return logits


def exported(path: Path) -> ExportedModel:
    """Read an exported program and check that it can be evaluated.

    Raises:
        InputError: no such file, not a program, not one tensor in, a fixed batch size, or exported in training mode.
    """
    if not path.is_file():
        raise InputError(f"There is no exported program {path}; give the path of a file written by torch.export.save.")
    if not zipfile.is_zipfile(path):  # torch would log a traceback before it raises
        raise InputError(f"{path} is no exported program; write it with torch.export.save.")
    with foreign_code(f"{path} cannot be read as an exported program", "write it with torch.export.save"):
        program = torch.export.load(path)
    _check_input(program, path)
    training = sorted({_name(node) for node in program.graph.nodes if _in_training_mode(node)})
    if training:
        raise InputError(
            f"{path} was exported in training mode ({', '.join(training)}), so that a prediction would depend on the "
            "batch or on chance; call model.eval() before torch.export.export."
        )
    return ExportedModel(program)


def _check_input(program: ExportedProgram, path: Path) -> None:
    names = program.graph_signature.user_inputs
    inputs = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(names) != 1 or not isinstance(inputs[0], Tensor) or inputs[0].ndim != 4:
        raise InputError(f"{path} does not take one batch of images (N, C, H, W); export a model that does.")
    batch = inputs[0].shape[0]
    if isinstance(batch, int):
        raise InputError(
            f"{path} was exported for batches of exactly {batch}; export it again with "
            'dynamic_shapes=({0: torch.export.Dim("batch")},) and an example of at least two images.'
        )


def _in_training_mode(node: fx.Node) -> bool:
    """Tell whether a node calls an operator, such as batch_norm or dropout, with its training flag on."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.name in ("train", "training"):
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            return given is True
    return False


def _name(node: fx.Node) -> str:
    assert isinstance(node.target, torch._ops.OpOverload)
    return str(node.target.overloadpacket.__name__)
