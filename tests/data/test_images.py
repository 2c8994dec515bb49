"""Images in memory and in files."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from classwise.data import ImageFiles, Images, batches
from classwise.errors import InputError


def some_images(count: int = 7, classes: int = 3) -> Images:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, 3, 5, 4), dtype=np.uint8)
    return Images.from_arrays(x, np.arange(count) % classes, [f"class {k}" for k in range(classes)])


@pytest.fixture
def image_files(tmp_path):
    """Six photographs of different sizes."""
    rng = np.random.default_rng(1)
    paths = []
    for number in range(6):
        pixels = rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    return ImageFiles(tuple(paths), y, ("cat", "dog"), torch.arange(6), crop=(8, 8), resize=10)


@pytest.fixture(params=["memory", "files"])
def any_set(request, image_files):
    return image_files if request.param == "files" else some_images(6, 2)


def test_fetched_pixels_are_bytes_divided_by_255():
    data = some_images()
    expected = (data.x.numpy() / np.float32(255))[[4, 1]]
    np.testing.assert_array_equal(data.fetch(torch.tensor([4, 1])).numpy(), expected)


def test_fetched_images_have_the_declared_shape(any_set):
    x = any_set.fetch(torch.tensor([3, 0]))
    assert x.shape == (2, *any_set.shape)
    assert x.dtype == torch.float32
    assert 0 <= x.min() <= x.max() <= 1


def test_a_subset_of_a_subset_keeps_the_position_in_the_split(any_set):
    part = any_set.subset(torch.tensor([5, 2, 3])).subset(torch.tensor([2, 0]))
    assert part.index.tolist() == [3, 5]
    assert part.y.tolist() == any_set.y[[3, 5]].tolist()
    assert torch.equal(part.fetch(torch.arange(2)), any_set.fetch(torch.tensor([3, 5])))


def test_a_subset_may_be_empty(any_set):
    part = any_set.subset(torch.tensor([], dtype=torch.int64))
    assert len(part) == 0
    assert part.fetch(torch.arange(0)).shape == (0, *any_set.shape)
    assert list(batches(part, 4)) == []


def test_the_hash_ignores_name_and_place(any_set):
    same = any_set.subset(torch.arange(6))
    assert len(any_set.sha256()) == 64
    assert same.sha256() == any_set.sha256()


@pytest.mark.parametrize("change", ["pixel", "label", "class"])
def test_the_hash_covers_pixels_labels_and_class_names(change):
    data = some_images()
    x, y, classes = data.x.clone(), data.y.clone(), list(data.classes)
    if change == "pixel":
        x[0, 0, 0, 0] ^= 1
    elif change == "label":
        y[0] = 1
    else:
        classes[0] = "other"
    assert Images.from_arrays(x, y, classes).sha256() != data.sha256()


def test_the_hash_covers_the_shape():
    flat = np.zeros((2, 1, 4, 2), np.uint8)
    assert Images.from_arrays(flat, [0, 1]).sha256() != Images.from_arrays(flat.reshape(2, 1, 2, 4), [0, 1]).sha256()


def test_the_hash_does_not_depend_on_memory_layout():
    data = some_images()
    strided = Images(data.x.to(memory_format=torch.channels_last), data.y, data.classes, data.index, name=data.name)
    assert strided.sha256() == data.sha256()


def test_the_hash_of_files_covers_their_contents(image_files):
    before = image_files.sha256()
    image_files.paths[2].write_bytes(image_files.paths[1].read_bytes())
    assert image_files.sha256() != before


def test_the_hash_of_files_covers_the_crop(image_files):
    other = ImageFiles(image_files.paths, image_files.y, image_files.classes, image_files.index, (7, 7), 10)
    assert other.sha256() != image_files.sha256()


def test_hashing_names_a_file_that_went_away(image_files):
    image_files.paths[3].unlink()
    with pytest.raises(InputError, match=r"3\.png cannot be read"):
        image_files.sha256()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 1, 2, 2)}, "uint8"),
        ({"x": torch.zeros(3, 2, 2, dtype=torch.uint8)}, "N, C, H, W"),
        ({"y": torch.tensor([0, 1])}, "3 images but labels of shape"),
        ({"y": torch.tensor([0, 1, 0], dtype=torch.int32)}, "int64"),
        ({"y": torch.tensor([0, 1, 2])}, r"Label 2 of image 12 is outside 0 … 1"),
        ({"y": torch.tensor([0, -1, 0])}, r"Label -1 of image 11 is outside"),
        ({"index": torch.arange(2)}, "3 images but indices of shape"),
        ({"classes": ("cat", "cat")}, "'cat' occurs twice"),
        ({"groups": {"animals": ("cat", "cow")}}, "'cow', which is no class"),
    ],
)
def test_the_constructor_refuses_what_does_not_fit(change, message):
    parts = {
        "x": torch.zeros(3, 1, 2, 2, dtype=torch.uint8),
        "y": torch.tensor([0, 1, 0]),
        "classes": ("cat", "dog"),
        "index": torch.arange(10, 13),
    }
    Images(**parts)
    with pytest.raises(InputError, match=message):
        Images(**{**parts, **change})


def test_moving_to_a_device_keeps_everything():
    data = some_images()
    moved = data.to("cpu")
    assert torch.equal(moved.x, data.x)
    assert (moved.name, moved.classes, moved.split) == (data.name, data.classes, data.split)


def test_bytes_are_shared_not_copied():
    x = np.zeros((2, 3, 4, 4), np.uint8)
    assert np.shares_memory(Images.from_arrays(x, [0, 1]).x.numpy(), x)


def test_read_only_arrays_are_accepted():
    x = np.zeros((2, 3, 4, 4), np.uint8)
    x.flags.writeable = False
    assert Images.from_arrays(x, [0, 1]).shape == (3, 4, 4)


def test_notes_are_joined():
    x = np.full((1, 4, 4), 0.5, np.float32)
    assert Images.from_arrays(x, [0], note="sharpened").note == "sharpened; floats rounded to 8 bits"


def test_files_are_resized_and_cropped_as_torchvision_does(image_files):
    from torchvision import transforms

    usual = transforms.Compose([transforms.Resize(10), transforms.CenterCrop(8), transforms.ToTensor()])
    with Image.open(image_files.paths[4]) as image:
        expected = usual(image)
    assert torch.equal(image_files.fetch(torch.tensor([4]))[0], expected)


def test_files_say_how_they_were_resized(image_files):
    assert image_files.note == "shorter side resized to 10 pixels (bilinear, antialiased), centre crop 8x8"


def test_files_read_into_memory_are_the_same_images(image_files):
    data = image_files.read()
    assert torch.equal(data.fetch(torch.arange(6)), image_files.fetch(torch.arange(6)))
    assert (data.note, data.name, data.split) == (image_files.note, "folder", "test")
    assert torch.equal(data.index, image_files.index)


def test_grey_files_keep_one_channel(image_files):
    grey = ImageFiles(image_files.paths, image_files.y, image_files.classes, image_files.index, (8, 8), 10, channels=1)
    assert grey.fetch(torch.arange(2)).shape == (2, 1, 8, 8)


def test_a_broken_file_is_named(image_files):
    image_files.paths[1].write_bytes(image_files.paths[1].read_bytes()[:50])
    with pytest.raises(InputError, match=r"1\.png cannot be read as an image"):
        image_files.fetch(torch.arange(3))


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif"])
@given(damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_file_decodes_or_is_an_input_error(damage, kind, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / f"a.{kind}"
    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    for position, value in damage:
        content[position % len(content)] = value
    path.write_bytes(content)
    data = ImageFiles((path,), torch.tensor([0]), ("cat",), torch.arange(1), (20, 30), None)
    with contextlib.suppress(InputError):
        assert data.fetch(torch.tensor([0])).shape == (1, 3, 20, 30)


def test_files_of_16_bits_are_refused(image_files):
    Image.fromarray(np.zeros((30, 30), np.uint16)).save(image_files.paths[0])
    with pytest.raises(InputError, match=r"0\.png has more than 8 bits"):
        image_files.fetch(torch.tensor([0]))


def test_a_mask_is_not_taken_for_positions(any_set):
    mask = torch.tensor([True, False, True, False, False, False])
    for use in (any_set.fetch, any_set.subset):
        with pytest.raises(TypeError, match="mask"):
            use(mask)


def test_without_a_resize_other_sizes_are_refused(image_files):
    fixed = ImageFiles(image_files.paths, image_files.y, image_files.classes, image_files.index, (20, 30), None)
    assert fixed.note == ""
    assert fixed.fetch(torch.tensor([0])).shape == (1, 3, 20, 30)
    with pytest.raises(InputError, match=r"1\.png is 21x30 where 20x30"):
        fixed.fetch(torch.tensor([1]))


def test_a_crop_larger_than_the_image_is_refused(image_files):
    with pytest.raises(InputError, match="crop of 12x12"):
        ImageFiles(image_files.paths, image_files.y, image_files.classes, image_files.index, (12, 12), 10)


@pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
def test_batches_put_together_are_the_whole_set(any_set, batch_size):
    parts = list(batches(any_set, batch_size))
    positions, x, y = (torch.cat(column) for column in zip(*parts, strict=True))
    assert positions.tolist() == list(range(6))
    assert torch.equal(x, any_set.fetch(torch.arange(6)))
    assert torch.equal(y, any_set.y)
    assert max(len(part[0]) for part in parts) <= batch_size


def test_batches_follow_the_given_positions(any_set):
    where = torch.tensor([5, 0, 3])
    parts = list(batches(any_set, 2, positions=where))
    assert torch.equal(torch.cat([part[0] for part in parts]), where)
    assert torch.equal(torch.cat([part[1] for part in parts]), any_set.fetch(where))


def test_the_next_batch_is_loaded_while_the_caller_works():
    data = some_images(4)
    loaded, fetch = threading.Event(), data.fetch

    def spy(positions):
        if positions[0] == 2:
            assert threading.current_thread() is not threading.main_thread()
            loaded.set()
        return fetch(positions)

    object.__setattr__(data, "fetch", spy)
    stream = batches(data, 2)
    next(stream)
    assert loaded.wait(5)


def test_a_caller_may_stop_early(any_set):
    before = threading.active_count()
    stream = batches(any_set, 2)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_an_unreadable_file_stops_the_batches(image_files):
    image_files.paths[5].unlink()
    with pytest.raises(InputError, match=r"5\.png"):
        list(batches(image_files, 2))


def test_a_batch_size_of_zero_is_refused_at_once():
    with pytest.raises(InputError, match="batch size is 0"):
        batches(some_images(), 0)
