"""The tables and sentences of a report: the same ones on the page, in Markdown, in LaTeX and in the terminal."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from rich.table import Table

from classwise.metrics.autoattack import version
from classwise.metrics.flow import asymmetry, group_accuracy, within_group_share
from classwise.metrics.recorded import PGD_FAMILY, kinds
from classwise.metrics.result import Result
from classwise.report.contents import Contents, Floats, View, read
from classwise.report.sheet import Cell, Column, Sheet, Value, escape_markdown, to_latex, to_markdown, to_rich
from classwise.report.stages import misses, plan_label, stage_sheet

ABSENT = "–"
"""Printed where a number is undefined, such as the accuracy of a class without images."""

SIGNIFICANCE = 0.05
_MOST_LINES = 30  # of a table in the terminal, so that the verdict below it is seen together with its top


def class_table(result: Result) -> str:
    """Return the table of classes in Markdown, weakest class first."""
    return to_markdown(class_sheet(read(result)))


def attack_table(result: Result) -> str:
    """Return the table of attacks in Markdown."""
    return to_markdown(attack_sheet(read(result)))


def markdown_tables(result: Result) -> str:
    """Return verdict, label and both tables as one Markdown text, to be pasted into an issue or a draft."""
    contents = read(result)
    lines = [f"- {escape_markdown(line)}\n" for line in (*verdict_lines(contents), number_label(contents))]
    sheets = [class_sheet(contents), attack_sheet(contents), stage_sheet(contents)]
    return "".join(lines) + "".join(f"\n{sheet.caption}:\n\n{to_markdown(sheet)}" for sheet in sheets if sheet)


def latex_tables(result: Result) -> str:
    """Return both tables in LaTeX (package booktabs); each caption says which robust accuracy it is."""
    contents = read(result)
    label = number_label(contents)
    return "\n".join(to_latex(sheet, label) for sheet in (class_sheet(contents), attack_sheet(contents)))


def rich_class_table(result: Result, width: int = 80) -> Table:
    """Return the table of classes for a terminal ``width`` characters wide: the weakest thirty that have images."""
    contents = read(result)
    sheet = class_sheet(contents)
    limit = min(int((contents.n > 0).sum()), _MOST_LINES)
    left = len(sheet.rows) - limit
    caption = f"{sheet.caption}; {left} of them, stronger or without images, not shown" if left else sheet.caption
    return to_rich(replace(sheet, caption=caption, rows=sheet.rows[:limit]), width)


def rich_attack_table(result: Result, width: int = 80) -> Table:
    """Return the table of attacks for a terminal ``width`` characters wide."""
    return to_rich(attack_sheet(read(result)), width)


def rich_stage_table(result: Result, width: int = 80) -> Table | None:
    """Return the table of stages for a terminal; None where no attack has several."""
    sheet = stage_sheet(read(result))
    return None if sheet is None else to_rich(sheet, width)


def verdict(result: Result) -> tuple[str, str, str]:
    """Return the three lines to read first: the average, the worst class, and whether classes differ at all."""
    return verdict_lines(read(result))


def which_number(result: Result) -> str:
    """Say which robust accuracy this is; an evaluation by PGD attacks alone begins with "PGD only"."""
    return number_label(read(result))


def verdict_lines(contents: Contents) -> tuple[str, str, str]:
    """Return the three lines of :func:`verdict`."""
    view = contents.worst_case
    low, high = view.worst_interval
    images, clean = f"{int(contents.n.sum()):,} images", percent(contents.clean.average)
    average = f"Average robust accuracy {percent(view.average)} % on {images} (clean {clean} %)."
    if not contents.attacks:
        average = f"Average clean accuracy {clean} % on {images}; no attack was run."
    worst = (
        f"Worst class: {contents.weakest}, {percent(view.by_class[view.worst], contents.decimals)} %; "
        f"the lowest class accuracy is in {span(low, high, contents.decimals)} % ({contents.confidence} % interval)."
    )
    return average, worst, _difference(contents)


def number_label(contents: Contents) -> str:
    """Return the sentence of :func:`which_number`."""
    count = len(contents.attacks)
    short = dict.fromkeys(view.name.partition("(")[0] for view in contents.attacks)
    names = ", ".join(view.name for view in contents.attacks) if count < 7 else f"{count} attacks ({', '.join(short)})"
    precision = contents.precision
    versions = {version(view.about, precision) for view in contents.attacks}
    planned = None if "standard" in versions else plan_label(contents)
    if planned is not None:
        return planned
    if not contents.attacks:
        return "Clean only: no attack was run, so this says nothing about robustness."
    worst = f"point-wise worst case of {names}" if count > 1 else f"{names} alone"
    families = [kinds(view.about) for view in contents.attacks]
    if all(family and family <= PGD_FAMILY for family in families):
        return f"PGD only: {worst} – PGD family only, not AutoAttack."
    if "standard" in versions:
        return f"AutoAttack as implemented here: {worst}."
    if strong := next((version for version in ("plus", "rand") if version in versions), None):
        return f"AutoAttack {strong} as implemented here, not standard: {worst}."
    searched = "" if precision == "float32" else f", searched in {precision}"
    return f"Not AutoAttack: {worst}{searched}."


def class_sheet(contents: Contents, superclasses: bool = False) -> Sheet:
    """Table of classes: images, clean, each attack alone, worst case with interval, confusion, CFPS.

    With ``superclasses`` each class's is named, where there are some.
    """
    grouped = superclasses and _grouped(contents)
    columns = (
        Column("class", ("class",), words=True),
        *([Column("superclass", ("superclass",), words=True, find=True)] if grouped else []),
        Column("n", ("n",), note="images of the class"),
        *(Column(view.name, (_key(view),), spare=view in contents.attacks) for view in contents.views),
        Column(
            f"{contents.confidence} % interval",
            ("interval_low", "interval_high"),
            note="simultaneous interval of the worst case: all classes hold at once",
        ),
        *(
            [Column("may still break", ("at_most",), note="at most so many more, by the audit; all classes at once")]
            if misses(contents) is not None
            else []
        ),
        Column(
            "mostly sent to",
            ("main_confusion", "main_confusion_share"),
            words=True,
            note="class that most of its lost images are taken for, with the share of the class's images",
        ),
        Column(
            "CFPS",
            ("cfps",),
            note="class false-positive share: of all wrong answers, those naming the class",
            spare=True,
        ),
    )
    missing = [c for c in range(len(contents.classes)) if contents.n[c] == 0]
    rows = tuple(_class_row(contents, c, grouped) for c in [*contents.order.tolist(), *missing])
    caption = f"Accuracy of each class in per cent, weakest first ({len(contents.classes)} classes)"
    return Sheet("classes", caption, columns, rows, marked=0 if rows else None)


def attack_sheet(contents: Contents) -> Sheet:
    """Table of attacks, each alone: average, worst class, W10, gap, time, and what each was first to break."""
    columns = (
        Column("attack", ("attack",), words=True),
        Column("average", ("average",)),
        Column("worst", ("worst",), note="accuracy of the weakest class"),
        Column("worst class", ("worst_class",), words=True),
        Column(
            f"{contents.confidence} % interval",
            ("worst_interval_low", "worst_interval_high"),
            note="interval of the lowest class accuracy, whichever class it is",
            spare=True,
        ),
        Column("W10", ("worst_q10",), note="mean of the weakest tenth of the classes, at least one", spare=True),
        Column("gap", ("gap",), note="strongest class minus weakest class, in points", spare=True),
        Column(
            "broke first", ("broke_first",), note="images that were right until this attack, in the order of the rows"
        ),
        Column("seconds", ("seconds",)),
    )
    rows = tuple(_attack_row(contents, view) for view in contents.views)
    caption = "Each attack alone, and their point-wise worst case, in per cent"
    if any(view.about.get("after") for view in contents.attacks):
        caption += "; an attack on survivors counts what those before it had broken"
    return Sheet("attacks", caption, columns, rows)


def spread_sheet(contents: Contents) -> Sheet:
    """Table of how far classes lie apart under each view."""
    keys = {
        "macro_average": ("macro average", "mean over classes, each counted alike"),
        "std": ("std", "standard deviation over classes, in points"),
        "std_corrected": ("std corrected", "the same without the part that sampling noise explains"),
        "nsd": ("NSD", "standard deviation divided by the mean over classes"),
        "class_variance": ("class variance", "square of the standard deviation, of shares of 1"),
    }
    columns = (
        Column("attack", ("attack",), words=True),
        *(Column(title, (key,), note=note) for key, (title, note) in keys.items()),
    )
    rows = tuple(
        (
            Cell(view.name, (view.name,)),
            *(_spread(view, key) for key in keys),
        )
        for view in contents.views
    )
    return Sheet("disparity", "How far the classes lie apart", columns, rows)


def flow_sheet(contents: Contents, classes: list[int]) -> Sheet:
    """Matrix of the confusion flow among ``classes``: images of the row's class sent to the column's."""
    names = [contents.classes[c] for c in classes]
    columns = (
        Column("class", ("class",), words=True),
        *(Column(name, (name,)) for name in names),
        Column("elsewhere", ("elsewhere",), note="sent to a class that is not shown"),
        Column("lost", ("lost",), note="right when clean, wrong after the attacks"),
        Column("right when clean", ("clean_correct",)),
    )
    return Sheet(
        "confusion-flow",
        "Images that the attacks move from the row's class to the column's class",
        columns,
        tuple(_flow_row(contents, c, classes) for c in classes),
    )


def group_sheet(contents: Contents) -> Sheet | None:
    """Table of superclasses: robust accuracy of their classes, and of the superclass as the answer; None without."""
    if not _grouped(contents):
        return None
    names = list(dict.fromkeys(contents.groups[c] for c in contents.flow_order))
    labels = np.array([names.index(group) for group in contents.groups])
    accuracy = group_accuracy(contents.confusion, contents.n, labels)
    columns = (
        Column("superclass", ("superclass",), words=True),
        Column("classes", ("classes",)),
        Column("mean worst case", ("mean_worst_case",), note="mean over the classes of the superclass"),
        Column("superclass right", ("superclass_right",), note="images taken for some class of their superclass"),
    )
    mean = [_mean(contents.worst_case.by_class[labels == g]) for g in range(len(names))]
    rows = tuple(
        (
            Cell(name, (name,)),
            Cell(str((labels == g).sum()), (int((labels == g).sum()),)),
            _share(mean[g], 2),
            _share(float(accuracy[g]), 2),
        )
        for g, name in enumerate(names)
    )
    share = within_group_share(contents.confusion, labels)
    caption = "Superclasses under the worst case, in per cent"
    if not math.isnan(share.within):
        caption += (
            f"; {percent(share.within)} % of the errors stay within a superclass, {percent(share.chance)} % by chance"
        )
    return Sheet("superclasses", caption, columns, rows)


def pair_sheet(contents: Contents, limit: int = 10) -> Sheet:
    """The largest single flows, with the flow in the opposite direction."""
    columns = (
        Column("from", ("from",), words=True),
        Column("to", ("to",), words=True),
        Column("images", ("images",)),
        Column("of the class", ("share",), note="share of all images of the class"),
        Column("of its lost images", ("share_of_lost",)),
        Column("images back", ("images_back",), note="images that flow in the opposite direction"),
        Column(
            "p symmetric",
            ("p_symmetric",),
            note="exact two-sided binomial test that as much flows back as forth, Holm over all pairs of classes",
        ),
    )
    flow = contents.flow.copy()
    flow[range(len(flow)), range(len(flow))] = 0
    ranked = flow.argsort(axis=None, kind="stable")[::-1][:limit]
    pairs = [divmod(int(position), len(flow)) for position in ranked]
    tested = {frozenset((pair.source, pair.sink)): pair.p_holm for pair in asymmetry(contents.flow, contents.n)}
    # A class without images can be flowed to but not back from, so that there is nothing to test.
    rows = tuple(_pair_row(contents, i, j, tested.get(frozenset((i, j)))) for i, j in pairs if flow[i, j])
    return Sheet("largest-flows", f"The {len(rows)} largest flows; shares in per cent", columns, rows)


def percent(share: float | None, decimals: int = 2) -> str:
    """Write a share of 1 in per cent without the sign.

    Example:
        >>> percent(0.12345), percent(float("nan"))
        ('12.35', '–')
    """
    if share is None or math.isnan(share):
        return ABSENT
    return f"{100 * share:.{decimals}f}"


def span(low: float, high: float, decimals: int = 2) -> str:
    """Write an interval of shares in per cent.

    Example:
        >>> span(0.1, 0.25)
        '10.00–25.00'
    """
    if math.isnan(low) or math.isnan(high):
        return ABSENT
    return f"{percent(low, decimals)}–{percent(high, decimals)}"


def _difference(contents: Contents) -> str:
    p = contents.p_value
    if p is None:
        return "Whether the classes differ beyond sampling noise cannot be tested with fewer than two classes."
    gap = percent(contents.worst_case.spread["gap"], contents.decimals)
    test = f"(permutation test of equal classes, {contents.permutations:,} permutations, p = {p_text(p)})"
    if p < SIGNIFICANCE:
        return f"The classes differ by more than sampling noise: {gap} points from best to worst {test}."
    return f"No difference between the classes beyond sampling noise: {gap} points from best to worst {test}."


def p_text(p: float) -> str:
    """Write a p-value with two significant digits, at least 0.0001 being written out.

    Example:
        >>> p_text(0.00009999), p_text(0.0312), p_text(0.74)
        ('0.0001', '0.031', '0.74')
    """
    return f"{p:.2g}" if p >= 0.0095 else f"{p:.4f}" if p >= 0.00005 else f"{p:.1e}"


def _grouped(contents: Contents) -> bool:
    """Tell whether every class is in a superclass, of which there are several."""
    return "" not in contents.groups and len(set(contents.groups)) > 1


def _mean(values: Floats) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan


def _key(view: View) -> str:
    return view.name.replace(" ", "_")


def _share(share: float, decimals: int) -> Cell:
    return Cell(percent(share, decimals), (_value(share),))


def _value(number: float | None) -> Value:
    return None if number is None or math.isnan(number) else float(number)


def _class_row(contents: Contents, c: int, grouped: bool) -> tuple[Cell, ...]:
    decimals, bounds = contents.decimals, misses(contents)
    low, high = contents.worst_case.intervals[c]
    return (
        Cell(contents.classes[c], (contents.classes[c],)),
        *([Cell(contents.groups[c], (contents.groups[c],))] if grouped else []),
        Cell(f"{contents.n[c]:,}", (int(contents.n[c]),)),
        *(_share(view.by_class[c], decimals) for view in contents.views),
        Cell(span(low, high, decimals), (_value(low), _value(high))),
        *([] if bounds is None else [Cell(f"≤ {bounds[c]:,}", (bounds[c],))]),
        _confusion(contents, c),
        _share(contents.worst_case.cfps[c], decimals),
    )


def _confusion(contents: Contents, c: int) -> Cell:
    row = contents.flow[c].copy()
    row[c] = 0
    target = int(row.argmax())
    if row[target] == 0:
        return Cell(ABSENT, (None, None))
    share = row[target] / contents.n[c]
    name = contents.classes[target]
    return Cell(f"{name} ({percent(share, contents.decimals)})", (name, float(share)))


def _attack_row(contents: Contents, view: View) -> tuple[Cell, ...]:
    name = contents.classes[view.worst]
    worst = float(view.by_class[view.worst])
    decimals = contents.decimals
    gap, tail = view.spread["gap"], view.spread["worst_q10"]
    broken = contents.broken_by
    first = sum(broken.values()) if view is contents.worst_case else broken[view.name]
    return (
        Cell(f"{view.name} (on survivors)" if view.about.get("after") else view.name, (view.name,)),
        _share(view.average, 2),
        _share(worst, decimals),
        Cell(name, (name,)),
        Cell(span(*view.worst_interval, decimals), tuple(_value(end) for end in view.worst_interval)),
        Cell(percent(tail, decimals), (_value(tail),)),
        Cell(percent(gap, decimals), (_value(gap),)),
        Cell(f"{first:,}", (first,)),
        Cell(ABSENT if view.seconds is None else f"{view.seconds:,.1f}", (view.seconds,)),
    )


def _spread(view: View, key: str) -> Cell:
    value = view.spread[key]
    in_points = key in {"macro_average", "std", "std_corrected"}
    text = percent(value) if in_points else ABSENT if value is None else f"{value:.4f}"
    return Cell(text, (_value(value),))


def _flow_row(contents: Contents, c: int, classes: list[int]) -> tuple[Cell, ...]:
    counts = [int(contents.flow[c, other]) for other in classes]
    elsewhere = int(contents.flow[c].sum()) - sum(counts)
    cells = ["·" if other == c else str(count) for other, count in zip(classes, counts, strict=True)]
    return (
        Cell(contents.classes[c], (contents.classes[c],)),
        *(Cell(text, (count,)) for text, count in zip(cells, counts, strict=True)),
        Cell(str(elsewhere), (elsewhere,)),
        Cell(str(contents.lost[c]), (int(contents.lost[c]),)),
        Cell(str(contents.clean.correct[c]), (int(contents.clean.correct[c]),)),
    )


def _pair_row(contents: Contents, i: int, j: int, p: float | None) -> tuple[Cell, ...]:
    images, back = int(contents.flow[i, j]), int(contents.flow[j, i])
    share, of_lost = images / int(contents.n[i]), images / int(contents.lost[i])
    return (
        Cell(contents.classes[i], (contents.classes[i],)),
        Cell(contents.classes[j], (contents.classes[j],)),
        Cell(str(images), (images,)),
        Cell(percent(share, contents.decimals), (share,)),
        Cell(percent(of_lost, contents.decimals), (of_lost,)),
        Cell(str(back), (back,)),
        Cell(ABSENT if p is None else p_text(p), (p,)),
    )
