"""How many images fit into memory at once, and what becomes of memory that is freed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # else only where it is needed: what reads files asks for free memory without it
    import torch
    from torch import Tensor, nn


_GROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_MOST = {"cpu": 256, "cuda": 4096}  # beyond this a larger batch is hardly faster
_SHARE = 0.25  # of the free memory: what a backward pass and an attack hold beside the activations is an estimate
_IMAGES = 16  # copies of an image that an attack keeps: iterates, gradients, bounds
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h, for mallopt
_MIB = 2**20


def batch_that_fits(model: nn.Module, x: Tensor, processes: int = 1) -> int:
    """Return a number of images whose attack fits into the free memory of the device they are on, at least 1.

    Memory of the CPU must not run out, since the system would then end the process; the estimate is for it. On other
    devices the engine halves the batch where the estimate was too high.

    Args:
        model: takes [0, 1], returns logits.
        x: two images (2, C, H, W), the second of which tells what one more image costs; or two batches of the shape
            that the model takes (2n, C, H, W).
        processes: that share the memory; of GPUs each has its own.
    """
    half = max(1, len(x) // 2)
    more = (bytes_saved(model, x) - bytes_saved(model, x[:half])) // half
    one = max(1, more) + _IMAGES * x[0].numel() * x.element_size()
    most = _MOST.get(x.device.type, _MOST["cpu"])
    share = _SHARE if x.device.type == "cuda" else _SHARE / processes
    return max(1, min(most, int(share * free_memory(x.device) / (2 * one))))


def bytes_saved(model: nn.Module, x: Tensor) -> int:
    """Return the bytes that a forward pass of images (N, C, H, W) keeps for its gradient, weights included."""
    import torch

    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(x.detach().clone().requires_grad_(True))  # a slice would count the storage of the whole
    del logits  # so long it kept every storage alive, and no two had the same address
    return sum(saved.values())


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return free_main_memory()


def free_main_memory() -> int:
    """Return the bytes that are free for the CPU."""
    if _MEMINFO.exists():  # Linux: what the system would give away of its caches counts as well
        match = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), flags=re.MULTILINE)
        if match:
            return int(min(int(match[1]) * 1024, _left_to_group()))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _left_to_group() -> int | float:
    """Return what the limit of a container or a job leaves (control groups, version 2); infinity without a limit."""
    try:
        limit, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such files, or "max"
        return float("inf")


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the process keep the memory that it frees on the CPU, for the pass that comes next.

    Otherwise glibc gives large pieces back at once, and every forward and backward pass has the system map and zero
    its feature maps anew: 12 to 35 % of a pass (benchmarks/training/freed_memory.py). No value changes. What is kept
    goes back at the end, or by :func:`give_back`. Only glibc is asked; other allocators do without.
    """
    _ask_glibc("mallopt", _MMAP_THRESHOLD, 32 * _MIB)  # the most it takes
    _ask_glibc("mallopt", _TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        _ask_glibc("mallopt", _TRIM_THRESHOLD, 64 * _MIB)  # where its own rule ends after a piece of 32 MiB
        give_back()


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory has run out."""
    import torch

    texts = ("out of memory", "can't allocate memory")  # CUDA and the CPU's allocator, which has no error of its own
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def give_back() -> None:
    """Give freed memory back to the system, of which the C library keeps pieces of sizes that may not come again.

    Only glibc is asked; other allocators do without.
    """
    _ask_glibc("malloc_trim", 0)


def _ask_glibc(function: str, *numbers: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL("libc.so.6"), function)(*numbers)


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes held so far: by PyTorch on a GPU, by the process on the CPU; None where none can tell."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    # The kernel of macOS counts in bytes, Linux in kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
