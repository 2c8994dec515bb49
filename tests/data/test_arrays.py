"""Arrays on disk."""

from __future__ import annotations

import numpy as np
import pytest

from classwise.data import load
from classwise.errors import InputError

X = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
Y = np.array([0, 2, 1, 0])


def save(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def test_two_files_are_a_test_set(tmp_path):
    save(tmp_path, x=X, y=Y)
    data = load("arrays", tmp_path)
    np.testing.assert_array_equal(data.x.permute(0, 2, 3, 1).numpy(), X)
    assert (data.y.tolist(), data.classes, data.split) == ([0, 2, 1, 0], ("0", "1", "2"), "test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_may_be_named_by_split(tmp_path, split):
    save(tmp_path, x_train=X[:3], y_train=Y[:3], x_test=X[3:], y_test=Y[3:], x=X, y=Y)
    assert len(load("arrays", tmp_path, split=split)) == {"train": 3, "test": 1}[split]


def test_classes_are_counted_over_both_splits(tmp_path):
    save(tmp_path, x_train=X[:3], y_train=Y[:3], x_test=X[3:], y_test=Y[3:])
    assert load("arrays", tmp_path).classes == ("0", "1", "2")


@pytest.mark.parametrize("inside", [True, False])
def test_an_archive_is_given_by_its_name_or_its_folder(tmp_path, inside):
    np.savez(tmp_path / "mine.npz", x=X, y=Y, classes=["ant", "bee", "cow"])
    data = load("arrays", tmp_path / "mine.npz" if inside else tmp_path)
    assert data.classes == ("ant", "bee", "cow")
    np.testing.assert_array_equal(data.x.permute(0, 2, 3, 1).numpy(), X)


def test_a_compressed_archive_may_hold_both_splits(tmp_path):
    np.savez_compressed(tmp_path / "mnist.npz", x_train=X, y_train=Y, x_test=X[:1], y_test=Y[:1])
    assert len(load("arrays", tmp_path / "mnist.npz", split="train")) == 4


def test_class_names_may_be_bytes(tmp_path):
    save(tmp_path, x=X, y=Y, classes=np.array([b"ant", b"bee", b"cow"]))
    assert load("arrays", tmp_path).classes == ("ant", "bee", "cow")


def test_an_unnamed_split_never_serves_for_training(tmp_path):
    save(tmp_path, x=X, y=Y)
    with pytest.raises(InputError, match=r"must hold x_train and y_train as \.npy .* but holds x, y"):
        load("arrays", tmp_path, split="train")


def test_an_empty_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(InputError, match=r"must hold x_test and y_test or x and y .* but holds no arrays"):
        load("arrays", tmp_path)


def test_floats_that_look_normalised_are_refused(tmp_path):
    save(tmp_path, x=(X / 127.5 - 1), y=Y)
    with pytest.raises(InputError, match="already normalised"):
        load("arrays", tmp_path)


def test_lengths_that_differ_are_refused(tmp_path):
    save(tmp_path, x=X, y=Y[:3])
    with pytest.raises(InputError, match=r"4 images but labels of shape \(3,\)"):
        load("arrays", tmp_path)


def test_a_label_without_a_name_is_refused(tmp_path):
    save(tmp_path, x=X, y=Y, classes=["ant", "bee"])
    with pytest.raises(InputError, match=r"Label 2 of image 1 is outside 0 … 1"):
        load("arrays", tmp_path)


def test_float_labels_are_refused(tmp_path):
    save(tmp_path, x=X, y=Y / 2)
    with pytest.raises(InputError, match="Labels must be integers"):
        load("arrays", tmp_path)


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_a_file_that_is_no_array_is_named(tmp_path, content):
    save(tmp_path, x=X, y=Y)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-10] if content is None else content)
    with pytest.raises(InputError, match=r"x\.npy cannot be read"):
        load("arrays", tmp_path)


def test_pickled_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([X, None], dtype=object), allow_pickle=True)
    save(tmp_path, y=Y)
    with pytest.raises(InputError, match=r"x\.npy cannot be read"):
        load("arrays", tmp_path)


@pytest.mark.parametrize("cut", [20, 1000])
def test_a_truncated_archive_is_named(tmp_path, cut):
    np.savez(tmp_path / "mine.npz", x=X, y=Y)
    path = tmp_path / "mine.npz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"mine\.npz is no \.npz file"):
        load("arrays", path)


def test_a_damaged_archive_is_named(tmp_path):
    np.savez_compressed(tmp_path / "mine.npz", x=X, y=Y)
    path = tmp_path / "mine.npz"
    content = bytearray(path.read_bytes())
    content[100:300] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x in .*mine\.npz cannot be read"):
        load("arrays", path)


@pytest.mark.parametrize("how", ["npy", "npz"])
def test_labels_that_start_at_1_are_refused_or_shifted_with_a_statement(tmp_path, how):
    save(tmp_path, x=X, y=Y + 1) if how == "npy" else np.savez(tmp_path / "mine.npz", x=X, y=Y + 1)
    with pytest.raises(InputError, match=r"Labels run from 1 to 3, .* as arrays\(first_label=1\) does"):
        load("arrays", tmp_path)
    data = load("arrays(first_label=1)", tmp_path)
    assert (data.y.tolist(), data.classes) == (Y.tolist(), ("0", "1", "2"))
    assert data.note == "labels from 1 on, taken as 0 on"


def test_labels_that_start_at_1_are_recognised_beside_names(tmp_path):
    save(tmp_path, x=X, y=Y + 1, classes=["ant", "bee", "cow"])
    with pytest.raises(InputError, match=r"Label 3 of image 1 is outside 0 … 2: labels run from 1; .* subtract 1"):
        load("arrays", tmp_path)


def test_a_test_split_may_lack_the_first_class(tmp_path):
    save(tmp_path, x_train=X, y_train=Y, x_test=X[1:3], y_test=Y[1:3])
    assert load("arrays", tmp_path).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": np.array([0, 2**63 + 5], dtype=np.uint64)}, "Label 9223372036854775813 is too large"),
        ({"x": np.zeros((2, 3, 0, 8), np.uint8)}, "have no pixels"),
        ({"classes": np.array([["a", "b"]])}, r"classes in .* has 2 dimensions; give one name a class"),
    ],
)
def test_shapes_and_numbers_that_mean_nothing_are_refused(tmp_path, change, says):
    arrays = {"x": np.full((2, 3, 8, 8), 7, np.uint8), "y": np.array([0, 1]), **change}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=says):
        load("arrays", tmp_path / "a.npz")
