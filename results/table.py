"""Print the tables of docs/results.md from the result folders beside this file: ``python results/table.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = (
    "network",
    "data",
    "n",
    "threat",
    "attack",
    "average",
    "worst class",
    "95 % interval of the worst",
    "W10",
    "gap",
)


def rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return one row for the clean images, one for each attack and one for the worst case."""
    network = Path(document["model"]["name"].partition(":")[0]).parent.name or document["model"]["name"]
    threat = f"{document['threat']['norm']} {document['threat']['eps_text']}"
    start = (f"`{network}`", document["data"]["name"], f"{sum(document['n']):,}", threat)
    views = {"clean": document["clean"], **document["attacks"]}
    return [(*start, view.replace("_", " "), *_figures(table)) for view, table in views.items()]


def _figures(table: dict[str, Any]) -> tuple[str, ...]:
    worst, low_high = table["worst"], table["worst"]["interval"]
    return (
        _percent(table["accuracy"]),
        f"{worst['class']} {_percent(worst['accuracy'])}",
        f"{_percent(low_high[0])}–{_percent(low_high[1])}",
        _percent(table["worst_q10"]["accuracy"]),
        _percent(table["gap"]["value"]),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def main() -> str:
    """Return the table in Markdown."""
    documents = [json.loads(path.read_text()) for path in sorted(HERE.glob("*/result.json"))]
    lines = [HEAD, ("---",) * len(HEAD), *(row for document in documents for row in rows(document))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    print(main(), end="")
