"""What happened to every image: the one container that every number of a report derives from."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classwise.errors import InputError
from classwise.files import npy
from classwise.files.writing import write_bytes

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

INVALID = -1
CLEAN = "clean"
WORST_CASE = "worst_case"

# Everything that reading an archive of arrays raises when the file is cut off, altered or something else.
_DAMAGE = (ValueError, KeyError)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The verdict on every image, clean and under each attack (docs/metrics.md).

    A *view* is "clean", the name of an attack, or "worst_case": right on the clean image and under every
    attack. Views and classes are never keys of the same table, so a class may be called "clean".

    Attributes:
        classes: names of the C classes; nothing is looked up by them.
        index: position of each image in its official split, (N,) int64.
        y: labels, (N,) int64 in 0 … C − 1.
        clean: predicted class on the clean image, (N,) int64; INVALID (−1) where the logits are not finite.
        predictions: for each attack, in attack order, the prediction on its verified candidate, (N,) int64: y
            where the image survived, the clean prediction where the clean image is wrong already.
        margins: for "clean" and each attack, largest wrong logit minus true logit on that image, (N,) float32;
            views may be missing.
        distances: for each attack, the candidate's distance from the image, (N,) float32; attacks may be missing.
        stages: for attacks of several stages, the name of the stage that broke each image, (N,) str; "" where none.

    Raises:
        InputError: arrays of different length, labels out of range, an attack with a reserved name, or a
            prediction under attack that contradicts a wrong clean one.

    Example:
        >>> outcomes = Outcomes(("cat", "dog"), index=[0, 1, 2], y=[0, 0, 1], clean=[0, 0, 0],
        ...                     predictions={"pgd": [0, 1, 0]}, margins={}, distances={})
        >>> outcomes.accuracy("clean").tolist(), outcomes.accuracy("worst_case").tolist()
        ([1.0, 0.0], [0.5, 0.0])
        >>> outcomes.broken_by().tolist()
        ['', 'pgd', 'clean']
    """

    classes: tuple[str, ...]
    index: Ints
    y: Ints
    clean: Ints
    predictions: Mapping[str, Ints]
    margins: Mapping[str, NDArray[np.float32]]
    distances: Mapping[str, NDArray[np.float32]]
    stages: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_names(self.classes, tuple(self.predictions), tuple(self.margins), (*self.distances, *self.stages))
        size, top = len(np.atleast_1d(np.asarray(self.y))), len(self.classes)
        predictions = {
            name: _integers(f"predictions under {name!r}", values, size, INVALID, top)
            for name, values in self.predictions.items()
        }
        fields = {
            "classes": tuple(self.classes),
            "index": _integers("index", self.index, size, 0, None),
            "y": _integers("labels", self.y, size, 0, top),
            "clean": _integers("clean predictions", self.clean, size, INVALID, top),
            "predictions": predictions,
            "margins": _reals("margins", self.margins, size),
            "distances": _reals("distances", self.distances, size),
            "stages": _words("stages", self.stages, size),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check_wrong_stays_wrong()

    def _check_wrong_stays_wrong(self) -> None:
        wrong = self.clean != self.y
        for name, prediction in self.predictions.items():
            if not np.array_equal(prediction[wrong], self.clean[wrong]):
                raise InputError(
                    f"The predictions under {name!r} differ from the clean ones on images that are wrong already; "
                    "put the clean prediction there, since a wrong image is not attacked."
                )

    def __len__(self) -> int:
        return len(self.y)

    @property
    def num_classes(self) -> int:
        """Number of classes C, with or without images."""
        return len(self.classes)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order they were run."""
        return tuple(self.predictions)

    @property
    def views(self) -> tuple[str, ...]:
        """Everything that `correct` and its kin take: "clean", the attacks, "worst_case"."""
        return (CLEAN, *self.predictions, WORST_CASE)

    @property
    def n(self) -> Ints:
        """Number of images in each class, (C,)."""
        return self._count(self.y)

    def correct(self, view: str = WORST_CASE) -> NDArray[np.bool_]:
        """Tell which images are right in a view, (N,).

        Raises:
            InputError: no such view.
        """
        return np.asarray(self.adversarial_prediction(view) == self.y)

    def counts(self, view: str = WORST_CASE) -> Ints:
        """Count the right images of each class, (C,)."""
        return self._count(self.y[self.correct(view)])

    def accuracy(self, view: str = WORST_CASE) -> Floats:
        """Return the share of right images in each class, (C,); NaN for a class without images, never 0."""
        return divide(self.counts(view), self.n)

    def broken_by(self) -> NDArray[np.str_]:
        """Say what broke each image first, (N,): "clean", the name of an attack, or "" if it is robust."""
        width = max(len(view) for view in self.views)
        result = np.full(len(self), "", dtype=f"<U{width}")
        # Going backwards lets the first attack have the last word.
        for name in reversed(self.attacks):
            result[self.predictions[name] != self.y] = name
        result[self.clean != self.y] = CLEAN
        return result

    def adversarial_prediction(self, view: str = WORST_CASE) -> Ints:
        """Return the prediction that counts in a view, (N,).

        For "worst_case" it is that on the first candidate that broke the image, in attack order, and y for a
        robust image (docs/metrics.md).

        Raises:
            InputError: no such view.
        """
        if view == CLEAN:
            return self.clean
        if view in self.predictions:
            return self.predictions[view]
        if view != WORST_CASE:
            raise InputError(f"There is no view {view!r}; choose one of {', '.join(self.views)}.")
        result = self.y.copy()
        for prediction in [*reversed(list(self.predictions.values())), self.clean]:
            np.copyto(result, prediction, where=prediction != self.y)
        return result

    def confusion(self, view: str = WORST_CASE) -> Ints:
        """Count the images of class i predicted as j, (C, C) [i, j]; invalid predictions are left out."""
        return self._pairs(np.ones(len(self), dtype=bool), view)

    def flow(self, view: str = WORST_CASE) -> Ints:
        """Count the images of class i that are right when clean and predicted as j in the view, (C, C) [i, j].

        The diagonal holds the survivors. Invalid predictions are left out: they flow to no class.
        """
        return self._pairs(self.clean == self.y, view)

    def select(self, positions: ArrayLike) -> Outcomes:
        """Keep the images at some positions, or where a mask is true, in that order."""
        which = np.asarray(positions)
        if which.size == 0:
            which = which.astype(np.int64)

        def pick(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return {name: values[which] for name, values in arrays.items()}

        return replace(
            self,
            index=self.index[which],
            y=self.y[which],
            clean=self.clean[which],
            predictions=pick(self.predictions),
            margins=pick(self.margins),
            distances=pick(self.distances),
            stages=pick(self.stages),
        )

    def extended(self, later: Outcomes) -> Outcomes:
        """Add the attacks of ``later``, which were run on the same images.

        Raises:
            InputError: other images, classes or clean predictions, or an attack that is there already.
        """
        same = all(np.array_equal(getattr(self, name), getattr(later, name)) for name in ("index", "y", "clean"))
        if not same or self.classes != later.classes or set(self.attacks) & set(later.attacks):
            raise InputError("Attacks can be added to outcomes only if they were run on the same images and are new.")
        return replace(
            self,
            predictions={**self.predictions, **later.predictions},
            margins={**self.margins, **later.margins},
            distances={**self.distances, **later.distances},
            stages={**self.stages, **later.stages},
        )

    def first(self, count: int) -> Outcomes:
        """Keep the first attacks and leave the others out."""
        return self.only(self.attacks[:count])

    def only(self, names: Sequence[str]) -> Outcomes:
        """Keep some attacks, in the order they were run."""

        def pick(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return {name: values for name, values in arrays.items() if name in (CLEAN, *names)}

        return replace(
            self,
            predictions=pick(self.predictions),
            margins=pick(self.margins),
            distances=pick(self.distances),
            stages=pick(self.stages),
        )

    @staticmethod
    def merge(parts: Sequence[Outcomes]) -> Outcomes:
        """Join the outcomes of disjoint shards into one, sorted by `index`.

        Raises:
            InputError: no parts; classes, attacks or recorded views differ; or an image occurs twice, which a
                padded distributed sampler brings about.
        """
        if not parts:
            raise InputError("There are no outcomes to merge; give at least one part.")
        if len({_signature(part) for part in parts}) > 1:
            raise InputError("The parts to merge differ in classes, attacks or records; merge parts of one evaluation.")
        index = np.concatenate([part.index for part in parts])
        order = np.argsort(index, kind="stable")
        if (np.diff(index[order]) == 0).any():
            twice = index[order][1:][np.diff(index[order]) == 0][0]
            raise InputError(f"Image {twice} occurs in more than one part; give each image to one shard.")

        def join(name: str) -> dict[str, NDArray[Any]]:
            keys = getattr(parts[0], name)
            return {key: np.concatenate([getattr(part, name)[key] for part in parts])[order] for key in keys}

        return Outcomes(
            classes=parts[0].classes,
            index=index[order],
            y=np.concatenate([part.y for part in parts])[order],
            clean=np.concatenate([part.clean for part in parts])[order],
            predictions=join("predictions"),
            margins=join("margins"),
            distances=join("distances"),
            stages=join("stages"),
        )

    def save(self, path: Path | str) -> None:
        """Write an .npz archive atomically; it holds plain arrays and opens without pickle.

        Keys: classes, index, y, clean, broken_by, attacks (names, in order), prediction.<attack>,
        margin.<attack>, margin.clean, distance.<attack>, stage.<attack> where there are several.

        Raises:
            InputError: the file cannot be written.
        """
        arrays: dict[str, Any] = {
            "classes": np.array(self.classes, dtype=np.str_),
            "index": self.index,
            "y": self.y,
            "clean": self.clean,
            "broken_by": self.broken_by(),
            "attacks": np.array(self.attacks, dtype=np.str_),
        }
        for key, group in self._groups():
            arrays |= {f"{key}.{name}": values for name, values in group.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_bytes(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> Outcomes:
        """Read what `save` wrote; other keys in the archive are ignored.

        Raises:
            InputError: the file is missing, damaged, or no archive of outcomes.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"Cannot read {path}: {error.strerror or error}; evaluate the model again.") from error
        try:
            return cls._from_arrays(npy.archived(content))
        except InputError as error:
            raise InputError(f"{path} contradicts itself ({error}) Evaluate the model again.") from error
        except _DAMAGE as error:
            raise InputError(f"{path} is damaged or no file of outcomes; evaluate the model again.") from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Outcomes:
        attacks = [str(name) for name in arrays["attacks"]]
        return cls(
            classes=tuple(str(name) for name in arrays["classes"]),
            index=arrays["index"],
            y=arrays["y"],
            clean=arrays["clean"],
            predictions={name: arrays[f"prediction.{name}"] for name in attacks},
            margins={name: arrays[f"margin.{name}"] for name in (CLEAN, *attacks) if f"margin.{name}" in arrays},
            distances={name: arrays[f"distance.{name}"] for name in attacks if f"distance.{name}" in arrays},
            stages={name: arrays[f"stage.{name}"] for name in attacks if f"stage.{name}" in arrays},
        )

    def _groups(self) -> tuple[tuple[str, Mapping[str, NDArray[Any]]], ...]:
        return (
            ("prediction", self.predictions),
            ("margin", self.margins),
            ("distance", self.distances),
            ("stage", self.stages),
        )

    def _count(self, labels: Ints) -> Ints:
        return np.bincount(labels, minlength=self.num_classes).astype(np.int64)

    def _pairs(self, which: NDArray[np.bool_], view: str) -> Ints:
        prediction = self.adversarial_prediction(view)
        which = which & (prediction != INVALID)
        cell = self.y[which] * self.num_classes + prediction[which]
        flat = np.bincount(cell, minlength=self.num_classes**2).astype(np.int64)
        return flat.reshape(self.num_classes, self.num_classes)


def divide(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Divide element by element; NaN, without a warning, where the denominator is 0."""
    below = np.asarray(denominator, dtype=np.float64)
    return np.asarray(numerator, dtype=np.float64) / np.where(below == 0, np.nan, below)


def _signature(outcomes: Outcomes) -> tuple[tuple[str, ...], ...]:
    return (outcomes.classes, *(tuple(group) for _, group in outcomes._groups()))


def _integers(what: str, values: ArrayLike, size: int, low: int, high: int | None) -> Ints:
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" or array.shape != (size,):
        raise InputError(
            f"The {what} have shape {array.shape} and type {array.dtype}; give integers of shape ({size},), "
            "one an image."
        )
    copy = array.astype(np.int64)
    outside = (copy < low) | (copy >= high if high is not None else False)
    if outside.any():
        limits = f"{low} … {high - 1}" if high is not None else f"at least {low}"
        raise InputError(f"The {what} hold {copy[outside][0]}; each must be {limits}.")
    copy.flags.writeable = False
    return copy


def _reals(what: str, arrays: Mapping[str, ArrayLike], size: int) -> dict[str, NDArray[np.float32]]:
    result = {}
    for name, values in arrays.items():
        copy = np.array(values, dtype=np.float32)
        if copy.shape != (size,):
            raise InputError(f"The {what} of {name!r} have shape {copy.shape}; give shape ({size},), one an image.")
        copy.flags.writeable = False
        result[name] = copy
    return result


def _words(what: str, arrays: Mapping[str, ArrayLike], size: int) -> dict[str, NDArray[np.str_]]:
    result = {}
    for name, values in arrays.items():
        copy = np.array(values, dtype=np.str_)
        if copy.shape != (size,):
            raise InputError(f"The {what} of {name!r} have shape {copy.shape}; give shape ({size},), one an image.")
        copy.flags.writeable = False
        result[name] = copy
    return result


def _check_names(
    classes: Sequence[str], attacks: Sequence[str], margins: Sequence[str], distances: Sequence[str]
) -> None:
    if isinstance(classes, str) or not classes:
        raise InputError("The classes must be a tuple of at least one name.")
    for kind, names in (("a class", classes), ("an attack", attacks)):
        for name in names:
            _check_text(kind, name)
    reserved = {CLEAN, WORST_CASE} & set(attacks)
    if reserved:
        raise InputError(f"An attack cannot be called {reserved.pop()!r}, which names a view; choose another name.")
    strangers = (set(margins) - {CLEAN, *attacks}) | (set(distances) - set(attacks))
    if strangers:
        raise InputError(f"Margins or distances are given for {strangers.pop()!r}, which is not among the attacks.")


def _check_text(kind: str, name: object) -> None:
    """Refuse what no file could hold: empty names, NUL, and bytes that are not Unicode (folder names can be)."""
    text = name if isinstance(name, str) else ""
    if not text or "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{name!r} is not a name for {kind}; give text in valid Unicode, without NUL, not empty.")
