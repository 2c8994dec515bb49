"""The report in a real browser: it draws, answers the mouse and the keyboard, fits the screen, and asks for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.strategies import model, planted, subject
from tests.report.browser import Visit, chromium
from tests.report.conftest import GROUPS, make_curve, make_examples, make_result
from tests.report.test_page import EVIL

from classwise.analysis.comparison.compare import compare
from classwise.analysis.comparison.page import page as comparison_page
from classwise.metrics.examples import Examples
from classwise.metrics.result import Result
from classwise.metrics.training import Curve
from classwise.report.page import page

SIZE = 1000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def put(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Visit]:
    """Write a page to disk and open it."""

    def visit(text: str) -> Visit:
        path = tmp_path_factory.mktemp("page") / "report.html"
        path.write_text(text)
        return Visit.to(browser, path)

    return visit


@pytest.fixture(scope="module")
def report(put: Callable[[str], Visit], result: Result, stored: Examples, training: Curve) -> Visit:
    return put(page(result, "results/a run", stored, training))


@pytest.fixture(scope="module")
def evil(put: Callable[[str], Visit]) -> Visit:
    groups = {EVIL[0]: list(EVIL[:4]), EVIL[1]: list(EVIL[4:])}
    planted = make_result(
        classes=EVIL, weak=0, per_class=20, groups=groups, model={"name": EVIL[1], "sha256": "", "parameters": 1}
    )
    return put(page(planted, EVIL[0], make_examples(planted), make_curve(len(EVIL))))


@pytest.fixture(scope="module")
def many(put: Callable[[str], Visit]) -> Visit:
    names = [f"class {i} of a long name, as in large image sets" for i in range(SIZE)]
    groups = {f"group {g}": names[g::20] for g in range(20)}
    planted = make_result(classes=names, per_class=10, absent=(5,), groups=groups)
    return put(page(planted, "x", make_examples(planted, side=224)))


@pytest.fixture(scope="module")
def comparison(put: Callable[[str], Visit]) -> Visit:
    """Three models with hostile names on hostile classes: the second is fairer, the third levels down."""
    size = len(EVIL)
    base = np.linspace(0.3, 0.8, size)
    rates = {"base": base, EVIL[0]: np.linspace(0.6, 0.7, size), EVIL[1]: np.minimum(base, 0.5)}
    subjects = [
        subject(planted({"pgd": list(values)}, 200, seed=i, classes=EVIL), name, model=model(name))
        for i, (name, values) in enumerate(rates.items())
    ]
    return put(comparison_page(subjects, compare(subjects), "classwise compare a b c"))


@pytest.fixture(params=["report", "evil", "many", "comparison"])
def each(request: pytest.FixtureRequest) -> Visit:
    found: Visit = request.getfixturevalue(request.param)
    return found


def rows(visit: Visit, table: str = "class-table") -> list[str]:
    return visit.texts(f"#{table} tbody th")


def test_nothing_complains_and_nothing_is_asked_of_the_network(each: Visit) -> None:
    assert each.complaints == []
    assert [url for url in each.requests if not url.startswith("data:")] == [each.page.url]


def test_no_hostile_name_becomes_an_element(evil: Visit) -> None:
    assert evil.page.evaluate("document.querySelectorAll('main b, main script, header img').length") == 0
    assert evil.page.evaluate("[...document.images].every(image => image.src.startsWith('data:image/png'))")
    assert EVIL[0] in rows(evil)


@pytest.mark.parametrize(
    ("chart", "marks", "count"),
    [
        ("bars-chart", ".barlayer .point", 20),
        ("bars-chart", ".scatterlayer .trace", 3),
        ("diagram-chart", ".sankey-node", 20),
        ("flow-chart", ".heatmaplayer image", 1),
        ("epoch-chart", ".scatterlayer .trace", 12),
    ],
)
def test_charts_are_drawn(report: Visit, chart: str, marks: str, count: int) -> None:
    assert report.page.locator(f"#{chart} {marks}").count() == count
    assert report.page.locator(f"#{chart}").bounding_box()["height"] > 200


def test_every_example_is_a_picture(report: Visit) -> None:
    assert report.page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)") == [12] * 18


@pytest.mark.parametrize(
    ("chart", "mark", "said"),
    [
        ("bars-chart", ".barlayer .trace:nth-child(2) .point path", "cat"),
        ("diagram-chart", ".sankey-node >> nth=0", "right when clean"),
        ("epoch-chart", ".scatterlayer .trace:last-child .point >> nth=2", "average"),
    ],
)
def test_pointing_at_a_mark_says_what_it_is(report: Visit, chart: str, mark: str, said: str) -> None:
    report.page.locator(f"#{chart} {mark}").first.hover(force=True)
    report.page.wait_for_selector(f"#{chart} .hoverlayer .hovertext, #{chart} .hoverlayer g", timeout=5000)
    assert said in (report.page.locator(f"#{chart} .hoverlayer").text_content() or "")


def test_a_press_on_a_heading_sorts_and_another_turns_it_round(report: Visit, result: Result) -> None:
    heading = report.page.locator("#class-table thead button", has_text="class").first
    heading.click()
    assert rows(report) == sorted(result.outcomes.classes)
    assert report.page.locator("#class-table thead th").first.get_attribute("aria-sort") == "ascending"
    heading.click()
    assert rows(report) == sorted(result.outcomes.classes, reverse=True)
    report.page.locator("#class-table thead button", has_text="worst case").click()
    assert rows(report)[0] == "cat"


def test_numbers_are_sorted_as_numbers_with_undefined_ones_last(many: Visit) -> None:
    for _ in range(2):
        many.page.locator("#class-table thead button", has_text="worst case").click()
        assert rows(many)[-1].startswith("class 5 of")
    values = [float(text) for text in many.texts("#class-table tbody td:nth-child(8)")[:-1]]
    assert values == sorted(values, reverse=True)


def test_the_keyboard_sorts_too(report: Visit) -> None:
    report.page.locator("#attack-table thead button", has_text="average").focus()
    report.page.keyboard.press("Enter")
    assert rows(report, "attack-table")[-1] == "clean"


def test_classes_are_found_by_name_and_by_superclass(report: Visit) -> None:
    field = report.page.locator(".find input")
    field.fill("SHIP")
    assert rows(report) == ["ship"]
    assert report.texts(".find span") == ["1 of 10"]
    field.fill("")
    assert len(rows(report)) == 10
    report.page.locator("#group-table tbody button", has_text="animals").click()
    assert sorted(rows(report)) == sorted(GROUPS["animals"])
    assert field.evaluate("element => element === document.activeElement")
    field.fill("")


def test_a_thousand_classes_can_be_found_and_opened_by_superclass(many: Visit) -> None:
    many.page.locator(".find input").fill("class 777 ")
    assert len(rows(many)) == 1
    many.page.locator("#group-table tbody button", has_text="group 7").first.click()
    assert len(rows(many)) == SIZE // 20
    many.page.locator(".find input").fill("")


def test_a_page_of_a_thousand_classes_is_small_enough(many: Visit) -> None:
    assert len(many.page.content().encode()) < 15_000_000


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_sticks_out(each: Visit, width: int) -> None:
    assert each.overflow(width) == []


def test_all_that_can_be_pressed_or_scrolled_can_be_reached_by_keyboard(each: Visit) -> None:
    assert each.unreachable() == []


def test_the_first_tab_offers_to_skip_to_the_content(evil: Visit) -> None:
    # A page in which nothing has had the focus yet.
    evil.page.keyboard.press("Tab")
    assert evil.page.evaluate("document.activeElement.getAttribute('href')") == "#main"
    evil.page.keyboard.press("Enter")
    evil.page.keyboard.press("Tab")
    assert evil.page.evaluate("document.activeElement.closest('main') !== null")


def test_a_comparison_draws_classes_and_changes_and_says_who_pays(comparison: Visit) -> None:
    assert comparison.page.locator("#class-chart .barlayer .point").count() == 3 * len(EVIL)
    assert comparison.page.locator("#change-chart-2 .barlayer .point").count() == len(EVIL)
    comparison.page.locator("#change-chart-2 .barlayer .point path").first.hover(force=True)
    comparison.page.wait_for_selector("#change-chart-2 .hoverlayer .hovertext", timeout=5000)
    assert "pays beyond chance" in (comparison.page.locator("#change-chart-2 .hoverlayer").text_content() or "")


def test_the_leaderboard_sorts_by_any_metric(comparison: Visit) -> None:
    comparison.page.locator("#board-table thead button", has_text="gap").click()
    assert rows(comparison, "board-table")[0] == EVIL[0]
    comparison.page.locator("#board-table thead button", has_text="average").click()
    assert rows(comparison, "board-table")[-1] == EVIL[0]


def test_charts_change_colour_with_the_screen(report: Visit) -> None:
    def ink() -> str:
        return str(report.page.locator("#bars-chart .ytick text").first.evaluate("e => getComputedStyle(e).fill"))

    light = ink()
    report.page.emulate_media(color_scheme="dark")
    report.page.wait_for_function(
        "light => getComputedStyle(document.querySelector('#bars-chart .ytick text')).fill !== light", arg=light
    )
    assert light == "rgb(27, 33, 41)"
    assert ink() == "rgb(230, 234, 238)"
    report.page.emulate_media(color_scheme="light")


def test_the_page_can_be_printed(report: Visit, tmp_path: Path) -> None:
    report.page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert report.complaints == []
