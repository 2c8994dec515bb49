"""``classwise analyse``: what outcomes and logs say, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classwise.provenance import __version__


def analyse_runs(
    runs: list[Path],
    question: str = "",
    network: str = "",
    json: Path | None = None,
    markdown: Path | None = None,
    latex: Path | None = None,
) -> None:
    """Ask what the outcomes of evaluations and the logs of training runs say, and which claims they support.

    Evaluations of one model on the same images are taken together.

    Args:
        runs: folders of evaluations and training runs.
        question: questions, separated by commas, see `classwise list questions`; all that can be answered if not given.
        network: the models that were evaluated, separated by commas, for questions about their weights.
        json: file for findings, numbers and tables.
        markdown: file for the same as a text to read.
        latex: file for the tables in LaTeX (package booktabs).
    """
    from classwise import analysis, registry
    from classwise.cli.show import results

    evidence = analysis.read(runs)
    weights = {}
    if network:
        from classwise import resolve

        weights = resolve.last_layers(registry.split(network), evidence)
    asked = [name.strip() for name in question.split(",") if name.strip()]
    findings, unanswered = analysis.answer(evidence, asked, weights)
    results.found(findings, unanswered)
    save_findings(findings, json, markdown, latex)


def save_findings(findings: Sequence[Any], json: Path | None, markdown: Path | None, latex: Path | None) -> None:
    """Write findings into the files that were asked for, and name those."""
    from classwise import files
    from classwise.analysis import finding
    from classwise.cli.show import lines

    if json is not None:
        files.write_json(json, {"classwise": __version__, "findings": [finding.as_dict() for finding in findings]})
    if markdown is not None:
        files.write_text(markdown, finding.markdown(findings))
    if latex is not None:
        files.write_text(latex, finding.latex(findings))
    lines.wrote([path for path in (json, markdown, latex) if path is not None])
