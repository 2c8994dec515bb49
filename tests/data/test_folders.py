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


def test_many_images_of_one_size_keep_it_and_are_decoded_on_demand(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MEMORY_LIMIT", 3 * 8 * 8 * 2 - 1)
    pixels = draw(tmp_path / "cat" / "a.png")
    draw(tmp_path / "cat" / "b.png")
    data = load("folder", tmp_path)
    assert isinstance(data, ImageFiles)
    assert (data.shape, data.note) == ((3, 8, 8), "")
    np.testing.assert_array_equal(data.fetch(torch.tensor([0]))[0].permute(1, 2, 0).numpy() * 255, pixels)
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


def write(root, *paths):
    for path in paths:
        draw(root / path)


def test_classes_have_the_same_numbers_in_every_split(tmp_path):
    write(tmp_path, "train/ant/a.png", "train/bee/a.png", "train/cow/a.png", "test/cow/b.png")
    test = load("folder(subset=True)", tmp_path)
    assert (test.classes, test.y.tolist()) == (("ant", "bee", "cow"), [2])


def test_a_split_that_lacks_classes_is_refused_unless_that_is_meant(tmp_path):
    write(tmp_path, "train/ant/a.png", "train/bee/a.png", "train/cow/a.png", "test/cow/b.png")
    with pytest.raises(InputError, match=r"test lacks the classes 'ant', 'bee' of train; .* folder\(subset=True\)"):
        load("folder", tmp_path)


def test_an_empty_class_folder_is_enough_and_said(tmp_path):
    write(tmp_path, "train/ant/a.png", "train/bee/a.png", "test/bee/b.png")
    (tmp_path / "test" / "ant").mkdir()
    data = load("folder", tmp_path)
    assert (data.y.tolist(), data.note) == ([1], "no pictures in the class 'ant'")


@pytest.mark.parametrize("setting", ["", "(subset=True)"])
def test_a_split_with_classes_that_train_does_not_have_is_refused(tmp_path, setting):
    write(tmp_path, "train/ant/a.png", "train/bee/a.png", "test/ant/b.png", "test/bees/b.png")
    with pytest.raises(InputError, match="test has the class 'bees', which train does not have"):
        load(f"folder{setting}", tmp_path)


def test_classes_of_another_split_do_not_change_those_of_train(tmp_path):
    write(tmp_path, "train/ant/a.png", "train/bee/a.png", "val/images/b.png")
    assert load("folder", tmp_path, split="train").classes == ("ant", "bee")


def test_classes_that_differ_by_case_are_refused(tmp_path):
    write(tmp_path, "train/cat/a.png", "train/Cat/a.png", "test/cat/b.png", "test/Cat/b.png")
    with pytest.raises(InputError, match="has classes 'Cat' and 'cat'; rename one"):
        load("folder", tmp_path)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_validation_folders_have_several_names(tmp_path, name):
    write(tmp_path, "train/ant/a.png", f"{name}/ant/a.png")
    assert load("folder", tmp_path, split="val").split == "val"


def test_training_and_testing_are_no_classes(tmp_path):
    write(tmp_path, "training/ant/a.png", "testing/ant/a.png", "testing/ant/b.png")
    assert len(load("folder", tmp_path)) == 2
    assert len(load("folder", tmp_path, split="train")) == 1


def test_two_folders_for_one_split_are_refused(tmp_path):
    write(tmp_path, "val/ant/a.png", "valid/ant/a.png")
    with pytest.raises(InputError, match="holds both val and valid; keep the one that is meant"):
        load("folder", tmp_path)


@pytest.mark.parametrize("paths", [["test/a.png"], ["train/a.png", "test/b.png"], ["images/a.png"], ["a.png"]])
def test_pictures_without_class_folders_are_refused(tmp_path, paths):
    write(tmp_path, *paths)
    with pytest.raises(InputError, match=r"holds (pictures but )?no class folders.* lay .* out as .*/<class>/\*\.png"):
        load("folder", tmp_path)


def test_a_flat_test_split_beside_training_classes_is_refused(tmp_path):
    write(tmp_path, "train/ant/a.png", "test/a.png")
    with pytest.raises(InputError, match=r"test holds pictures but no class folders, so their labels are not known"):
        load("folder", tmp_path)


def test_a_flat_test_split_gives_way_to_validation_images_and_it_is_said(tmp_path):
    write(tmp_path, "train/ant/a.png", "val/ant/a.png", "test/a.png")
    data = load("folder", tmp_path)
    assert (data.split, data.note) == ("val", "test pictures have no labels, so those of val stand for them")


def test_the_folder_around_the_data_set_is_recognised(tmp_path):
    write(tmp_path, "mine/train/ant/a.png", "mine/test/ant/a.png")
    with pytest.raises(InputError, match=r"holds one folder, mine, and that has test, train; give --data-dir .*mine"):
        load("folder", tmp_path)


@pytest.mark.parametrize(("count", "odd"), [(4, (9, 8)), (30, (400, 300))])
def test_one_picture_of_another_size_is_named(tmp_path, count, odd):
    for number in range(count):
        draw(tmp_path / "cat" / f"{number:02d}.png")
    draw(tmp_path / "dog" / "odd.png", odd)
    says = rf"odd\.png is {odd[0]}x{odd[1]} where {count} of {count + 1} pictures are 8x8; remove .* folder\(resize=8"
    with pytest.raises(InputError, match=says):
        load("folder", tmp_path)
    assert load("folder(resize=8, crop=8)", tmp_path).shape == (3, 8, 8)


def test_files_that_systems_leave_are_no_pictures_and_their_folders_no_classes(tmp_path):
    write(tmp_path, "cat/a.png", "__MACOSX/cat/a.png", "@eaDir/a.png")
    for name in ("._a.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "cat" / name).write_bytes(b"no picture")
    data = load("folder", tmp_path)
    assert (data.classes, len(data), data.note) == (("cat",), 1, "")


def test_pictures_that_are_not_read_are_said(tmp_path):
    write(tmp_path, "cat/a.png", "stray.png")
    (tmp_path / "cat" / "b.gif").write_bytes(b"GIF")
    note = load("folder", tmp_path).note
    assert "1 picture outside class folders left out, such as stray.png" in note
    assert "1 file of kinds not read, such as cat/b.gif" in note


def test_a_link_into_its_own_folder_is_refused_and_one_elsewhere_followed(tmp_path):
    write(tmp_path / "data", "cat/a.png")
    write(tmp_path / "store", "b.png")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "store", target_is_directory=True)
    assert load("folder", tmp_path / "data").y.tolist() == [0, 1]
    (tmp_path / "data" / "cat" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    with pytest.raises(InputError, match="loop is a link to a folder that it lies in; remove it"):
        load("folder", tmp_path / "data")


def test_a_link_to_nothing_is_named(tmp_path):
    write(tmp_path, "cat/a.png")
    (tmp_path / "cat" / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"b\.png cannot be read as an image"):
        load("folder", tmp_path)


def test_a_truncated_picture_is_named(tmp_path):
    draw(tmp_path / "cat" / "a.png", (64, 64))
    content = (tmp_path / "cat" / "a.png").read_bytes()
    (tmp_path / "cat" / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image"):
        load("folder", tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "P"])
def test_colours_that_a_decoder_changes_are_said(tmp_path, mode):
    (tmp_path / "cat").mkdir()
    file = tmp_path / "cat" / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    picture = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)
    picture.save(file)
    data = load("folder", tmp_path)
    said = {
        "RGBA": "transparency left out in 1",
        "LA": "transparency left out in 1",
        "CMYK": "CMYK converted to RGB in 1",
    }
    assert data.note == (f"{said[mode]} of 1 pictures, such as cat/{file.name}" if mode in said else "")
    np.testing.assert_array_equal(data.x[0].permute(1, 2, 0).numpy(), np.array(picture.convert("RGB")))


def test_a_rotation_in_exif_is_said(tmp_path):
    (tmp_path / "cat").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "cat" / "a.jpg", exif=exif)
    data = load("folder", tmp_path)
    assert data.shape == (3, 6, 8)
    assert "EXIF rotation not applied, as in torchvision, in 1 of 1 pictures, such as cat/a.jpg" in data.note


def test_colours_of_16_bits_are_refused(tmp_path):
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(24)) for _ in range(4))
    (tmp_path / "cat").mkdir()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "cat" / "deep.png").write_bytes(png)
    with pytest.raises(InputError, match=r"deep\.png has more than 8 bits"):
        load("folder", tmp_path)


def test_classes_named_by_numbers_are_ordered_as_text_and_it_is_said(tmp_path):
    write(tmp_path, *(f"{number}/a.png" for number in range(12)))
    data = load("folder", tmp_path)
    assert data.classes[:4] == ("0", "1", "10", "11")
    assert "classes in the order of their names as text (0, 1, 10, 11 …), not of order='number'" in data.note
    assert load("folder(order='number')", tmp_path).classes == tuple(str(number) for number in range(12))


def test_a_list_of_classes_in_another_order_is_said_and_can_be_taken(tmp_path):
    write(tmp_path, "ant/a.png", "bee/a.png")
    (tmp_path / "classes.txt").write_text("bee\nant\n")
    assert "not of order='classes.txt'" in load("folder", tmp_path).note
    data = load("folder(order='classes.txt')", tmp_path)
    assert (data.classes, data.y.tolist()) == (("bee", "ant"), [1, 0])
    (tmp_path / "classes.txt").write_text("bee\nwasp\n")
    with pytest.raises(InputError, match="differ in the classes 'ant', 'wasp'"):
        load("folder(order='classes.txt')", tmp_path)


def test_cardigans_are_told_from_cardigans(tmp_path):
    for name in ("Cardigan", "cardigan", "Tench"):
        draw(tmp_path / "val" / name / "a.JPEG")
    data = load("imagenet", tmp_path)
    assert sorted(data.y.tolist()) == [0, 264, 474]


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
        (["file,label", "a.jpg"], "Line 2 of .* has label ''"),
        (["label,file", "3"], "is missing"),
        (["file,label", "a.jpg," + "9" * 5000], "Line 2 of .* has label '…'"),
        (["file,label", "a.jpg,\u00b2"], "Line 2 of .* has label"),
        (["file,label", "a" * 200_000 + ",1"], "save it as CSV in UTF-8"),
        (["file,label", "a.jpg,1", "c.jpg,1"], r"c\.jpg is missing"),
    ],
)
def test_a_table_with_mistakes_is_refused(tmp_path, lines, message):
    write_table(tmp_path, *lines)
    with pytest.raises(InputError, match=message):
        load("imagenet", tmp_path)


def test_a_table_in_another_encoding_is_refused_and_a_mark_of_a_spreadsheet_passed_over(tmp_path):
    write_table(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xe9.jpg,1\n")
    with pytest.raises(InputError, match="save it as CSV in UTF-8"):
        load("imagenet", tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbffile,label\na.jpg,7\n")
    assert load("imagenet", tmp_path).y.tolist() == [7]


def test_unsorted_validation_pictures_of_imagenet_are_refused_with_what_to_do(tmp_path):
    draw(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(InputError, match=r"their classes are not known; sort them into <wnid>/"):
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
