"""Augmentation of batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classwise.data import AUGMENTS, augmentation, random_crop, random_flip
from classwise.errors import InputError
from classwise.noise import Noise

COUNT = 32
X = torch.randint(0, 256, (COUNT, 3, 10, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def noise_of(index: torch.Tensor, seed: int = 0, epoch: int = 0) -> Noise:
    return Noise(seed, index).fold("augment", epoch)


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_shape_and_type_stay(name, kind):
    x = X.to(kind)
    changed = augmentation(name)(x, noise_of(torch.arange(COUNT)))
    assert (changed.shape, changed.dtype, changed.is_contiguous()) == (x.shape, kind, True)


@pytest.mark.parametrize("name", AUGMENTS)
@given(order=st.permutations(range(COUNT)), size=st.integers(1, COUNT))
def test_an_image_is_augmented_alike_in_any_batch(name, order, size):
    chosen = torch.tensor(order[:size])
    whole = augmentation(name)(X, noise_of(torch.arange(COUNT)))
    part = augmentation(name)(X[chosen], noise_of(chosen))
    assert torch.equal(part, whole[chosen])


@pytest.mark.parametrize("name", ["crop", "crop-flip"])
@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_seed_and_epoch_change_the_augmentation(name, change):
    index = torch.arange(COUNT)
    first, second = (augmentation(name)(X, noise_of(index, **settings)) for settings in ({}, change))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", AUGMENTS)
def test_the_global_generator_plays_no_part(name):
    before = torch.get_rng_state()
    first = augmentation(name)(X, noise_of(torch.arange(COUNT)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(augmentation(name)(X, noise_of(torch.arange(COUNT))), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", AUGMENTS)
def test_the_input_is_not_written_to(name):
    x = X.clone()
    augmentation(name)(x, noise_of(torch.arange(COUNT)))
    assert torch.equal(x, X)


def test_none_changes_nothing():
    assert torch.equal(augmentation("none")(X, noise_of(torch.arange(COUNT))), X)


def shifts(x: torch.Tensor, crops: torch.Tensor, padding: int) -> list[tuple[int, int]]:
    """Find the offset of every crop by trying them all."""
    height, width = x.shape[2:]
    padded = torch.nn.functional.pad(x, [padding] * 4)
    offsets = [(i, j) for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    return [
        next((i, j) for i, j in offsets if torch.equal(image[:, i : i + height, j : j + width], crop))
        for image, crop in zip(padded, crops, strict=True)
    ]


def test_a_crop_is_a_window_of_the_zero_padded_image():
    found = shifts(X, random_crop(X, noise_of(torch.arange(COUNT)), padding=4), padding=4)
    assert len(set(found)) > COUNT // 2


def test_every_offset_is_equally_likely():
    x = torch.arange(1, 10, dtype=torch.float32).view(1, 1, 3, 3).expand(18000, 1, 3, 3)
    crops = random_crop(x, noise_of(torch.arange(18000)), padding=1)
    # The centre pixel of the crop names the offset; binomial with n = 18000, p = 1/9: 5 sd are 211.
    times = torch.bincount(crops[:, 0, 1, 1].long(), minlength=10)[1:]
    assert (times - 2000).abs().max() < 211


def test_padding_zero_crops_nothing():
    assert torch.equal(random_crop(X, noise_of(torch.arange(COUNT)), padding=0), X)


def test_a_flip_mirrors_about_half_the_images():
    x = X.repeat(100, 1, 1, 1)
    flipped = random_flip(x, noise_of(torch.arange(len(x))))
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    kept = (flipped == x).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    # Binomial with n = 3200, p = 1/2: five standard deviations are 141.
    assert abs(int(mirrored.sum()) - 1600) < 141


def test_crop_flip_is_a_crop_then_a_flip():
    noise = noise_of(torch.arange(COUNT))
    assert torch.equal(augmentation("crop-flip")(X, noise), random_flip(random_crop(X, noise), noise))


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(InputError, match="did you mean 'crop-flip'"):
        augmentation("crop_flip")
