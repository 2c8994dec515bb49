from __future__ import annotations

import json

import numpy as np
import plotly.graph_objects as go
import pytest
from tests.analysis.strategies import model, planted, subject
from tests.report.test_charts import painted
from tests.report.test_page import EVIL, Page

from classwise.analysis.comparison.charts import by_change, change_chart, class_chart, class_sheet, series, shifts
from classwise.analysis.comparison.compare import compare
from classwise.analysis.comparison.figures import save_figures
from classwise.analysis.comparison.page import page, write_comparison
from classwise.analysis.evidence import Subject
from classwise.analysis.finding import latex
from classwise.report.palette import SERIES, palettes

RATES = {"base": [0.3, 0.6, 0.9], "fair": [0.6, 0.61, 0.7], "down": [0.3, 0.4, 0.5]}


def given(rates: dict[str, list[float]] = RATES, n: int = 300, **about) -> list[Subject]:
    return [
        subject(planted({"pgd": values}, n, seed=i, **about), name, model=model(name))
        for i, (name, values) in enumerate(rates.items())
    ]


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    return given()


@pytest.fixture(scope="module")
def parsed(subjects: list[Subject]) -> Page:
    return Page(page(subjects, compare(subjects), "classwise compare 'a b' c"))


def test_bars_end_at_the_accuracies_of_every_model(subjects: list[Subject]) -> None:
    chart = class_chart(series(subjects, "worst_case"), subjects[0].result.outcomes.classes)
    assert [trace["x"] for trace in chart["data"]] == [[100 * v for v in values] for values in RATES.values()]
    assert [trace["name"] for trace in chart["data"]] == list(RATES)


def test_whiskers_end_at_simultaneous_intervals(subjects: list[Subject]) -> None:
    bars = class_chart(series(subjects, "worst_case"), subjects[0].result.outcomes.classes)["data"][0]
    low, high = subjects[0].result.table()["intervals"][0]
    assert bars["x"][0] - bars["error_x"]["arrayminus"][0] == pytest.approx(100 * low, abs=0.01)
    assert bars["x"][0] + bars["error_x"]["array"][0] == pytest.approx(100 * high, abs=0.01)


def test_changes_are_coloured_by_what_is_beyond_chance(subjects: list[Subject]) -> None:
    """From 0.3, 0.6, 0.9 to 0.6, 0.61, 0.7 on 300 images each: class 0 gains, class 2 pays, 0.01 is chance."""
    shift = shifts(compare(subjects)[1:])[0]
    chart = change_chart(shift, subjects[0].result.outcomes.classes)
    assert chart["data"][0]["x"] == pytest.approx([-20, 1, 30])
    assert chart["data"][0]["marker"]["color"] == ["\0weakest", "\0faint", "\0worst"]
    assert chart["layout"]["yaxis"]["ticktext"] == ["class 2", "class 1", "class 0"]


def test_of_many_classes_the_largest_changes_are_drawn(subjects: list[Subject]) -> None:
    shift = shifts(compare(subjects)[1:])[0]
    assert by_change(shift, 2) == [2, 0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plotly_accepts_every_attribute(subjects: list[Subject], theme: str) -> None:
    classes = subjects[0].result.outcomes.classes
    drawn = [class_chart(series(subjects, "pgd"), classes), change_chart(shifts(compare(subjects)[1:])[0], classes)]
    assert all(go.Figure(painted(chart, palettes()[theme])).data for chart in drawn)
    assert json.dumps(drawn, allow_nan=False)


def test_the_table_of_classes_has_a_column_a_model(subjects: list[Subject]) -> None:
    sheet = class_sheet(series(subjects, "worst_case"), subjects[0].result.outcomes.classes, "worst_case")
    assert [column.title for column in sheet.columns] == ["class", *RATES]
    assert sheet.rows[0][1].text.startswith("30.00 (")


def test_the_page_warns_of_levelling_down_and_names_who_does_it(parsed: Page) -> None:
    at = parsed.texts.index("Levelling down")
    assert any(text.startswith("down against base") for text in parsed.texts[at:])
    fair = given({name: RATES[name] for name in ("base", "fair")})
    assert "Levelling down" not in Page(page(fair, compare(fair))).texts


def test_the_page_has_every_sentence_and_the_command(subjects: list[Subject], parsed: Page) -> None:
    for finding in compare(subjects):
        assert finding.sentence in parsed.text
    assert "classwise compare 'a b' c" in parsed.text


def test_every_table_of_the_page_can_be_downloaded_under_its_own_name(parsed: Page) -> None:
    names = [link["download"] for link in parsed.all("a") if "download" in link]
    assert names == ["leaderboard.csv", "classes.csv", "changes-1.csv", "changes-2.csv"]


def test_every_id_is_unique_and_every_chart_has_data(parsed: Page) -> None:
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(parsed.charts) == {a["id"] for a in parsed.all("div") if a.get("class") == "chart"}


def test_hostile_names_are_read_as_text() -> None:
    names = dict(zip((*EVIL[:2], "a\x1bb"), RATES.values(), strict=True))
    subjects = given(names, classes=EVIL[:3])
    parsed = Page(page(subjects, compare(subjects), EVIL[0]))
    assert EVIL[0] in parsed.texts
    assert len(parsed.scripts) == 3
    assert not [a for _, attributes in parsed.tags for a in attributes if a.startswith("on")]
    assert "\x1b" not in parsed.text


def test_more_models_than_colours_are_in_the_table_alone() -> None:
    rates = {f"model {i}": [0.3, 0.5, 0.7] for i in range(SERIES + 2)}
    subjects = given(rates, n=20)
    parsed = Page(page(subjects, compare(subjects)))
    assert len(parsed.charts["class-chart"]["data"]) == SERIES
    assert "The chart leaves 2 models out." in parsed.text


def test_the_page_is_written_into_the_folder(subjects: list[Subject], tmp_path) -> None:
    path = write_comparison(subjects, compare(subjects), tmp_path / "new")
    assert path == tmp_path / "new" / "comparison.html"
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_figures_are_written_in_every_format(tmp_path) -> None:
    subjects = given({"$base$": RATES["base"], "fair": RATES["fair"]}, n=50)
    written = save_figures(subjects, compare(subjects), tmp_path)
    stems = ("classes", "changes-1")
    assert [path.name for path in written] == [f"{stem}.{end}" for stem in stems for end in ("pdf", "png", "svg")]
    assert all(path.stat().st_size > 1000 for path in written)


def test_latex_tables_carry_the_sentence_and_labels_of_their_own(subjects: list[Subject]) -> None:
    text = latex(compare(subjects))
    assert text.count(r"\begin{table}") == 3
    assert r"\label{tab:changes-1}" in text
    assert r"\label{tab:changes-2}" in text
    assert "By worst the best is fair" in text


def test_an_absent_class_is_not_drawn() -> None:
    subjects = given({"a": [0.5, 0.5], "b": [0.5, 0.7]}, n=40, classes=("x", "y"))
    outcomes = [s.result.outcomes.select(s.result.outcomes.y == 1) for s in subjects]
    only = [subject(o, s.label, model=model(s.label)) for o, s in zip(outcomes, subjects, strict=True)]
    drawn = class_chart(series(only, "worst_case"), ("x", "y"))
    assert drawn["layout"]["yaxis"]["ticktext"] == ["y"]
    assert not np.isnan(drawn["data"][0]["x"]).any()
    assert Page(page(only, compare(only))).charts["change-chart-1"]["layout"]["yaxis"]["ticktext"] == ["y"]
