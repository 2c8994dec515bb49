"""What users hand in as arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from classwise.data.pixels import class_numbers, labels_of, pixels_of
from classwise.errors import InputError

byte_images = hnp.arrays(
    np.uint8, st.tuples(*[st.integers(1, 3), st.sampled_from([1, 3]), *[st.integers(4, 6)] * 2])
).filter(lambda x: x.max() != 1)  # which no picture is


@given(byte_images, st.sampled_from([np.float16, np.float32, np.float64]))
def test_bytes_survive_the_way_through_floats(x, kind):
    pixels, note = pixels_of((x / 255).astype(kind))
    np.testing.assert_array_equal(pixels.numpy(), x)
    assert note == ""


@given(byte_images)
def test_channels_last_is_recognised(x):
    pixels, _ = pixels_of(x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(pixels.numpy(), x)
    assert pixels.is_contiguous()


@given(byte_images)
def test_tensors_are_taken_like_arrays(x):
    assert torch.equal(pixels_of(torch.from_numpy(x))[0], pixels_of(x)[0])


def test_images_without_channels_get_one():
    assert pixels_of(np.zeros((2, 28, 28), np.uint8))[0].shape == (2, 1, 28, 28)


def test_rounding_is_said():
    pixels, note = pixels_of(np.full((1, 4, 4), 0.1234))
    assert note == "floats rounded to 8 bits"
    assert pixels.unique().tolist() == [31]


def test_the_rounding_of_float32_may_leave_the_range():
    x = np.array([-5e-7, 1 + 5e-7, 0, 1], np.float32).reshape(1, 2, 2)
    assert pixels_of(x)[0].flatten().tolist() == [0, 255, 0, 255]


def test_bfloat16_tensors_are_accepted():
    assert pixels_of(torch.ones(1, 3, 4, 4, dtype=torch.bfloat16))[0].min() == 255


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([-2.1, 2.6], r"from -2\.1 to 2\.6: they look already normalised; .* inside the model"),
        ([-0.5, 0.9], "already normalised"),
        ([0, 1.1], r"divide by 255"),
        ([0, 255], r"0 … 255 in float; divide by 255"),
        ([0, 65535], "no known pixel scale"),
        ([0, np.nan], "NaN or infinite"),
        ([0, np.inf], "NaN or infinite"),
    ],
)
def test_floats_outside_the_range_are_explained(values, message):
    with pytest.raises(InputError, match=message):
        pixels_of(np.resize(np.array(values, np.float32), (1, 3, 4, 4)))


@pytest.mark.parametrize("kind", [np.int64, np.int8, bool])
def test_other_types_are_refused(kind):
    with pytest.raises(InputError, match="give uint8 in 0 … 255 or floats"):
        pixels_of(np.zeros((1, 3, 4, 4), kind))


@pytest.mark.parametrize("shape", [(4,), (4, 4), (1, 2, 4, 4), (1, 1, 3, 4, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="not understood"):
        pixels_of(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, ">i4"])
def test_labels_of_any_integer_type_become_int64(kind):
    assert labels_of(np.array([[3], [1]], kind)).tolist() == [3, 1]


def test_labels_are_copied():
    y = np.array([0, 1])
    labels = labels_of(y)
    y[0] = 1
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize("labels", [[0.0, 1.0], [True, False], ["cat", "dog"]])
def test_labels_of_other_types_are_refused(labels):
    with pytest.raises(InputError, match="Labels must be integers"):
        labels_of(np.array(labels))


def test_classes_are_numbered_up_to_the_largest_label():
    assert class_numbers(torch.tensor([2, 0])) == ("0", "1", "2")


@pytest.mark.parametrize(("labels", "message"), [([], "no images"), ([10**9], "too large for a class number")])
def test_labels_that_number_no_classes_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        class_numbers(torch.tensor(labels, dtype=torch.int64))


def test_bytes_that_are_all_0_or_1_are_refused():
    with pytest.raises(InputError, match=r"bytes that are all 0 or 1, as if floats in .* had been cut"):
        pixels_of(np.eye(8, dtype=np.uint8)[None])


def test_floats_divided_by_255_twice_are_refused():
    with pytest.raises(InputError, match=r"from 0 to 0\.003922, as if they had been divided by 255 twice"):
        pixels_of(np.full((1, 4, 4), 1 / 255))


def test_one_hot_labels_are_refused_by_that_name():
    with pytest.raises(InputError, match=r"shape 2x3, one-hot; give .* labels\.argmax\(1\)"):
        labels_of(np.eye(3)[:2])


@pytest.mark.parametrize("rows", [[[1, 1, 0], [0, 0, 1]], [[0, 0, 0], [1, 0, 0]]])
def test_multi_label_data_are_refused_by_that_name(rows):
    with pytest.raises(InputError, match="shape 2x3 with several or no classes an image, multi-label"):
        labels_of(np.array(rows))


@pytest.mark.parametrize("labels", [[1, 2, 3], [1, 3, 3], [2, 1, 10]])
def test_labels_that_start_at_1_are_recognised(labels):
    with pytest.raises(InputError, match=rf"Labels run from 1 to {max(labels)}, and no .* 0: .* subtract 1"):
        class_numbers(torch.tensor(labels))


def test_labels_with_wide_gaps_are_no_class_numbers():
    with pytest.raises(InputError, match="Label 54321 is too large for a class number"):
        class_numbers(torch.tensor([0, 7, 54321]))
