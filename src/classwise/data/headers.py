"""What the headers of image files say: size, colours, and what a decoder passes over in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from classwise.data.images import opened
from classwise.errors import InputError

_GREY = ("1", "L")
_ORIENTATION = 0x0112  # the EXIF tag
_LOOK = 1000  # files that tell a set of many sizes from one of a single size
_READERS = 8
_SMALL = 224  # pictures below are meant to keep their size


@dataclass(frozen=True)
class Header:
    """Size (H, W), channels (3, or 1 of a grey picture) and, in words, what decoding drops."""

    size: tuple[int, int]
    channels: int
    dropped: tuple[str, ...]


def headers(paths: Sequence[Path]) -> list[Header]:
    """Read the headers of image files; of a set of many sizes only a thousand, evenly spread.

    Raises:
        InputError: a file is no image, or has more than 8 bits a channel.
    """
    few = paths[:: max(1, len(paths) // _LOOK)]
    with ThreadPoolExecutor(_READERS) as pool:
        sample = list(pool.map(header, few))
        sizes = Counter(header.size for header in sample)
        if 2 * max(sizes.values()) < len(sample):
            return sample
        return sample if len(few) == len(paths) else list(pool.map(header, paths))


def header(path: Path) -> Header:
    """Read the header of one image file.

    Raises:
        InputError: it is no image, or has more than 8 bits a channel.
    """
    with opened(path) as image:
        grey = image.mode in _GREY
        return Header((image.height, image.width), 1 if grey else 3, tuple(_dropped(image)))


def common_size(paths: Sequence[Path], file_headers: Sequence[Header]) -> tuple[int, int] | None:
    """Return the size of all pictures, None where they have many.

    Raises:
        InputError: nearly all, or most of a small size, have one, so that the others are there by mistake.
    """
    counts = Counter(header.size for header in file_headers)
    size, most = counts.most_common(1)[0]
    if len(counts) == 1:
        return size
    if len(file_headers) == len(paths) and (
        10 * most >= 9 * len(file_headers) or (2 * most > len(file_headers) and max(size) < _SMALL)
    ):
        odd = [(path, header.size) for path, header in zip(paths, file_headers, strict=True) if header.size != size]
        (path, other), more = odd[0], len(odd) - 1
        raise InputError(
            f"{path} is {_by(other)}{f', and {more} more differ,' if more else ''} where {most:,} of {len(paths):,} "
            f"pictures are {_by(size)}; remove the odd ones, or scale all, as in folder(resize={min(size)}, "
            f"crop={min(size)})."
        )
    return None


def remarks(paths: Sequence[Path], file_headers: Sequence[Header], root: Path) -> Iterator[str]:
    """Say what decoding drops, how often and where first; paths are named from ``root`` on."""
    if len(file_headers) != len(paths):
        return
    odd: dict[str, list[Path]] = {}
    for path, header in zip(paths, file_headers, strict=True):
        for what in header.dropped:
            odd.setdefault(what, []).append(path)
    for what, where in odd.items():
        name = where[0].relative_to(root) if where[0].is_relative_to(root) else where[0].name
        yield f"{what} in {len(where):,} of {len(paths):,} pictures, such as {name}"


def _dropped(image: Image.Image) -> Iterator[str]:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        yield "transparency left out"
    if image.mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        yield f"{image.mode} converted to RGB"
    if "exif" in image.info and image.getexif().get(_ORIENTATION, 1) not in (None, 1):
        yield "EXIF rotation not applied, as in torchvision,"
    if getattr(image, "is_animated", False):
        yield "first of several frames taken"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
