from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from classwise.errors import InputError
from classwise.metrics.examples import EXAMPLES_FILE, Examples, worth_showing
from classwise.metrics.outcomes import INVALID, Outcomes


def outcomes(y: list[int], clean: list[int], attacked: list[int], index: list[int] | None = None) -> Outcomes:
    classes = tuple(str(c) for c in range(max(y) + 1))
    return Outcomes(classes, np.array(index or range(len(y))), y, clean, {"pgd": attacked}, {}, {})


def test_images_come_in_turns_from_the_class_that_takes_most() -> None:
    """Class 0 loses images 1, 3, 4 to class 2 and image 2 to class 1: 2 takes most, so 1 (2), 2 (1), then 3, 4 (2)."""
    found = worth_showing(outcomes([0] * 5 + [1, 2], [0] * 5 + [1, 2], [0, 2, 1, 2, 2, 1, 2]))
    assert found.tolist() == [1, 2, 3, 4]


def test_images_wrong_when_clean_and_those_without_a_prediction_are_not_shown() -> None:
    found = worth_showing(outcomes([0] * 4 + [1], [0, 1, 0, 0, 1], [1, 1, INVALID, 0, 1]))
    assert found.tolist() == [0]


def test_the_first_image_is_the_first_of_the_data_set_whatever_the_order() -> None:
    found = worth_showing(outcomes([0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1], index=[7, 3, 5, 0]))
    assert found.tolist() == [1, 2, 0]


def test_where_attacks_break_nothing_in_the_weakest_class_another_is_shown() -> None:
    found = worth_showing(outcomes([0, 0, 1, 1, 2], [1, 1, 1, 1, 2], [1, 1, 1, 0, 2]))
    assert found.tolist() == [3]


def test_nothing_broken_is_nothing_to_show() -> None:
    assert worth_showing(outcomes([0, 1], [0, 1], [0, 1])).size == 0


@pytest.fixture
def stored(tmp_path: Path) -> Examples:
    x = np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4)
    examples = Examples("abc", np.array([5, 2]), x, (x / 255).astype(np.float32))
    examples.save(tmp_path / EXAMPLES_FILE)
    return examples


def test_what_is_saved_is_read(tmp_path: Path, stored: Examples) -> None:
    found = Examples.load(tmp_path, "abc")
    assert found is not None
    assert found.identity == "abc"
    assert len(found) == 2
    for name in ("index", "x", "x_adv"):
        assert (getattr(found, name) == getattr(stored, name)).all()
        assert getattr(found, name).dtype == getattr(stored, name).dtype


def test_examples_of_another_evaluation_are_not_shown(tmp_path: Path, stored: Examples) -> None:
    assert Examples.load(tmp_path, "other") is None
    assert Examples.load(tmp_path, None) is None


def test_a_folder_without_examples_has_none(tmp_path: Path) -> None:
    assert Examples.load(tmp_path, "abc") is None


def test_a_damaged_file_is_named(tmp_path: Path, stored: Examples) -> None:
    path = tmp_path / EXAMPLES_FILE
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"examples\.npz is damaged; delete it"):
        Examples.load(tmp_path, "abc")
