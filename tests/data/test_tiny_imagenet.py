"""Tiny-ImageNet as its archive unpacks, by name and as a folder."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from classwise.data import Images, default_threat, load
from classwise.errors import InputError

RNG = np.random.default_rng(0)
WNIDS = ("n02124075", "n01443537", "n04067472")  # wnids.txt is not sorted
WORDS = {"n02124075": "Egyptian cat", "n01443537": "goldfish, Carassius auratus", "n04067472": "reel"}


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS:
        for number in range(2):
            draw(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
    rows = []
    for number, wnid in enumerate((WNIDS[1], WNIDS[0], WNIDS[2], WNIDS[0])):
        draw(root / "val" / "images" / f"val_{number}.JPEG")
        rows.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    draw(root / "test" / "images" / "test_0.JPEG")
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    return root


@pytest.mark.parametrize("inside", [True, False])
def test_by_name_classes_have_words_and_the_order_of_their_ids(tiny, inside):
    data = load("tiny-imagenet", tiny if inside else tiny.parent, split="val")
    assert isinstance(data, Images)
    assert (data.classes, data.shape, data.name) == (("goldfish", "Egyptian cat", "reel"), (3, 64, 64), "tiny-imagenet")
    assert data.y.tolist() == [0, 1, 2, 1]
    assert "not of order='wnids.txt'" in data.note


def test_the_order_of_wnids_can_be_taken(tiny):
    data = load("tiny-imagenet(order='wnids.txt')", tiny, split="val")
    assert (data.classes[0], data.y.tolist()) == ("Egyptian cat", [1, 0, 2, 0])


@pytest.mark.parametrize("name", ["tiny-imagenet", "folder"])
def test_training_images_lie_in_folders_of_their_own(tiny, name):
    data = load(name, tiny, split="train")
    assert (len(data), data.y.tolist(), data.shape) == (6, [0, 0, 1, 1, 2, 2], (3, 64, 64))


def test_as_a_folder_the_table_gives_the_labels(tiny):
    data = load("folder", tiny, split="val")
    assert (data.classes, data.y.tolist()) == (tuple(sorted(WNIDS)), [0, 1, 2, 1])


@pytest.mark.parametrize("name", ["tiny-imagenet", "folder"])
def test_test_images_have_no_labels_and_validation_images_stand_for_them(tiny, name):
    data = load(name, tiny)
    assert (data.split, len(data)) == ("val", 4)
    assert "test pictures have no labels, so those of val stand for them" in data.note


def test_without_its_table_val_is_refused(tiny):
    (tiny / "val" / "val_annotations.txt").unlink()
    with pytest.raises(InputError, match="val holds pictures but no class folders, so their labels are not known"):
        load("folder", tiny, split="val")


def test_classes_of_the_table_that_train_lacks_are_refused(tiny):
    table = tiny / "val" / "val_annotations.txt"
    table.write_text(table.read_text().replace("n04067472", "n09999999"))
    with pytest.raises(InputError, match="val has the class 'n09999999', which train does not have"):
        load("tiny-imagenet", tiny, split="val")


def test_pictures_and_table_must_agree(tiny):
    (tiny / "val" / "images" / "val_0.JPEG").rename(tiny / "val" / "images" / "val_9.JPEG")
    with pytest.raises(InputError, match=r"val_0\.JPEG is missing, with 0 others"):
        load("folder", tiny, split="val")
    draw(tiny / "val" / "images" / "val_0.JPEG")
    with pytest.raises(InputError, match=r"val_9\.JPEG is not in val_annotations\.txt"):
        load("folder", tiny, split="val")


def test_another_folder_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"tiny-imagenet is not in .*: there must be tiny-imagenet-200/"):
        load("tiny-imagenet", tmp_path)


def test_its_usual_radius_is_that_of_cifar():
    assert str(default_threat("tiny-imagenet")) == "Linf 8/255"


def test_other_spellings_of_its_folders_are_understood(tiny):
    (tiny / "val").rename(tiny / "validation")
    tiny.rename(tiny.parent / "Tiny-ImageNet-200")
    assert load("tiny-imagenet", tiny.parent, split="val").y.tolist() == [0, 1, 2, 1]


def test_a_table_that_is_missing_is_named(tiny):
    (tiny / "val" / "val_annotations.txt").rename(tiny / "val" / "annotations.txt")
    with pytest.raises(InputError, match=r"val has no val_annotations\.txt, which tells the classes"):
        load("tiny-imagenet", tiny)
