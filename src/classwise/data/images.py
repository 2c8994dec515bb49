"""Labelled images, in memory or in files, behind one protocol."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from classwise import files
from classwise.data.pixels import START_AT_1, class_numbers, labels_of, pixels_of
from classwise.errors import InputError

_DECODERS = min(8, os.cpu_count() or 1)


class ImageSet(Protocol):
    """What evaluation needs of a data set: labels at once, pixels on demand."""

    @property
    def name(self) -> str:
        """Registered name of the data set."""

    @property
    def split(self) -> str:
        """Split the images come from, such as "test"."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class."""

    @property
    def y(self) -> Tensor:
        """Labels (N,) int64."""

    @property
    def index(self) -> Tensor:
        """Position of each image in the whole split (N,) int64; it survives subsetting and seeds the noise."""

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Superclass -> names of its classes; empty where there are none."""

    @property
    def note(self) -> str:
        """What was done to the official images, in words; empty if nothing."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    def __len__(self) -> int: ...

    def fetch(self, positions: Tensor) -> Tensor:
        """Return the images at ``positions`` (n,) int64 as float32 (n, C, H, W) in [0, 1]."""

    def subset(self, positions: Tensor) -> Self:
        """Keep the images at ``positions`` (n,) int64, in that order."""

    def sha256(self) -> str:
        """Return a hash of pixels, labels and class names."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images in memory, one byte a channel.

    Attributes:
        x: images (N, C, H, W) uint8.
        y: labels (N,) int64.
        classes: name of each class.
        index: position of each image in the whole split (N,) int64.
        name: registered name of the data set.
        split: split the images come from.
        groups: superclass -> names of its classes.
        note: what was done to the official images, in words.

    Raises:
        InputError: shapes, types or labels do not fit together.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    index: Tensor
    name: str = "arrays"
    split: str = "test"
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if self.x.dim() != 4 or self.x.dtype != torch.uint8:
            shape, kind = tuple(self.x.shape), self.x.dtype
            raise InputError(f"Images must be (N, C, H, W) of type uint8, but are {shape} of type {kind}.")
        _check_labels(self, len(self.x))

    @classmethod
    def from_arrays(
        cls,
        x: NDArray[Any] | Tensor,
        y: NDArray[Any] | Tensor,
        classes: Iterable[str] | None = None,
        *,
        name: str = "arrays",
        split: str = "test",
        groups: Mapping[str, tuple[str, ...]] | None = None,
        note: str = "",
    ) -> Images:
        """Take images as bytes or as floats in [0, 1], channels first or last or none.

        Bytes that lie channels first are shared, not copied. Floats between two bytes move to the nearer one, which
        the note then says. Where both readings are possible, as for (N, 3, 3, 3), channels come first.

        Args:
            x: (N, C, H, W), (N, H, W, C) or (N, H, W) with 1 or 3 channels; uint8, or floats in [0, 1].
            y: integer labels (N,) or (N, 1).
            classes: name of each class; "0", "1", … up to the largest label if None.
            name: name of the data set.
            split: split the images come from.
            groups: superclass -> names of its classes.
            note: what was done to the images before, in words.

        Raises:
            InputError: floats outside [0, 1], other types or shapes, labels out of range, or lengths that differ.
        """
        pixels, rounded = pixels_of(x)
        labels = labels_of(y)
        return cls(
            x=pixels,
            y=labels,
            classes=class_numbers(labels) if classes is None else tuple(str(name) for name in classes),
            index=torch.arange(len(pixels)),
            name=name,
            split=split,
            groups=groups or {},
            note="; ".join(part for part in (note, rounded) if part),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, positions: Tensor) -> Tensor:
        """Return the images at ``positions`` (n,) int64 as float32 (n, C, H, W) in [0, 1]."""
        return _unit(self.x[_no_mask(positions).to(self.x.device)])

    def subset(self, positions: Tensor) -> Self:
        """Keep the images at ``positions`` (n,) int64, in that order."""
        which = _no_mask(positions).to(self.x.device)
        return replace(self, x=self.x[which], y=self.y[which], index=self.index[which])

    def to(self, device: torch.device | str) -> Self:
        """Move pixels, labels and indices to a device, where training keeps them."""
        return replace(self, x=self.x.to(device), y=self.y.to(device), index=self.index.to(device))

    def sha256(self) -> str:
        """Return a hash of pixels, labels and class names, 64 hexadecimal digits."""
        digest = hashlib.sha256(_frame(self))
        digest.update(self.x.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images in files, decoded when asked for.

    Attributes:
        paths: one file an image.
        y: labels (N,) int64.
        classes: name of each class.
        index: position of each image in the whole split (N,) int64.
        crop: height and width of every image, cut from the centre.
        resize: length of the shorter side before that; None where every file has the size ``crop`` already.
        channels: 3, or 1 to read the files as grey.
        name: registered name of the data set.
        split: split the images come from.
        groups: superclass -> names of its classes.
        remark: what else is to be said of how the files are read, in words.

    Raises:
        InputError: labels do not fit, or the crop is larger than the resized image.
    """

    paths: tuple[Path, ...]
    y: Tensor
    classes: tuple[str, ...]
    index: Tensor
    crop: tuple[int, int] = (224, 224)
    resize: int | None = 256
    channels: int = 3
    name: str = "folder"
    split: str = "test"
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remark: str = ""

    def __post_init__(self) -> None:
        if min(self.crop) < 1 or (self.resize is not None and self.resize < max(self.crop)):
            raise InputError(
                f"A crop of {_size(self.crop)} does not fit into images whose shorter side is resized to "
                f"{self.resize}; choose a positive crop of at most that."
            )
        _check_labels(self, len(self.paths))

    @property
    def note(self) -> str:
        """What was done to the files, in words."""
        if self.resize is None:
            return self.remark
        crop = f"centre crop {_size(self.crop)}"
        scaled = f"shorter side resized to {self.resize} pixels (bilinear, antialiased), {crop}"
        return "; ".join(part for part in (scaled, self.remark) if part)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.channels, *self.crop

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, positions: Tensor) -> Tensor:
        """Return the images at ``positions`` (n,) int64 as float32 (n, C, H, W) in [0, 1].

        Raises:
            InputError: a file is missing or no image.
        """
        return _unit(self._decode([self.paths[position] for position in _no_mask(positions).tolist()]))

    def subset(self, positions: Tensor) -> Self:
        """Keep the images at ``positions`` (n,) int64, in that order."""
        paths = tuple(self.paths[position] for position in _no_mask(positions).tolist())
        return replace(self, paths=paths, y=self.y[positions], index=self.index[positions])

    def sha256(self) -> str:
        """Return a hash of names, sizes and contents of the files, labels and class names.

        It reads every file: about a minute for the ImageNet validation set on a fast disk.
        """
        digest = hashlib.sha256(_frame(self))
        digest.update(json.dumps([self.resize, *self.crop]).encode())
        with ThreadPoolExecutor(_DECODERS) as pool:
            for line in pool.map(_digest_of_file, self.paths):
                digest.update(line.encode())
        return digest.hexdigest()

    def read(self) -> Images:
        """Decode every file into memory.

        Raises:
            InputError: a file is missing or no image.
        """
        return Images(
            x=self._decode(self.paths),
            y=self.y,
            classes=self.classes,
            index=self.index,
            name=self.name,
            split=self.split,
            groups=self.groups,
            note=self.note,
        )

    def _decode(self, paths: Sequence[Path]) -> Tensor:
        x = torch.empty((len(paths), *self.shape), dtype=torch.uint8)
        with ThreadPoolExecutor(_DECODERS) as pool:
            for row, image in zip(x, pool.map(self._decode_one, paths), strict=True):
                row.copy_(image)
        return x

    def _decode_one(self, path: Path) -> Tensor:
        with opened(path) as file:
            image = file.convert("RGB" if self.channels == 3 else "L")
        if self.resize is not None:
            image = _resize_and_crop(image, self.resize, self.crop)
        elif image.size != self.crop[::-1]:
            size = _size(image.size[::-1])
            raise InputError(f"{path} is {size} where {_size(self.crop)} was found before; set a resize.")
        return torch.from_numpy(np.array(image)).view(*self.crop, self.channels).permute(2, 0, 1)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image of 8 bits a channel and close it again.

    Raises:
        InputError: the file is missing, is no image, turns out damaged inside the block, or has more bits.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")) or _deep(image):
                raise InputError(f"{path} has more than 8 bits a channel; convert it to 8 bits.")
            yield image
    except InputError:
        raise
    # A damaged file makes Pillow raise nearly anything, SyntaxError included.
    except Exception as error:
        raise InputError(f"{path} cannot be read as an image; replace or remove it.") from error


def _deep(image: Image.Image) -> bool:
    """Tell whether Pillow would cut 16 bits a channel down to 8, as it does with colours, without a word."""
    return any(re.search(r";16[BLNS]", str(part)) for part in getattr(image, "tile", ()))


def batches(
    data: ImageSet, batch_size: int, device: torch.device | str = "cpu", positions: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (positions, x, y) batch by batch while a background thread loads the next one.

    Args:
        data: images in memory or in files.
        batch_size: images a batch, at least 1; the last batch may be smaller.
        device: where x and y go; positions stay on the CPU.
        positions: which images, (n,) int64, in this order; all if None.

    Returns:
        An iterator of positions (b,), x (b, C, H, W) float32 in [0, 1] and y (b,).

    Raises:
        InputError: the batch size is below 1, or an image file cannot be read.
    """
    refuse_batch_size(batch_size)
    where = torch.arange(len(data)) if positions is None else positions.cpu()
    pieces = [where[start : start + batch_size] for start in range(0, len(where), batch_size)]
    return _prefetched(data, pieces, torch.device(device))


def refuse_batch_size(size: int) -> None:
    """Refuse what is no number of images in a batch.

    Raises:
        InputError: it is below 1, or no index.
    """
    if not 1 <= size < 2**31:
        raise InputError(f"The batch size is {size}, but must be at least 1 and below 2^31.")


def _prefetched(
    data: ImageSet, pieces: Sequence[Tensor], device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    def fetch(piece: Tensor) -> Tensor:
        x = data.fetch(piece)
        return x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x

    with ThreadPoolExecutor(1) as loader:
        coming = [loader.submit(fetch, piece) for piece in pieces[:1]]
        for number, piece in enumerate(pieces):
            x = coming.pop().result()
            coming += [loader.submit(fetch, following) for following in pieces[number + 1 : number + 2]]
            yield piece, x.to(device, non_blocking=True), data.y[piece.to(data.y.device)].to(device)


def _no_mask(positions: Tensor) -> Tensor:
    """Refuse a mask, whose entries would silently be read as positions 0 and 1."""
    if positions.dtype == torch.bool:
        raise TypeError("positions are integers; turn a mask into them with mask.nonzero().flatten()")
    return positions


def _unit(x: Tensor) -> Tensor:
    # CUDA multiplies by the reciprocal of a Python number, which differs in the last bit from the CPU's quotient.
    return x.to(torch.float32).div_(torch.tensor(255.0, device=x.device))


def _check_labels(data: Images | ImageFiles, count: int) -> None:
    y, classes = data.y, data.classes
    for what, values in (("labels", y), ("indices", data.index)):
        if values.shape != (count,) or values.dtype != torch.int64:
            raise InputError(
                f"There are {count} images but {what} of shape {tuple(values.shape)} and type {values.dtype}; "
                "give each image one int64."
            )
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise InputError(f"The class name {twice!r} occurs twice; give each class its own.")
    stray = {name for members in data.groups.values() for name in members}.difference(classes)
    if stray:
        raise InputError(f"The groups name {min(stray)!r}, which is no class; take it out.")
    outside = (y < 0) | (y >= len(classes))
    if outside.any():
        where = int(outside.nonzero()[0])
        from_1 = int(y.min()) == 1 and int(y.max()) == len(classes)
        raise InputError(
            f"Label {int(y[where])} of image {int(data.index[where])} is outside 0 … {len(classes) - 1}: "
            + (f"labels run from 1; {START_AT_1}." if from_1 else f"there are {len(classes)} classes, numbered from 0.")
        )


def _resize_and_crop(image: Image.Image, resize: int, crop: tuple[int, int]) -> Image.Image:
    """Do what the usual ImageNet evaluation does: torchvision's Resize and CenterCrop."""
    from torchvision.transforms import functional

    resized: Image.Image = functional.center_crop(functional.resize(image, resize), list(crop))
    return resized


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _frame(data: Images | ImageFiles) -> bytes:
    """Everything but the pixels that a content hash covers."""
    return json.dumps([len(data), *data.shape, *data.classes]).encode() + data.y.cpu().numpy().tobytes()


def _digest_of_file(path: Path) -> str:
    try:
        return json.dumps([path.name, path.stat().st_size, files.sha256(path)])
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; restore or remove it.") from error
