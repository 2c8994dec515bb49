"""What is printed: through these two, nothing that a name or a path holds drives the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import rich.console
import rich.text
from rich.segment import Segment

from classwise.files.texts import plain, plain_lines


class Text(rich.text.Text):
    """A line of text; ends of lines and other control characters in it are written out."""

    def __init__(self, text: str = "", *settings: Any, **named: Any) -> None:
        super().__init__(plain(text), *settings, **named)


class Console(rich.console.Console):
    """A console on which control characters come from rich alone."""

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as rich does, then write out what text is left that is no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain_lines(segment.text), segment.style)
