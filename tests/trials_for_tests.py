"""Runs of tiny studies, for tests."""

from __future__ import annotations

from typing import Any

from classwise.studies.spec import Entry, Evaluation, Given, Study
from classwise.studies.trials import Source, Trial
from classwise.threat import ThreatModel
from classwise.training.recipes import Recipe

QUICK = Evaluation("pgd(steps=2)", ("best", "ema-last"), limit=20)
RECIPE = "digits(epochs=2, steps=2, holdout=0.2, batch_size=20)"


def tiny(*entries: Entry, **settings: Any) -> Study:
    given: dict[str, Any] = {"recipe": RECIPE, "limit": 100, "wrappers": "ema", "evaluate": QUICK, **settings}
    return Study("tiny", "digits", **{"model": ("digits_cnn",), **given}, method=entries)


def of_given(*models: Given, **settings: Any) -> Study:
    return Study("tiny", "digits", given=models, evaluate=QUICK, **settings)


def trial(name: str, *, start: Trial | None = None, teacher: Trial | None = None, **settings: Any) -> Trial:
    given: dict[str, Any] = {
        "method": "at",
        "model": "digits_cnn",
        "seed": 0,
        "recipe": Recipe(epochs=10, steps=4),
        "wrappers": "",
        "threat": ThreatModel("Linf", 0.1),
        "precision": "32-true",
        "data": "digits",
        "limit": None,
        "images": 200,
        "train_sha256": name,
        "weights": ("best",),
        "attacks": "pgd",
        "evaluation": {},
    }
    sources = [each and Source(each, "best") for each in (start, teacher)]
    return Trial(name, **{**given, **settings}, start=sources[0], teacher=sources[1])
