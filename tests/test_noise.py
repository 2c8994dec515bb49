"""Random numbers as a pure function of seed, image and purpose."""

from __future__ import annotations

import hashlib
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from tests.strategies import examples

from classwise.noise import Noise

MASK = 2**64 - 1
PATHS = st.lists(st.one_of(st.text(max_size=5), st.integers(-3, 10)), max_size=3).map(tuple)
INDICES = st.lists(st.integers(0, 2**40), min_size=1, max_size=6)


def split_mix(state: int) -> tuple[int, int]:
    """Return the next state of SplitMix64 and its number, in Python integers (Steele et al. 2014; Vigna's C code)."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    return state, finalise(state)


def finalise(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def reference(seed: int, path: tuple[str | int, ...], index: int, count: int) -> list[int]:
    """Return the numbers that the first draws of an image must have, as unsigned 64-bit integers."""
    base = int.from_bytes(hashlib.blake2b(repr((seed, path)).encode(), digest_size=8).digest(), "little")
    state = finalise(finalise((index * 0x9E3779B97F4A7C15 + base) & MASK))
    numbers = []
    for _ in range(count):
        state, number = split_mix(state)
        numbers.append(number)
    return numbers


def uniform(n: int, *shape: int, seed: int = 3) -> torch.Tensor:
    return Noise(seed, torch.arange(n)).uniform(shape)


# Which numbers.


def test_the_reference_is_split_mix_64() -> None:
    """The first outputs for seed 1234567, as published for Vigna's splitmix64.c."""
    state, numbers = 1234567, []
    for _ in range(5):
        state, number = split_mix(state)
        numbers.append(number)
    assert numbers == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(0, 2**63), PATHS, INDICES, st.integers(1, 5))
@examples(100)
def test_uniform_numbers_are_the_top_24_bits_of_split_mix_64(
    seed: int, path: tuple[str | int, ...], index: list[int], count: int
) -> None:
    drawn = Noise(seed, torch.tensor(index), path).uniform((count,))
    assert drawn.tolist() == [[bits / 2**64 for bits in top(24, reference(seed, path, i, count))] for i in index]


@given(st.integers(0, 2**63), PATHS, INDICES, st.integers(1, 5))
@examples(100)
def test_normal_numbers_are_box_muller_of_both_halves(
    seed: int, path: tuple[str | int, ...], index: list[int], count: int
) -> None:
    drawn = Noise(seed, torch.tensor(index), path).normal((count,))
    for row, i in zip(drawn.tolist(), index, strict=True):
        assert row == pytest.approx([box_muller(bits) for bits in reference(seed, path, i, count)], rel=1e-6, abs=1e-9)


@given(st.integers(0, 2**63), PATHS, INDICES, st.integers(1, 2**40))
@examples(100)
def test_integers_are_the_top_62_bits_modulo_their_bound(
    seed: int, path: tuple[str | int, ...], index: list[int], high: int
) -> None:
    drawn = Noise(seed, torch.tensor(index), path).integers(high, (2,))
    assert drawn.tolist() == [[(bits >> 2) % high for bits in reference(seed, path, i, 2)] for i in index]


def top(count: int, numbers: list[int]) -> list[int]:
    return [bits >> (64 - count) << (64 - count) for bits in numbers]


def box_muller(bits: int) -> float:
    high, low = bits >> 32, bits & 0xFFFFFFFF
    return math.sqrt(-2 * math.log((high + 1) / 2**32)) * math.cos(2 * math.pi * low / 2**32)


def test_golden_numbers() -> None:
    """Published results depend on these: seed 0, images 0, 1 and 10⁶, purpose "start", by ``reference`` above."""
    noise = Noise(0, torch.tensor([0, 1, 10**6])).fold("start")
    assert (noise.uniform((3,)) * 2**24).int().tolist() == [
        [11723764, 3927635, 13427925],
        [6026156, 12924157, 2758007],
        [14074904, 1326331, 4888912],
    ]
    assert noise.integers(1000, (3,)).tolist() == [[856, 82, 356], [709, 360, 314], [720, 532, 550]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graphics_card_draws_the_same_bits() -> None:
    noise = Noise(1, torch.arange(100))
    assert torch.equal(noise.uniform((50,), "cuda").cpu(), noise.uniform((50,)))
    assert torch.equal(noise.integers(10**9, (50,), "cuda").cpu(), noise.integers(10**9, (50,)))
    torch.testing.assert_close(noise.normal((50,), "cuda").cpu(), noise.normal((50,)))


# What they depend on.


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_the_same_arguments_give_the_same_numbers(draw: str) -> None:
    first, second = (getattr(Noise(1, torch.arange(4), ("a",)), draw)((2, 3)) for _ in range(2))
    assert torch.equal(first, second)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=20))
@examples(60)
def test_an_image_gets_its_numbers_whatever_the_batch(index: list[int]) -> None:
    noise, whole = Noise(5, torch.arange(1000)), Noise(5, torch.tensor(index))
    assert torch.equal(whole.uniform((2, 2)), noise.uniform((2, 2))[index])
    assert torch.equal(whole.normal((3,)), noise.normal((3,))[index])
    assert torch.equal(whole.integers(7, ()), noise.integers(7, ())[index])


@given(st.lists(st.booleans(), min_size=6, max_size=6))
@examples(30)
def test_selected_images_keep_their_numbers(chosen: list[bool]) -> None:
    noise, mask = Noise(5, torch.tensor([9, 3, 7, 3, 0, 1])).fold("x"), torch.tensor(chosen)
    assert torch.equal(noise.select(mask).uniform((3,)), noise.uniform((3,))[mask])
    positions = mask.nonzero().squeeze(1).flip(0)
    assert torch.equal(noise.select(positions).uniform((3,)), noise.uniform((3,))[positions])
    assert noise.select(mask).fold(2).path == ("x", 2)


def test_a_shape_only_arranges_the_numbers() -> None:
    assert torch.equal(uniform(4, 2, 3).flatten(1), uniform(4, 6))


def test_fewer_numbers_are_the_first_of_more() -> None:
    assert torch.equal(uniform(4, 10)[:, :3], uniform(4, 3))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (3, 4, 5)])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_shapes(n: int, shape: tuple[int, ...]) -> None:
    noise = Noise(0, torch.arange(n))
    for numbers in (noise.uniform(shape), noise.normal(shape), noise.integers(5, shape)):
        assert numbers.shape == (n, *shape)


def test_types() -> None:
    noise = Noise(0, torch.arange(3, dtype=torch.int32))
    assert noise.uniform((2,)).dtype == noise.normal((2,)).dtype == torch.float32
    assert noise.integers(3, (2,)).dtype == torch.int64
    assert torch.equal(noise.uniform((2,)), Noise(0, torch.arange(3)).uniform((2,)))


def test_folding_twice_is_folding_both() -> None:
    noise = Noise(0, torch.arange(3))
    assert torch.equal(noise.fold("a", 1).uniform((4,)), noise.fold("a").fold(1).uniform((4,)))


@pytest.mark.parametrize(
    ("path", "other"), [((), ("a",)), (("a", "b"), ("b", "a")), (("ab",), ("a", "b")), ((1,), ("1",)), ((0,), (1,))]
)
def test_another_path_gives_other_numbers(path: tuple[str | int, ...], other: tuple[str | int, ...]) -> None:
    first, second = (Noise(0, torch.arange(8), p).uniform((8,)) for p in (path, other))
    assert (first != second).all()


def test_another_seed_gives_other_numbers() -> None:
    assert (uniform(8, 8, seed=0) != uniform(8, 8, seed=1)).all()


def test_neither_folding_nor_selecting_changes_the_stream_it_came_from() -> None:
    noise = Noise(0, torch.arange(5))
    before = noise.uniform((3,))
    noise.fold("a").uniform((3,))
    noise.select(torch.tensor([1])).uniform((3,))
    assert noise.path == ()
    assert torch.equal(noise.uniform((3,)), before)


def test_no_generator_of_the_process_is_touched() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    noise = Noise(0, torch.arange(5)).fold("a")
    noise.uniform((3,)), noise.normal((3,)), noise.integers(3, (3,))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_no_generator_of_the_process_changes_the_numbers() -> None:
    before = uniform(3, 3)
    with torch.random.fork_rng():
        torch.manual_seed(123)
        assert torch.equal(uniform(3, 3), before)


# How they are distributed. The seeds are fixed, so these tests cannot fail by chance.


def test_uniform_numbers_are_uniform() -> None:
    numbers = uniform(1000, 100).double()
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.001


def test_uniform_numbers_use_all_24_bits() -> None:
    bits = (uniform(1000, 100) * 2**24).int()
    for place in range(24):
        assert ((bits >> place) & 1).float().mean() == pytest.approx(0.5, abs=0.006)


def test_uniform_numbers_stay_below_1() -> None:
    """The largest of the 2²⁴ values is 1 − 2⁻²⁴, which float32 holds exactly."""
    assert float(torch.tensor((2**24 - 1) * 2.0**-24, dtype=torch.float32)) < 1
    assert uniform(10_000, 100).max() < 1


def test_normal_numbers_are_normal() -> None:
    numbers = Noise(3, torch.arange(1000)).normal((100,)).double().flatten()
    assert numbers.isfinite().all()
    moments = [(numbers**k).mean().item() for k in range(1, 5)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.05)
    assert kstest(numbers.numpy(), "norm").pvalue > 0.001


@pytest.mark.parametrize("bits", [0, -1, 2**63 - 1, -(2**63), 2**32 - 1])
def test_no_bits_give_a_number_out_of_range(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    monkeypatch.setattr(Noise, "_bits", lambda *_: torch.tensor([bits]))
    noise = Noise(0, torch.arange(1))
    assert noise.normal(()).isfinite().all()
    assert 0 <= noise.uniform(()) < 1
    assert 0 <= noise.integers(7, ()) < 7


@pytest.mark.parametrize("high", [1, 2, 7, 10])
def test_integers_are_uniform(high: int) -> None:
    numbers = Noise(3, torch.arange(1000)).integers(high, (20,))
    counts = torch.bincount(numbers.flatten(), minlength=high)
    assert len(counts) == high
    assert high == 1 or chisquare(counts.numpy()).pvalue > 0.001


def streams() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    noise, n = Noise(3, torch.arange(300)), 300
    many = noise.uniform((n,))
    return {
        "neighbouring images": (many[:-1], many[1:]),
        "neighbouring pixels": (many[:, :-1], many[:, 1:]),
        "image and pixel exchanged": (many, many.T),
        "an image's next pixel, the next image's first": (many[:-1, 1:], many[1:, :-1]),
        "seeds": (many, Noise(4, torch.arange(300)).uniform((n,))),
        "steps": (noise.fold(1).uniform((n,)), noise.fold(2).uniform((n,))),
        "purposes": (noise.fold("start").uniform((n,)), noise.fold("radius").uniform((n,))),
        "far images": (many, Noise(3, torch.arange(300) + 2**32).uniform((n,))),
    }


@pytest.mark.parametrize("pair", list(streams()))
def test_streams_are_uncorrelated(pair: str) -> None:
    first, second = streams()[pair]
    a, b = first.double().flatten(), second.double().flatten()
    off = ~torch.eye(300, dtype=torch.bool).flatten() if pair == "image and pixel exchanged" else slice(None)
    assert torch.corrcoef(torch.stack([a[off], b[off]]))[0, 1].abs() < 4 / 300


def test_no_two_images_share_their_numbers() -> None:
    numbers = (Noise(0, torch.arange(20_000)).integers(2**62, (4,))).flatten()
    assert len(numbers.unique()) == len(numbers)
