"""One file a command; what each is called when it is typed."""

from collections.abc import Callable
from typing import Any

from classwise.cli.commands.analyse import analyse_runs
from classwise.cli.commands.compare import compare_runs
from classwise.cli.commands.correct import correct_model
from classwise.cli.commands.critical_eps import measure_critical_eps
from classwise.cli.commands.demo import run_demo
from classwise.cli.commands.evaluate import evaluate_model
from classwise.cli.commands.export import export_model
from classwise.cli.commands.homing import study_homing
from classwise.cli.commands.list import list_names
from classwise.cli.commands.report import make_report
from classwise.cli.commands.study import run_study
from classwise.cli.commands.train import train_model

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": run_demo,
    "train": train_model,
    "evaluate": evaluate_model,
    "critical-eps": measure_critical_eps,
    "correct": correct_model,
    "export": export_model,
    "report": make_report,
    "analyse": analyse_runs,
    "compare": compare_runs,
    "homing": study_homing,
    "study": run_study,
    "list": list_names,
}
