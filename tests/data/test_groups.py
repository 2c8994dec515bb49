"""Superclasses."""

from __future__ import annotations

import pytest

from classwise.data import GROUPS

# Superclass of each class of CIFAR-100 in the order of its labels, as published with the data set.
# fmt: off
COARSE = [
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10,
    12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
    12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14,
    13,
]
# fmt: on


@pytest.mark.parametrize(("name", "supers", "classes"), [("cifar10", 2, 10), ("stl10", 2, 10), ("cifar100", 20, 100)])
def test_the_groups_cover_every_class_once(name, supers, classes):
    members = [name for group in GROUPS[name].values() for name in group]
    assert len(GROUPS[name]) == supers
    assert len(set(members)) == len(members) == classes


def test_the_superclasses_of_cifar100_are_the_official_ones():
    classes = sorted(name for group in GROUPS["cifar100"].values() for name in group)
    supers = list(GROUPS["cifar100"])
    assert supers == sorted(supers)
    assert [next(k for k, s in enumerate(supers) if name in GROUPS["cifar100"][s]) for name in classes] == COARSE


def test_every_superclass_of_cifar100_has_five_classes():
    assert {len(group) for group in GROUPS["cifar100"].values()} == {5}


def test_the_groups_cannot_be_written_to():
    with pytest.raises(TypeError):
        GROUPS["mnist"] = {}  # type: ignore[index]
