"""The shape of the code: imports point down, and every registered name can be looked up in the docs."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

import classwise
from classwise import registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "classwise"

# What each module or package may import, besides itself; docs/design.md says why.
GROUND = {"errors", "files", "npy", "registry", "memory", "classifier", "schemas", "texts"}
LAYER_0 = GROUND | {
    "threat",
    "losses",
    "noise",
    "recipes",
    "tolerance",
    "identity",
    "metrics",
    "data",
    "models",
    "corrections",
}
LAYER_1 = LAYER_0 | {"attacks"}
LAYER_2 = LAYER_1 | {"methods", "wrappers", "selection"}
LAYER_3 = LAYER_2 | {
    "judging",
    "preflight",
    "records",
    "engine",
    "ladder",
    "flags",
    "probe",
    "recraft",
    "evaluation",
    "repair",
    "report",
    "analysis",
}
LAYER_4 = LAYER_3 | {"critical", "divergence", "runs", "epoch_log", "train"}
STUDIES = {"arguments", "study", "trials", "campaign", "cluster", "standings", "overview", "verdicts", "homings"}
MAY_IMPORT = {
    "__init__": LAYER_4,
    "errors": set(),
    "output": set(),
    "texts": set(),
    "console": {"texts"},
    "schemas": {"errors", "texts"},
    "files": {"errors", "texts"},
    "npy": {"memory"},
    "supervised": set(),
    "registry": {"errors"},
    "noise": set(),
    "tolerance": set(),
    "identity": set(),
    "threat": {"errors", "noise", "tolerance"},
    "losses": {"errors", "registry"},
    "recipes": {"errors", "registry"},
    "metrics": {"errors", "files", "npy", "schemas", "texts", "tolerance"},
    "data": GROUND | {"noise", "threat"},
    "corrections": {"errors", "registry", "losses"},
    "models": GROUND | {"corrections"},
    "attacks": {"errors", "registry", "classifier", "threat", "losses", "noise"},
    "methods": {"errors", "registry", "losses", "noise", "attacks", "metrics", "models"},
    "wrappers": GROUND | {"noise", "attacks", "methods"},
    "loggers": {"errors", "registry"},
    "selection": set(),
    "records": {"errors", "files", "npy", "data", "identity", "metrics", "models"},
    "flags": {"errors", "losses", "attacks", "metrics"},
    "probe": {"losses", "noise", "threat", "attacks", "flags"},
    "memory": set(),
    "judging": {"attacks", "classifier"},
    "classifier": {"errors", "memory"},
    "preflight": {"errors", "memory", "classifier", "models", "attacks", "judging", "flags"},
    "engine": LAYER_1 | {"judging", "memory", "records"},
    "ladder": {"noise", "attacks", "metrics", "engine"},
    "recraft": {"attacks", "metrics", "judging", "engine"},
    "evaluation": LAYER_2
    | {"__init__", "judging", "memory", "records", "engine", "ladder", "flags", "preflight", "probe", "recraft"},
    "critical": {"errors", "registry", "threat", "attacks", "data", "evaluation", "metrics"},
    "repair": LAYER_2 | {"__init__", "judging", "memory", "engine", "flags", "preflight"},
    "report": {"errors", "files", "registry", "schemas", "texts", "console", "metrics"},
    "analysis": LAYER_1 | {"flags", "judging", "preflight", "probe", "report"},
    "divergence": {"errors", "losses"},
    "runs": LAYER_2 | {"__init__", "evaluation"},
    "epoch_log": {"memory", "methods", "metrics", "runs"},
    "train": LAYER_2 | {"divergence", "engine", "epoch_log", "judging", "memory", "preflight", "runs"},
    "homing": LAYER_4,
    "homings": LAYER_4 | {"arguments", "homing", "study", "trials", "verdicts"},
    "interop": LAYER_4,
    "arguments": LAYER_4,
    "study": LAYER_4 | {"arguments"},
    "trials": LAYER_4 | {"__init__", "arguments", "study"},
    "campaign": LAYER_4 | {"arguments", "trials"},
    "cluster": {"errors", "files", "trials"},
    "overview": {"files", "texts", "metrics", "report", "standings", "study", "trials"},
    "standings": LAYER_3 | {"__init__", "study", "trials"},
    "verdicts": LAYER_3 | {"__init__", "arguments", "trials"},
    "terminal": LAYER_4 | {"campaign", "console", "trials"},
    "__main__": {"cli"},
    "cli": LAYER_4 | {"__init__", "loggers", "output", "supervised", "terminal", "interop", "homing"} | STUDIES,
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def home(path: Path) -> str:
    """Return the room a file is in: the name of its package, or its own."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    """Return the rooms of classwise that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "classwise":
            parts = node.module.split(".")[1:]
            for alias in node.names:
                name = parts[0] if parts else alias.name
                found.add(name if (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").exists() else "__init__")
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "classwise":
                    found.add(([*alias.name.split("."), "__init__"])[1])
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    assert imported(path) - {home(path)} <= MAY_IMPORT[home(path)]


@pytest.mark.parametrize("folder", ["attacks", "methods"])
def test_siblings_import_only_the_base(folder: str) -> None:
    allowed = {"base", "pgd"}
    # What they are made of.
    combined = {"autoattack": {"ensemble", "eot"}, "plan": {"ensemble"}, "plans": {"plan"}, "narrowing": {"fab"}}
    for path in (SOURCE / folder).glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"classwise.{folder}."):
                assert str(node.module).rsplit(".", 1)[1] in allowed | combined.get(path.stem, set()), path


def test_lightning_fabric_appears_in_five_files() -> None:
    users = {path.stem for path in modules() if "lightning_fabric" in path.read_text()}
    assert users == {"arguments", "engine", "evaluation", "loggers", "train"}


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
