"""The README and the docs say what is so."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from classwise.report.sheet import escape_markdown

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def script(name: str) -> ModuleType:
    """Import a script of results/."""
    spec = importlib.util.spec_from_file_location(f"results_{name}", ROOT / "results" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def test_the_table_of_corrections_is_what_their_outcomes_say() -> None:
    table = script("correction")
    assert table.markdown(table.finished()) in (ROOT / "docs" / "correction.md").read_text()


def test_the_table_of_results_is_what_the_committed_results_say() -> None:
    assert script("table").main() in (ROOT / "docs" / "results.md").read_text()


def test_every_committed_result_is_valid_and_derives_from_its_outcomes() -> None:
    import jsonschema

    from classwise.metrics.result import Result, schema

    folders = sorted(path.parent for path in (ROOT / "results").glob("*/result.json"))
    assert folders
    for folder in folders:
        jsonschema.validate(Result.read(folder).document, schema())


def test_the_figures_of_the_readme_are_those_of_the_demo_on_three_processors() -> None:
    runs = json.loads((ROOT / "results" / "demo" / "processors.json").read_text())["processors"].values()
    clean, robust, worst = ({round(run[key]) for run in runs} for key in ("clean", "robust", "worst"))
    text = " ".join((ROOT / "README.md").read_text().split())
    assert {run["worst_class"] for run in runs} == {"8"}
    assert f"{clean.pop()} % accuracy" in text
    assert not clean
    assert f"{min(robust)} to {max(robust)} % of them survive" in text
    assert f"only {min(worst)} to {max(worst)} % of the eights" in text


def names_of_tests(file: Path) -> set[str]:
    """Return the tests that pytest collects from a file, which a `def` in a comment or a string is not."""
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_") and not _skipped(function)}


def _skipped(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(mark).startswith("pytest.mark.skip(") for mark in function.decorator_list)


def test_every_guarantee_names_tests_that_exist() -> None:
    rows = [line for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| promise", "| format", "| ---"))]
    assert len(rows) > 80
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert len(named) == row.count("::") > 0, row
        for file, name in named:
            assert name in names_of_tests(ROOT / file), f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_between_pages_is_broken(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_has_exactly_two_commands_that_ci_runs() -> None:
    assert re.findall(r"^# command (\d)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE) == ["1", "2"]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name})" not in index] == ["index.md"]


def test_the_findings_on_single_networks_are_what_the_analyses_say() -> None:
    module = script("findings")
    text = (ROOT / "docs" / "findings.md").read_text()
    for name in module.SETS:
        for sentence in module.sentences(module.on(name)):
            assert sentence in text


STUDIES = sorted((ROOT / "results" / "studies").glob("*/analyses.json"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_what_a_committed_study_says_follows_from_its_outcomes(path: Path) -> None:
    """Every finding anew from result.json and outcomes.npz; the names of the models are the study's."""
    from classwise.analysis import answer, read

    record = json.loads(path.read_text())
    said = {finding["sentence"]: finding["question"] for each in record["answers"] for finding in each["findings"]}
    table = (path.parent / "table.md").read_text()
    questions = list(dict.fromkeys(said.values()))
    found = answer(read(sorted(path.parent.glob("*/given-*"))))[0]
    assert {finding.sentence for finding in found if finding.question in questions} == set(said)
    assert all(escape_markdown(sentence) in table for sentence in said)


TRAINED = sorted({path.parents[1] for path in (ROOT / "results" / "studies").glob("*/*/run.json")})


@pytest.mark.parametrize("folder", TRAINED, ids=lambda folder: folder.name)
def test_what_a_committed_study_with_training_says_follows_from_its_outcomes_and_logs(folder: Path) -> None:
    """Every finding anew from outcomes and logs, but those on weights, which are not committed."""
    from classwise.analysis import answer, read

    table = (folder / "table.md").read_text()
    found = [*answer(read(sorted(folder.glob("*-seed?-*"))))[0], *answer(read(sorted(folder.glob("*/*-best-*"))))[0]]
    assert {finding.question for finding in found} >= {"epochs", "disparity", "consistency"}
    for finding in found:
        run = folder / finding.subject.split("/")[0] / "trial.json"
        subject = title(json.loads(run.read_text())) if run.exists() else finding.subject
        assert f"- {escape_markdown(f'{subject}: {finding.sentence}')}\n" in table


def title(trial: Mapping[str, Any]) -> str:
    """What a study calls one of its runs."""
    return f"{trial['name']} on {trial['model']}, seed {trial['seed']}"


@pytest.mark.parametrize(
    ("study", "page"),
    [
        ("tpgd", "reproduction"),
        ("fair-digits", "choosing-a-method"),
        ("fair-mnist", "choosing-a-method"),
        ("fair-cifar10-small", "choosing-a-method"),
        ("paper-mnist-small", "reproduction"),
        ("paper-cifar10-small", "reproduction"),
    ],
)
def test_the_table_of_a_study_in_the_docs_is_what_the_study_says(study: str, page: str) -> None:
    assert script("studies").main(study) in (ROOT / "docs" / f"{page}.md").read_text()


def test_what_the_docs_say_of_two_studies_together_is_what_their_tables_say() -> None:
    first, *others = script("studies").agreement("fair-digits", "fair-mnist").splitlines()
    text = " ".join((ROOT / "docs" / "choosing-a-method.md").read_text().split())
    assert len(others) == 3
    for line in others:
        assert f"{line.split()[0]} ({line.partition(': ')[2]})" in text
    assert f"correlate by {first.split()[-1][:-1]} (" in text


def test_the_tables_of_critical_eps_are_what_the_committed_outcomes_say() -> None:
    from classwise.metrics import CriticalEps

    module, text = script("critical"), (ROOT / "docs" / "critical-eps.md").read_text()
    assert set(module.FOLDERS) == set(module.BESIDE)
    for name, folder in module.FOLDERS.items():
        stored = json.loads((folder / "critical_eps.json").read_text())
        assert CriticalEps.read(folder).document(stored["radii"]) == stored
        assert module.table(name) in text
    assert module.beside() in text


def test_how_often_the_rules_of_claims_err_in_the_docs_is_what_was_simulated() -> None:
    text = (ROOT / "docs" / "analysis.md").read_text()
    record = json.loads((ROOT / "benchmarks" / "results" / "claims.json").read_text())
    assert len(record["claims"]) == 8
    for claim, cases in record["claims"].items():
        for case, shares in cases.items():
            kind, _, what = case.partition(": ")
            said = ", ".join(
                f"{100 * share:.1f} % {verdict}" for verdict, share in shares.items() if verdict != "undecided"
            )
            assert f"| {claim} | {kind} | {what} | {said or '0.0 %'} |" in text


def test_the_table_of_the_drop_in_beside_the_released_class_is_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = ROOT / "benchmarks" / "attacks"
    monkeypatch.syspath_prepend(folder)
    document = json.loads((folder / "results" / "beside_autoattack.json").read_text())
    assert importlib.import_module("beside_autoattack").rows(document) in (ROOT / "docs" / "autoattack.md").read_text()


@pytest.mark.slow
def test_the_table_of_findings_is_what_the_analyses_say(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("findings")
    monkeypatch.chdir(ROOT / "results" / "findings")  # where the models' names are right
    text = (ROOT / "docs" / "findings.md").read_text()
    assert all(line in text for line in module.main().splitlines())


def test_the_readme_of_a_package_index_has_no_link_or_picture_that_breaks_there() -> None:
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = re.compile(r"\]\((?!https?://)[^)]*\)")
    assert relative.search(text)
    for step in hooks["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(step["pattern"], step["replacement"], text)
    assert not relative.search(text)
    assert "![" not in text
    assert "The picture" not in text
    assert "docs/quickstart.md" in text
