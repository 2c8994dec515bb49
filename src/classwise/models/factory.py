"""A model from a user's Python file: ``file.py:factory``."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from classwise.errors import InputError
from classwise.models.foreign import foreign_code
from classwise.runtime.classifier import Function, as_module

# Of the name that an imported file has in sys.modules.
PREFIX = "classwise_file_"
_IMAGES = ("x", "image", "images", "img", "imgs", "input", "inputs", "batch")


def from_file(path: Path, name: str) -> nn.Module:
    """Import ``path`` afresh and return what its ``name`` makes without arguments, or is if it is a model already.

    A function is the model itself if its one argument is a Tensor, or is called x, images, inputs or the like.

    The file's folder is importable meanwhile, so that the file may import its neighbours. **This runs the file.**

    Raises:
        InputError: no such file, it or the factory raises, the factory is missing or returns something else.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give the path of a Python file with a factory, as in net.py:make.")
    with _importable(path.resolve().parent):
        module = _imported(path.resolve())
        factory = getattr(module, name, None)
        if isinstance(factory, nn.Module):
            return factory
        if not callable(factory):
            raise InputError(_offer(path, name, module))
        if _takes_images(factory):
            return Function(factory)
        with foreign_code(f"{path}:{name} failed", "it must run without arguments and return an nn.Module"):
            model = factory()
    if isinstance(model, type):
        raise InputError(f"{path}:{name} returns the class {model.__name__}; return an instance, {model.__name__}().")
    if not callable(model):
        kind = type(model).__name__
        raise InputError(f"{path}:{name} returns a {kind}; it must return an nn.Module that maps [0, 1] to logits.")
    return as_module(model)


def _takes_images(factory: Any) -> bool:
    """Tell whether a function is the model itself, by its one argument: a Tensor, or named like images."""
    if not inspect.isfunction(factory):
        return False
    given = [
        parameter
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.default is parameter.empty
    ]
    return len(given) == 1 and (given[0].name in _IMAGES or given[0].annotation in (Tensor, "Tensor", "torch.Tensor"))


def _imported(path: Path) -> ModuleType:
    # The path is in the name, so that two files of one name do not meet in sys.modules, where pickle looks.
    name = f"{PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with foreign_code(f"{path} cannot be imported", "make the file run by itself first"):
        spec.loader.exec_module(module)
    return module


def _offer(path: Path, name: str, module: ModuleType) -> str:
    """Say that a factory is missing, and which functions and classes the file itself defines."""
    defined = [key for key, value in vars(module).items() if callable(value) and _home(value) == module.__name__]
    offer = f"it defines {', '.join(defined)}" if defined else "it defines no function or class"
    if not name:
        return f"{path} needs the name of a factory, as in {path.name}:make; {offer}."
    return f"{path} has no factory {name!r}; {offer}."


def _home(value: object) -> str | None:
    return getattr(value, "__module__", None)


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put ``folder`` first on the import path; on leaving, forget the modules that came from it.

    Forgotten, since two models' folders may each hold another ``net.py``.
    """
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # While the folder is still on the path: a package without __init__.py looks for itself there.
        for name in {name for name in set(sys.modules) - before if _lies_in(folder, name)}:
            del sys.modules[name]
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _lies_in(folder: Path, name: str) -> bool:
    """Tell whether the top-level module or package of ``name`` is a file or folder right inside ``folder``."""
    spec = getattr(sys.modules.get(name.partition(".")[0]), "__spec__", None)
    if spec is None or name.startswith(PREFIX):
        return False
    places = list(spec.submodule_search_locations or []) or [spec.origin or ""]
    return any(Path(place).parent == folder for place in places)
