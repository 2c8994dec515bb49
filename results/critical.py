"""Print the tables of docs/critical-eps.md from results/critical-eps: ``python results/critical.py [NAME]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from classwise.metrics import CriticalEps, Result
from classwise.metrics.critical_eps import CRITICAL_FILE
from classwise.report.critical import critical_sheet, eps_text, remark, sentence
from classwise.report.sheet import to_markdown
from classwise.tolerance import tolerated

HERE = Path(__file__).parent
FOLDERS = {path.parent.name: path.parent for path in sorted(HERE.glob(f"critical-eps/*/{CRITICAL_FILE}"))}
# Evaluations of the same images at one radius.
BESIDE = {
    "cifar10-resnet2b-adv": (
        "cifar10-resnet2b-adv-8-autoattack",
        "cifar10-resnet2b-adv-8-fast",
        "cifar10-resnet2b-adv-2-fast",
    ),
    "mnist-smallcnn-trades": ("mnist-smallcnn-trades-0.3-fast",),
}
HEAD = ("evaluation", "radius", "images of both", "right there", "right here", "broken only there", "broken only here")


def table(name: str) -> str:
    """Return the table of classes in Markdown, with what is said of it."""
    found = CriticalEps.read(FOLDERS[name])
    radii = json.loads((FOLDERS[name] / CRITICAL_FILE).read_text())["radii"]
    return f"{to_markdown(critical_sheet(found, radii))}\n{sentence(found)} {remark(found)}\n"


def beside() -> str:
    """Return how the critical eps agree with evaluations at one radius, a row for each, in Markdown."""
    rows = [_row(CriticalEps.read(FOLDERS[name]), other) for name, others in BESIDE.items() for other in others]
    return "".join(f"| {' | '.join(row)} |\n" for row in (HEAD, ("---",) * len(HEAD), *rows))


def _row(found: CriticalEps, other: str) -> tuple[str, ...]:
    result = Result.read(HERE / other)
    _, here, there = np.intersect1d(found.index, result.outcomes.index, return_indices=True)
    eps = float(result.header["threat"]["eps"])
    mine = found.distance[here] > tolerated(eps)
    right = result.outcomes.correct()[there]
    counts = (len(here), right.sum(), mine.sum(), (mine & ~right).sum(), (right & ~mine).sum())
    return (f"`{other}`", eps_text(found, eps), *(f"{int(count):,}" for count in counts))


if __name__ == "__main__":
    for name in sys.argv[1:] or FOLDERS:
        print(table(name))
    print(beside(), end="")
