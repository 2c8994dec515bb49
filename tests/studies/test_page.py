"""The page of a study: its tables and chart, every run, and links that lead to reports."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.report.browser import Visit, chromium
from tests.studies.test_table import STUDY, large
from tests.trials_for_tests import trial

from classwise.report.plane import Point, plane
from classwise.studies import page as study_page
from classwise.studies.spec import Entry
from classwise.studies.table import rows
from classwise.studies.trials import Trial

EVIL = "<script>alert(1)</script> & 'co'"
METHODS = {"at": (80, 20), EVIL: (50, 60)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Trial], Path]:
    """Write the page of two methods with two seeds each, of which one has not begun."""
    out = tmp_path_factory.mktemp("study")
    study = replace(STUDY, method=tuple(Entry("at", name) for name in METHODS), seeds=(0, 1))
    trials = [trial(name, seed=seed, evaluation={"images": 200}) for name in METHODS for seed in (0, 1)]
    for each in trials[:-1]:
        large(METHODS[each.name]).write(each.evaluation_folder(out, "best"))
        (each.folder(out) / "trial.json").write_text(json.dumps({"name": each.name, "key": each.key, "code": ["a"]}))
        (each.folder(out) / "summary.json").write_text("{}")
    study_page.write_reports(trials, out)
    study_page.write(study, trials, rows(study, trials, out), out)
    return trials, out


def test_every_run_is_there_and_links_lead_to_reports(made: tuple[list[Trial], Path]) -> None:
    trials, out = made
    states = [[cell.text for cell in line][2] for line in study_page.runs(trials, out).rows]
    links = [line[0].link for line in study_page.runs(trials, out).rows]
    assert states == ["done", "done", "done", "open"]
    assert [(out / link).is_file() for link in links[:3]] == [True] * 3
    assert links[3] == ""
    page = (out / "study.html").read_text()
    assert re.findall(r'<a href="([^"#]+/report\.html)"', page) == links[:3]


def test_a_report_that_is_there_is_not_made_again(made: tuple[list[Trial], Path]) -> None:
    trials, out = made
    reports = sorted(out.rglob("report.html"))
    before = [path.stat().st_mtime_ns for path in reports]
    study_page.write_reports(trials, out)
    assert [path.stat().st_mtime_ns for path in reports] == before


def test_no_name_is_read_as_markup(made: tuple[list[Trial], Path]) -> None:
    _, out = made
    page = (out / "study.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_study_without_results_has_a_page_without_chart(tmp_path: Path) -> None:
    trials = [trial("at", evaluation={"images": 8})]
    page = study_page.write(STUDY, trials, rows(STUDY, trials, tmp_path), tmp_path).read_text()
    assert "plane-chart" not in page
    assert "open" in page


def test_a_point_stands_at_its_means_with_its_deviations() -> None:
    points = [Point("at", "best", 0.5, 0.2, (0.01, 0.02), True), Point("wat", "last", 0.4, 0.3)]
    first, second = plane(points)["data"]
    assert (first["x"], first["y"], second["x"], second["y"]) == ([50.0], [20.0], [40.0], [30.0])
    assert (first["error_x"]["array"], first["error_y"]["array"]) == ([1.0], [2.0])
    assert first["marker"]["symbol"] != second["marker"]["symbol"]
    assert first["marker"]["color"] != second["marker"]["color"]
    assert "± 2.0" in first["customdata"][0]
    assert "the reference" in first["customdata"][0]
    assert "±" not in second["customdata"][0]


def test_names_stand_beside_few_points_only() -> None:
    def mode(count: int) -> Any:
        return plane([Point(str(i), "best", 0.5, 0.2) for i in range(count)])["data"][0]["mode"]

    assert (mode(12), mode(13)) == ("markers+text", "markers")


def test_in_a_browser_it_draws_sorts_and_leads_to_a_report(made: tuple[list[Trial], Path]) -> None:
    _, out = made
    with chromium() as browser:
        visit = Visit.to(browser, out / "study.html")
        assert visit.page.locator("#plane-chart .scatterlayer .point").count() == 2
        visit.page.get_by_role("columnheader", name="robust worst").last.get_by_role("button").click()
        column = "#runs-table tbody tr td:nth-child(6)"
        assert visit.texts(column) == ["20.0", "20.0", "50.0", "–"]
        assert (visit.complaints, visit.requests) == ([], [(out / "study.html").as_uri()])
        visit.page.locator("#runs-table a").first.click()
        visit.page.wait_for_url("**/report.html")
