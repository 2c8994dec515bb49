"""Pickles of ``torch.save``, read without running what they name: tensors and plain values, blanks for the rest.

``weights_only=True`` calls nothing but what PyTorch itself allows. Beside the weights, checkpoints of the field hold
harmless values of other libraries: scalars of NumPy, arguments of argparse, settings of Lightning. In the place of each
stands a blank that keeps nothing, so that the library is neither imported nor called. What has another name is refused.
"""

from __future__ import annotations

import pickletools
import re
import tarfile
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch import Tensor

from classwise.errors import InputError
from classwise.models.foreign import foreign_code

_HARMLESS = re.compile(
    r"(argparse|pathlib|datetime|decimal|fractions|enum|types\.SimpleNamespace|collections|numpy|omegaconf|yacs|addict"
    r"|easydict|ml_collections|lightning\w*|pytorch_lightning|torchmetrics|wandb|dill"
    r"|torch\.optim|torch\.torch_version|torch\.device|torch\.dtype|typing"
    r"|builtins\.(set|frozenset|slice|range|complex|list|dict|tuple|int|float|str|bool|bytes|bytearray|object))(\.|$)"
)
"""Names in whose place a blank stands."""

_KNOWN = re.compile(
    r"(torch\.(_utils|_tensor|storage|serialization|nn\.parameter|nn\.Parameter|nn\.Buffer)(\.|$)|torch\.\w+$"
    r"|_codecs\.encode$)"
)
"""Names that ``weights_only=True`` mostly knows by itself."""

_MAPPING = re.compile(r"(dict|cfgnode)$", re.IGNORECASE)
_PICKLES_OF_A_FILE = 5  # of the format before zip archives: mark, version, system, content, names of storages
_UNPACKED = 10  # times its size that an archive may unpack to
_NAMED = 3  # names that a message lists
_SMALL = 2**20  # bytes, up to which a tensor may repeat a few numbers


def read_pickle(path: Path) -> Any:
    """Return what ``torch.save`` wrote to ``path``, on the CPU; no code in it is run.

    Raises:
        InputError: it holds other objects, is a program or a tar archive, or is not whole.
    """
    with foreign_code(f"{path} cannot be read as weights", "check that it is complete and was written by torch.save"):
        _refuse_programs(path)
        named = set(_names(path))
        blanks: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
            (_Entries if _MAPPING.search(name) else _Blank, name) for name in named if _HARMLESS.match(name)
        ]
        try:
            with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(blanks):
                return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            if not named:  # no pickle at all
                raise
            strange = sorted(name for name in named if not _HARMLESS.match(name) and not _KNOWN.match(name))
            raise InputError(_refusal(path, strange or sorted(named))) from error


def read_tensors(path: Path) -> Any:
    """Do the same with a file whose tensors are all used: each must be a plain array that the file holds.

    Raises:
        InputError: as above, or a tensor is sparse, without values, or larger than the file.
    """
    content, size = read_pickle(path), max(path.stat().st_size, _SMALL)
    for name, value in _tensors(content):
        refuse_without_values(path, name, value)
        if (claimed := value.numel() * value.element_size()) > size:
            raise InputError(f"{path} has {size:,} bytes, and {name} in it claims {claimed:,}; write it again.")
    return content


def refuse_without_values(path: Path | str, name: str, value: Tensor) -> None:
    """Refuse a tensor that is no plain array of values: of the meta device, sparse, nested or quantised.

    Raises:
        InputError: it is one.
    """
    kinds = {
        "on the meta device, without values": value.is_meta,
        "nested": value.is_nested,
        "sparse": value.layout is not torch.strided,
        "quantised": value.is_quantized,
    }
    if kind := next((kind for kind, present in kinds.items() if present), None):
        raise InputError(f"{path} holds {name} as a tensor {kind}; save the dense floating-point weights instead.")


def _tensors(whole: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in mappings and lists by their place; each part once, however often others refer to it."""
    left, visited = [("", whole)], set[int]()
    while left:
        name, value = left.pop()
        if isinstance(value, Tensor):
            yield name.removeprefix("."), value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in visited:
            visited.add(id(value))
            entries = value.items() if isinstance(value, Mapping) else enumerate(value)
            left += [(f"{name}.{key}", entry) for key, entry in entries]


class _Blank:
    """Stands for one object, whatever it is made from."""

    def __new__(cls, *arguments: Any) -> _Blank:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Entries:
    """Stands for a mapping, such as the settings of Lightning: an OrderedDict, whose entries are read."""

    def __new__(cls, *arguments: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _refusal(path: Path, names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    listed = f" ({', '.join(name[:80] for name in names[:_NAMED])}{more})" if names else ""
    return (
        f"{path} holds objects other than tensors{listed}, which could run code when read; save state_dict() of the "
        "model instead, or give a file.py:factory that loads it."
    )


def _refuse_programs(path: Path) -> None:
    """Tell whoever gives a program, or a format that PyTorch reads by running code, what to do instead."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            whole, packed = sum(info.file_size for info in archive.infolist()), path.stat().st_size
            if whole > _UNPACKED * packed:
                raise InputError(
                    f"{path} has {packed:,} bytes and unpacks to {whole:,}, where torch.save compresses nothing; save "
                    "the weights again."
                )
            inside = [name.partition("/")[2] for name in archive.namelist()]
        if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
            raise InputError(
                f"{path} is a TorchScript archive, which is a program, not weights; give a file.py:factory that "
                "returns torch.jit.load(FILE), or save state_dict() of the model."
            )
        if any(name.startswith(("models/", "serialized_exported_program")) for name in (*inside, *archive.namelist())):
            raise InputError(f"{path} is an exported program, not weights; write export:{path}.")
    elif path.suffix == ".onnx":
        raise InputError(f"{path} is an ONNX graph, not weights; save state_dict() of the PyTorch model.")
    elif tarfile.is_tarfile(path):
        raise InputError(
            f"{path} is a tar archive of PyTorch before 0.4 or of other files, which cannot be read without running "
            "code; unpack it, or save state_dict() of the model again."
        )


def _names(path: Path) -> Iterator[str]:
    """Yield the names of everything that the pickles of a file would import."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith("data.pkl"):
                    with archive.open(member) as content:
                        yield from _imported(content)
        return
    with path.open("rb") as file:
        for _ in range(_PICKLES_OF_A_FILE):
            yield from _imported(file)


def _today(module: str, name: str) -> str:
    """Return what Python 3 calls a name that protocol 2 stores as Python 2 did."""
    module, name = NAME_MAPPING.get((module, name), (module, name))
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _imported(stream: IO[bytes]) -> Iterator[str]:
    """Yield the names in one pickle, as far as it can be read."""
    texts: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(stream):
            if code.name in ("GLOBAL", "INST"):
                yield _today(*str(argument).split(" ", 1))
            elif code.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, EOFError, OverflowError):
        return  # what is no pickle is named when it is read
