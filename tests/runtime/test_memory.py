"""How many images fit: more memory, more images; a larger network, fewer; never none."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from classwise.runtime import memory
from classwise.runtime.memory import batch_that_fits, bytes_saved, free_memory


def wide(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * channels, 2))


X = torch.rand(2, 1, 8, 8)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let the test say how many bytes are free."""
    return monkeypatch


def fitting(patch: pytest.MonkeyPatch, bytes_free: float, model: nn.Module, x: Tensor = X) -> int:
    patch.setattr(memory, "free_memory", lambda device: int(bytes_free))
    return batch_that_fits(model, x)


def test_what_a_pass_keeps_for_its_gradient_is_counted() -> None:
    # ReLU keeps its output, 4 channels of 64 pixels, which the last layer shares; the convolution keeps the image.
    one = bytes_saved(wide(4), X) - bytes_saved(wide(4), X[:1])
    assert one == 4 * (64 + 4 * 64)


def test_what_is_kept_twice_in_one_storage_is_counted_once() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * x * x).flatten(1).sum(1, keepdim=True)

    assert bytes_saved(Twice(), X) - bytes_saved(Twice(), X[:1]) == 4 * 64 * 2  # x and its square


def test_a_model_without_a_graph_keeps_nothing() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)

    assert bytes_saved(Cut(), X) == 0


def test_more_memory_fits_more_images(free: pytest.MonkeyPatch) -> None:
    sizes = [fitting(free, 2.0**power, wide(4)) for power in range(10, 40, 3)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == memory._MOST["cpu"]


def test_a_larger_network_fits_fewer_images(free: pytest.MonkeyPatch) -> None:
    assert 1 < fitting(free, 2**23, wide(64)) < fitting(free, 2**23, wide(4)) < memory._MOST["cpu"]


def test_at_least_one_image_is_tried(free: pytest.MonkeyPatch) -> None:
    assert fitting(free, 0, wide(4)) == 1


def test_the_estimate_leaves_room(free: pytest.MonkeyPatch) -> None:
    size, bytes_free = fitting(free, 2**21, wide(4)), 2**21
    assert size * (4 * (64 + 4 * 64) + 16 * 4 * 64) <= bytes_free / 4


def test_a_set_of_one_image_is_no_trouble(free: pytest.MonkeyPatch) -> None:
    assert 1 <= fitting(free, 2**30, wide(4), X[:1]) <= memory._MOST["cpu"]


def test_the_model_and_the_images_are_left_as_they_were() -> None:
    model, x = wide(4), X.clone()
    with torch.no_grad():
        batch_that_fits(model, x)
    assert x.grad is None
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_this_machine_has_some_memory_left() -> None:
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


def test_without_the_file_of_linux_half_of_the_memory_is_taken_for_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "missing")
    assert free_memory(torch.device("cpu")) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def test_caches_that_the_system_would_give_away_count_as_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable:   70 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    assert free_memory(torch.device("cpu")) == 70 * 1024


FAULTS = """
import resource
import sys
from contextlib import nullcontext

import torch

from classwise.runtime.memory import freed_memory_kept


def pages_mapped(kept: bool) -> int:
    with freed_memory_kept() if kept else nullcontext():
        for number in range(40):
            if number == 20:  # those before settle where pieces go
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            pieces = [torch.ones(2**20) for _ in range(8)]  # 4 MiB each, as feature maps are
            del pieces
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


print(pages_mapped(sys.argv[1] == "kept"))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_memory_that_is_kept_is_not_mapped_again() -> None:
    """Told to give every piece back, glibc does so in one process, and is told otherwise in the other."""
    told = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], env=told, capture_output=True, check=True).stdout)
        for how in ("given back", "kept")
    )
    assert given_back >= 20 * 8 * 1024  # 20 rounds of 8 pieces, each of 1,024 pages of 4 KiB
    assert kept < 1024


def test_memory_is_kept_or_given_back_without_glibc_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    with memory.freed_memory_kept():
        memory.give_back()
