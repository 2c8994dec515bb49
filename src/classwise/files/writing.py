"""Write files whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from classwise.errors import InputError
from classwise.files.locks import take_lock, unwritable
from classwise.files.texts import escaped_json, plain_lines, portable, portable_record


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically: a reader sees the old file or the new one, never a part.

    A device or a pipe, such as /dev/stdout, is written to and never replaced.

    Raises:
        InputError: the folder cannot be made or written.
    """
    if _is_special(path):
        _write_through(path, content)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = _reserved(path)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":  # which cannot rename an open file
                _finish(partial, path)
        if sys.platform == "win32":
            _finish(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"Cannot write {path}: {error.strerror or error}.") from error
        raise
    remove_leftovers(path.parent, path.name)


def _reserved(path: Path) -> tuple[int, Path]:
    """Make a file beside ``path`` to write to, locked as long as it is open, which tells that its writer lives."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        with suppress(OSError):  # a file system without locks; nobody will remove the file then, see remove_leftovers
            take_lock(handle)
        if os.fstat(handle).st_nlink or sys.platform == "win32":
            return handle, Path(name)
        os.close(handle)  # somebody took it for a leftover in the moment before it was locked


def _finish(partial: Path, path: Path) -> None:
    partial.chmod(0o666 & ~_umask())
    partial.replace(path)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half written of one file or all; what is being written is locked and stays."""
    pattern = name if name == "*" else glob.escape(name)
    for leftover in folder.glob(f".{pattern}.*.partial"):
        with suppress(OSError), leftover.open("r+b") as file:
            take_lock(file.fileno())
            leftover.unlink(missing_ok=True)


def refuse_unwritable(path: Path) -> None:
    """Refuse a file that could not be written, before hours are spent on what it is to hold; leaves no trace.

    Raises:
        InputError: a folder is in its place, or the nearest folder that exists cannot be written.
    """
    if _is_special(path):
        return
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def _is_special(path: Path) -> bool:
    """Tell whether a path is a device or a pipe."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):  # no path at all, which the attempt to write it says better
        return False


def _write_through(path: Path, content: bytes) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            while content:
                content = content[file.write(content) :]
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_text(path: Path, content: str) -> None:
    """Write text in UTF-8, atomically; it neither drives the terminal of a reader nor names this machine."""
    write_bytes(path, portable(plain_lines(content)).encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; it neither drives the terminal of a reader nor names this machine.

    Absolute paths become relative, to the folder of the file where they can; see
    :func:`classwise.files.texts.portable`.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON cannot say; use None.
    """
    content = json.dumps(portable_record(value, path.parent), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, escaped_json(content).encode())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
