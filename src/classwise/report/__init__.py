"""Reports: a result folder in; Markdown, LaTeX, figures for print and one self-contained HTML page out.

Reads results only. Neither torch nor a model is needed to look at numbers.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from classwise.report.figures import class_bars, flow_heatmap, save_figures

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

_FIGURES = ("class_bars", "flow_heatmap", "save_figures")


def __getattr__(name: str) -> Any:
    # matplotlib takes half a second to import, which every command would pay for figures that few ask for.
    if name not in _FIGURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("classwise.report.figures"), name)
