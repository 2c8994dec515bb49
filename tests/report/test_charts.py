from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from classwise.metrics.result import Result
from classwise.report.charts import (
    attack_legend,
    class_bars,
    flow_classes,
    flow_diagram,
    flow_heatmap,
    label,
    legend,
    tilt,
    weakest_classes,
)
from classwise.report.contents import read
from classwise.report.palette import MARKERS, palettes


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def painted(value: Any, palette: dict[str, Any]) -> Any:
    """What the script of the page does."""
    if isinstance(value, str):
        return palette[value[1:]] if value.startswith("\0") else value
    if isinstance(value, dict):
        return {key: painted(item, palette) for key, item in value.items()}
    return [painted(item, palette) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("chart", [class_bars, flow_diagram, flow_heatmap])
def test_plotly_accepts_every_attribute(result: Result, chart: Callable[..., Any], theme: str) -> None:
    assert go.Figure(painted(chart(read(result)), palettes()[theme])).data


@pytest.mark.parametrize("chart", [class_bars, flow_diagram, flow_heatmap])
def test_charts_are_strict_json(result: Result, chart: Callable[..., Any]) -> None:
    assert json.dumps(chart(read(result)), allow_nan=False)


def test_bars_end_at_the_accuracies_of_the_result(result: Result) -> None:
    clean, weakest, others, *attacks = class_bars(read(result))["data"]
    by_class = [100 * value for value in result.table()["by_class"]]
    assert [*weakest["x"], *others["x"]] == pytest.approx(sorted(by_class))
    assert [trace["name"] for trace in attacks] == ["pgd", "margin-pgd", "temperature-pgd"]
    assert clean["x"][0] == pytest.approx(100 * result.table("clean")["by_class"][3])


def test_whiskers_end_at_the_simultaneous_interval(result: Result) -> None:
    bars = class_bars(read(result))["data"][1]
    low, high = result.table()["intervals"][3]
    assert bars["x"][0] - bars["error_x"]["arrayminus"][0] == pytest.approx(100 * low, abs=0.01)
    assert bars["x"][0] + bars["error_x"]["array"][0] == pytest.approx(100 * high, abs=0.01)


def test_the_heat_map_has_no_diagonal_and_shares_of_the_row(result: Result) -> None:
    contents = read(result)
    z = flow_heatmap(contents)["data"][0]["z"]
    assert all(z[i][i] is None for i in range(10))
    row, column = (flow_classes(contents).index(c) for c in (3, 2))
    assert z[row][column] == pytest.approx(100 * contents.flow[3, 2] / contents.n[3], abs=0.001)


def bands(result: Result) -> dict[tuple[int, int], int]:
    """Return the images of every band of the flow diagram by the numbers of its nodes."""
    link = flow_diagram(read(result))["data"][0]["link"]
    return {(i, j): count for i, j, count in zip(link["source"], link["target"], link["value"], strict=True)}


def test_bands_of_the_flow_diagram_are_the_images_that_move_or_stay(result: Result) -> None:
    contents, found = read(result), bands(result)
    shown = flow_classes(contents)
    assert sum(found.values()) == contents.clean.correct.sum()
    for (i, j), count in found.items():
        assert count == contents.flow[shown[i], shown[j - 10]]


def test_a_flow_diagram_of_many_classes_sends_the_rest_elsewhere(make: Callable[..., Result]) -> None:
    result = make(classes=[f"c{i}" for i in range(40)], per_class=20)
    node = flow_diagram(read(result))["data"][0]["node"]
    assert len(node["label"]) == len(node["color"]) == len(node["x"]) == len(node["y"]) == len(node["customdata"]) == 25
    assert node["label"][-1] == "other classes"
    shown = flow_classes(read(result), 12)
    assert sum(bands(result).values()) == read(result).clean.correct[shown].sum()


def test_nodes_of_a_flow_diagram_stand_in_the_order_of_the_heat_map(result: Result) -> None:
    node = flow_diagram(read(result))["data"][0]["node"]
    for side in (slice(0, 10), slice(10, 20)):
        assert node["y"][side] == sorted(node["y"][side])
        assert len(set(node["x"][side])) == 1


def test_a_class_without_a_band_has_no_node_and_takes_no_place(make: Callable[..., Result]) -> None:
    """Class 0 has no image that is right when clean, and nothing is sent to it."""
    made = make()
    outcomes = made.outcomes
    clean, *attacked = (
        np.where((said == 0) | (outcomes.y == 0), 1, said) for said in (outcomes.clean, *outcomes.predictions.values())
    )
    predictions = dict(zip(outcomes.predictions, attacked, strict=True))
    found = Result(made.header, replace(outcomes, clean=clean, predictions=predictions))
    trace = flow_diagram(read(found))["data"][0]
    node, ends = trace["node"], {*trace["link"]["source"], *trace["link"]["target"]}
    assert ends == set(range(len(node["label"])))
    assert {len(node[key]) for key in ("label", "color", "x", "y", "customdata")} == {18}
    assert outcomes.classes[0] not in node["label"]
    assert all(node["x"][source] < 0.5 < node["x"][target] for source, target in bands_of(trace))


def bands_of(trace: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(trace["link"]["source"], trace["link"]["target"], strict=True))


def test_superclasses_are_divided_by_a_line_each_way(result: Result) -> None:
    assert len(flow_heatmap(read(result))["layout"]["shapes"]) == 2


def test_charts_show_at_most_thirty_classes(make: Callable[..., Result]) -> None:
    contents = read(make(classes=[f"c{i}" for i in range(40)], per_class=20))
    assert len(weakest_classes(contents)) == len(flow_classes(contents)) == 30
    assert weakest_classes(contents)[0] == 3


def test_absent_classes_are_not_drawn(make: Callable[..., Result]) -> None:
    contents = read(make(absent=(4,)))
    assert 4 not in weakest_classes(contents)
    assert 4 not in flow_classes(contents)


def test_names_reach_plotly_without_markup(make: Callable[..., Result]) -> None:
    contents = read(make(classes=["<a href='javascript:x'>", "<b>x</b>", "c"], weak=0))
    texts = [*strings(class_bars(contents)), *strings(flow_heatmap(contents)), *strings(flow_diagram(contents))]
    assert not [text for text in texts if "<a" in text or "<b>x" in text]


def test_a_class_named_like_a_colour_keeps_its_name(make: Callable[..., Result]) -> None:
    chart = painted(class_bars(read(make(classes=["ink", "worst"], weak=0))), palettes()["dark"])
    assert set(chart["layout"]["yaxis"]["ticktext"]) == {"ink", "worst"}


def test_a_long_name_is_shortened_before_it_is_escaped() -> None:
    assert label("&" * 30, 4) == "&amp;" * 3 + "…"


def test_more_attacks_than_shapes_share_one_marker(make: Callable[..., Result]) -> None:
    contents = read(make(attacks=[f"pgd(steps={i})" for i in range(1, 2 + len(MARKERS))]))
    symbols = {trace["marker"]["symbol"] for trace in class_bars(contents)["data"] if trace["type"] == "scatter"}
    assert symbols == {MARKERS[0].plotly}
    assert [name for _, name in attack_legend(contents)] == ["each attack"]


def test_the_legend_names_bars_attacks_and_whiskers(result: Result) -> None:
    meanings = [meaning for _, _, meaning in legend(read(result))]
    assert meanings[:4] == ["clean", "pgd", "margin-pgd", "temperature-pgd"]
    assert "simultaneous 95 % interval" in meanings


def test_light_and_dark_name_the_same_colours() -> None:
    assert palettes()["light"].keys() == palettes()["dark"].keys()


def _luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "soft", "link"])
@pytest.mark.parametrize("ground", ["surface", "raised", "warning"])
def test_text_has_the_contrast_that_wcag_asks_for(theme: str, ink: str, ground: str) -> None:
    bright, dark = sorted((_luminance(palettes()[theme][c]) for c in (ink, ground)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize(("names", "angle"), [(["0", "1"], 0), (["cat", "truck"], -45), (["c"] * 30, -90), ([], 0)])
def test_names_are_tilted_as_far_as_they_need_room(names: list[str], angle: int) -> None:
    assert tilt(names) == angle
