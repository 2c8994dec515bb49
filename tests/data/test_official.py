"""The research sets: small files in the official formats, and the real ones where CLASSWISE_DATA names them."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from classwise.data import GROUPS, load, official
from classwise.errors import InputError

RNG = np.random.default_rng(0)


@pytest.fixture
def real():
    if "CLASSWISE_DATA" not in os.environ:
        pytest.skip("CLASSWISE_DATA names no folder with the real data sets")
    return Path(os.environ["CLASSWISE_DATA"])


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_pickle(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


def make_cifar(
    kind: type, directory: Path, monkeypatch: pytest.MonkeyPatch, **meta: list[str]
) -> dict[str, np.ndarray]:
    """Write batches of 20 rows in the official layout and tell torchvision their checksums."""
    key = "labels" if kind is datasets.CIFAR10 else "fine_labels"
    rows, folder = {}, directory / kind.base_folder
    for file, _ in (*kind.train_list, *kind.test_list):
        rows[file] = RNG.integers(0, 256, (20, 3072), dtype=np.uint8)
        write_pickle(folder / file, {"data": rows[file], key: [number % 10 for number in range(20)]})
    write_pickle(folder / kind.meta["filename"], meta)
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(kind, table, [[file, md5(folder / file)] for file, _ in getattr(kind, table)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})
    return rows


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    names = [name for group in GROUPS["cifar10"].values() for name in group]
    rows = make_cifar(datasets.CIFAR10, tmp_path, monkeypatch, label_names=sorted(names))
    return tmp_path, rows


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    names = [name for group in GROUPS["cifar100"].values() for name in group]
    rows = make_cifar(datasets.CIFAR100, tmp_path, monkeypatch, fine_label_names=sorted(names))
    return tmp_path, rows


@pytest.fixture
def cifar100_pngs(tmp_path, monkeypatch):
    """Two images of each class, numbered across the classes."""
    monkeypatch.setattr(official, "CIFAR100_TEST_IMAGES", 200)
    names = sorted(name for group in GROUPS["cifar100"].values() for name in group)
    pixels = RNG.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "cifar100-test" / names[number * 7 % 100]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:05d}.png")
    return tmp_path, pixels


@pytest.fixture
def mnist(tmp_path):
    pixels = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, labels in (("train", [1, 2, 3, 4, 5]), ("t10k", [9, 0, 9, 0, 9])):
        images = struct.pack(">iiii", 2051, 5, 28, 28) + pixels.tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, 5) + bytes(labels))
    return tmp_path, pixels


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    pixels = RNG.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    table = {}
    for split, labels in (("train", [1, 2, 3, 4]), ("test", [10, 1, 9, 10])):
        file = tmp_path / f"{split}_32x32.mat"
        savemat(file, {"X": pixels, "y": np.array(labels, np.uint8)[:, None]})
        table[split] = ["http://nowhere.invalid", file.name, md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", table)
    return tmp_path, pixels


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    """STL-10 stores each colour plane column by column, and numbers the classes from 1."""
    pixels = RNG.integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes([10, 1, 7]))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "fold_indices.txt").write_text("0 1 2\n")
    names = "airplane bird car cat deer dog horse monkey ship truck"
    (folder / "class_names.txt").write_text(names.replace(" ", "\n"))
    for table in ("train_list", "test_list"):
        files = [file for file, _ in getattr(datasets.STL10, table)]
        monkeypatch.setattr(datasets.STL10, table, [[file, md5(folder / file)] for file in files])
    return tmp_path, pixels


# Digits


def test_digits_scale_sixteenths_to_bytes():
    from sklearn.datasets import load_digits

    data = load("digits")
    expected = np.floor(load_digits().images * 255 / 16 + 0.5)
    np.testing.assert_array_equal(data.x[:, 0].numpy(), expected[data.index])
    assert (int(data.x.min()), int(data.x.max())) == (0, 255)


def test_the_halves_of_digits_are_disjoint_complete_and_stratified():
    train, test = load("digits", split="train"), load("digits")
    assert torch.cat([train.index, test.index]).sort().values.tolist() == list(range(1797))
    assert (torch.bincount(train.y) - torch.bincount(test.y)).abs().max() <= 1


def test_digits_say_that_the_split_is_ours():
    assert "our choice" in load("digits").note


def test_the_content_of_digits_is_pinned():
    """Results name their data by this hash."""
    assert load("digits").sha256() == DIGITS


DIGITS = "cae109e709d57ed795a693e3ce82a16bc9e0020c9fdd758bb914a138bc73499a"


# Small files in the official formats


def test_mnist_is_read_from_its_idx_files(mnist):
    directory, pixels = mnist
    data = load("mnist", directory)
    np.testing.assert_array_equal(data.x[:, 0].numpy(), pixels)
    assert data.y.tolist() == [9, 0, 9, 0, 9]
    assert (data.classes, data.note, data.groups) == (tuple("0123456789"), "", {})


def test_mnist_train_and_test_are_told_apart(mnist):
    data = load("mnist", mnist[0], split="train")
    assert (data.y.tolist(), data.split) == ([1, 2, 3, 4, 5], "train")


def test_cifar10_is_read_from_its_batches(cifar10):
    directory, rows = cifar10
    data = load("cifar10", str(directory))
    np.testing.assert_array_equal(data.x.numpy(), rows["test_batch"].reshape(-1, 3, 32, 32))
    assert data.y.tolist() == [number % 10 for number in range(20)]
    assert data.classes[:2] == ("airplane", "automobile")
    assert data.groups == GROUPS["cifar10"]


def test_cifar10_training_batches_follow_each_other(cifar10):
    directory, rows = cifar10
    data = load("cifar10", directory, split="train")
    expected = np.concatenate([rows[f"data_batch_{k}"] for k in range(1, 6)])
    np.testing.assert_array_equal(data.x.flatten(1).numpy(), expected)
    assert data.index.tolist() == list(range(100))


def test_cifar10_pixels_are_not_copied(cifar10, monkeypatch):
    made = []

    class Spy(datasets.CIFAR10):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            made.append(self.data)

    monkeypatch.setattr(datasets, "CIFAR10", Spy)
    assert np.shares_memory(load("cifar10", cifar10[0]).x.numpy(), made[0])


def test_cifar100_is_read_from_its_official_files(cifar100):
    directory, rows = cifar100
    for split in ("train", "test"):
        data = load("cifar100", directory, split=split)
        np.testing.assert_array_equal(data.x.flatten(1).numpy(), rows[split])
        assert (len(data.classes), len(data.groups)) == (100, 20)


def test_cifar100_test_images_may_be_png_files(cifar100_pngs):
    directory, pixels = cifar100_pngs
    data = load("cifar100", directory)
    label = np.arange(200) * 7 % 100
    order = np.argsort(label, kind="stable")
    np.testing.assert_array_equal(data.x.permute(0, 2, 3, 1).numpy(), pixels[order])
    np.testing.assert_array_equal(data.y, label[order])
    assert data.index.tolist() == list(range(200))


def test_cifar100_from_png_files_looks_like_the_official_set(cifar100_pngs):
    data = load("cifar100", cifar100_pngs[0])
    assert (data.name, data.split, data.groups) == ("cifar100", "test", GROUPS["cifar100"])
    assert "positions are not those of the official file" in data.note


def test_the_official_files_of_cifar100_go_before_png_files(cifar100, cifar100_pngs):
    directory, rows = cifar100
    np.testing.assert_array_equal(load("cifar100", directory).x.flatten(1).numpy(), rows["test"])


def test_png_files_are_no_training_set(cifar100_pngs):
    with pytest.raises(InputError, match=r"cifar-100-python/train and 2 more are missing"):
        load("cifar100", cifar100_pngs[0], split="train")


def test_half_a_folder_of_png_files_is_refused(cifar100_pngs):
    next(cifar100_pngs[0].glob("*/wolf/*.png")).unlink()
    with pytest.raises(InputError, match=r"holds 199 images in 100 classes .* unpack it again"):
        load("cifar100", cifar100_pngs[0])


def test_svhn_calls_label_ten_zero(svhn):
    directory, pixels = svhn
    data = load("svhn", directory)
    np.testing.assert_array_equal(data.x.numpy(), pixels.transpose(3, 2, 0, 1))
    assert data.y.tolist() == [0, 1, 9, 0]
    assert data.x.is_contiguous()


def test_svhn_train_is_another_file(svhn):
    assert load("svhn", svhn[0], split="train").y.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("split", ["train", "test"])
def test_stl10_is_resized_as_pillow_does(stl10, split):
    directory, pixels = stl10
    data = load("stl10", directory, split=split)
    images = [Image.fromarray(image.transpose(1, 2, 0)).resize((64, 64), Image.Resampling.BILINEAR) for image in pixels]
    expected = np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])
    np.testing.assert_array_equal(data.x.numpy(), expected)


def test_stl10_numbers_its_classes_from_zero_and_says_it_was_resized(stl10):
    data = load("stl10", stl10[0])
    assert [data.classes[label] for label in data.y] == ["truck", "airplane", "horse"]
    assert "64x64" in data.note
    assert data.groups == GROUPS["stl10"]


# What may be wrong


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "test_32x32.mat"),
        ("stl10", "stl10_binary/train_X.bin"),
    ],
)
def test_a_missing_set_says_what_is_missing_where_and_what_to_do(name, file, tmp_path):
    with pytest.raises(InputError) as caught:
        load(name, tmp_path)
    sentence = str(caught.value)
    assert f"{name} is incomplete in {tmp_path}: {file}" in sentence
    assert "pass --download" in sentence
    assert "\n" not in sentence


def test_one_missing_file_is_named(cifar10):
    (cifar10[0] / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(InputError, match="data_batch_4 is missing"):
        load("cifar10", cifar10[0])


@pytest.mark.parametrize("name", ["cifar10", "svhn", "stl10", "cifar100"])
def test_a_half_downloaded_file_is_named(name, request):
    directory = request.getfixturevalue(name)[0]
    file = {
        "cifar10": "cifar-10-batches-py/test_batch",
        "cifar100": "cifar-100-python/meta",
        "svhn": "test_32x32.mat",
        "stl10": "stl10_binary/test_X.bin",
    }[name]
    (directory / file).write_bytes((directory / file).read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{name} is damaged in .*: {file} differs from the official file; delete it"):
        load(name, directory)


@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("kept", [0, 3, 10])
def test_truncated_mnist_files_are_an_input_error(mnist, file, kept):
    path = mnist[0] / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"mnist cannot be read in .* delete .*MNIST/raw and pass --download"):
        load("mnist", mnist[0])


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "file", "split"),
    [
        ("cifar10", "cifar-10-batches-py/test_batch", "test"),
        ("cifar10", "cifar-10-batches-py/batches.meta", "test"),
        ("cifar10", "cifar-10-batches-py/data_batch_3", "train"),
        ("cifar100", "cifar-100-python/test", "test"),
        ("cifar100", "cifar-100-python/meta", "test"),
    ],
)
def test_a_batch_other_than_the_official_one_is_not_unpickled(name, file, split, request, tmp_path):
    """The files of CIFAR are pickles, which run what they name; their MD5 is compared before they are read."""
    directory = request.getfixturevalue(name)[0]
    (directory / file).write_bytes(pickle.dumps({b"data": Touch(tmp_path / "ran"), "label_names": []}))
    with pytest.raises(InputError, match="differs from the official file"):
        load(name, directory, split)
    assert not (tmp_path / "ran").exists()


def test_an_interrupted_download_is_said_and_the_same_command_fetches_the_file_anew(svhn, tmp_path, monkeypatch):
    from torchvision.datasets import utils

    whole = (svhn[0] / "test_32x32.mat").read_bytes()

    def broken(url, filename, chunk_size=0):
        Path(filename).write_bytes(whole[:100])
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(utils, "_urlretrieve", broken)
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, max_hops=3: url)
    says = (
        r"svhn was not fetched whole into .*: test_32x32.mat .*\(ConnectionResetError: .* peer\); run the same command"
    )
    with pytest.raises(InputError, match=says):
        load("svhn", tmp_path / "new", download=True)
    monkeypatch.setattr(utils, "_urlretrieve", lambda url, filename: Path(filename).write_bytes(whole))
    assert len(load("svhn", tmp_path / "new", download=True)) == len(load("svhn", svhn[0]))


def test_a_failed_download_says_why(tmp_path, monkeypatch):
    def no_network(self):
        raise OSError("no\nroute to host")

    monkeypatch.setattr(datasets.SVHN, "download", no_network)
    with pytest.raises(InputError, match=r"the download failed \(OSError: no route to host\), so put the official"):
        load("svhn", tmp_path, download=True)


@pytest.mark.parametrize("download", [True, False])
def test_nothing_is_downloaded_unless_asked(download, mnist, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: asked.append(True))
    load("mnist", mnist[0], download=download)
    assert asked == [True] * download


def test_a_download_makes_its_folder(tmp_path, monkeypatch, mnist):
    def fetch(self):
        (mnist[0] / "MNIST").rename(Path(self.root) / "MNIST")

    monkeypatch.setattr(datasets.MNIST, "download", lambda self: (Path(self.root).mkdir(), fetch(self)))
    assert len(load("mnist", tmp_path / "new", download=True)) == 5


def test_torchvision_is_imported_only_when_a_set_is_loaded():
    code = "import sys, classwise.data as d; d.default_threat('cifar10'); sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The real files


@pytest.mark.real_data
def test_real_mnist(real):
    data = load("mnist", real)
    assert data.x.shape == (10_000, 1, 28, 28)
    assert data.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert torch.bincount(data.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert round(float(load("mnist", real, split="train").x.double().mean()) / 255, 4) == 0.1307


@pytest.mark.real_data
def test_real_cifar10(real):
    train, test = load("cifar10", real, split="train"), load("cifar10", real)
    assert (len(train), len(test), test.shape) == (50_000, 10_000, (3, 32, 32))
    assert torch.bincount(test.y).tolist() == [1000] * 10
    assert [test.classes[label] for label in test.y[:4]] == ["cat", "ship", "ship", "airplane"]
    mean = train.x.double().mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=1e-4)


@pytest.mark.real_data
def test_real_cifar100_test_images(real):
    data = load("cifar100", real)
    assert (data.x.shape, data.split) == ((10_000, 3, 32, 32), "test")
    assert torch.bincount(data.y).tolist() == [100] * 100
    assert set(data.classes) == {name for group in data.groups.values() for name in group}
