"""MedMNIST from small files in the official format."""

from __future__ import annotations

import numpy as np
import pytest

from classwise.data import load
from classwise.errors import InputError

RNG = np.random.default_rng(0)
SIZES = {"train": 12, "val": 6, "test": 9}


def write(path, channels=3, labels=1, side=(28, 28)):
    """Write images (N, 28, 28) or (N, 28, 28, 3) and labels (N, 1) uint8, as the official files hold them."""
    arrays = {}
    for split, n in SIZES.items():
        shape = (n, *side, 3) if channels == 3 else (n, *side)
        arrays[f"{split}_images"] = RNG.integers(0, 256, shape, dtype=np.uint8)
        one, many = np.arange(n)[:, None] % 3, RNG.integers(0, 2, (n, labels))
        arrays[f"{split}_labels"] = (one if labels == 1 else many).astype(np.uint8)
    np.savez_compressed(path, **arrays)
    return arrays


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_colour_and_grey_sets_are_read(tmp_path, split, channels):
    arrays = write(tmp_path / "bloodmnist.npz", channels)
    for name, folder in (("medmnist", tmp_path), ("medmnist", tmp_path / "bloodmnist.npz"), ("arrays", tmp_path)):
        data = load(name, folder, split=split)
        x = arrays[f"{split}_images"]
        np.testing.assert_array_equal(data.x.permute(0, 2, 3, 1).numpy(), x if channels == 3 else x[..., None])
        assert data.y.tolist() == (np.arange(SIZES[split]) % 3).tolist()
        assert (data.classes, data.split, data.name) == (("0", "1", "2"), split, name)


def test_of_several_sets_one_is_named(tmp_path):
    write(tmp_path / "pathmnist.npz")
    write(tmp_path / "breastmnist.npz", 1)
    data = load("medmnist(subset='breastmnist')", tmp_path)
    assert (data.shape, data.note) == ((1, 28, 28), "breastmnist")
    with pytest.raises(InputError, match=r"Say which set, as in medmnist\(subset='breastmnist'\)"):
        load("medmnist", tmp_path)
    with pytest.raises(InputError, match="did you mean 'pathmnist'"):
        load("medmnist(subset='patmnist')", tmp_path)


def test_several_labels_an_image_are_refused(tmp_path):
    write(tmp_path / "chestmnist.npz", 1, labels=14)
    with pytest.raises(InputError, match=r"shape .*x14 with several or no classes an image, multi-label"):
        load("medmnist", tmp_path)


def test_volumes_are_refused(tmp_path):
    write(tmp_path / "organmnist3d.npz", 1, side=(28, 28, 28))
    with pytest.raises(InputError, match=r"Images of shape \(9, 28, 28, 28\) are not understood"):
        load("medmnist", tmp_path)


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.npz file of MedMNIST"):
        load("medmnist", tmp_path)
