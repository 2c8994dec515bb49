from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from plotly.offline import get_plotlyjs
from tests.report.conftest import make_curve, make_examples

from classwise.errors import InputError
from classwise.files.texts import plain
from classwise.metrics.examples import EXAMPLES_FILE, Examples
from classwise.metrics.result import Result
from classwise.metrics.training import Curve
from classwise.report import verdict, which_number, write_page
from classwise.report.document import script_json
from classwise.report.page import page

EVIL = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    '"quoted" & <b>bold</b>',
    "it's {{ 7 * 7 }} {% x %}",
    "a|b,c;d",
    "\x1b[31mred\nline",
    "<!--",
    "日本",
)


class Page(HTMLParser):
    """The page as a browser reads it: tags, the text of each, and what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif data.strip() and (not self.open or self.open[-1] != "style"):
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    @property
    def charts(self) -> Any:
        return json.loads(self.scripts[1])["charts"]


@pytest.fixture(scope="module")
def source(result: Result, stored: Examples, training: Curve) -> str:
    return page(result, "results/a run", stored, training)


@pytest.fixture(scope="module")
def parsed(source: str) -> Page:
    return Page(source)


@pytest.fixture(scope="module")
def evil(make: Callable[..., Result]) -> Page:
    flag = {"flag": EVIL[0], "attack": EVIL[1], "message": EVIL[2], "classes": [EVIL[3]], "value": 1.0}
    header = {
        "command": ["classwise", "evaluate", EVIL[0], '"x"'],
        "flags": [flag],
        "model": {"name": EVIL[1], "sha256": None, "parameters": None},
        "environment": {EVIL[0]: EVIL[1]},
    }
    groups = {EVIL[0]: list(EVIL[:4]), EVIL[1]: list(EVIL[4:])}
    result = make(classes=EVIL, weak=0, per_class=20, groups=groups, **header)
    return Page(page(result, EVIL[0], make_examples(result), make_curve(len(EVIL))))


def test_the_page_is_written_beside_the_result(folder: Path) -> None:
    assert write_page(folder) == folder / "report.html"
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_page_can_be_written_elsewhere(folder: Path, tmp_path: Path) -> None:
    assert write_page(str(folder), str(tmp_path / "sub" / "x.html")).exists()


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_page(tmp_path)


def test_the_same_result_gives_the_same_page(result: Result) -> None:
    assert page(result, "x") == page(result, "x")


def test_plotly_is_inlined_exactly_once(source: str, parsed: Page) -> None:
    assert source.count(get_plotlyjs()) == 1
    assert len(parsed.scripts) == 3
    assert parsed.scripts[0] == get_plotlyjs()


def test_nothing_is_loaded_from_anywhere(parsed: Page) -> None:
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in parsed.all("img"))
    assert not [script for script in parsed.all("script") if "src" in script]
    assert all(str(a["href"]).startswith(("#", "data:text/csv")) for a in parsed.all("a"))


def test_the_page_forbids_itself_the_network(parsed: Page) -> None:
    policy = next(m["content"] for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_the_verdict_comes_first(parsed: Page, result: Result) -> None:
    lines = [*verdict(result), which_number(result)]
    positions = [parsed.text.index(line) for line in lines]
    assert positions == sorted(positions)
    assert positions[-1] < parsed.text.index("Classes, from clean to worst case")


def test_headings_descend_one_level_at_a_time(parsed: Page) -> None:
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_table_has_a_caption_and_headings_with_scope(parsed: Page) -> None:
    assert len(parsed.all("caption")) == len(parsed.all("table")) >= 6
    assert all(heading.get("scope") in {"row", "col"} for heading in parsed.all("th"))


def test_every_id_is_unique_and_every_reference_points_to_one(parsed: Page) -> None:
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    references = [str(a["href"])[1:] for a in parsed.all("a") if str(a["href"]).startswith("#")]
    references += [
        str(attributes["aria-labelledby"]) for _, attributes in parsed.tags if "aria-labelledby" in attributes
    ]
    assert len(ids) == len(set(ids))
    assert set(references) <= set(ids)


def test_the_first_link_skips_to_the_content(parsed: Page) -> None:
    assert parsed.all("a")[0] == {"class": "skip", "href": "#main"}


def test_scrolling_boxes_can_be_reached_by_keyboard(parsed: Page) -> None:
    boxes = [a for a in parsed.all("div") if str(a.get("class", "")).startswith("scroll")]
    assert boxes
    assert all(box["tabindex"] == "0" and box["role"] == "region" for box in boxes)


def test_charts_say_what_they_show_and_have_data(parsed: Page) -> None:
    drawn = [a for a in parsed.all("div") if a.get("class") == "chart"]
    assert {a["id"] for a in drawn} == set(parsed.charts)
    assert set(parsed.charts) == {"bars-chart", "diagram-chart", "flow-chart", "epoch-chart"}
    assert all(a["role"] == "img" and a["aria-label"] for a in drawn)


def test_dark_and_print_have_rules_of_their_own(source: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in source
    assert "@media print" in source
    assert 'content="width=device-width, initial-scale=1"' in source


def _downloads(parsed: Page) -> Iterator[tuple[str, list[list[str]]]]:
    for link in parsed.all("a"):
        if "download" in link:
            text = unquote(str(link["href"]).partition(",")[2])
            yield str(link["download"]), list(csv.reader(io.StringIO(text, newline="")))


def test_every_table_can_be_downloaded(parsed: Page) -> None:
    names = [name for name, _ in _downloads(parsed)]
    assert names == [
        "classes.csv",
        "largest-flows.csv",
        "superclasses.csv",
        "confusion-flow.csv",
        "examples.csv",
        "attacks.csv",
        "disparity.csv",
        "epochs.csv",
    ]


def test_the_download_holds_the_accuracies_as_fractions(parsed: Page, result: Result) -> None:
    head, first, *others = dict(_downloads(parsed))["classes.csv"]
    row = dict(zip(head, first, strict=True))
    low, high = result.table()["intervals"][3]
    assert row["class"] == "cat"
    assert float(row["worst_case"]) == pytest.approx(result.table()["by_class"][3], abs=1e-6)
    assert float(row["interval_low"]) == pytest.approx(low, abs=1e-6)
    assert float(row["interval_high"]) == pytest.approx(high, abs=1e-6)
    assert len(others) == 9


def test_settings_versions_and_commands_are_given(parsed: Page) -> None:
    for text in (
        "2.15.0",
        "Linf",
        "8/255",
        "ab" * 32,
        "PGD(threat=ThreatModel(norm='Linf', eps=0.03137",
    ):
        assert text in parsed.text
    assert "classwise evaluate --model preact_resnet18@weights.safetensors --data cifar10" in parsed.text
    assert "classwise report 'results/a run'" in parsed.text


def test_warnings_are_shown_where_there_are_any(make: Callable[..., Result], parsed: Page) -> None:
    flag = {"flag": "masked", "attack": "pgd", "message": "Gradients are zero.", "classes": ["cat"], "value": 0.5}
    assert "Gradients are zero." in Page(page(make(flags=[flag]), "x")).text
    assert "Warnings" not in parsed.texts


def test_hostile_names_add_no_element(evil: Page, parsed: Page) -> None:
    assert {tag for tag, _ in evil.tags} == {tag for tag, _ in parsed.tags}
    assert len(evil.scripts) == 3
    assert not [a for _, attributes in evil.tags for a in attributes if a.startswith("on")]


def test_hostile_names_are_read_as_text(evil: Page) -> None:
    for name in (EVIL[0], EVIL[1], EVIL[2], EVIL[3], EVIL[4]):
        assert name in evil.texts
    assert f"Images that {EVIL[0]} loses" in evil.texts
    assert "classwise report '<script>alert(1)</script>'" in evil.text
    assert "classwise evaluate '<script>alert(1)</script>' '\"x\"'" in evil.text


def test_hostile_names_survive_the_download(evil: Page) -> None:
    rows = dict(_downloads(evil))["classes.csv"]
    assert {row[0] for row in rows[1:]} == {plain(name) for name in EVIL}


def test_hostile_names_are_literal_in_charts(evil: Page) -> None:
    ticks = evil.charts["bars-chart"]["layout"]["yaxis"]["ticktext"]
    assert len(ticks) == len(EVIL)
    assert not [tick for tick in ticks if "<" in tick]
    assert "日本" in {html.unescape(tick) for tick in ticks}


def test_json_in_a_script_cannot_close_it() -> None:
    text = script_json({"name": "</script><!--", "line": "\u2028"})
    assert "<" not in text
    assert json.loads(text) == {"name": "</script><!--", "line": "\u2028"}


def test_a_thousand_classes_fit(make: Callable[..., Result]) -> None:
    names = [f"class {i}, of a rather long name of an image set" for i in range(1000)]
    source = page(make(classes=names, per_class=10, absent=(5,)), "x")
    parsed = Page(source)
    assert len(source.encode()) < 8_000_000
    assert "The chart shows the 30 weakest of 999 classes" in parsed.text
    assert "1 class has no images" in parsed.text
    assert "Shown are the 30 of 999 classes that lose the most images" in parsed.text
    assert set(names) <= set(parsed.texts)
    assert len(parsed.charts["bars-chart"]["layout"]["yaxis"]["ticktext"]) == 30
    assert len(parsed.charts["flow-chart"]["data"][0]["z"]) == 30


def test_without_a_flow_no_heat_map_is_drawn(make: Callable[..., Result]) -> None:
    parsed = Page(page(make(attacks=()), "x"))
    assert set(parsed.charts) == {"bars-chart"}
    assert not {"flow-chart", "diagram-chart"} & {a.get("id") for a in parsed.all("div")}
    assert "there is no flow to show" in parsed.text


def test_the_examples_of_the_folder_are_shown(result: Result, stored: Examples, tmp_path: Path) -> None:
    result.write(tmp_path)
    stored.save(tmp_path / EXAMPLES_FILE)
    assert len(Page(write_page(tmp_path).read_text()).all("img")) == 3 * len(stored)


def test_without_examples_nothing_is_said_of_them(make: Callable[..., Result]) -> None:
    parsed = Page(page(make(), "x"))
    assert not parsed.all("img")
    assert "Examples" not in parsed.texts


def test_a_run_whose_log_is_gone_says_how_to_see_its_epochs(make: Callable[..., Result]) -> None:
    model = {"name": "run:runs/<gone>", "sha256": None, "parameters": None}
    assert "The log of runs/<gone> could not be read" in Page(page(make(model=model), "x")).text
    assert "Epochs" not in Page(page(make(), "x")).texts


def test_absent_classes_show_a_dash(make: Callable[..., Result]) -> None:
    texts = Page(page(make(absent=(4,)), "x")).texts
    row = texts.index("deer")
    assert texts[row + 1 : row + 9] == ["0", *["–"] * 7]
