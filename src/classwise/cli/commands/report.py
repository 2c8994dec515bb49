"""``classwise report``: one page from the folder of an evaluation."""

from __future__ import annotations

from pathlib import Path

from classwise.cli.commands.gate import asked_gate


def make_report(
    folder: Path,
    figures: Path | None = None,
    markdown: Path | None = None,
    latex: Path | None = None,
    robustbench: Path | None = None,
    fail_under: str | None = None,
    allow_flag: str = "",
    junit: Path | None = None,
    gate_json: Path | None = None,
) -> Path:
    """Turn the folder of an evaluation into one self-contained report.html.

    Args:
        folder: what `classwise evaluate --out` wrote.
        figures: folder for the charts as PDF, PNG and SVG.
        markdown: file for the tables in Markdown.
        latex: file for the tables in LaTeX (package booktabs).
        robustbench: JSON file in the format of RobustBench's model_info, with the counts of each class.
        fail_under: exit with status 3 unless lower bounds reach these (`worst=0.2,average=0.4`) and no flag is serious.
        allow_flag: flags that do not fail the gate, such as `zero_gradient,short_steps`; may be given several times.
        junit: JUnit-XML file for what --fail-under found.
        gate_json: JSON file for the same.
    """
    from classwise import files
    from classwise.cli.show import lines
    from classwise.interop import robustbench as leaderboard
    from classwise.metrics.result import Result
    from classwise.report import latex_tables, markdown_tables, save_figures, write_page

    result = Result.read(folder)
    gate = asked_gate(locals(), result.outcomes.classes)
    page = write_page(folder, result=result)
    written = [page]
    if figures is not None:
        written += save_figures(result, figures)
    for path, tables in ((markdown, markdown_tables), (latex, latex_tables)):
        if path is not None:
            files.write_text(path, tables(result))
            written.append(path)
    if robustbench is not None:
        written.append(leaderboard.write(result, robustbench))
    lines.wrote(written)
    gate.test(result)
    return page
