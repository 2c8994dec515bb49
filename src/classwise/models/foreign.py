"""Code and files that others wrote: what they raise becomes one sentence."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from classwise.errors import InputError


@contextmanager
def foreign_code(what: str, remedy: str) -> Iterator[None]:
    """Turn any exception of the block into an InputError: ``what`` (the exception); ``remedy``.

    Our own InputErrors pass through. A script that calls ``sys.exit`` counts as one that failed.
    """
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        said = type(error).__name__ + (f": {textwrap.shorten(first, 160)}" if first else "")
        raise InputError(f"{what} ({said}); {remedy}.") from error
