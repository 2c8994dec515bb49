"""Print the table of a study of given models in docs/reproduction.md: ``python results/studies.py tpgd``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "studies"


def evaluations(study: str) -> dict[str, dict[str, Any]]:
    """Return result.json of every finished evaluation by the name of its model, in the order of the study."""
    rows = json.loads((HERE / study / "table.json").read_text())["rows"]
    found = {row["name"]: sorted((HERE / study).glob(f"{row['name']}-given-*/given-*/result.json")) for row in rows}
    return {name: json.loads(paths[0].read_text()) for name, paths in found.items() if paths}


def main(study: str) -> str:
    """Return per cent robust under each attack, with the worst class, in Markdown."""
    found = evaluations(study)
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
    print(main(sys.argv[1]), end="")
