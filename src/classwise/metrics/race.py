"""Which class is the worst, with a strong attack on few images: confidence sequences and a stopping rule.

Two questions. Which class is worst *on these images* is what the race answers and stops at; its confidence is about
the images that it did not attack. Which class is worst *of all images that these were drawn from* is another one: even
a race that attacks everything names the wrong class in 7 % of samples of 1,000 images at true rates of 27 and 30 %.
`population_worst` names all classes that it could be.

Two phases. A cheap attack meets every image; what survives it, s_c of the n_c images of class c, bounds the robust
accuracy of each class from above. Then survivors are drawn at random, without replacement, for the strong attack, from
the class that looks worst and from the one that could still be worse, until one class is worst at the confidence asked.

How many survivors b_c the strong attack would break in all is bounded by a confidence sequence, which holds at all
times at once, so looking after every draw costs no confidence: the prior-posterior ratio of a beta-binomial prior on b
(Waudby-Smith & Ramdas 2020, sampling without replacement). With x of m drawn images broken, b stays possible while

    B(a + x, d + m − x)/B(a, d) · [s]_m/([b]_x [s − b]_{m − x}) < C/error,

[k]_i = k(k − 1)…(k − i + 1). The prior, Beta(1, 9) on the share broken, decides the width and never the coverage.
Classes share the error by Bonferroni. The order of draws and the stopping rule are our design.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from classwise.errors import InputError
from classwise.metrics.extremes import could_be_worst
from classwise.metrics.intervals import Intervals
from classwise.metrics.outcomes import Floats, Ints, divide

PRIOR = (1, 9)


@dataclass(frozen=True, eq=False)
class Race:
    """What is known so far; settings and counts, (C,) int64 each.

    Attributes:
        n: images of each class.
        survivors: those that the cheap attack did not break; clean mistakes do not survive.
        sampled: survivors that met the strong attack.
        broken: those of them that it broke.
        confidence: that the class named is the worst of these images, were all attacked; and of `population_worst`.

    Raises:
        InputError: counts that cannot be, or a confidence outside (0, 1).

    Example:
        >>> race = Race.start([100, 100], [60, 20])
        >>> race.draw(8).tolist()
        [8, 8]
        >>> race.after([30, 0], [0, 0]).worst
        [1]
    """

    n: Ints
    survivors: Ints
    sampled: Ints
    broken: Ints
    confidence: float = 0.95

    def __post_init__(self) -> None:
        chain = (self.broken, self.sampled, self.survivors, self.n)
        if any((low > high).any() for low, high in pairwise(chain)) or (self.broken < 0).any():
            raise InputError(
                "Of the images of a class some survive, of these some are sampled, of these some are broken."
            )
        if not 0 < self.confidence < 1:
            raise InputError(f"The confidence is {self.confidence}; it must lie between 0 and 1, as in 0.95.")

    @classmethod
    def start(cls, n: object, survivors: object, confidence: float = 0.95) -> Race:
        """Begin after the cheap attack, when no image has met the strong one."""
        sizes, left = np.asarray(n, dtype=np.int64), np.asarray(survivors, dtype=np.int64)
        return cls(sizes, left, np.zeros_like(left), np.zeros_like(left), confidence)

    @property
    def bounds(self) -> Intervals:
        """Robust accuracy of each class under the strong attack, (C,); all hold at all times at once, NaN if absent."""
        least, most = self._right()
        return Intervals(divide(least, self.n), divide(most, self.n))

    @property
    def worst(self) -> list[int]:
        """Classes that may be the worst of these images; the true one is among them with the confidence asked for."""
        low, high = self.bounds
        return [int(c) for c in np.flatnonzero(low <= np.nanmin(high))] if (self.n > 0).any() else []

    @property
    def population_worst(self) -> list[int]:
        """Classes that may be the worst of the population; the one that is is among them with the confidence asked for.

        Half the error goes to the images that met no strong attack, half to the images being a sample: bounds as above
        at half the error, and `could_be_worst` with each class's least against the others' most right images.
        """
        half = replace(self, confidence=(1 + self.confidence) / 2)
        least, most = half._right()
        return could_be_worst(least, self.n, half.confidence, most=most)

    @property
    def decided(self) -> bool:
        """Whether one class is left, or several of which every survivor has met the strong attack: a tie."""
        left = self.worst
        return len(left) < 2 or bool((self.sampled[left] == self.survivors[left]).all())

    @property
    def share(self) -> float:
        """Share of all images that met the strong attack."""
        return float(divide(self.sampled.sum(), self.n.sum()))

    def draw(self, batch: int) -> Ints:
        """Say how many survivors of each class to draw next, (C,): a batch of the leader and of its challenger.

        The leader has the lowest estimate, the challenger is the class that could be worse by the most. A class whose
        survivors have all been drawn gives way to the next.
        """
        left = self.survivors - self.sampled
        open_classes = np.isin(np.arange(len(self.n)), self.worst) & (left > 0)
        leader = _first(divide(self.survivors - self._expected(), self.n), open_classes)
        challenger = _first(self.bounds.low, open_classes & (np.arange(len(self.n)) != leader))
        drawn = np.zeros_like(left)
        for c in {leader, challenger} - {-1}:
            drawn[c] = min(batch, int(left[c]))
        return drawn

    def after(self, sampled: object, broken: object) -> Race:
        """Return the race after further images met the strong attack, counts (C,) of drawn and broken ones."""
        more, hit = np.asarray(sampled, dtype=np.int64), np.asarray(broken, dtype=np.int64)
        return replace(self, sampled=self.sampled + more, broken=self.broken + hit)

    def _right(self) -> tuple[Ints, Ints]:
        """Return the least and the most images of each class, (C,), that are right under the strong attack."""
        error = (1 - self.confidence) / max(1, int((self.n > 0).sum()))
        columns = zip(self.survivors.tolist(), self.sampled.tolist(), self.broken.tolist(), strict=True)
        least, most = np.array([breakable(s, m, x, error) for s, m, x in columns], dtype=np.int64).reshape(-1, 2).T
        return self.survivors - most, self.survivors - least

    def _expected(self) -> Floats:
        """Return the posterior mean of the survivors that the strong attack breaks."""
        rate = (self.broken + PRIOR[0]) / (self.sampled + sum(PRIOR))
        return np.asarray(self.broken + rate * (self.survivors - self.sampled))


@lru_cache(maxsize=65_536)
def breakable(survivors: int, sampled: int, broken: int, error: float) -> tuple[int, int]:
    """Return the least and the most survivors that the strong attack may break in all, at any time of looking.

    Args:
        survivors: of the cheap attack, s.
        sampled: how many of them met the strong attack, m.
        broken: of these, x.
        error: allowed probability that the true number ever lies outside.

    Example:
        >>> breakable(100, 0, 0, 0.05), breakable(100, 100, 7, 0.05)
        ((0, 100), (7, 7))
    """
    possible = np.arange(broken, survivors - (sampled - broken) + 1)
    unbroken = sampled - broken
    log = _log_factorials(survivors + sum(PRIOR))
    falling = log[possible] - log[possible - broken] + log[survivors - possible] - log[survivors - possible - unbroken]
    likelihood = falling - (log[survivors] - log[survivors - sampled])
    a, d = PRIOR
    marginal = _log_beta(log, a + broken, d + unbroken) - _log_beta(log, a, d)
    inside = possible[marginal - likelihood < -math.log(error)]
    return int(inside[0]), int(inside[-1])


def _log_factorials(top: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, top + 1)))])


def _log_beta(log: Floats, a: int, d: int) -> float:
    return float(log[a - 1] + log[d - 1] - log[a + d - 1])


def _first(values: Floats, among: np.ndarray) -> int:
    """Return the position of the smallest value among some, −1 if there are none."""
    if not among.any():
        return -1
    return int(np.argmin(np.where(among, values, np.inf)))
