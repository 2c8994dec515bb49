from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from classwise.errors import InputError
from classwise.metrics.result import Result
from classwise.report import class_bars, flow_heatmap, save_figures

MAGIC = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}


@pytest.fixture(scope="module")
def written(result: Result, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return save_figures(result, tmp_path_factory.mktemp("figures") / "new")


def test_both_figures_are_written_in_every_format_and_nothing_else(written: tuple[Path, ...]) -> None:
    names = {f"{stem}.{suffix}" for stem in ("class_bars", "flow_heatmap") for suffix in MAGIC}
    assert {path.name for path in written} == {path.name for path in written[0].parent.iterdir()} == names
    assert all(path.read_bytes().startswith(MAGIC[path.suffix[1:]]) for path in written)


def test_the_same_result_gives_the_same_bytes(result: Result, written: tuple[Path, ...], tmp_path: Path) -> None:
    again = save_figures(result, tmp_path)
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]


def test_files_hold_no_date(written: tuple[Path, ...]) -> None:
    content = {path.name: path.read_bytes() for path in written}
    assert b"CreationDate" not in content["class_bars.pdf"]
    assert b"<dc:date>" not in content["class_bars.svg"]


def test_an_unknown_format_is_refused_before_anything_is_written(result: Result, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use pdf, png, svg"):
        save_figures(result, tmp_path / "new", ("png", "bmp"))
    assert not (tmp_path / "new").exists()


def test_bars_are_named_weakest_first(result: Result) -> None:
    names = [text.get_text() for text in class_bars(result).axes[0].get_yticklabels()]
    assert names[0] == "cat"
    assert len(names) == 10


def test_the_legend_names_every_sign(result: Result) -> None:
    texts = [text.get_text() for text in class_bars(result).legends[0].get_texts()]
    assert {"clean", "pgd", "worst case", "simultaneous 95 % interval"} <= set(texts)


def test_many_classes_are_cut_and_the_figure_says_so(make: Callable[..., Result]) -> None:
    many = make(classes=[f"c{i}" for i in range(40)], per_class=20)
    assert "the 30 of 40 classes weakest" in class_bars(many).axes[0].get_xlabel()
    assert "the 30 of 40 classes losing most images" in flow_heatmap(many).axes[0].get_xlabel()


def test_the_numbers_in_the_heat_map_are_per_cent_of_the_row(result: Result) -> None:
    flow, n = result.outcomes.flow(), result.outcomes.n
    assert f"{100 * flow[3, 2] / n[3]:.1f}" in {text.get_text() for text in flow_heatmap(result).axes[0].texts}


def test_any_class_name_can_be_drawn(make: Callable[..., Result], tmp_path: Path) -> None:
    names = ("$x$", "a_b^c", "\\alpha", "日本", "<b>", "%d", "n" * 500)
    assert len(save_figures(make(classes=names, weak=0, per_class=9), tmp_path, ["png", "pdf"])) == 4


def test_a_dollar_sign_is_a_dollar_sign(make: Callable[..., Result]) -> None:
    labels = class_bars(make(classes=["$x$", "b"], weak=0)).axes[0].get_yticklabels()
    assert not any(text.get_parse_math() for text in labels)


@pytest.mark.parametrize("size", [1, 13])
def test_few_and_many_classes_can_be_drawn(make: Callable[..., Result], tmp_path: Path, size: int) -> None:
    result = make(classes=[f"c{i}" for i in range(size)], weak=0, per_class=5)
    assert len(save_figures(result, tmp_path, ["png"])) == 2


def test_absent_classes_and_no_attacks_can_be_drawn(make: Callable[..., Result], tmp_path: Path) -> None:
    assert len(save_figures(make(absent=(1,), attacks=()), tmp_path, ["png"])) == 2


def test_importing_the_reports_loads_neither_torch_nor_pyplot() -> None:
    code = "import sys, classwise.report; print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
