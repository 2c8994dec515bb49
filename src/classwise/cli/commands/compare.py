"""``classwise compare``: models on the same images."""

from __future__ import annotations

import shlex
from pathlib import Path

from classwise.cli.commands.analyse import save_findings
from classwise.files.texts import portable


def compare_runs(
    runs: list[Path],
    view: str = "worst_case",
    sort: str = "worst",
    out: Path | None = None,
    figures: Path | None = None,
    json: Path | None = None,
    markdown: Path | None = None,
    latex: Path | None = None,
) -> None:
    """Compare models on the same images: a leaderboard, and class by class who gains and who pays.

    The first folder is the baseline.

    Args:
        runs: folders of evaluations, at least two.
        view: an attack that every model met, clean, or worst_case.
        sort: metric of the leaderboard: average, worst, worst_q10, gap, std, std_corrected, nsd, gini.
        out: folder for comparison.html, one self-contained page.
        figures: folder for the charts as PDF, PNG and SVG.
        json: file for the comparison, its numbers and tables.
        markdown: file for the same as a text to read.
        latex: file for the tables in LaTeX (package booktabs).
    """
    from classwise import analysis
    from classwise.analysis.comparison.compare import compare
    from classwise.cli.show import lines, results

    subjects = analysis.read(runs).subjects
    findings = compare(subjects, view, sort)
    results.found(findings, [])
    save_findings(findings, json, markdown, latex)
    if out is not None:
        from classwise.analysis.comparison.page import write_comparison

        command = shlex.join(
            ["classwise", "compare", *map(str, runs), "--view", view, "--sort", sort, "--out", str(out)]
        )
        lines.wrote([write_comparison(subjects, findings, out, portable(command))])
    if figures is not None:
        from classwise.analysis.comparison.figures import save_figures

        lines.wrote(save_figures(subjects, findings, figures))
