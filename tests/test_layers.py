"""The shape of the code: imports point down, and every registered name can be looked up in the docs."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from docs import house

import classwise
from classwise import registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "classwise"

TABLE = {
    room: set(re.findall(r"`(\w+)`", below))
    for room, below in re.findall(
        r"^\| \d+ \| `(\w+)` \|.*\| ([^|]*) \|$", (ROOT / "docs/design.md").read_text(encoding="utf-8"), re.MULTILINE
    )
}
"""What each room may import, as docs/design.md has it, from top to bottom."""


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_the_table_of_the_house_has_every_room() -> None:
    assert set(TABLE) == set(house.rooms(SOURCE))


def test_imports_are_those_of_the_table() -> None:
    assert house.arrows(SOURCE) == TABLE


def test_imports_run_down() -> None:
    order = list(TABLE)
    assert [(room, to) for room in order for to in TABLE[room] if order.index(to) <= order.index(room)] == []


def test_the_picture_of_the_house_is_of_this_house() -> None:
    assert house.PICTURE.read_text(encoding="utf-8") == house.picture(house.arrows(SOURCE))


def test_an_import_that_runs_up_is_seen(tmp_path: Path) -> None:
    for name, text in (("errors", "from classwise import files"), ("files", "from classwise.errors import InputError")):
        (tmp_path / f"{name}.py").write_text(text)
    graph = house.arrows(tmp_path)
    assert len(house.backward(graph)) == 1
    assert "errors" in house.picture(graph), "a circle is drawn all the same"


def test_modules_that_lie_loose_are_those_of_the_plan() -> None:
    loose = {path.stem for path in SOURCE.glob("*.py")}
    assert loose == {
        "__init__", "__main__", "errors", "losses", "noise", "provenance", "registry", "threat", "tolerance"
    }  # fmt: skip


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_no_package_hides_one_of_its_modules_behind_another_thing_of_that_name() -> None:
    for path in SOURCE.rglob("__init__.py"):
        package = importlib.import_module(".".join(("classwise", *path.parent.relative_to(SOURCE).parts)))
        hidden = [
            name
            for name in getattr(package, "__all__", ())
            if (path.parent / f"{name}.py").exists() and not inspect.ismodule(getattr(package, name))
        ]
        assert hidden == [], package.__name__


@pytest.mark.parametrize("folder", ["attacks", "methods"])
def test_siblings_import_only_the_base(folder: str) -> None:
    allowed = {"base", "pgd"}
    # What they are made of.
    combined = {
        "autoattack": {"ensemble", "eot", "named"},
        "plan": {"ensemble"},
        "named": {"ensemble", "plan"},
        "suites": {"ensemble", "named", "plan"},
        "narrowing": {"fab"},
    }
    for path in (SOURCE / folder).glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"classwise.{folder}."):
                assert str(node.module).rsplit(".", 1)[1] in allowed | combined.get(path.stem, set()), path


def test_lightning_fabric_appears_in_eight_files() -> None:
    users = {str(path.relative_to(SOURCE)) for path in modules() if "lightning_fabric" in path.read_text()}
    evaluation, training = ({f"{stage}/{name}.py" for name in names.split()} for stage, names in (
        ("evaluation", "engine job run"), ("training", "loggers loop state")))  # fmt: skip
    assert users == {"runtime/fabric.py", "runtime/processes.py", *evaluation, *training}


def test_no_function_is_longer_than_a_page() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 75, f"{path.name}: {node.name}"


def test_no_room_for_odds_and_ends() -> None:
    odd = {"utils", "common", "helpers", "callbacks", "config", "trainer"}
    assert not odd & {path.stem for path in modules()}


@pytest.mark.parametrize("kind", get_args(registry.Kind))
def test_every_registered_name_is_in_the_reference(kind: registry.Kind) -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    assert [name for name in registry.names(kind) if f"`{name}`" not in text] == []


def test_every_public_name_can_be_imported_and_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    for name in classwise.__all__:
        assert getattr(classwise, name) is not None
        assert f"`{name}`" in text or f"`{name}(" in text, name


def test_the_function_evaluate_is_not_hidden_by_a_module() -> None:
    from classwise import evaluate

    assert callable(evaluate)


def test_packages_and_their_names_are_there_at_once() -> None:

    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")} - {"cli"}
    assert packages <= set(dir(classwise))
    script = "import classwise; print(classwise.attacks.PGD is classwise.PGD, classwise.evaluation.evaluate.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "evaluate"]
