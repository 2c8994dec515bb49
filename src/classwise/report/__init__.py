"""Reports: a result folder in; Markdown, LaTeX, figures for print and one self-contained HTML page out.

Reads results only. Neither torch nor a model is needed to look at numbers.
"""

from classwise.report.figures import class_bars, flow_heatmap, save_figures
from classwise.report.page import write_page
from classwise.report.tables import (
    attack_table,
    class_table,
    latex_tables,
    markdown_tables,
    rich_attack_table,
    rich_class_table,
    rich_stage_table,
    verdict,
    which_number,
)

__all__ = [
    "attack_table",
    "class_bars",
    "class_table",
    "flow_heatmap",
    "latex_tables",
    "markdown_tables",
    "rich_attack_table",
    "rich_class_table",
    "rich_stage_table",
    "save_figures",
    "verdict",
    "which_number",
    "write_page",
]
