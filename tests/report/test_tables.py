from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console
from tests.metrics.strategies import recorded

from classwise.metrics.extremes import worst_interval
from classwise.metrics.result import Result
from classwise.report import (
    attack_table,
    class_table,
    latex_tables,
    markdown_tables,
    rich_attack_table,
    rich_class_table,
    verdict,
    which_number,
)
from classwise.report.contents import read
from classwise.report.sheet import Sheet
from classwise.report.tables import (
    attack_sheet,
    class_sheet,
    flow_sheet,
    group_sheet,
    p_text,
    pair_sheet,
    percent,
    span,
    spread_sheet,
)


def column(sheet: Sheet, title: str) -> list[str]:
    position = [c.title for c in sheet.columns].index(title)
    return [row[position].text for row in sheet.rows]


def test_the_verdict_names_average_worst_class_and_noise(result: Result) -> None:
    average, worst, difference = verdict(result)
    table = result.table()
    assert f"{100 * table['accuracy']:.2f} %" in average
    assert "Worst class: cat, " in worst
    assert f"{100 * table['worst']['interval'][0]:.2f}–{100 * table['worst']['interval'][1]:.2f} %" in worst
    assert "differ by more than sampling noise" in difference
    assert "p = 0.0001" in difference


def test_equal_classes_are_not_called_different(make: Callable[..., Result]) -> None:
    assert verdict(make(equal=True, per_class=50))[2].startswith("No difference between the classes beyond")


def test_one_class_is_not_tested(make: Callable[..., Result]) -> None:
    assert "cannot be tested" in verdict(make(classes=["only"], weak=0))[2]


def test_a_pgd_family_is_labelled_pgd_only(result: Result) -> None:
    label = which_number(result)
    assert label.startswith("PGD only: point-wise worst case of pgd, margin-pgd, temperature-pgd")
    assert "not AutoAttack" in label


@pytest.mark.parametrize("attacks", [["fgsm"], ["pgd(steps=100, restarts=5)"], ["pgd", "fgsm"]])
def test_settings_do_not_hide_that_attacks_are_pgd(make: Callable[..., Result], attacks: list[str]) -> None:
    assert which_number(make(attacks=attacks)).startswith("PGD only")


@pytest.mark.parametrize(("name", "settings", "only"), [("pgd", "square", False), ("mine", "pgd", True)])
def test_settings_say_what_is_pgd_whatever_it_is_called(
    make: Callable[..., Result], name: str, settings: str, only: bool
) -> None:
    result = make(attacks=[name])
    attacks = {name: {**recorded(settings), "seconds": 1.0}}
    assert which_number(Result({**result.header, "attacks": attacks}, result.outcomes)).startswith("PGD only") == only


@pytest.mark.parametrize("attack", ["apgd-t", "apgd-ce", "square", "fab-t"])
def test_other_families_are_not_labelled_pgd_only(make: Callable[..., Result], attack: str) -> None:
    assert "PGD only" not in which_number(make(attacks=["pgd", attack]))


@pytest.mark.parametrize(
    ("attacks", "start"),
    [
        (["apgd-ce", "square"], "Not AutoAttack: point-wise worst case of apgd-ce, square"),
        (["ensemble(attacks='apgd-ce,fab-t')"], "Not AutoAttack"),
        (["autoattack"], "AutoAttack as implemented here: autoattack alone"),
        (["pgd", "autoattack"], "AutoAttack as implemented here: point-wise worst case of pgd, autoattack"),
        (["autoattack(steps=5)"], "Not AutoAttack"),
    ],
)
def test_only_autoattack_is_called_autoattack(make: Callable[..., Result], attacks: list[str], start: str) -> None:
    assert which_number(make(attacks=attacks)).startswith(start)


def test_many_attacks_are_counted_instead_of_listed(make: Callable[..., Result]) -> None:
    label = which_number(make(attacks=[f"temperature-pgd(inverse_temperatures=[{i}])" for i in range(1, 9)]))
    assert "8 attacks (temperature-pgd)" in label


def test_without_attacks_nothing_is_called_robust(make: Callable[..., Result]) -> None:
    clean_only = make(attacks=())
    assert "robust" not in verdict(clean_only)[0]
    assert which_number(clean_only).startswith("Clean only")


def test_the_class_table_is_weakest_first_with_counts_and_two_decimals(result: Result) -> None:
    first = class_table(result).split("\n")[2]
    worst = result.table()["by_class"][3]
    assert first.startswith("| cat | 100 | ")
    assert f"| {100 * worst:.2f} |" in first


def test_a_hundred_classes_have_one_decimal(make: Callable[..., Result]) -> None:
    cells = column(class_sheet(read(make(classes=[f"c{i}" for i in range(100)], per_class=7))), "worst case")
    assert {len(cell.partition(".")[2]) for cell in cells} == {1}


def test_absent_classes_show_a_dash_and_never_zero(make: Callable[..., Result]) -> None:
    sheet = class_sheet(read(make(absent=(4,))))
    row = next(row for row in sheet.rows if row[0].text == "deer")
    assert row[1].text == "0"
    assert {cell.text for cell in row[2:8]} == {"–"}
    assert all(value is None for cell in row[2:8] for value in cell.values)


def test_the_main_confusion_is_the_largest_flow(result: Result) -> None:
    contents = read(result)
    cell = column(class_sheet(contents), "mostly sent to")[0]
    # The fixture sends most lost images of class 3 to class 3 ^ 1 = 2.
    assert cell == f"bird ({percent(contents.flow[3, 2] / contents.n[3])})"


def test_shares_of_false_positives_sum_to_one(result: Result) -> None:
    sheet = class_sheet(read(result))
    shares = [row[-1].values[0] for row in sheet.rows]
    assert math.isclose(sum(share for share in shares if isinstance(share, float)), 1)


def test_the_attack_table_has_each_view_and_what_it_broke_first(result: Result) -> None:
    sheet = attack_sheet(read(result))
    broken = [int(text.replace(",", "")) for text in column(sheet, "broke first")]
    assert column(sheet, "attack") == ["clean", "pgd", "margin-pgd", "temperature-pgd", "worst case"]
    assert column(sheet, "seconds") == ["–", "10.0", "11.0", "12.0", "–"]
    assert sum(broken[:-1]) == broken[-1] == (~result.outcomes.correct()).sum()


def test_every_attack_has_the_interval_of_its_worst_class(result: Result) -> None:
    outcomes, sheet = result.outcomes, attack_sheet(read(result))
    place = [c.title for c in sheet.columns].index("95 % interval")
    for row, view in zip(sheet.rows, outcomes.views, strict=True):
        low, high = worst_interval(outcomes.counts(view), outcomes.n)
        assert row[place].values == pytest.approx((low, high))
        assert row[place].text == span(low, high)


def test_the_worst_case_is_no_higher_than_any_attack(result: Result) -> None:
    averages = [float(text) for text in column(attack_sheet(read(result)), "average")]
    assert averages[-1] <= min(averages)


def test_summaries_of_spread_match_the_result(result: Result) -> None:
    table = result.table()
    last = spread_sheet(read(result)).rows[-1]
    assert [cell.values[0] for cell in last[1:]] == [
        table[key] for key in ("macro_average", "std", "std_corrected", "nsd", "class_variance")
    ]


def test_rows_of_the_flow_matrix_add_up_to_what_is_lost(result: Result) -> None:
    contents = read(result)
    for c, row in zip((3, 5, 2), flow_sheet(contents, [3, 5, 2]).rows, strict=True):
        shown = [int(cell.text) for cell in row[1:4] if cell.text != "·"]
        assert len(shown) == 2
        assert sum(shown) + int(row[4].text) == contents.lost[c]


def test_the_largest_flow_leads_the_list_of_pairs(result: Result) -> None:
    contents = read(result)
    largest = (contents.flow - np.diag(contents.flow.diagonal())).max()
    assert pair_sheet(contents).rows[0][2].values == (largest,)


def test_a_flow_into_an_absent_class_is_listed_without_a_test(make: Callable[..., Result]) -> None:
    sheet = pair_sheet(read(make(absent=(2,))))
    rows = [row for row in sheet.rows if row[1].text == "bird"]
    assert rows
    assert {row[-1].text for row in rows} == {"–"}


def test_superclasses_have_a_table_only_where_every_class_has_one(make: Callable[..., Result], result: Result) -> None:
    sheet = group_sheet(read(result))
    assert sheet is not None
    assert [row[0].text for row in sheet.rows] == ["vehicles", "animals"]
    assert group_sheet(read(make())) is None
    assert group_sheet(read(make(groups={"some": ["cat", "dog"]}))) is None


def test_the_terminal_tables_have_a_row_a_class_and_a_row_a_view(result: Result) -> None:
    assert rich_class_table(result).row_count == 10
    assert rich_attack_table(result).row_count == 5


def test_the_terminal_has_the_weakest_thirty_classes_that_have_images(make: Callable[..., Result]) -> None:
    few = rich_class_table(make(absent=(2,)))
    many = rich_class_table(make(classes=[f"class {c}" for c in range(40)], weak=7))
    assert (few.row_count, many.row_count) == (9, 30)
    assert "(10 classes); 1 of them, stronger or without images, not shown" in str(few.title)
    assert next(iter(many.columns[0].cells)).plain == "class 7"
    assert len(class_table(make(classes=[f"class {c}" for c in range(40)], weak=7)).splitlines()) == 2 + 40


def test_class_names_cannot_break_a_table(make: Callable[..., Result]) -> None:
    evil = make(classes=["a|b", "<script>alert(1)</script>", "[red]x[/red]", "a\nb\x1b[31m"], weak=0)
    lines = class_table(evil).splitlines()
    assert len(lines) == 2 + 4
    assert "<script>" not in class_table(evil)
    console = Console(width=200, file=io.StringIO())
    console.print(rich_class_table(evil))
    assert isinstance(console.file, io.StringIO)
    assert "[red]x[/red]" in console.file.getvalue()
    assert "\x1b[31m" not in console.file.getvalue()


def test_the_markdown_attack_table_names_the_weakest_class(result: Result) -> None:
    assert "| cat |" in attack_table(result).splitlines()[-1]


@pytest.mark.parametrize(
    ("share", "decimals", "text"), [(0.5, 2, "50.00"), (1, 1, "100.0"), (math.nan, 2, "–"), (None, 2, "–")]
)
def test_per_cent_is_written_with_its_decimals(share: float | None, decimals: int, text: str) -> None:
    assert percent(share, decimals) == text


def test_an_undefined_interval_is_a_dash() -> None:
    assert span(math.nan, math.nan) == "–"


@pytest.mark.parametrize(("p", "text"), [(1e-12, "1.0e-12"), (1 / 10_001, "0.0001"), (0.043, "0.043"), (1.0, "1")])
def test_small_p_values_are_never_written_as_zero(p: float, text: str) -> None:
    assert p_text(p) == text


def test_the_markdown_text_has_the_verdict_the_label_and_both_tables(result: Result) -> None:
    text = markdown_tables(result)
    assert text.startswith(f"- {verdict(result)[0]}\n- Worst class: cat")
    assert "- PGD only" in text
    assert class_table(result) in text
    assert text.endswith(attack_table(result))


def test_the_markdown_text_holds_no_markup_of_a_name(make: Callable[..., Result]) -> None:
    text = markdown_tables(make(classes=["<script>x</script>", "*b*"], weak=0))
    assert "<script>" not in text
    assert "\\*b\\*" in text


def test_each_latex_table_says_which_number_it_is(result: Result) -> None:
    tables = latex_tables(result).split(r"\end{table}")[:-1]
    assert len(tables) == 2
    assert all("PGD only: point-wise worst case" in table for table in tables)


def test_the_latex_class_table_has_a_row_a_class(result: Result) -> None:
    classes = latex_tables(result).partition(r"\bottomrule")[0].partition(r"\midrule")[2].strip().splitlines()
    assert len(classes) == 10
    assert classes[0].startswith("cat & 100 & ")
    assert {line.count(" & ") for line in classes} == {9}
