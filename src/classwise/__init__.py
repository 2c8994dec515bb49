"""Class-wise adversarial robustness: find the weakest class, attack it, explain it, repair it.

The public names load on first use, so that ``import classwise`` and ``classwise --help`` do not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from classwise.attacks import APGD, FAB, PGD, MomentumPGD, TemperaturePGD
    from classwise.attacks import contenders as build_attacks
    from classwise.critical import critical_eps
    from classwise.data import Images, stratified_sample
    from classwise.data import load as load_data
    from classwise.errors import InputError
    from classwise.evaluation import evaluate
    from classwise.metrics.critical_eps import CriticalEps
    from classwise.metrics.outcomes import Outcomes
    from classwise.metrics.result import Result
    from classwise.models import load_model
    from classwise.noise import Noise
    from classwise.recipes import Recipe
    from classwise.report import write_page as write_report
    from classwise.runs import Run
    from classwise.threat import ThreatModel
    from classwise.train import fit

_HOMES = {
    "APGD": "classwise.attacks:APGD",
    "MomentumPGD": "classwise.attacks:MomentumPGD",
    "FAB": "classwise.attacks:FAB",
    "PGD": "classwise.attacks:PGD",
    "TemperaturePGD": "classwise.attacks:TemperaturePGD",
    "build_attacks": "classwise.attacks:contenders",
    "CriticalEps": "classwise.metrics.critical_eps:CriticalEps",
    "critical_eps": "classwise.critical:critical_eps",
    "Images": "classwise.data:Images",
    "load_data": "classwise.data:load",
    "stratified_sample": "classwise.data:stratified_sample",
    "InputError": "classwise.errors:InputError",
    "evaluate": "classwise.evaluation:evaluate",
    "Outcomes": "classwise.metrics.outcomes:Outcomes",
    "Result": "classwise.metrics.result:Result",
    "load_model": "classwise.models:load_model",
    "Noise": "classwise.noise:Noise",
    "Recipe": "classwise.recipes:Recipe",
    "write_report": "classwise.report:write_page",
    "Run": "classwise.runs:Run",
    "ThreatModel": "classwise.threat:ThreatModel",
    "fit": "classwise.train:fit",
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'classwise' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
