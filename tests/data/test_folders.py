"""ImageNet and other image folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classwise.data import ImageFiles, Images, folders, load
from classwise.errors import InputError

RNG = np.random.default_rng(0)


def draw(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> np.ndarray:
    """Write noise of a size (height, width) and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*size, 3) if mode == "RGB" else size, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


# Own folders


def test_equal_small_images_are_read_into_memory(tmp_path):
    dog = draw(tmp_path / "dog" / "a.png", (6, 8))
    cat = draw(tmp_path / "cat" / "b.png", (6, 8))
    data = load("folder", tmp_path)
    assert isinstance(data, Images)
    assert (data.classes, data.y.tolist(), data.shape, data.note) == (("cat", "dog"), [0, 1], (3, 6, 8), "")
    np.testing.assert_array_equal(data.x.permute(0, 2, 3, 1).numpy(), np.stack([cat, dog]))


def test_images_of_different_sizes_are_decoded_on_demand(tmp_path):
    draw(tmp_path / "cat" / "a.png", (20, 30))
    draw(tmp_path / "dog" / "b.png", (30, 20))
    data = load("folder", tmp_path)
    assert isinstance(data, ImageFiles)
    assert data.shape == (3, 224, 224)
    assert "256" in data.note


def test_many_images_are_decoded_on_demand_at_the_usual_size(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MEMORY_LIMIT", 3 * 8 * 8 * 2 - 1)
    for name in ("a", "b"):
        draw(tmp_path / "cat" / f"{name}.png")
    assert isinstance(load("folder", tmp_path), ImageFiles)
    monkeypatch.setattr(folders, "MEMORY_LIMIT", 3 * 8 * 8 * 2)
    assert isinstance(load("folder", tmp_path), Images)


@pytest.mark.parametrize(
    ("settings", "resize", "side"),
    [("resize=16, crop=12", 16, 12), ("resize=16", 16, 16), ("crop=12", 12, 12)],
)
def test_size_can_be_set(tmp_path, settings, resize, side):
    draw(tmp_path / "cat" / "a.png")
    data = load(f"folder({settings})", tmp_path)
    assert isinstance(data, ImageFiles)
    assert (data.resize, data.shape) == (resize, (3, side, side))


def test_grey_images_keep_one_channel(tmp_path):
    draw(tmp_path / "0" / "a.png", mode="L")
    draw(tmp_path / "1" / "b.png", mode="L")
    assert load("folder", tmp_path).shape == (1, 8, 8)


def test_one_coloured_image_makes_all_coloured(tmp_path):
    grey = draw(tmp_path / "0" / "a.png", mode="L")
    draw(tmp_path / "1" / "b.png")
    data = load("folder", tmp_path)
    np.testing.assert_array_equal(data.x[0].numpy(), np.stack([grey] * 3))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_is_a_folder(tmp_path, split):
    for part in ("train", "val", "test"):
        draw(tmp_path / part / "cat" / f"{part}.png", (4 + len(part), 8))
    data = load("folder", tmp_path, split=split)
    assert (len(data), data.shape[1], data.split) == (1, 4 + len(split), split)


def test_validation_images_serve_as_test_images_and_say_so(tmp_path):
    draw(tmp_path / "val" / "cat" / "a.png")
    assert load("folder", tmp_path).split == "val"


def test_classes_have_the_same_numbers_in_every_split(tmp_path):
    for path in ("train/ant/a.png", "train/bee/a.png", "train/cow/a.png", "test/cow/b.png"):
        draw(tmp_path / path)
    test = load("folder", tmp_path)
    assert (test.classes, test.y.tolist()) == (("ant", "bee", "cow"), [2])


def test_a_class_may_be_called_train(tmp_path):
    draw(tmp_path / "train" / "a.png")
    draw(tmp_path / "bus" / "b.png")
    assert load("folder", tmp_path).classes == ("bus", "train")


def test_a_folder_without_splits_never_serves_for_training(tmp_path):
    draw(tmp_path / "cat" / "a.png")
    with pytest.raises(InputError, match=r"no train images: it has no folder of splits; lay them out as train/"):
        load("folder", tmp_path, split="train")


def test_training_images_never_serve_for_testing(tmp_path):
    draw(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(InputError, match="no test images: it has only train"):
        load("folder", tmp_path)


def test_hidden_folders_are_no_classes(tmp_path):
    draw(tmp_path / ".ipynb_checkpoints" / "a.png")
    draw(tmp_path / "cat" / "a.png")
    assert load("folder", tmp_path).classes == ("cat",)


def test_a_class_without_images_keeps_its_number(tmp_path):
    (tmp_path / "ant").mkdir()
    draw(tmp_path / "bee" / "a.png")
    data = load("folder", tmp_path)
    assert (data.classes, data.y.tolist()) == (("ant", "bee"), [1])


@pytest.mark.parametrize(("make", "message"), [(False, "no class folders"), (True, "but no images")])
def test_a_folder_without_images_says_how_to_lay_them_out(tmp_path, make, message):
    if make:
        (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match=rf"{message}; lay (the images|them) out as .*/<class>/\*\.png"):
        load("folder", tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="no class folders"):
        load("folder", tmp_path / "x")


def test_a_broken_image_is_named(tmp_path):
    draw(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "b.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"b\.png cannot be read as an image"):
        load("folder", tmp_path)


def test_images_of_16_bits_are_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "cat" / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png has more than 8 bits"):
        load("folder", tmp_path)


# ImageNet


def make_wnids(root: Path, count: int = 1000) -> None:
    for number in range(count):
        (root / "val" / f"n{number:08d}").mkdir(parents=True)


def test_imagenet_reads_wnid_folders_in_class_order(tmp_path):
    make_wnids(tmp_path)
    draw(tmp_path / "val" / "n00000007" / "a.JPEG", (300, 400))
    draw(tmp_path / "val" / "n00000999" / "b.JPEG", (400, 300))
    data = load("imagenet", tmp_path)
    assert [data.classes[label] for label in data.y] == ["cock", "toilet tissue"]
    assert (data.split, data.shape, len(data.classes)) == ("val", (3, 224, 224), 1000)
    assert data.note == "shorter side resized to 256 pixels (bilinear, antialiased), centre crop 224x224"
    assert data.fetch(torch.arange(2)).shape == (2, 3, 224, 224)


def test_imagenet_reads_folders_named_by_class(tmp_path):
    for name in ("toilet_tissue", "great white shark", "Tench"):
        draw(tmp_path / "val" / name / "a.JPEG")
    data = load("imagenet", tmp_path, split="val")
    assert {data.classes[label] for label in data.y} == {"tench", "great white shark", "toilet tissue"}
    assert sorted(data.y.tolist()) == [0, 2, 999]


def test_some_of_the_wnid_folders_are_not_enough(tmp_path):
    make_wnids(tmp_path, 10)
    draw(tmp_path / "val" / "n00000007" / "a.JPEG")
    with pytest.raises(InputError, match="10 of the 1,000 wnid folders"):
        load("imagenet", tmp_path)


def test_an_unknown_imagenet_class_is_named(tmp_path):
    draw(tmp_path / "val" / "my cat" / "a.JPEG")
    with pytest.raises(InputError, match=r"my cat is neither a wnid nor .* data set 'folder'"):
        load("imagenet", tmp_path)


def test_imagenet_training_images_lie_in_train(tmp_path):
    draw(tmp_path / "train" / "tench" / "a.JPEG")
    assert load("imagenet", tmp_path, split="train").split == "train"
    with pytest.raises(InputError, match="val/<wnid>"):
        load("imagenet", tmp_path)


@pytest.mark.parametrize("download", [True, False])
def test_a_missing_imagenet_says_that_it_cannot_be_downloaded(tmp_path, download):
    with pytest.raises(InputError, match=r"imagenet is not in .*: there must be val/<wnid>/\*\.JPEG .* cannot be down"):
        load("imagenet", tmp_path, download=download)


def write_table(root: Path, *lines: str) -> None:
    (root / "labels.csv").write_text("\n".join(lines))
    draw(root / "images" / "a.jpg")
    draw(root / "images" / "b.jpg")


def test_imagenet_reads_a_table_of_labels(tmp_path):
    write_table(tmp_path, "file,author,label", "b.jpg,me,999", "a.jpg,you,0")
    data = load("imagenet", tmp_path)
    assert [path.name for path in data.paths] == ["b.jpg", "a.jpg"]
    assert (data.y.tolist(), data.index.tolist(), data.split) == ([999, 0], [0, 1], "val")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,label", "a.jpg,1"], "must have the columns file and label"),
        (["file,label"], "lists no images"),
        (["file,label", "a.jpg,1", "b.jpg,1000"], "Line 3 of .* has label '1000'; it must be 0 … 999"),
        (["file,label", "a.jpg,cat"], "Line 2 of .* has label 'cat'"),
        (["file,label", "a.jpg"], "Line 2 of .* has label None"),
        (["file,label", "a.jpg,1", "c.jpg,1"], r"c\.jpg is missing"),
    ],
)
def test_a_table_with_mistakes_is_refused(tmp_path, lines, message):
    write_table(tmp_path, *lines)
    with pytest.raises(InputError, match=message):
        load("imagenet", tmp_path)


@pytest.mark.real_data
def test_real_photographs_with_imagenet_labels():
    if "CLASSWISE_DATA" not in os.environ:
        pytest.skip("CLASSWISE_DATA names no folder with the real data sets")
    data = load("imagenet", Path(os.environ["CLASSWISE_DATA"]) / "imagenet-cc")
    assert len(data) == 1000
    named = dict(zip([path.stem for path in data.paths], data.y.tolist(), strict=True))
    assert data.classes[named["000b7d55b6184b08"]] == "giant panda"
    x = data.fetch(torch.tensor([0, 999]))
    assert x.shape == (2, 3, 224, 224)
    assert 0.1 < float(x.mean()) < 0.9
