"""Critical eps: by class, the distribution of the smallest radius that was found to break an image.

Every radius is an upper bound: an attack broke the image within it, and a better attack may need less. Nothing here is
certified. Images that are wrong when clean have radius 0; those that nothing broke within the largest radius that was
looked at, ``eps_max``, are censored: all that is known of them is "above eps_max". Quantiles are order statistics, so
that they are right in the presence of both: no average is ever taken with a number that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classwise.errors import InputError
from classwise.files.writing import write_json
from classwise.metrics.intervals import Interval, Intervals, one_tail, simultaneous
from classwise.metrics.outcomes import INVALID, Floats, Ints, Outcomes, divide
from classwise.metrics.result import Result
from classwise.metrics.views import ByClass
from classwise.tolerance import tolerated

CRITICAL_FILE = "critical_eps.json"
ABOVE = "above eps_max"
"""What critical_eps.json says in place of a radius that is censored."""
BOUND = "upper bound: an attack broke the image within it; not certified"
QUANTILES = (0.1, 0.5, 0.9)
_SCHEMA_VERSION = 1
_ABOUT = ("classwise", "model", "data", "threat", "seed", "device", "command", "seconds", "environment", "flags")


class Ranks(NamedTuple):
    """Order statistics, counted from 1, between which a quantile lies; 0 and n + 1 stand for no bound."""

    low: int
    high: int


def quantile(distance: ArrayLike, q: float) -> float:
    """Return the smallest of the distances within which at least a share ``q`` of the images lies.

    The order statistic ⌈q·n⌉: always one of the distances, infinite where that one is censored; NaN without images.

    Args:
        distance: critical eps of each image (N,), infinite where it is censored.
        q: a share in (0, 1].

    Raises:
        InputError: q outside its range.

    Example:
        >>> quantile([0.0, 0.1, 0.2, float("inf")], 0.5), quantile([0.0, float("inf"), float("inf")], 0.5)
        (0.1, inf)
    """
    if not 0 < q <= 1:
        raise InputError(f"The quantile {q} must be a share above 0, as in 0.5.")
    ordered = np.sort(np.asarray(distance, dtype=np.float64))
    # 0.1 * 70 is 7.000000000000001 in floating point, and the ceiling of that is 8.
    return float(ordered[math.ceil(q * len(ordered) - 1e-9) - 1]) if len(ordered) else math.nan


def quantile_ranks(n: int, q: float, confidence: float = 0.95) -> Ranks:
    """Return the ranks of the order statistics that enclose the true quantile, whatever the distribution.

    The number of images of n that lie below the true quantile is Binomial(n, q), or bounded by it on either side where
    several images share a value. So X_(l) ≤ ξ_q ≤ X_(u) with the largest l and the smallest u with
    P(B < l) ≤ a/2 and P(B ≥ u) ≤ a/2 (David & Nagaraja, Order Statistics, 2003, section 7.1).

    Args:
        n: images.
        q: the share of the quantile, in (0, 1).
        confidence: 1 − a.

    Raises:
        InputError: a confidence outside (0, 1).

    Example:
        >>> quantile_ranks(10, 0.5), quantile_ranks(4, 0.5)
        (Ranks(low=2, high=9), Ranks(low=0, high=5))
    """
    tail, k = one_tail(confidence), np.arange(n + 1)
    log = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    mass = np.exp(log[n] - log[k] - log[n - k] + k * math.log(q) + (n - k) * math.log1p(-q))
    below = np.cumsum(mass)  # P(B ≤ k) at k
    above = np.cumsum(mass[::-1])[::-1]  # P(B ≥ k) at k
    return Ranks(int((below <= tail).sum()), int(n + 1 - (above <= tail).sum()))


def quantile_interval(distance: ArrayLike, q: float, confidence: float = 0.95) -> Interval:
    """Return the order-statistic interval of a quantile (:func:`quantile_ranks`).

    The low end is 0 where so few images exclude nothing, the high end infinite; both are NaN without images.
    """
    ordered = np.sort(np.asarray(distance, dtype=np.float64))
    if not len(ordered):
        return Interval(math.nan, math.nan)
    low, high = quantile_ranks(len(ordered), q, confidence)
    whole = np.concatenate([[0.0], ordered, [math.inf]])
    return Interval(float(whole[low]), float(whole[high]))


@dataclass(frozen=True)
class ClassCriticalEps:
    """The critical eps of the images of one class, or of all.

    Attributes:
        name: of the class; "" for all images.
        index: its number, 0 … C − 1; −1 for all images.
        images: how many.
        wrong_clean: images that are wrong when clean, whose critical eps is 0.
        above_eps_max: images that nothing broke within eps_max.
        quantiles: of the critical eps by share, 0.1, 0.5 and 0.9; infinite above eps_max, NaN without images.
        median_interval: of the median; of the classes, simultaneous.
    """

    name: str
    index: int
    images: int
    wrong_clean: int
    above_eps_max: int
    quantiles: Mapping[float, float]
    median_interval: Interval

    @property
    def median(self) -> float:
        """Within it at least half of the images are broken."""
        return self.quantiles[0.5]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as in critical_eps.json."""
        return {
            "n": self.images,
            "wrong_clean": self.wrong_clean,
            "above_eps_max": self.above_eps_max,
            "quantiles": {f"{q:g}": _stored(radius) for q, radius in self.quantiles.items()},
            "median_interval": [_stored(end) for end in self.median_interval],
        }


@dataclass(frozen=True, eq=False)
class CriticalEps:
    """The critical eps of N images, and what follows by class.

    Attributes:
        classes: name of each class.
        index: position of each image in its official split, (N,).
        y: true classes (N,).
        clean: predicted class of the clean image (N,).
        distance: smallest radius found to break the image (N,) in pixel units of [0, 1]: 0 for one that is wrong when
            clean, infinite for one that nothing broke within eps_max.
        eps_max: the largest radius that was looked at.
        about: how it was measured: the header of the evaluation.
        confidence: of the intervals, of all classes together.

    Raises:
        InputError: arrays of different lengths, a label outside the classes, or a distance that cannot be.
    """

    classes: tuple[str, ...]
    index: Ints
    y: Ints
    clean: Ints
    distance: Floats
    eps_max: float
    about: Mapping[str, Any]
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not len(self.index) == len(self.y) == len(self.clean) == len(self.distance):
            raise InputError("Index, labels, clean predictions and distances need one entry an image each.")
        if len(self.y) and not 0 <= self.y.min() <= self.y.max() < len(self.classes):
            raise InputError(f"The labels must be numbers of the {len(self.classes)} classes, from 0.")
        inside = (self.distance >= 0) & ((self.distance <= tolerated(self.eps_max)) | np.isinf(self.distance))
        if not inside.all() or (self.distance[self.clean != self.y] != 0).any():
            raise InputError(
                f"A critical eps lies between 0 and {self.eps_max:g} or is infinite, and is 0 for an image that is "
                "wrong when clean."
            )
        one_tail(self.confidence)

    @classmethod
    def of(cls, result: Result) -> CriticalEps:
        """Read the outcome of an evaluation whose only attack looked for the nearest misclassified images.

        Raises:
            InputError: the evaluation had several attacks.
        """
        outcomes = result.outcomes
        if len(outcomes.attacks) != 1:
            raise InputError("Critical eps are read from an evaluation with one attack, narrowing; give such a folder.")
        eps_max = float(result.header["threat"]["eps"])
        about = {name: result.header.get(name) for name in _ABOUT}
        about["attack"] = result.header["attacks"][outcomes.attacks[0]]["settings"]
        about["unconfirmed"] = int(_unconfirmed(outcomes).sum())
        arrays = (outcomes.index, outcomes.y, outcomes.clean, _distance(outcomes))
        return cls(outcomes.classes, *arrays, eps_max, about, result.confidence)

    @classmethod
    def read(cls, folder: Path | str) -> CriticalEps:
        """Read a folder that ``classwise critical-eps --out`` wrote.

        Raises:
            InputError: the folder is no evaluation, is damaged, or had several attacks.
        """
        return cls.of(Result.read(folder))

    @property
    def n(self) -> Ints:
        """Images of each class, (C,)."""
        return np.bincount(self.y, minlength=len(self.classes))

    @property
    def norm(self) -> str:
        """The norm that distances are measured in."""
        return str(self.about["threat"]["norm"])

    def of_class(self, c: int) -> Floats:
        """Return the critical eps of the images of a class, (n_c,)."""
        return np.asarray(self.distance[self.y == c])

    def quantiles(self, q: float) -> Floats:
        """Return a quantile of each class (:func:`quantile`), (C,)."""
        return np.array([quantile(self.of_class(c), q) for c in range(len(self.classes))])

    @property
    def medians(self) -> Floats:
        """Median of each class: within it at least half of its images are broken, (C,)."""
        return self.quantiles(0.5)

    @property
    def median_intervals(self) -> Intervals:
        """Intervals that hold for the medians of all classes at once (Bonferroni over classes with images)."""
        share = (1 - self.confidence) / max(1, int((self.n > 0).sum()))
        ends = [quantile_interval(self.of_class(c), 0.5, 1 - share) for c in range(len(self.classes))]
        low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
        return Intervals(low, high)

    def right(self, radii: Sequence[float]) -> Ints:
        """Count the images of each class with a critical eps above each radius: right at that radius, (C, R).

        Raises:
            InputError: a radius above eps_max, where nothing is known.
        """
        size = len(self.classes)
        counts = [np.bincount(self.y[self.distance > radius], minlength=size) for radius in self.checked(radii)]
        return np.array(counts, dtype=np.int64).reshape(-1, size).T

    def accuracy(self, radii: Sequence[float]) -> Floats:
        """Return the robust accuracy of each class at each radius, (C, R): an upper bound; NaN without images."""
        return divide(self.right(radii), self.n[:, None])

    def intervals(self, radius: float) -> Intervals:
        """Return simultaneous exact intervals of the class accuracies at one radius, (C,) each."""
        return simultaneous(self.right([radius])[:, 0], self.n, self.confidence)

    def checked(self, radii: Sequence[float]) -> list[float]:
        """Return radii in rising order, each once; by default eighths of eps_max.

        Raises:
            InputError: a radius below 0 or above eps_max.
        """
        return checked_radii(radii, self.eps_max)

    @property
    def order(self) -> Ints:
        """Classes with images, weakest first: by median, then by the mean of the distances, cut at eps_max."""
        present = np.flatnonzero(self.n > 0)
        cut = (np.minimum(np.sort(self.of_class(int(c))), self.eps_max) for c in present)  # sorted: sums round by order
        mean = np.array([values.mean() for values in cut])
        return np.asarray(present[np.lexsort((mean, self.medians[present]))])

    @property
    def weakest(self) -> int | None:
        """The class with the smallest median; None without images."""
        return int(self.order[0]) if len(self.order) else None

    @property
    def may_be_weakest(self) -> list[int]:
        """Classes whose median may be the smallest at this confidence."""
        low, high = self.median_intervals
        return [int(c) for c in self.order if low[c] <= np.nanmin(high)]

    def weakest_at(self, radius: float) -> list[int]:
        """Return the class with the lowest robust accuracy at a radius, or those that tie; none without images."""
        share = self.accuracy([radius])[:, 0]
        return [int(c) for c in np.flatnonzero(share == np.nanmin(share))] if len(self.y) else []

    @cached_property
    def by_class(self) -> ByClass[ClassCriticalEps]:
        """Every class, by number or by name."""
        ends = zip(*(side.tolist() for side in self.median_intervals), strict=True)
        rows = enumerate(zip(self.classes, ends, strict=True))
        return ByClass(tuple(self._summary(name, c, self.y == c, Interval(*pair)) for c, (name, pair) in rows))

    @cached_property
    def overall(self) -> ClassCriticalEps:
        """All images together."""
        everything = np.ones(len(self.y), dtype=bool)
        return self._summary("", INVALID, everything, quantile_interval(self.distance, 0.5, self.confidence))

    def _summary(self, name: str, index: int, which: NDArray[np.bool_], interval: Interval) -> ClassCriticalEps:
        distance = self.distance[which]
        wrong, censored = int((self.clean != self.y)[which].sum()), int(np.isinf(distance).sum())
        quantiles = {q: quantile(distance, q) for q in QUANTILES}
        return ClassCriticalEps(name, index, len(distance), wrong, censored, quantiles, interval)

    def document(self, radii: Sequence[float] = ()) -> dict[str, Any]:
        """Return what critical_eps.json holds: how it was measured, and counts and quantiles of all and by class."""
        valid = self.checked(radii)
        right = self.right(valid)
        entries = [
            {"class": entry.name, **entry.as_dict(), "right": counts}
            for entry, counts in zip(self.by_class, right.tolist(), strict=True)
        ]
        return {
            "schema_version": _SCHEMA_VERSION,
            **self.about,
            "eps_max": self.eps_max,
            "bound": BOUND,
            "confidence": self.confidence,
            "radii": valid,
            "overall": {**self.overall.as_dict(), "right": right.sum(0).tolist()},
            "by_class": entries,
            "weakest": None if self.weakest is None else self.classes[self.weakest],
            "may_be_weakest": [self.classes[c] for c in self.may_be_weakest],
            "weakest_at": [[self.classes[c] for c in self.weakest_at(radius)] for radius in valid],
        }

    def write(self, folder: Path | str, radii: Sequence[float] = ()) -> Path:
        """Write critical_eps.json, atomically, and return its path.

        Raises:
            InputError: a radius outside 0 … eps_max, or a folder that cannot be written.
        """
        path = Path(folder) / CRITICAL_FILE
        write_json(path, self.document(radii))
        return path


def checked_radii(radii: Sequence[float], eps_max: float) -> list[float]:
    """Return radii in rising order, each once; eighths of eps_max if there are none.

    Raises:
        InputError: a radius below 0 or above eps_max.
    """
    for radius in radii:
        if not 0 <= radius <= eps_max:
            raise InputError(
                f"The radius {radius:g} is not between 0 and the largest radius that is looked at, {eps_max:g}; leave "
                "it out, or raise the largest."
            )
    return sorted(set(radii)) or [eps_max * part / 8 for part in range(1, 9)]


def _distance(outcomes: Outcomes) -> Floats:
    """Return the critical eps of each image, (N,)."""
    view = outcomes.attacks[0]
    distance = np.where(outcomes.correct(view), math.inf, outcomes.distances[view].astype(np.float64))
    return np.where(outcomes.clean != outcomes.y, 0.0, distance)


def _unconfirmed(outcomes: Outcomes) -> NDArray[np.bool_]:
    """Tell for which images the attack had a candidate that turned out right when it was run again, (N,)."""
    view = outcomes.attacks[0]
    return np.asarray(outcomes.correct(view) & (outcomes.distances[view] > 0))


def _stored(radius: float) -> float | str | None:
    """Return a radius for JSON: a number, "above eps_max", or None where there are no images."""
    if math.isnan(radius):
        return None
    return ABOVE if math.isinf(radius) else radius
