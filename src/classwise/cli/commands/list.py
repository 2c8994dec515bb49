"""``classwise list``: what settings and options can name."""

from __future__ import annotations

from typing import Literal

Listed = Literal[
    "attacks",
    "suites",
    "plans",
    "losses",
    "methods",
    "wrappers",
    "corrections",
    "targets",
    "models",
    "data",
    "recipes",
    "loggers",
    "questions",
]


def list_names(what: Listed) -> None:
    """Show what settings and options can name, each with one line and its source.

    Args:
        what: attacks, suites, plans, losses, methods, wrappers, corrections, targets, models, data, recipes, loggers or
            questions.
    """
    from classwise import analysis, registry
    from classwise.cli.show import results

    if what == "questions":
        results.questions(analysis.QUESTIONS)
        return

    kinds: dict[Listed, registry.Kind] = {
        "attacks": "attack",
        "suites": "suite",
        "plans": "plan",
        "losses": "loss",
        "methods": "method",
        "wrappers": "wrapper",
        "corrections": "correction",
        "targets": "target",
        "models": "model",
        "data": "data",
        "recipes": "recipe",
        "loggers": "logger",
    }
    results.entries(registry.entries(kinds[what]))
