"""Draw docs/images/coverage.svg: how often nominal 95 % intervals hold the true worst class.

    python benchmarks/coverage.py

Three ways to an interval of the lowest class accuracy, in five cases (docs/evaluation.md): the percentile bootstrap of
the minimum, Wilson's interval of the class selected as worst, and simultaneous intervals of all classes. A minute.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from classwise.metrics import simultaneous, wilson, worst_interval

SIMULATIONS, RESAMPLES = 1000, 500
CASES = {
    "10 classes at 50 %, 1,000 images each": (np.full(10, 0.5), 1000),
    "10 classes at 50 %, 100 images each": (np.full(10, 0.5), 100),
    "10 classes, 25 to 75 %, 1,000 images each": (np.linspace(0.25, 0.75, 10), 1000),
    "100 classes, Beta(3, 7), 100 images each": (np.random.default_rng(0).beta(3, 7, 100), 100),
    "100 classes at 30 %, 100 images each": (np.full(100, 0.3), 100),
}
WAYS = ("bootstrap of the minimum", "Wilson, class selected as worst", "simultaneous (used here)")


def coverage(rates: np.ndarray, n: int) -> list[float]:
    """Return the share of simulated data sets in which each way's interval holds the true minimum."""
    random, covered = np.random.default_rng(1), np.zeros(len(WAYS))
    size = np.full(len(rates), n)
    for right in random.binomial(n, rates, size=(SIMULATIONS, len(rates))):
        minima = random.binomial(n, right / n, size=(RESAMPLES, len(rates))).min(1) / n
        selected = wilson([right.min()], [n])
        intervals = (
            np.quantile(minima, [0.025, 0.975]),
            (selected.low[0], selected.high[0]),
            worst_interval(simultaneous(right, size)),
        )
        covered += [low <= rates.min() <= high for low, high in intervals]
    return (covered / SIMULATIONS).tolist()


def main() -> None:
    """Simulate, print and draw."""
    found = {case: coverage(*about) for case, about in CASES.items()}
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "coverage", "font.size": 9})
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for position, (way, colour) in enumerate(zip(WAYS, ("#b3541e", "#8a8a8a", "#1f6fb2"), strict=True)):
        heights = np.arange(len(found)) + 0.27 * (position - 1)
        shares = [100 * values[position] for values in found.values()]
        axes.barh(heights, shares, height=0.25, color=colour, label=way)
        for height, share in zip(heights, shares, strict=True):
            axes.text(share + 1, height, f"{share:.1f}", va="center", fontsize=7)
    axes.axvline(95, color="#444444", linewidth=0.8, linestyle="--")
    axes.set(
        yticks=range(len(found)),
        yticklabels=list(found),
        xlim=(0, 112),
        xlabel="covers the true worst class, % (nominal 95 %)",
    )
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    path = Path(__file__).parents[1] / "docs" / "images" / "coverage.svg"
    figure.savefig(path, metadata={"Date": None})
    for case, values in found.items():
        print(case, [round(100 * value, 1) for value in values])


if __name__ == "__main__":
    main()
