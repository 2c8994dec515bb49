"""Broken images of the weakest class as the page shows them: clean, attacked, and what was changed."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from classwise.files.texts import plain
from classwise.metrics.examples import Examples
from classwise.metrics.outcomes import Outcomes
from classwise.report.contents import Contents, Floats
from classwise.report.sheet import Cell, Column, Sheet
from classwise.report.tables import ABSENT

LARGEST = 160
"""Pixels of the longer side, above which images are shrunk for the page."""


@dataclass(frozen=True)
class Example:
    """One broken image.

    Attributes:
        index: its position in the data set.
        true: name of its class, which the clean image is taken for.
        taken_for: name of the class that the attacked image is taken for.
        attack: what broke it, with the stage where it has several.
        distance: of the candidate from the image in the threat's norm, NaN if unknown.
        factor: by which the change is multiplied to be seen: the largest change becomes black or white.
        clean: the image as a ``data:`` address.
        attacked: the candidate, rounded to whole bytes, likewise.
        change: the amplified change on a grey ground, likewise.
    """

    index: int
    true: str
    taken_for: str
    attack: str
    distance: float
    factor: float
    clean: str
    attacked: str
    change: str


def examples(stored: Examples | None, outcomes: Outcomes) -> list[Example]:
    """Return what was stored for an evaluation, ready to be shown."""
    if stored is None:
        return []
    row = {int(index): i for i, index in enumerate(outcomes.index)}
    pairs = zip(stored.index.tolist(), stored.x, stored.x_adv, strict=True)
    return [_example(outcomes, row[index], x / 255, x_adv.astype(np.float64)) for index, x, x_adv in pairs]


def example_sheet(drawn: list[Example], contents: Contents) -> Sheet:
    """Table of the images shown."""
    threat = contents.header["threat"]
    columns = (
        Column("image", ("index",), note="position in the data set"),
        Column("true class", ("class",), words=True),
        Column("taken for", ("taken_for",), words=True),
        Column("by", ("attack",), words=True, note="attack that broke the image first, with its stage"),
        Column(f"{threat['norm']} distance", ("distance",), note=f"of pixels in [0, 1]; allowed {threat['eps_text']}"),
        Column("amplified", ("factor",), note="factor by which the change is multiplied in the picture"),
    )
    caption = "The images shown; each is right when clean"
    return Sheet("examples", caption, columns, tuple(_row(example) for example in drawn))


def _row(example: Example) -> tuple[Cell, ...]:
    unknown = np.isnan(example.distance)
    return (
        Cell(str(example.index), (example.index,)),
        *(Cell(text, (text,)) for text in (example.true, example.taken_for, example.attack)),
        Cell(ABSENT if unknown else f"{example.distance:.4f}", (None if unknown else example.distance,)),
        Cell(f"× {example.factor:.3g}", (example.factor,)),
    )


def _example(outcomes: Outcomes, i: int, x: Floats, x_adv: Floats) -> Example:
    view, delta = str(outcomes.broken_by()[i]), x_adv - x
    stage = str(outcomes.stages[view][i]) if view in outcomes.stages else ""
    largest = float(np.abs(delta).max())
    factor = 0.5 / largest if largest else 1.0
    names = [plain(outcomes.classes[c]) for c in (outcomes.y[i], outcomes.adversarial_prediction()[i])]
    return Example(
        index=int(outcomes.index[i]),
        true=names[0],
        taken_for=names[1],
        attack=plain(f"{view}: {stage}" if stage else view),
        distance=float(outcomes.distances[view][i]) if view in outcomes.distances else float("nan"),
        factor=factor,
        clean=png_uri(x),
        attacked=png_uri(x_adv),
        # Where the images are shrunk, some pixels of the change stand for all: their mean would be grey.
        change=png_uri(0.5 + factor * delta, Image.Resampling.NEAREST),
    )


def png_uri(x: Floats, shrink: Image.Resampling = Image.Resampling.LANCZOS) -> str:
    """Return an image (C, H, W) in [0, 1] with one or three channels as the ``data:`` address of a PNG.

    Args:
        x: the image.
        shrink: how it is made smaller if a side has more than 160 pixels.
    """
    pixels: NDArray[np.uint8] = (255 * x.clip(0, 1)).round().astype(np.uint8)
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((LARGEST, LARGEST), shrink)
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
