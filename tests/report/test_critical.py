"""What is said and drawn of critical eps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.metrics.test_critical_eps import measured

from classwise.metrics import CriticalEps
from classwise.report.critical import critical_curve, critical_sheet, eps_text, remark, save_figure, sentence
from classwise.report.sheet import to_markdown

CAT, CAR = [0.0] + [1.3 / 255] * 24 + [20 / 255] * 5, [6.2 / 255] * 16 + [math.inf] * 14


def found(*groups: list[float], **about: Any) -> CriticalEps:
    base = measured(*groups, eps_max=32 / 255)
    threat = {"norm": "Linf", "eps": 32 / 255, "eps_text": "32/255"}
    return replace(base, about={**base.about, "threat": threat, "data": {"name": "cifar10"}, **about})


def test_the_sentence_names_the_weakest_and_the_strongest_class() -> None:
    assert sentence(found(CAR, CAT)) == (
        "Half of the images of b are broken within 1.3/255; half of those of a are broken within 6.2/255. "
        "With 95 % confidence the median of b is the smallest."
    )


def test_a_median_above_the_largest_radius_is_never_a_number() -> None:
    said = sentence(found([0.01] * 20, [math.inf] * 20))
    assert "half of those of b are broken above 32/255 at best" in said


def test_a_weakest_class_that_is_not_sure_is_said_to_be_so() -> None:
    said = sentence(found([0.01, 0.02], [0.015, 0.02], [0.011]))
    assert said.endswith("the smallest median may also be that of c or b.")


def test_a_class_that_is_mostly_wrong_when_clean_is_broken_without_any_attack() -> None:
    assert "of a are wrong without any attack" in sentence(found([0.0, 0.0, 0.01]))


def test_no_images_are_said() -> None:
    assert sentence(found([])) == "There are no images."


def test_the_remark_says_upper_bound_and_counts_what_is_open() -> None:
    said = remark(found(CAT, CAR, unconfirmed=2))
    assert "not certified" in said
    assert "14 of 60 images are above 32/255, 2 of them" in said


def test_the_table_has_the_weakest_class_first_and_counts_at_radii() -> None:
    lines = to_markdown(critical_sheet(found(CAR, CAT), [8 / 255])).splitlines()
    assert "right at 8/255" in lines[0]
    assert "in 1/255" in critical_sheet(found(CAT)).caption
    assert lines[2] == "| b | 30 | 1 | 1.3 | 1.3 | 20 | 1.3–1.3 | 5 |"
    assert lines[3] == "| a | 30 | 0 | 6.2 | 6.2 | &gt; 32 | 6.2–&gt; 32 | 14 |"


@pytest.mark.parametrize(("text", "said"), [("32/255", "1.3/255"), ("0.125", "0.0051")])
def test_a_radius_is_written_as_the_largest_one_is(text: str, said: str) -> None:
    threat = {"norm": "Linf", "eps": 32 / 255, "eps_text": text}
    assert eps_text(found(CAT, threat=threat), 1.3 / 255) == said
    assert eps_text(found(CAT), math.nan) == "–"


def test_the_chart_shows_the_share_beyond_each_radius() -> None:
    """Of 60 images 59 are right when clean, 35 from 1.3/255 on, 19 from 6.2/255 on, 14 from 20/255 on."""
    axes = critical_curve(found(CAR, CAT)).axes[0]
    whole, weakest = axes.lines[-2:]
    assert list(whole.get_xdata()) == pytest.approx([0, 1.3, 6.2, 20, 32])
    assert list(whole.get_ydata()) == pytest.approx([100 * left / 60 for left in (59, 35, 19, 14, 14)])
    assert weakest.get_ydata()[-1] == 0
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["all images", "b, smallest median"]


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (save_figure(found(CAT, CAR), tmp_path / name).read_bytes() for name in "ab")
    assert first == second
    assert first.startswith(b"<?xml")
