"""Folders and files that one process at a time may have."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from classwise.errors import InputError

if sys.platform == "win32":
    import msvcrt

    def take_lock(file: int) -> None:
        """Lock an open file, by its descriptor.

        Raises:
            BlockingIOError: another process has it.
        """
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from error

else:
    import fcntl

    def take_lock(file: int) -> None:
        """Lock an open file, by its descriptor.

        Raises:
            BlockingIOError: another process has it.
        """
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


_OWNER_FILE = ".lock"
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_PATIENCE = 0.5  # seconds, with a process that is about to end


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


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Have a folder to oneself; whatever ends the process lets go of it.

    A folder that cannot be written needs no lock, as nothing can be lost in it.

    Raises:
        InputError: another process has it, the folder cannot be made, or its file system has no locks.
    """
    path, made = folder / _OWNER_FILE, not folder.exists()
    file = _lock_file(path)
    if file is None:
        yield
        return
    with file:
        try:
            yield
        finally:
            # While it is locked: whoever opened it meanwhile sees that it is gone, and opens another.
            with suppress(OSError):
                path.unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


def _lock_file(path: Path) -> IO[str] | None:
    """Return the lock file of a folder, locked; None where nothing can be written.

    Raises:
        InputError: another process has it, or it cannot be had.
    """
    if path.parent.is_file():
        raise InputError(f"{path.parent} is a file; give --out a folder.")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except (OSError, ValueError) as error:
            if path.parent.is_dir() and isinstance(error, OSError) and error.errno in READ_ONLY:
                return None
            raise unwritable(path.parent, error) from error
        try:
            if not _locked(file, path, time.monotonic() + _PATIENCE):
                raise InputError(
                    f"Another process is at work in {path.parent}; run this command again when it has ended, or choose "
                    "another --out."
                )
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
            file.close()
        except FileNotFoundError:
            file.close()  # its owner has ended and removed it
        except BaseException:
            file.close()
            raise


def _locked(file: IO[str], path: Path, until: float) -> bool:
    """Lock an open file, and return whether that was possible before ``until``."""
    while True:
        try:
            take_lock(file.fileno())
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)
        except OSError as error:
            raise InputError(f"Cannot lock {path}: {error.strerror or error}; choose another file system.") from error


def unwritable(path: Path, error: OSError | ValueError) -> InputError:
    """Return the error that says that a path cannot be written, and why."""
    reason = getattr(error, "strerror", None) or error
    return InputError(f"Cannot write {path}: {reason}; choose a folder you may write to.")
