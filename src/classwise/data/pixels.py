"""Turn arrays that a user has into pixels and labels, or say what is wrong with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classwise.errors import InputError

_MOST_CLASSES = 1_000_000
_MOST_GAPS = 32  # numbers without images for each class that has some
START_AT_1 = "classes are numbered from 0, so subtract 1, as arrays(first_label=1) does"


def pixels_of(x: NDArray[Any] | Tensor) -> tuple[Tensor, str]:
    """Return images as (N, C, H, W) uint8, and a note if that rounded anything.

    Raises:
        InputError: floats outside [0, 1], bytes or floats that are all but black, or another type or shape.
    """
    array, note = _numpy(x), ""
    if array.dtype.kind == "f":
        array, note = _bytes_of_floats(array)
    elif array.dtype != np.uint8:
        raise InputError(f"Images of type {array.dtype} are not understood; give uint8 in 0 … 255 or floats in [0, 1].")
    elif array.size and array.max() == 1:
        raise InputError(
            "Images are bytes that are all 0 or 1, as if floats in [0, 1] had been cut to whole numbers; give the "
            "floats, or multiply black and white by 255."
        )
    return torch.from_numpy(np.require(_channels_first(array), requirements=["C", "W"])), note


def _bytes_of_floats(array: NDArray[Any]) -> tuple[NDArray[Any], str]:
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise InputError(f"Images must be floats in [0, 1], but {_reading(low, high)}.")
    if 0 < high <= 1.001 / 255:
        raise InputError(f"Images run from 0 to {high:.4g}, as if they had been divided by 255 twice; give [0, 1].")
    scaled = np.multiply(array, 255, dtype=np.float32)
    rounded = np.rint(scaled)
    # Half precision holds k/255 to within 0.062 of a step.
    exact = np.all(np.abs(scaled - rounded) < (0.07 if array.dtype == np.float16 else 1e-3))
    return rounded.clip(0, 255).astype(np.uint8), "" if exact else "floats rounded to 8 bits"


def _reading(low: float, high: float) -> str:
    """Guess what floats from ``low`` to ``high`` mean and say what to do."""
    if not np.isfinite(low + high):
        return "some are NaN or infinite: remove those images"
    if low < -1e-6:
        what = "they look already normalised; undo that and put the normalisation inside the model"
    elif high <= 255:
        what = "they look like 0 … 255 in float; divide by 255 or convert to uint8"
    else:
        what = "that is no known pixel scale; rescale them"
    return f"these run from {low:.4g} to {high:.4g}: {what}"


def _channels_first(array: NDArray[Any]) -> NDArray[Any]:
    if not all(array.shape[1:]):
        raise InputError(f"Images of shape {array.shape} have no pixels; give images of at least 1x1.")
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    raise InputError(
        f"Images of shape {array.shape} are not understood; give (N, C, H, W), (N, H, W, C) or (N, H, W) "
        "with 1 or 3 channels."
    )


def labels_of(y: NDArray[Any] | Tensor) -> Tensor:
    """Return labels (N,) or (N, 1) of any integer type as (N,) int64.

    Raises:
        InputError: they are no integers, or several a image, as one-hot and multi-label data have them.
    """
    array = _numpy(y)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.shape[1] > 1:
        raise InputError(_matrix(array))
    if array.ndim != 1:
        raise InputError(f"Labels have {array.ndim} dimensions; give one class number an image, of shape (N,).")
    if array.dtype.kind not in "iu":
        raise InputError(f"Labels must be integers, but are {array.dtype}; number the classes from 0.")
    if array.dtype == np.uint64 and array.size and array.max() >= 2**63:
        raise InputError(f"Label {array.max()} is too large for a class number; number the classes from 0.")
    return torch.from_numpy(np.array(array, dtype=np.int64))


def _matrix(array: NDArray[Any]) -> str:
    """Say what is wrong with labels that are a matrix."""
    shape = f"Labels have the shape {array.shape[0]}x{array.shape[1]}"
    if array.dtype.kind in "iufb" and np.isin(array, (0, 1)).all():
        if (array.sum(1) == 1).all():
            return f"{shape}, one-hot; give the number of each image's class, labels.argmax(1)."
        return f"{shape} with several or no classes an image, multi-label; give data with one class an image."
    return f"{shape}; give one class number an image."


def class_numbers(labels: Tensor) -> tuple[str, ...]:
    """Name the classes "0", "1", … up to the largest label.

    Raises:
        InputError: there are no labels, they start at 1, or they are no class numbers.
    """
    if not labels.numel():
        raise InputError("There are no images; give at least one, or the names of the classes.")
    smallest, largest = int(labels.min()), int(labels.max())
    if largest >= _MOST_CLASSES or largest >= _MOST_GAPS * max(_MOST_GAPS, len(set(labels.tolist()))):
        raise InputError(f"Label {largest} is too large for a class number; number the classes from 0.")
    if smallest == 1:
        raise InputError(
            f"Labels run from 1 to {largest}, and no image has label 0: {START_AT_1}, or name all classes if the first "
            "has no images."
        )
    return tuple(str(number) for number in range(largest + 1))


def _numpy(values: NDArray[Any] | Tensor) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)
