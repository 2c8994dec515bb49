"""Measure how often nominal 95 % intervals hold; writes results/coverage.json, draws docs/images/coverage.svg.

    python benchmarks/coverage.py

Every interval of docs/evaluation.md#intervals, against what it replaced, from 2 to 100 classes and at true rates from
.001 to .999. Independent images of each class are drawn, `SIMULATIONS` data sets a case. Some minutes on one core.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from classwise.metrics import (
    Pairs,
    Race,
    audit,
    change_intervals,
    could_be_worst,
    gap_interval,
    simultaneous,
    wilson,
    worst_interval,
    worst_q,
    worst_q_interval,
)

HERE = Path(__file__).parent
SIMULATIONS, RESAMPLES, SEED = 1000, 200, 1
Case = tuple[np.ndarray, int]
CASES: dict[str, Case] = {
    "2 classes at .999, n 100": (np.full(2, 0.999), 100),
    "2 classes, .3 and .8, n 100": (np.array([0.3, 0.8]), 100),
    "10 classes at .999, n 100": (np.full(10, 0.999), 100),
    "10 classes at .9985, n 100": (np.full(10, 0.9985), 100),
    "10 classes at .995, n 20": (np.full(10, 0.995), 20),
    "10 classes at .001, n 1,000": (np.full(10, 0.001), 1000),
    "10 classes at .5, n 1,000": (np.full(10, 0.5), 1000),
    "10 classes at .5, n 20": (np.full(10, 0.5), 20),
    "10 classes, .25 to .75, n 1,000": (np.linspace(0.25, 0.75, 10), 1000),
    "10 classes, .2, the others .7 or .999, n 100": (np.array([0.2, *[0.7] * 5, *[0.999] * 4]), 100),
    "100 classes at .3, n 100": (np.full(100, 0.3), 100),
    "100 classes at .999, n 100": (np.full(100, 0.999), 100),
    "100 classes, Beta(3, 7), n 100": (np.random.default_rng(0).beta(3, 7, 100), 100),
}
WAYS = (
    "classes, Wilson",
    "classes, exact",
    "worst, bootstrap",
    "worst, Wilson of the class found",
    "worst",
    "worst fifth",
    "gap",
    "worst of the population named",
)
DRAWN = {"worst, bootstrap": "#b3541e", "worst, Wilson of the class found": "#8a8a8a", "classes, Wilson": "#c9a227"}
DRAWN |= {"classes, exact": "#7fb2d9", "worst": "#1f6fb2", "gap": "#123f66"}


def by_case(rates: np.ndarray, n: int) -> dict[str, float]:
    """Return the share of simulated data sets in which each interval holds what it is of."""
    random, covered = np.random.default_rng(SEED), np.zeros(len(WAYS))
    size, truth = np.full(len(rates), n), (rates.min(), worst_q(rates, 0.2), np.ptp(rates))
    loose, exact = (simultaneous_by_count(n, len(rates), base) for base in ("wilson", "clopper_pearson"))
    bounds = cache(lambda right: extremes(np.array(right), size))
    for right in random.binomial(n, rates, size=(SIMULATIONS, len(rates))):
        minima = random.binomial(n, right / n, size=(RESAMPLES, len(rates))).min(1) / n
        low, high = np.quantile(minima, [0.025, 0.975])
        found = wilson([right.min()], [n])
        covered += [
            *(bool(((ends[0][right] <= rates) & (rates <= ends[1][right])).all()) for ends in (loose, exact)),
            low <= truth[0] <= high,
            found.low[0] <= truth[0] <= found.high[0],
            # The order of classes of one size does not matter, so equal draws are looked up.
            *(a <= t + 1e-9 and t <= b + 1e-9 for t, (a, b) in zip(truth, bounds(tuple(sorted(right))), strict=True)),
            int(rates.argmin()) in could_be_worst(right, size),
        ]
    return dict(zip(WAYS, (covered / SIMULATIONS).tolist(), strict=True))


def simultaneous_by_count(n: int, classes: int, base: str) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends for every count of right images, (n + 1,), among so many classes."""
    rows = [np.append(count, np.zeros(classes - 1)) for count in range(n + 1)]
    ends = [simultaneous(row, np.full(classes, n), base=base) for row in rows]  # type: ignore[arg-type]
    return np.array([each.low[0] for each in ends]), np.array([each.high[0] for each in ends])


def extremes(right: np.ndarray, size: np.ndarray) -> list[tuple[float, float]]:
    """Return the intervals of worst, worst fifth and gap."""
    return [worst_interval(right, size), worst_q_interval(right, size, 0.2), gap_interval(right, size)]


def paired(gained: float, lost: float, n: int, classes: int = 10) -> dict[str, float]:
    """Return the coverage of the changes of all classes at once, now and by the adjusted Wald interval."""
    random, truth, covered = np.random.default_rng(SEED), gained - lost, np.zeros(2)
    for _ in range(SIMULATIONS):
        up, down, _ = random.multinomial(n, [gained, lost, 1 - gained - lost], size=classes).T
        found = change_intervals(Pairs(up, down, np.full(classes, n)))
        g, o = (up + 1) / (n + 2), (down + 1) / (n + 2)
        half = 2.807034 * np.sqrt((g + o - (g - o) ** 2) / (n + 2))
        covered += [((found.low <= truth) & (truth <= found.high)).all(), (np.abs(g - o - truth) <= half).all()]
    return {"now": covered[0] / SIMULATIONS, "adjusted Wald": covered[1] / SIMULATIONS}


def audited(survivors: int, sampled: int, hidden: int, classes: int) -> dict[str, float]:
    """Return how often no class hides more than its bound, where each of the classes hides so many."""
    random, right = np.random.default_rng(SEED), 0
    most = audit.at_most_by_class(np.full(classes, survivors), np.full(classes, sampled), 0.05)
    for _ in range(SIMULATIONS):
        silent = not random.hypergeometric(hidden, survivors - hidden, sampled, size=classes).any()
        right += not (silent and hidden > most[0])
    return {"now": right / SIMULATIONS}


def raced(rates: tuple[float, ...], n: int) -> dict[str, float]:
    """Return how often a race that attacks all images names the population's worst class, and its set holds it."""
    random, covered = np.random.default_rng(SEED), np.zeros(2)
    for right in random.binomial(n, rates, size=(SIMULATIONS, len(rates))):
        size = np.full(len(rates), n)
        race = Race(size, size, size, size - right)
        covered += [race.worst == [int(np.argmin(rates))], int(np.argmin(rates)) in race.population_worst]
    return {"class named": covered[0] / SIMULATIONS, "set holds it": covered[1] / SIMULATIONS}


def main() -> None:
    """Simulate, write and draw."""
    found = {
        "simulations": SIMULATIONS,
        "seed": SEED,
        "classes": {case: by_case(*about) for case, about in CASES.items()},
        "paired, 10 classes": {
            f"n {n:,}, +{100 * up:g}/-{100 * down:g} %": paired(up, down, n)
            for n, up, down in [(1000, 0.02, 0), (1000, 0.001, 0), (100, 0.1, 0), (100, 0.05, 0.05), (20, 0.3, 0.1)]
        },
        "audit by class": {
            f"{classes} classes, {hidden} of {s} hidden in each, {m} sampled": audited(s, m, hidden, classes)
            for classes, s, m, hidden in [(1, 300, 50, 17), (2, 300, 25, 17), (10, 300, 5, 17), (100, 30, 1, 2)]
        },
        "race": {
            f"{', '.join(map(str, rates))}, n {n:,}": raced(rates, n)
            for rates, n in [((0.27, 0.3), 1000), ((0.25, 0.26), 1000), ((0.27, 0.3), 100), ((0.999, 0.9985), 100)]
        },
    }
    (HERE / "results" / "coverage.json").write_text(json.dumps(found, indent=2) + "\n")
    draw(found["classes"])  # type: ignore[arg-type]


def draw(found: dict[str, dict[str, float]]) -> None:
    """Draw a row a case, a dot a way."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "coverage", "font.size": 9})
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for position, (way, colour) in enumerate(DRAWN.items()):
        shares = [100 * values[way] for values in found.values()]
        axes.scatter(shares, np.arange(len(found)) + 0.1 * (position - 2.5), s=16, color=colour, label=way, zorder=3)
    axes.axvline(95, color="#444444", linewidth=0.8, linestyle="--")
    axes.set(yticks=range(len(found)), yticklabels=list(found), xlim=(-2, 102))
    axes.set_xlabel("data sets in which the interval holds the truth, % (nominal 95 %)")
    axes.grid(axis="y", color="#eeeeee")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(HERE.parent / "docs" / "images" / "coverage.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
