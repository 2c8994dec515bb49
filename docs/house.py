"""Draw the house: the packages of classwise and their imports, from the source files; and count them.

usage: python docs/house.py [--root SRC/CLASSWISE] [--svg FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src" / "classwise"
PICTURE = HERE / "images" / "house.svg"
FACE = "classwise"
"""The room that ``classwise/__init__.py`` is: the public names."""


def rooms(source: Path) -> dict[str, list[Path]]:
    """Return the files of each room: a package, or a module that lies loose in ``source``."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).with_suffix("").parts[0]
        found[FACE if name == "__init__" else name].append(path)
    return dict(found)


def imports(path: Path, known: Mapping[str, object]) -> Iterator[str]:
    """Yield the room of each import of classwise in a file, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "classwise":
                room = rest.partition(".")[0]
                yield room if room in known else FACE


def arrows(source: Path) -> dict[str, set[str]]:
    """Return for each room the others that it imports."""
    known = rooms(source)
    return {room: {to for path in files for to in imports(path, known)} - {room} for room, files in known.items()}


def backward(graph: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """Return the imports that run back up: those that close a circle, as a walk from the top meets them."""
    found, done, going = set[tuple[str, str]](), set[str](), list[str]()

    def walk(room: str) -> None:
        going.append(room)
        for to in sorted(graph[room]):
            if to in going:
                found.add((room, to))
            elif to not in done:
                walk(to)
        done.add(going.pop())

    for room in sorted(graph, key=lambda name: (any(name in others for others in graph.values()), name)):
        if room not in done:
            walk(room)
    return found


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the floor of each room: one above the highest that it imports, not counting imports that run back up."""
    back = backward(graph)

    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(to) for to in graph[room] if (room, to) not in back), default=-1)

    return {room: floor(room) for room in graph}


def direct(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows that a picture needs: those that no longer way leads along."""
    back = backward(graph)
    graph = {room: {to for to in below if (room, to) not in back} for room, below in graph.items()}

    @cache
    def reached(room: str) -> frozenset[str]:
        return frozenset(graph[room]).union(*(reached(to) for to in graph[room]))

    return {
        room: {to for to in below if not any(to in reached(other) for other in below)} for room, below in graph.items()
    }


def counts(source: Path) -> dict[str, int]:
    """Return the figures by which one house is compared with another."""
    graph, files = arrows(source), rooms(source)
    lengths = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    return {
        "rooms": len(graph),
        "loose modules": sum(paths[0].parent == source for paths in files.values()),
        "floors": max(floors(graph).values()) + 1,
        "imports between rooms": sum(len(below) for below in graph.values()),
        "imports that run back up": len(backward(graph)),
        "functions": len(lengths),
        "lines of the median function": sorted(lengths)[len(lengths) // 2],
        "lines of the longest function": max(lengths),
    }


def picture(graph: Mapping[str, set[str]]) -> str:
    """Return an SVG of the rooms by floor, with the imports that no longer way leads along."""
    level, drawn = floors(graph), direct(graph)
    rows = [sorted(room for room in graph if level[room] == floor) for floor in range(max(level.values()), -1, -1)]
    width, height, box, tall = 860, 64 * len(rows) + 16, 118, 30
    place = {}
    for row, names in enumerate(rows):
        for column, name in enumerate(names):
            place[name] = (width * (column + 1) / (len(names) + 1), 31 + 64 * row)
    lines = [
        f'<line x1="{place[room][0]:.0f}" y1="{place[room][1] + tall / 2:.0f}" x2="{place[to][0]:.0f}" '
        f'y2="{place[to][1] - tall / 2:.0f}"/>'
        for room in sorted(drawn)
        for to in sorted(drawn[room])
    ]
    boxes = [
        f'<rect x="{x - box / 2:.0f}" y="{y - tall / 2:.0f}" width="{box}" height="{tall}" rx="6"/>'
        f'<text x="{x:.0f}" y="{y + 5:.0f}">{escape(name)}</text>'
        for name, (x, y) in place.items()
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            'aria-label="The packages of classwise; each imports only those below it">',
            "<style>rect{fill:#eef3f8;stroke:#4a6b8a}line{stroke:#9fb3c6}"
            "text{font:14px sans-serif;text-anchor:middle;fill:#1c2b39}</style>",
            f'<rect x="0" y="0" width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Draw and count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=SOURCE, help="the package's folder")
    parser.add_argument("--svg", type=Path, help=f"write the picture; docs/design.md shows {PICTURE.name}")
    parser.add_argument("--json", type=Path, help="write the counts")
    given = parser.parse_args()
    found = counts(given.root)
    for name, value in found.items():
        print(f"{value:5d}  {name}")
    if given.svg:
        given.svg.write_text(picture(arrows(given.root)), encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
