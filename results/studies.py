"""Print the table of a study as the docs have it: ``python results/studies.py tpgd``, or ``fair-digits``.

A study of given models has a row an attack, as in docs/reproduction.md; one that trains has a row a method, the best
worst class first, as in docs/choosing-a-method.md. Two studies that train, as in ``python results/studies.py
fair-digits fair-mnist``, are compared: how the ranks of their worst classes correlate, and which methods fall below
the reference in no seed of either.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from classwise.metrics import spearman

HERE = Path(__file__).parent / "studies"
REFERENCE = "at"


def evaluations(study: str) -> dict[str, dict[str, Any]]:
    """Return result.json of every finished evaluation by the name of its model, in the order of the study."""
    rows = json.loads((HERE / study / "table.json").read_text())["rows"]
    found = {row["name"]: sorted((HERE / study).glob(f"{row['name']}-given-*/given-*/result.json")) for row in rows}
    return {name: json.loads(paths[0].read_text()) for name, paths in found.items() if paths}


def main(study: str) -> str:
    """Return the table in Markdown."""
    found = evaluations(study)
    return _by_attack(found) if found else _by_method(study)


def agreement(first: str, second: str) -> str:
    """Say how two studies agree on worst classes under attack: methods and weights that both have, seed by seed."""
    both = [_worst(study) for study in (first, second)]
    shared = [key for key in both[0] if key in both[1]]
    rho = spearman(*([fmean(found[key].values()) for key in shared] for found in both))
    lines = [f"{len(shared)} rows of {first} and {second}: rank correlation of worst classes {rho:.2f}.\n"]
    for name, weights in shared:
        changes = [_changes(found, (name, weights)) for found in both]
        if name != REFERENCE and min(map(min, changes)) >= 0:
            seeds = "; ".join(", ".join(f"{100 * change:+.1f}" for change in each) for each in changes)
            lines.append(f"`{name}` {weights}, in no seed below `{REFERENCE}`: {seeds}\n")
    return "".join(lines)


def _rows(study: str) -> list[dict[str, Any]]:
    return [row for row in json.loads((HERE / study / "table.json").read_text())["rows"] if row["seeds"]]


def _worst(study: str) -> dict[tuple[str, str], dict[int, float]]:
    return {
        (row["name"], row["weights"]): dict(
            zip(row["seeds"], row["views"]["worst_case"]["worst"]["values"], strict=True)
        )
        for row in _rows(study)
    }


def _changes(found: dict[tuple[str, str], dict[int, float]], key: tuple[str, str]) -> list[float]:
    base = found[REFERENCE, "ema-best"]
    return [value - base[seed] for seed, value in found[key].items()]


def _by_method(study: str) -> str:
    """Return average and worst class under attack of each method, mean ± deviation over seeds."""
    lines = ["| method | weights | average | worst class | seeds |\n", "| --- | --- | --- | --- | --- |\n"]
    for row in sorted(_rows(study), key=lambda row: -row["views"]["worst_case"]["worst"]["mean"]):
        average, worst = (_spread(row["views"]["worst_case"][measure]) for measure in ("average", "worst"))
        lines.append(f"| `{row['name']}` | {row['weights']} | {average} | {worst} | {len(row['seeds'])} |\n")
    return "".join(lines)


def _spread(found: dict[str, Any]) -> str:
    deviation = "" if found["std"] is None else f" ± {100 * found['std']:.1f}"  # one seed has none
    return f"{100 * found['mean']:.1f}{deviation}"


def _by_attack(found: dict[str, dict[str, Any]]) -> str:
    """Return per cent robust under each attack, with the worst class."""
    attacks = next(iter(found.values()))["attacks"]
    views = [
        [about["clean"] if view == "clean" else about["attacks"][view] for about in found.values()]
        for view in ("clean", *attacks)
    ]
    head = [f"`{name}`, {about['threat']['eps_text']}, n {sum(about['n']):,}" for name, about in found.items()]
    names = ["clean", *(view.replace("_", " ") for view in attacks)]
    rows = [("attack", *head), ("---",) * (1 + len(head))]
    rows += [(name, *map(_cell, tables)) for name, tables in zip(names, views, strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(table: dict[str, Any]) -> str:
    return f"{100 * table['accuracy']:.1f} ({table['worst']['class']} {100 * table['worst']['accuracy']:.1f})"


if __name__ == "__main__":
    print(main(sys.argv[1]) if len(sys.argv) == 2 else agreement(*sys.argv[1:3]), end="")
