"""What a report says of attacks in several stages: what each stage did, and what the audit of a plan is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from classwise.files.texts import plain
from classwise.metrics import autoattack
from classwise.report.contents import Contents, View
from classwise.report.sheet import Cell, Column, Sheet


def stage_sheet(contents: Contents) -> Sheet | None:
    """Table of stages: images attacked and broken, and time; None where no attack has several."""
    columns = (
        Column("attack", ("attack",), words=True),
        Column("stage", ("stage",), words=True),
        Column("attacked", ("attacked",), note="images that the stage was spent on"),
        Column("broke", ("broken",), note="of these"),
        Column("seconds", ("seconds",)),
    )
    rows = [_stage_row(view, stage) for view in contents.attacks for stage in view.about.get("stages", ())]
    caption = "The attacks that have several stages, in the order run"
    return Sheet("stages", caption, columns, tuple(rows)) if rows else None


def plan_label(contents: Contents) -> str | None:
    """Say what the number of a plan is worth; None where no plan was run."""
    plans = [view for view in contents.attacks if "full" in view.about]
    if not plans:
        return None
    if len(contents.attacks) > 1:
        lead = f"Point-wise worst case of {', '.join(view.name for view in contents.attacks)}. "
        return lead + " ".join(_worth(contents, view) for view in plans)
    return _worth(contents, plans[0])


def misses(contents: Contents) -> list[int] | None:
    """Return how many more images of each class the full suite may break, (C,); None without an audit.

    A class has at most as many as all classes together: both bounds can err only if nothing broke in the sample, so
    the smaller needs no further confidence. What survives several audited plans survives each, so that each bound holds
    by itself; the largest holds whichever of them is wrong.
    """
    rows = [
        [min(int(count), int(audit["at_most"])) for count in audit["at_most_by_class"]] for audit in audits(contents)
    ]
    return [max(counts) for counts in zip(*rows, strict=True)] if rows else None


def audits(contents: Contents) -> list[Mapping[str, Any]]:
    """Return what result.json says of each audit."""
    return [view.about["audit"] for view in contents.attacks if view.about.get("audit")]


def _worth(contents: Contents, view: View) -> str:
    about, suite = view.about, plain(autoattack.suite(view.about, contents.precision))
    if not view.correct.any():
        return f"Nothing survives {view.name}, so that no attack could find more."
    if not about["full"]:
        return f"Upper bound only: {view.name} is quick and overstates robustness; never a headline."
    if about["reasons"]:
        why = "; ".join(plain(reason) for reason in about["reasons"])
        return (
            f"At least as strong as {suite} as implemented here: {view.name} went on by itself, and every survivor met "
            f"all of it, because of {why}."
        )
    if not about["audit"]:
        return f"Not AutoAttack: {view.name}, not audited."
    if not about["audit"]["at_most"]:
        return f"At least as strong as {suite} as implemented here: {view.name}, {_audited(contents, view, suite)}"
    return f"Not AutoAttack's number: {view.name}, {_audited(contents, view, suite)}"


def _audited(contents: Contents, view: View, suite: str) -> str:
    audit = view.about["audit"]
    sampled = sum(sum(turn["sampled"]) for turn in audit["rounds"])
    broken = sum(sum(turn["broken"]) for turn in audit["rounds"])
    more = sum(int(np.sum(stage["broken"])) for stage in view.about["stages"] if stage["name"].startswith("full: "))
    survivors, size = sum(audit["rounds"][0]["survivors"]), int(contents.n.sum())
    text = f"audited on {sampled:,} of {survivors:,} survivors, of which {suite} broke {broken or 'none'}"
    if broken:
        text += f", after which what broke them was run on every survivor and broke {more:,} more"
    robust, bound = int(view.correct.sum()), audit["at_most"]
    if not bound:
        return f"{text}; every survivor has met what could break it, so none is left to find."
    low, high = (f"{100 * max(0, count) / size:.2f}" for count in (robust - bound, robust))
    return (
        f"{text}; with {100 * audit['confidence']:g} % confidence it would break at most {bound:,} more, so that the "
        f"audited robust accuracy lies in {low}–{high} %."
    )


def _stage_row(view: View, stage: dict[str, Any]) -> tuple[Cell, ...]:
    attacked, broken = int(np.sum(stage["attacked"])), int(np.sum(stage["broken"]))
    seconds = stage["seconds"]
    duration = "–" if seconds is None or math.isnan(seconds) else f"{seconds:,.1f}"
    return (
        Cell(view.name, (view.name,)),
        Cell(plain(stage["name"]), (plain(stage["name"]),)),
        Cell(f"{attacked:,}", (attacked,)),
        Cell(f"{broken:,}", (broken,)),
        Cell(duration, (seconds,)),
    )
