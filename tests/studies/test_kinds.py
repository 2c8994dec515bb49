"""What a key of a TOML file may be follows from the annotation of its field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from classwise.studies.kinds import Count, Eps, PerCent, Seed, kinds
from classwise.studies.spec import Study


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Settings:
    inner: Inner | None
    rows: tuple[Inner, ...]
    texts: tuple[str, ...]
    seeds: tuple[Seed, ...]
    count: Count | None
    share: PerCent
    eps: Eps | None


@pytest.mark.parametrize(
    ("key", "words", "good", "bad"),
    [
        ("inner", "a table, [inner]", [{}], [3, [{}]]),
        ("rows", "tables, [[rows]]", [[{}]], [{}, [], [3]]),
        ("texts", "a text or a list of texts", ["a", ["a"]], [3, [], [3]]),
        ("seeds", "a list of whole numbers of at least 0 and below 2^63", [[0]], [0, [], [-1], [2**63], [True]]),
        ("count", "a whole number of at least 1", [1], [0, True, 1.0, "1"]),
        ("share", "a number between 0 and 100", [0, 100.0], [-0.1, 101, float("nan"), True]),
        ("eps", 'a text such as "8/255", or a number', ["8/255", 0.1, 1], [[], True]),
    ],
)
def test_the_annotation_says_what_fits_and_how_that_is_said(
    key: str, words: str, good: list[Any], bad: list[Any]
) -> None:
    kind = kinds(Settings)[key]
    assert kind.words == words
    assert [kind.fits(value) for value in good + bad] == [True] * len(good) + [False] * len(bad)


def test_every_key_of_a_study_and_of_its_tables_has_a_kind() -> None:
    tables = {kind.table for kind in kinds(Study).values() if kind.table}
    assert {table.__name__ for table in tables} == {"Entry", "Evaluation", "Given", "Homing"}
    assert all(kinds(table) for table in tables)
