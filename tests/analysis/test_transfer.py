from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.strategies import QUICK

from classwise.analysis.transfer import class_aware
from classwise.errors import InputError


def test_mistakes_by_hand() -> None:
    """Class 0: fooled to 1 four times; the target says 1, 1, 2 and 0. Class 1: one attack failed, one transfers."""
    found = class_aware([0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 2], [1, 1, 2, 0, 0, 2], num_classes=3)
    assert [values.tolist() for values in found] == [[4, 1, 0], [1, 0, 0], [2, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(found.same_if_fooled, [2 / 3, 1, np.nan])


@QUICK
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=30))
def test_every_crafted_image_is_unfooled_or_one_of_two_mistakes(rows) -> None:
    y, source, target = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    found = class_aware(y, source, target, num_classes=4)
    np.testing.assert_array_equal(found.crafted, found.unfooled + found.same + found.different)
    assert found.crafted.sum() == (source != y).sum()


def test_other_images_are_refused() -> None:
    with pytest.raises(InputError, match="over the same images"):
        class_aware([0], [0, 1], [0], num_classes=2)
