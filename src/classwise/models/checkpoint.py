"""Weights in files: written as safetensors, read from those or from pickles that hold nothing but tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from classwise.errors import InputError
from classwise.files.writing import write_bytes
from classwise.models.heads import CosineHead
from classwise.models.normalize import Normalize
from classwise.models.stored import State, Stored, fitted, main_set, read_stored, unprefixed

_NOTE = "weights_note"
"""Attribute of a module whose weights were not read as they are."""


def save_weights(model: nn.Module, path: Path | str) -> None:
    """Write parameters and buffers as safetensors, atomically, without the prefixes of DDP or torch.compile.

    Raises:
        InputError: ``path`` does not end in .safetensors, or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"Weights are written as .safetensors, not as {path.name!r}; change the ending.")
    # Cloned, since safetensors refuses tensors that share memory (tied weights).
    state = {name: value.cpu().contiguous().clone() for name, value in _state(model).items()}
    write_bytes(path, safetensors.torch.save(state))


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Copy the weights in ``path`` into ``model``; every one of the model's must be there, and no other.

    The layouts of :mod:`classwise.models.stored` are understood; :func:`weights_note` then says what was done. A
    normalising layer in the file that the model lacks is refused.

    Raises:
        InputError: the file cannot be read (see :func:`read_weights`) or does not fit (see :func:`fill`).
    """
    take(model, read_stored(path))


def take(model: nn.Module, stored: Stored, channels: int | None = None) -> None:
    """Copy the weights that a file holds into ``model`` and leave a note of what was done to them.

    Args:
        model: changed in place.
        stored: the file.
        channels: of the images, where the model has the normalisation of the file already; None where a normalising
            layer in it is refused.

    Raises:
        InputError: the file does not fit, see :func:`fill`.
    """
    own, statistics = _state(model), _statistics(model)
    layer = next((name.removesuffix(".mean") for name in statistics if name.endswith(".mean")), None)
    fit = fitted(stored, own, [name for name in own if _optional(name, statistics)], channels, layer)
    fill(model, fit.state, stored.source)
    vars(model)[_NOTE] = fit.note


def weights_note(model: nn.Module) -> str:
    """Return what was done to the weights files of a model and its parts, in words; empty if nothing."""
    notes = (vars(module).get(_NOTE, "") for module in model.modules())
    return "; ".join(dict.fromkeys(note for note in notes if note))


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Return names and tensors of a weights file, on the CPU.

    A pickle (.pt, .pth and so on) is read with ``weights_only=True``, which runs no code. Of several sets of weights
    the plain ones are taken, or those that ``FILE#KEY`` names; the prefixes of DataParallel and torch.compile are
    taken off.

    Raises:
        InputError: no such file, not complete, other objects than tensors inside, or no state dict in it.
    """
    return dict(main_set(read_stored(path)))


def fill(model: nn.Module, state: State, source: str) -> None:
    """Copy ``state`` into ``model``; ``source`` names it in errors.

    Three kinds of entries may be missing: the statistics of :class:`Normalize` and the scale of :class:`CosineHead`,
    which the model then has from its settings, and BatchNorm's count of batches, which old checkpoints lack and
    prediction does not use.

    Raises:
        InputError: names are missing or unexpected, a shape differs, or both sides normalise or scale, and differently.
    """
    own, statistics = _state(model), _statistics(model)
    missing = [name for name in own if name not in state and not _optional(name, statistics)]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        raise InputError(_names_differ(source, missing, unexpected))
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if wrong:
        raise InputError(_shapes_differ(source, wrong, own, state))
    odd = [name for name in own if name in state and not _can_be_cast(state[name], own[name])]
    if odd:
        raise InputError(
            f"{source} holds {odd[0]} as {str(state[odd[0]].dtype).removeprefix('torch.')}, not as floating point; "
            "save the weights from before they were quantised."
        )
    for name in statistics & set(state):
        if not torch.allclose(own[name].cpu().float(), state[name].cpu().float(), rtol=1e-3):
            what = "mean and std" if name.endswith(("mean", "std")) else "scale"
            raise InputError(f"{source} has another {name} than the model; leave {what} out of its settings.")
    prefix = unprefixed(model.state_dict())[1]
    model.load_state_dict({prefix + name: value for name, value in state.items()}, strict=False)


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of names, types, shapes and values of all parameters and buffers, 64 hexadecimal digits.

    The same on every device, in whatever order the model defines them, and with or without the prefixes of DDP and
    torch.compile.
    """
    digest = hashlib.sha256()
    for name, value in sorted(_state(model).items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        # Seen as bytes, since NumPy has no bfloat16.
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's own tensors, detached, by name without wrappers."""
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    return _unwrapped(tensors)


def _statistics(model: nn.Module) -> set[str]:
    """Return the names of the buffers that repeat a setting of the model, without wrappers."""
    prefix = unprefixed(model.state_dict())[1]
    layers = [name for name, module in model.named_modules() if isinstance(module, Normalize | CosineHead)]
    names = {f"{name}.{buffer}".removeprefix(prefix) for name in layers for buffer in ("mean", "std", "scale")}
    return names & set(_state(model))


def _can_be_cast(value: Tensor, own: Tensor) -> bool:
    return value.is_floating_point() if own.is_floating_point() else not value.is_complex()


def _optional(name: str, statistics: set[str]) -> bool:
    return name in statistics or name.endswith("num_batches_tracked")


def _unwrapped(state: State) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in unprefixed(state)[0].items()}


def _names_differ(source: str, missing: list[str], unexpected: list[str]) -> str:
    parts = [f"lacks {_first(missing)}"] * bool(missing) + [f"has unexpected {_first(unexpected)}"] * bool(unexpected)
    return f"{source} does not fit the model: it {' and '.join(parts)}; name the architecture it was saved from."


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _shapes_differ(source: str, wrong: list[str], own: State, state: State) -> str:
    """Say which shapes differ, or, if it is the last layer's number of rows alone, that the classes do."""
    last = list(own)[-1].rpartition(".")[0]
    here, there = own[wrong[0]].shape, state[wrong[0]].shape
    if all(name.rpartition(".")[0] == last for name in wrong) and here[1:] == there[1:]:
        return (
            f"{source} has weights for {there[0]} classes, the model has {here[0]}; "
            f"evaluate it on the data set that it was trained on."
        )
    name = wrong[0]
    return (
        f"{source} does not fit the model: {name} is {tuple(there)} there and {tuple(here)} here"
        f"{f', as are {len(wrong) - 1} more' if len(wrong) > 1 else ''}; name the architecture and data it was "
        "trained with."
    )
