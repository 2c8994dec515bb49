"""Code and files that others wrote: what they raise becomes one sentence."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from classwise.errors import InputError

_CODE = re.compile(r".+\.py(?::.*)?|export:.*|timm:(?:hf[-_]hub|local-dir):.*", flags=re.DOTALL)
# Of the call that is going on, not of the program: set by whoever speaks for the person at the keyboard.
_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting(consent: bool) -> Iterator[None]:
    """Let code that records name run inside, if the person at the keyboard has said so.

    Where it is so already, it stays so.
    """
    before = _TRUSTED.set(consent or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(before)


def trusted() -> bool:
    """Tell whether code that records name may run."""
    return _TRUSTED.get()


def runs_code(text: str) -> bool:
    """Tell whether loading the model that a text names runs code: of a Python file, or of an exported program.

    Example:
        >>> [runs_code(text) for text in ("mine.py:load", "export:net.pt2", "small_cnn@w.pt")]
        [True, True, False]
    """
    return _CODE.fullmatch(text.strip()) is not None


def refuse_code(text: str, source: str) -> None:
    """Refuse to run code that a file names, unless the person at the keyboard has consented.

    Args:
        text: model string in the file.
        source: the file.

    Raises:
        InputError: loading the model would run code.
    """
    if runs_code(text) and not trusted():
        raise InputError(
            f"{source} names the model {text}, and loading it would run code of that file; if you trust it, add "
            "--trust-code (in Python, load_model(…, trust_code=True))."
        )


@contextmanager
def foreign_code(what: str, remedy: str) -> Iterator[None]:
    """Turn any exception of the block into an InputError: ``what`` (the exception); ``remedy``.

    Our own InputErrors pass through. A script that calls ``sys.exit`` counts as one that failed.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        message = type(error).__name__ + (f": {textwrap.shorten(first, 160)}" if first else "")
        raise InputError(f"{what} ({message}); {remedy}.") from error
