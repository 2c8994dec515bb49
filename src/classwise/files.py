"""Write files whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from classwise.errors import InputError


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
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o666 & ~_umask())
        Path(partial).replace(path)
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
    except BaseException as error:
        Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"Cannot write {path}: {error.strerror or error}.") from error
        raise


def refuse_unwritable(path: Path) -> None:
    """Refuse a file that could not be written, before hours are spent on what it is to hold; leaves no trace.

    Raises:
        InputError: a folder is in its place, or the nearest folder that exists cannot be written.
    """
    if _is_special(path):
        return
    folder = next(each for each in path.absolute().parents if each.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


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
    """Write text in UTF-8, atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON cannot say; use None.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def held(path: Path, patience: float = 0.0) -> Iterator[bool]:
    """Hold the lock file at ``path``, and yield whether it could be had; whatever ends the process lets go of it.

    Args:
        path: of the lock file.
        patience: seconds to go on asking; who only looks whether a lock is held has it for a moment.

    Raises:
        InputError: the folder cannot be made or written, or its file system has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}; choose another folder.") from error
    with file:
        yield _locked(file, path, time.monotonic() + patience)


def _locked(file: IO[str], path: Path, until: float) -> bool:
    """Lock an open file, and return whether that was possible before ``until``."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)
        except OSError as error:
            raise InputError(f"Cannot lock {path}: {error.strerror or error}; choose another file system.") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"Cannot write {path}: {error.strerror or error}; choose a folder you may write to.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
