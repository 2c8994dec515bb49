"""Standard output and error that do not decide how a command ends: what cannot be written is dropped."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class NullStream(io.TextIOBase):
    """A text stream that drops everything."""

    def write(self, text: str) -> int:
        """Drop the text."""
        return len(text)


class Stream:
    """A text stream that drops everything once it cannot be written: a closed pipe, a full disk.

    Attributes:
        lost: why it could not be written, None while all is well.
    """

    def __init__(self, stream: Any) -> None:
        self.lost: OSError | ValueError | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; what the stream's encoding lacks is written as an escape."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: somebody closed it
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError | ValueError) -> None:
        self.lost = self.lost or error
        # The buffer too, which Python writes out at its end, and would then end with a status of its own.
        with suppress(OSError, ValueError):  # there is no file behind it
            _lead_nowhere(self._stream.fileno())
        self._stream = NullStream()


@contextmanager
def unbroken() -> Iterator[Stream]:
    """Let the command go on whatever becomes of standard output and error, and yield what stands for the former."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed, so it would name the next file to be opened
            _lead_nowhere(descriptor)
    before = sys.stdout, sys.stderr
    out, err = (Stream(stream or NullStream()) for stream in before)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def reason(error: OSError | ValueError | None) -> str:
    """Say what a stream was lost to; "" for a reader that left on purpose, as ``head`` does.

    Example:
        >>> reason(OSError(errno.ENOSPC, "No space left on device"))
        'No space left on device'
    """
    if error is None or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        return ""
    return getattr(error, "strerror", None) or str(error)


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
