from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tests.metrics.strategies import header, make, outcomes, recorded

from classwise import files
from classwise.errors import InputError
from classwise.metrics import INVALID, Outcomes, Result, equal_classes, schema, table

Y = [0, 0, 0, 1, 1, 1]
CLEAN = [0, 0, 1, 1, 1, INVALID]
PGD = [0, 1, 1, 1, 0, INVALID]

VALIDATOR = jsonschema.Draft202012Validator(schema())


@pytest.fixture
def result() -> Result:
    made = make(Y, CLEAN, num_classes=3, pgd=PGD)
    return Result(header(made), made)


def read_json(folder: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "result.json").read_text(encoding="utf-8"), parse_constant=refuse)


def alter(folder: Path, **changes: Any) -> None:
    document = {**read_json(folder), **changes}
    (folder / "result.json").write_text(json.dumps({k: v for k, v in document.items() if v != "drop"}))


def test_the_schema_itself_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(outcomes())
def test_whatever_is_written_fits_the_schema_and_reads_the_same(tmp_path: Path, drawn: Outcomes) -> None:
    Result(header(drawn), drawn).write(tmp_path)
    stored = read_json(tmp_path)
    VALIDATOR.validate(stored)
    assert Result.read(tmp_path).document == stored


def test_tables_derived_anew_from_the_stored_outcomes_equal_the_stored_json(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    stored, loaded = read_json(tmp_path), Outcomes.load(tmp_path / "outcomes.npz")
    assert stored["clean"] == table(loaded, "clean")
    assert stored["attacks"]["worst_case"] == table(loaded, "worst_case")
    assert stored["attacks"]["pgd"] == {**recorded("pgd"), "seconds": 0.5, **table(loaded, "pgd")}
    assert stored["n"] == loaded.n.tolist()
    assert stored["equal_classes"]["gap"]["p_value"] == equal_classes(loaded.counts(), loaded.n).gap.p_value


def test_the_header_comes_back_as_it_was(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    again = Result.read(tmp_path).header
    assert {name: again[name] for name in result.header} == result.header


def test_writing_what_was_read_changes_no_byte(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path / "first")
    Result.read(tmp_path / "first").write(tmp_path / "second")
    for name in ("result.json", "outcomes.npz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_further_fields_of_the_header_are_kept(tmp_path: Path) -> None:
    made = make(Y, CLEAN, pgd=PGD)
    attacks = {"pgd": {"settings": "pgd()", "seconds": 1.0, "queries": 20}}
    Result(header(made, attacks=attacks, suite="quick", classwise="0.0.9"), made).write(tmp_path)
    again = Result.read(tmp_path).header
    assert (again["suite"], again["classwise"], again["attacks"]) == ("quick", "0.0.9", attacks)


def test_the_confidence_of_the_header_sets_the_intervals() -> None:
    made = make(Y, CLEAN)
    narrow = Result(header(made, confidence=0.5), made)
    assert narrow.table()["intervals"] == table(made, confidence=0.5)["intervals"]
    assert narrow.document["confidence"] == 0.5


def test_nan_infinity_numpy_and_paths_become_strict_json(tmp_path: Path) -> None:
    made = make(Y, CLEAN)
    odd = {"nan": math.nan, "inf": np.float32(np.inf), "one": np.int64(1), "list": np.array([1.0, np.nan])}
    Result(header(made, environment={**odd, "path": Path("a"), "bytes": "\udcff", "flag": np.True_}), made).write(
        tmp_path
    )
    assert read_json(tmp_path)["environment"] == {
        "nan": None,
        "inf": None,
        "one": 1,
        "list": [1.0, None],
        "path": "a",
        "bytes": "\\udcff",
        "flag": True,
    }


def test_a_header_that_no_file_can_hold_leaves_the_folder_untouched(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(TypeError, match="cannot hold"):
        Result({**result.header, "environment": {"model": object()}}, result.outcomes).write(tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


def test_a_folder_with_result_json_is_complete_even_after_a_crash(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result.write(tmp_path)

    def crash(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("classwise.metrics.result.write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        result.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["outcomes.npz"]
    with pytest.raises(InputError, match="did not finish"):
        Result.read(tmp_path)


def test_a_folder_that_cannot_be_written_is_said_so(result: Result, tmp_path: Path) -> None:
    files.write_text(tmp_path / "file", "")
    with pytest.raises(InputError, match="Cannot write"):
        result.write(tmp_path / "file")


def test_a_missing_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no folder .*nowhere; give one that `classwise evaluate` wrote"):
        Result.read(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["result.json", "outcomes.npz"])
def test_a_missing_file_is_said_so(result: Result, tmp_path: Path, name: str) -> None:
    result.write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"holds no {name}"):
        Result.read(tmp_path)


@pytest.mark.parametrize("version", [2, "1", 0])
def test_a_foreign_schema_version_is_said_so(result: Result, tmp_path: Path, version: object) -> None:
    result.write(tmp_path)
    alter(tmp_path, schema_version=version)
    with pytest.raises(InputError, match=f"schema version {version!r}, but this classwise reads version 1"):
        Result.read(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"classes": []}'])
def test_json_of_something_else_is_said_so(result: Result, tmp_path: Path, content: str) -> None:
    result.write(tmp_path)
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(InputError, match="is no result of classwise"):
        Result.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"schema_version": 1', b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_said_so(result: Result, tmp_path: Path, content: bytes) -> None:
    result.write(tmp_path)
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(InputError, match="damaged: it is no JSON"):
        Result.read(tmp_path)


def test_a_damaged_archive_is_said_so(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    content = (tmp_path / "outcomes.npz").read_bytes()
    (tmp_path / "outcomes.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"outcomes.npz is damaged"):
        Result.read(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"attacks": "drop"}, {"clean": "drop"}, {"seed": "drop"}, {"attacks": 3}, {"clean": []}]
)
def test_json_that_lacks_something_is_said_so(result: Result, tmp_path: Path, changes: dict) -> None:
    result.write(tmp_path)
    alter(tmp_path, **changes)
    with pytest.raises(InputError, match="damaged or incomplete"):
        Result.read(tmp_path)


def test_files_of_two_evaluations_are_not_mixed(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    make(Y, Y, num_classes=3, pgd=Y).save(tmp_path / "outcomes.npz")
    with pytest.raises(InputError, match="not of the same evaluation"):
        Result.read(tmp_path)


def test_a_header_must_fit_the_outcomes(result: Result) -> None:
    incomplete = {name: value for name, value in result.header.items() if name not in ("seed", "threat")}
    with pytest.raises(InputError, match="lacks threat, seed"):
        Result(incomplete, result.outcomes)
    with pytest.raises(InputError, match=r"the attacks \[\], but the outcomes hold \['pgd'\]"):
        Result({**result.header, "attacks": {}}, result.outcomes)
    with pytest.raises(InputError, match="holds n, which derives"):
        Result({**result.header, "n": [1]}, result.outcomes)


def test_tables_are_read_by_view(result: Result) -> None:
    assert result.table("clean") == table(result.outcomes, "clean")
    assert result.table("pgd")["settings"] == recorded("pgd")["settings"]
    with pytest.raises(InputError, match="no view 'fab'"):
        result.table("fab")


def test_attacks_keep_their_order_and_the_worst_case_comes_last() -> None:
    made = make(Y, CLEAN, square=PGD, apgd=PGD, fab=PGD)
    assert list(Result(header(made), made).document["attacks"]) == ["square", "apgd", "fab", "worst_case"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("threat", "norm"), "inf"),
        (("clean", "accuracy"), 1.5),
        (("clean", "correct"), [1.5]),
        (("clean", "worst"), {}),
        (("attacks", "pgd", "settings"), None),
        (("attacks", "pgd", "intervals"), [[0.1]]),
        (("attacks", "clean"), {}),
        (("n",), [-1]),
        (("confidence",), 95),
    ],
)
def test_the_schema_refuses_what_is_wrong(result: Result, path: tuple[str, ...], value: object) -> None:
    document = json.loads(json.dumps(result.document))
    target = document
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize("name", sorted(schema()["required"]))
def test_the_schema_refuses_a_missing_field(result: Result, name: str) -> None:
    document = {key: value for key, value in result.document.items() if key != name}
    assert not VALIDATOR.is_valid(document)


def test_importing_metrics_does_not_import_torch_or_scipy() -> None:
    code = "import sys, classwise.metrics; sys.exit(any(name in sys.modules for name in ('torch', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
