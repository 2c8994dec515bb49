"""NumPy files that others may have written, read as data: what a header claims must be there, and fit into memory."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from classwise.runtime.memory import free_main_memory

Array = NDArray[Any]
_HEADER = 12_000  # bytes: NumPy itself refuses a header of over 10,000
_PART = 2**24  # bytes read at once
_ENDING = ".npy"


def read_array(path: Path) -> Array:
    """Return the array in an .npy file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged, claims what it does not hold or more than memory holds, or is no plain array.
    """
    with path.open("rb") as file, _sound():
        return _read(file, path.stat().st_size)


def names(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no .npz file.
    """
    with path.open("rb") as file, _sound(), zipfile.ZipFile(file) as archive:
        return _names(archive)


def read_member(path: Path, name: str) -> Array:
    """Return one array of an .npz file; raises as :func:`read_array`."""
    with path.open("rb") as file, _sound(), zipfile.ZipFile(file) as archive:
        return _member(archive, name)


def read_archive(path: Path) -> dict[str, Array]:
    """Return all arrays of an .npz file by name; raises as :func:`read_array`, also where they do not fit together."""
    return archived(path.read_bytes())


def archived(content: bytes) -> dict[str, Array]:
    """Return all arrays of an .npz file from its bytes; see :func:`read_archive`."""
    with _sound(), zipfile.ZipFile(io.BytesIO(content)) as archive:
        _refuse_too_large(sum(info.file_size for info in archive.infolist()))
        return {name: _member(archive, name) for name in _names(archive)}


@contextmanager
def _sound() -> Iterator[None]:
    """Turn what a damaged file makes of a reader, which may be nearly any exception, into a ValueError."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}".partition("\n")[0]) from error


def _names(archive: zipfile.ZipFile) -> list[str]:
    # Nothing is unpacked into files, so a name may hold what a path holds, as the names of attacks do.
    return [name.removesuffix(_ENDING) for name in dict.fromkeys(archive.namelist()) if name.endswith(_ENDING)]


def _member(archive: zipfile.ZipFile, name: str) -> Array:
    info = archive.getinfo(name + _ENDING)
    with archive.open(info) as file:
        return _read(file, info.file_size)


def _read(file: IO[bytes], size: int) -> Array:
    """Return the array in an open file of so many bytes, which are not taken before they are known to be there."""
    start = file.read(_HEADER)
    head = io.BytesIO(start)
    shape, fortran, dtype = _header(head)
    count, left = math.prod(shape), size - head.tell()
    if min(shape, default=0) < 0 or dtype.hasobject or dtype.names or (count and not dtype.itemsize):
        raise ValueError(f"it holds {dtype} of shape {_short(shape)}, which is no array of plain values")
    needed = count * dtype.itemsize
    if needed > left:
        raise ValueError(f"its header claims {needed:,} bytes, and {left:,} follow")
    _refuse_too_large(needed)
    content = np.empty(needed, np.uint8)
    _fill(content.data, start[head.tell() :], file)
    values = content.view(dtype) if count else np.empty(0, dtype)
    return values.reshape(shape[::-1]).transpose() if fortran else values.reshape(shape)


def _header(head: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(head)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(head)
    raise ValueError("it is of a format for named fields, which is no array of plain values")


def _fill(content: memoryview, start: bytes, file: IO[bytes]) -> None:
    """Fill a buffer with what was read already and what follows.

    Raises:
        ValueError: the file ends before.
    """
    done, part = 0, start[: len(content)]
    while part:
        content[done : done + len(part)] = part
        done += len(part)
        part = file.read(min(_PART, len(content) - done))
    if done < len(content):
        raise ValueError(f"it ends after {done:,} of {len(content):,} bytes")


def _refuse_too_large(needed: int) -> None:
    free = free_main_memory()
    if needed > free:
        raise ValueError(f"it needs {needed:,} bytes of memory, and {free:,} are free")


def _short(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 4 else f"{len(shape)} dimensions"
