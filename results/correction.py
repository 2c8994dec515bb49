"""Fit corrections on one part of the test images and attack them afresh on all others; writes results/correction/.

    python results/correction.py --shared ../shared --data-dir DATA [--only NAME ...]

Each case is three commands that a user types, in this order: `classwise evaluate` of the network, `classwise correct`
on a stratified sample of test images, which the network was not trained on, and `classwise evaluate` of `corrected:`,
which leaves those images out. The table compares the two evaluations on the same images. What is there is not done
again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classwise.cli.main import main as classwise
from classwise.corrections.fitted import paired_change
from classwise.metrics import Outcomes, summarize
from classwise.metrics.paired import change_intervals, pairs
from classwise.metrics.result import Result
from classwise.metrics.summaries import worst_q

HERE, OUT = Path(__file__).parent / "correction", Path("results/correction")  # to read; as typed, from the repository


@dataclass(frozen=True)
class Case:
    """A network, what attacks it, and how many images the correction is fitted on."""

    name: str
    model: str
    data: str
    eps: str
    norm: str = "Linf"
    fit: int = 3000
    more: tuple[str, ...] = ()


CASES = (
    Case("cifar10-resnet2b-linf-2", "{shared}/models/cifar_resnet2b_adv/load.py:load_model", "cifar10", "2/255"),
    Case("mnist-trades-linf-0.3", "{shared}/models/mnist_smallcnn_trades/load.py:load_model", "mnist", "0.3"),
    Case("cifar10-small-resnet-linf-8", "run:results/cifar10-small-resnet-at", "cifar10", "8/255"),
    Case("cifar10-small-resnet-linf-4", "run:results/cifar10-small-resnet-at", "cifar10", "4/255"),
    Case("cifar10-resnet2b-l2-0.25", "{shared}/models/cifar_resnet2b_adv/load.py:load_model", "cifar10", "0.25", "L2"),
    Case("mnist-small-cnn-at-linf-0.3", "run:results/mnist-small-cnn-at", "mnist", "0.3"),
    Case(
        "cifar100-resnet20-linf-3.3",
        "{shared}/models/cifar100_resnet20_pgd/load.py:load_model",
        "cifar100",
        "3.315/255",
        fit=3000,
        more=("--target", "weakest-tenth"),
    ),
)


def commands(case: Case, shared: str, data_dir: str) -> list[list[str]]:
    """Return the three commands of a case, without `classwise`."""
    model, out = case.model.format(shared=shared), OUT / case.name
    common = ["--data", case.data, "--data-dir", data_dir, "--eps", case.eps, "--norm", case.norm]
    fit = ["--split", "test", "--fit-on-test", "--limit", str(case.fit), *case.more, "--out", f"{out}/fit"]
    return [
        ["evaluate", model, *common, "--examples", "0", "--out", f"{out}/before"],
        ["correct", model, *common, *fit],
        ["evaluate", f"corrected:{out}/fit", *common, "--examples", "0", "--out", f"{out}/after"],
    ]


def run(case: Case, shared: str, data_dir: str) -> None:
    """Run the commands whose results are not there yet."""
    for words, done in zip(
        commands(case, shared, data_dir), ("before/result.json", "fit/corrected.json", "after/result.json"), strict=True
    ):
        if not (OUT / case.name / done).exists():
            print("classwise", *words, flush=True)
            if status := classwise([*words, "--trust-code"]):
                raise SystemExit(status)


def compared(case: Case) -> dict[str, Any]:
    """Return the table of a case: before and after on the images that the fit did not see."""
    before, after = (Result.read(HERE / case.name / name).outcomes for name in ("before", "after"))
    before = before.select(np.isin(before.index, after.index).nonzero()[0])
    first, second = summarize(before), summarize(after)
    by_class = pairs(before.correct(), after.correct(), before.y, len(before.classes))
    low, high = change_intervals(by_class)
    of_weakest = before.y == first.worst.index
    return {
        "case": case.name,
        "images": len(before.y),
        "fit": case.fit,
        **{name: _row(outcomes) for name, outcomes in (("before", before), ("after", after))},
        "average_change": paired_change(before.correct(), after.correct()),
        "weakest_change": paired_change(before.correct()[of_weakest], after.correct()[of_weakest]),
        "change_by_class": dict(
            zip(
                before.classes,
                np.stack([(by_class.gained - by_class.lost) / by_class.n, low, high], 1).round(4).tolist(),
                strict=True,
            )
        ),
        "intervals_of_worst": [first.worst.interval, second.worst.interval],
        "promise": json.loads((HERE / case.name / "fit" / "curve.json").read_text())["promise"]["weakest"],
    }


def _row(outcomes: Outcomes) -> dict[str, Any]:
    summary = summarize(outcomes)
    accuracy = np.sort(outcomes.accuracy("worst_case"))
    clean = outcomes.accuracy("clean")
    return {
        "average": summary.average.accuracy,
        "weakest": summary.worst.accuracy,
        "class": summary.worst.name,
        "two_weakest": float(accuracy[:2].mean()),
        "weakest_tenth": worst_q(outcomes.accuracy("worst_case")),
        "clean": summarize(outcomes, "clean").average.accuracy,
        "clean_weakest": float(clean.min()),
    }


def finished() -> list[dict[str, Any]]:
    """Return the table of every case that is done."""
    return [compared(case) for case in CASES if (HERE / case.name / "after" / "result.json").exists()]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of docs/correction.md."""
    columns = (
        "network, threat",
        "images",
        "weakest class",
        "its change",
        "average",
        "change",
        "clean",
        "promised weakest",
    )
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for row in rows:
        before, after = row["before"], row["after"]
        low, high = row["promise"]["interval"]
        cells = [
            row["case"],
            f"{row['images']:,}",
            f"{_percent(before['weakest'])} {before['class']} → {_percent(after['weakest'])} {after['class']}",
            _change(row["weakest_change"]),
            f"{_percent(before['average'])} → {_percent(after['average'])}",
            _change(row["average_change"]),
            f"{_percent(before['clean'])} → {_percent(after['clean'])}",
            f"{_percent(row['promise']['accuracy'])} ({_percent(low)}–{_percent(high)})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _change(change: Sequence[float]) -> str:
    value, low, high = (f"{100 * part:+.1f}".replace("-", "−") for part in change)
    return f"{value} ({low} to {high})"


def main() -> None:
    """Run the cases asked for, and write the table of all that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--only", nargs="+", default=[case.name for case in CASES])
    args = parser.parse_args()
    for case in CASES:
        if case.name in args.only:
            run(case, args.shared, args.data_dir)
    rows = finished()
    (HERE / "table.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
