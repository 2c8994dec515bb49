"""Class-wise adversarial robustness: find the weakest class, attack it, explain it, repair it.

The public names load on first use, so that ``import classwise`` and ``classwise --help`` do not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from classwise.provenance import __version__ as __version__

if TYPE_CHECKING:
    from classwise.attacks import APGD, FAB, PGD, MomentumPGD, TemperaturePGD, build_attacks
    from classwise.data import Images, stratified_sample
    from classwise.data import load as load_data
    from classwise.errors import InputError
    from classwise.evaluation.critical_eps import critical_eps
    from classwise.evaluation.run import evaluate
    from classwise.metrics.critical_eps import CriticalEps
    from classwise.metrics.outcomes import Outcomes
    from classwise.metrics.result import Result
    from classwise.models import load_model
    from classwise.noise import Noise
    from classwise.report import write_page as write_report
    from classwise.threat import ThreatModel
    from classwise.training.loop import fit
    from classwise.training.recipes import Recipe
    from classwise.training.run import Run

_HOMES = {
    "APGD": "classwise.attacks:APGD",
    "MomentumPGD": "classwise.attacks:MomentumPGD",
    "FAB": "classwise.attacks:FAB",
    "PGD": "classwise.attacks:PGD",
    "TemperaturePGD": "classwise.attacks:TemperaturePGD",
    "build_attacks": "classwise.attacks:build_attacks",
    "CriticalEps": "classwise.metrics.critical_eps:CriticalEps",
    "critical_eps": "classwise.evaluation.critical_eps:critical_eps",
    "Images": "classwise.data:Images",
    "load_data": "classwise.data:load",
    "stratified_sample": "classwise.data:stratified_sample",
    "InputError": "classwise.errors:InputError",
    "evaluate": "classwise.evaluation.run:evaluate",
    "Outcomes": "classwise.metrics.outcomes:Outcomes",
    "Result": "classwise.metrics.result:Result",
    "load_model": "classwise.models:load_model",
    "Noise": "classwise.noise:Noise",
    "Recipe": "classwise.training.recipes:Recipe",
    "write_report": "classwise.report:write_page",
    "Run": "classwise.training.run:Run",
    "ThreatModel": "classwise.threat:ThreatModel",
    "fit": "classwise.training.loop:fit",
}

__all__ = [
    "APGD",
    "FAB",
    "PGD",
    "CriticalEps",
    "Images",
    "InputError",
    "MomentumPGD",
    "Noise",
    "Outcomes",
    "Recipe",
    "Result",
    "Run",
    "TemperaturePGD",
    "ThreatModel",
    "build_attacks",
    "critical_eps",
    "evaluate",
    "fit",
    "load_data",
    "load_model",
    "stratified_sample",
    "write_report",
]


_PACKAGES = [
    "analysis",
    "attacks",
    "corrections",
    "data",
    "evaluation",
    "files",
    "interop",
    "methods",
    "metrics",
    "models",
    "report",
    "resolve",
    "runtime",
    "studies",
    "training",
    "wrappers",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"classwise.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'classwise' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES, "__version__"])
