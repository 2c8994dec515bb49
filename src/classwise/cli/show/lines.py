"""Single lines in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classwise.report.console import Console, Text

if TYPE_CHECKING:
    from torch import nn

    from classwise.data import ImageSet


def say(text: str) -> None:
    """Print a line of plain text; the terminal breaks it, so that paths and commands can be copied."""
    Console().print(Text(text), soft_wrap=True)


def taken(network: nn.Module, images: ImageSet) -> None:
    """Say what was done to weights and images, where they were not taken as they are."""
    from classwise.models.checkpoint import weights_note

    for what, note in (("Weights", weights_note(network)), ("Images", images.note)):
        if note:
            say(f"{what}: {note}.")


def warned(flags: Sequence[Mapping[str, Any]]) -> None:
    """Print the signs that a number may be wrong."""
    for flag in flags:
        Console().print(Text(f"Warning ({flag['flag']}): {flag['message']}", style="yellow"), soft_wrap=True)


def wrote(paths: Sequence[Path]) -> None:
    """Name the files that were written."""
    for path in paths:
        say(f"Wrote {path}")
