from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from tests.report.conftest import make_examples

from classwise.metrics.examples import Examples, worth_showing
from classwise.metrics.result import Result
from classwise.report.contents import read
from classwise.report.examples import LARGEST, example_sheet, examples, png_uri


def pixels(uri: str) -> np.ndarray:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_an_example_says_what_the_outcomes_say(result: Result, stored: Examples) -> None:
    shown = examples(stored, result.outcomes)
    assert len(shown) == 6
    for position, example in zip(worth_showing(result.outcomes), shown, strict=False):
        assert example.true == "cat"
        taken_for = result.outcomes.adversarial_prediction()[position]
        assert example.taken_for == result.outcomes.classes[taken_for] != "cat"
        assert example.attack == result.outcomes.broken_by()[position]


def test_pictures_hold_the_pixels(result: Result, stored: Examples) -> None:
    first = examples(stored, result.outcomes)[0]
    assert (pixels(first.clean) == stored.x[0].transpose(1, 2, 0)).all()
    assert (pixels(first.attacked) == (255 * stored.x_adv[0]).round().transpose(1, 2, 0)).all()


def test_the_largest_change_is_black_or_white_and_none_is_grey(result: Result, stored: Examples) -> None:
    """The change of −0.1 is multiplied by 5 to 0 of 255, that of +0.05 to 0.75, and 0 stays at one half, 128."""
    first = examples(stored, result.outcomes)[0]
    assert first.factor == pytest.approx(5, abs=1e-4)
    change = pixels(first.change)
    assert change[0, 0].tolist() == [0, 0, 0]
    assert change[-1, -1].tolist() == [191, 191, 191]
    assert set(change[1:-1].ravel().tolist()) <= {127, 128}


def test_grey_images_stay_grey(result: Result) -> None:
    assert pixels(examples(make_examples(result, channels=1), result.outcomes)[0].clean).shape == (12, 12)


def test_images_as_large_as_imagenet_s_are_shrunk() -> None:
    uri = png_uri(np.random.default_rng(0).random((3, 224, 200)))
    assert pixels(uri).shape == (LARGEST, round(200 * LARGEST / 224), 3)
    assert len(uri) < 150_000


def test_the_table_of_examples_has_a_row_each(result: Result, stored: Examples) -> None:
    sheet = example_sheet(examples(stored, result.outcomes), read(result))
    assert [row[0].values[0] for row in sheet.rows] == stored.index.tolist()
    assert [column.title for column in sheet.columns][4] == "Linf distance"
    assert {row[4].text for row in sheet.rows} == {"–"}, "unknown where the outcomes hold no distances"


def test_nothing_stored_is_nothing_shown(result: Result) -> None:
    assert examples(None, result.outcomes) == []
