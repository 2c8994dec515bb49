"""A model without its source: a program written by ``torch.export.save``."""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        _refuse_code(path)
        program = torch.export.load(path)
    _check_input(program, path)
    training = sorted({_name(node) for node in program.graph.nodes if _in_training_mode(node)})
    if training:
        raise InputError(
            f"{path} was exported in training mode ({', '.join(training)}), so that a prediction would depend on the "
            "batch or on chance; call model.eval() before torch.export.export."
        )
    return ExportedModel(program)


# What torch runs or unpickles while it reads an archive, so that a file could do anything by it.
_LARGEST = 64 * 2**20  # bytes of a JSON document in an archive
_TARGET = re.compile(
    r"torch\.ops\.(aten|prim|prims|higher_order|torchvision|quantized|quantized_decomposed)\.(?!_?_?from_file)\w+(\.\w+)?"
    r"|torch\.(_?sym_\w+)|_operator\.\w+|math\.\w+"
)
_HIGHER = re.compile(r"torch\.ops\.higher_order\.(?!(cond|map_impl|scan|while_loop|wrap_with_\w+)(\.|$))")
_EXPRESSIONS = frozenset(
    [
        "Symbol",
        "Integer",
        "Rational",
        "Float",
        "Add",
        "Mul",
        "Mod",
        "Max",
        "Min",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "Equality",
        "Unequality",
        "LessThan",
        "GreaterThan",
        "StrictLessThan",
        "StrictGreaterThan",
        "And",
        "Or",
        "Not",
        "FloorDiv",
        "PythonMod",
        "CeilDiv",
        "CleanDiv",
        "ModularIndexing",
        "IntTrueDiv",
        "TruncToInt",
        "ToFloat",
        "Where",
        "true",
        "false",
        "True",
        "False",
        "oo",
    ]
)
_GUARDS = frozenset(["L", "len"])
_OF_A_TENSOR = frozenset(["size", "shape", "ndim", "dim", "dtype", "stride"])


def _refuse_code(path: Path) -> None:
    """Refuse an archive that could run code while it is read: pickles, expressions, other functions than operators.

    Raises:
        InputError: it holds one, with its name; or it is of a torch before 2.9, which knew no archive without pickles.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise _dangerous(path, "two files of one name")
        if not any(name.endswith("/archive_format") or name == "archive_format" for name in names):
            raise InputError(f"{path} is no exported program of torch 2.9 or later; export it again.")
        for entry in archive.infolist():
            reason = _danger(archive, entry)
            if reason:
                raise _dangerous(path, reason)


def _dangerous(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} holds {reason}, which could run code when read; export the model again, or give a file.py:factory."
    )


def _danger(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str:
    """Say what in a file of an archive could run code, "" for nothing."""
    name = entry.filename
    if "/data/aotinductor/" in f"/{name}" or name.endswith((".so", ".py", ".pyc")):
        return f"compiled code ({name})"
    if "/data/sample_inputs/" in f"/{name}" and entry.file_size:
        try:
            with warnings.catch_warnings(action="ignore"):
                torch.load(io.BytesIO(archive.read(entry)), map_location="cpu", weights_only=True)
        except Exception:
            return f"a pickle of other objects than tensors ({name})"
    if "/data/constants/" in f"/{name}" and re.search(r"(custom_obj_|opaque_obj_)[^/]*$|\.pt$", name):
        return f"a pickle ({name})"
    if "/data/weights/" in f"/{name}" and name.endswith(".pt"):
        return f"a pickle ({name})"
    if not name.endswith(".json"):
        return ""
    if entry.file_size > _LARGEST:
        return f"a description of {entry.file_size:,} bytes ({name})"
    return next(_in_document(json.loads(archive.read(entry))), "")


def _in_document(value: Any, key: str = "") -> Iterator[str]:
    """Yield what in the description of a program could run code."""
    if isinstance(value, dict):
        if value.get("use_pickle") or str(value.get("path_name", "")).startswith(("custom_obj", "opaque_obj")):
            yield f"a pickle ({value.get('path_name')})"
        target = value.get("target")
        if isinstance(target, str) and "inputs" in value and not _is_operator(target):
            yield f"a call of {target}"
        for name, entry in value.items():
            yield from _in_document(entry, name)
    elif isinstance(value, list):
        for entry in value:
            yield from _in_document(entry, key)
    elif isinstance(value, str):
        allowed = {"expr_str": (_EXPRESSIONS, frozenset()), "guards_code": (_GUARDS, _OF_A_TENSOR)}.get(key)
        if allowed and not _is_arithmetic(value, *allowed):
            yield f"the expression {value[:60]!r}"


def _is_operator(target: str) -> bool:
    return bool(_TARGET.fullmatch(target)) and not _HIGHER.match(target) and "__" not in target


def _is_arithmetic(text: str, names: frozenset[str], attributes: frozenset[str]) -> bool:
    """Tell whether an expression only computes with numbers: nothing is called but ``names`` and ``attributes``."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval"))) if len(text) <= 2000 else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(nodes) and all(_harmless(node, names, attributes) for node in nodes)


def _harmless(node: ast.AST, names: frozenset[str], attributes: frozenset[str]) -> bool:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return node.value.isidentifier() or node.value in {"args", "kwargs"}
        return node.value is None or (isinstance(node.value, int | float) and abs(node.value) <= 2**64)
    if isinstance(node, ast.Name):
        return node.id in names or bool(re.fullmatch(r"[sufz]+\d+", node.id))
    if isinstance(node, ast.Attribute):
        return node.attr in attributes
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name | ast.Attribute)
    parts = (
        ast.Expression,
        ast.BinOp,
        ast.UnaryOp,
        ast.BoolOp,
        ast.Compare,
        ast.Subscript,
        ast.keyword,
        ast.Tuple,
    )
    return not isinstance(node, ast.Pow | ast.LShift) and isinstance(
        node, (*parts, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context)
    )


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
