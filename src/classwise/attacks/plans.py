"""The plans that come with classwise: ``fast`` and ``upper-bound``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classwise.attacks.plan import Plan, plan
from classwise.registry import register
from classwise.threat import ThreatModel


@register("plan", "fast", source="our design, docs/fast.md")
def fast(threat: ThreatModel) -> Plan:
    """AutoAttack's verdict at a part of its cost: gradients, then Square on the closest survivors, then an audit."""
    stages: list[Mapping[str, Any]] = [
        {"attack": "nearest-pgd(steps=10, targets=3)"},
        {"attack": "nearest-pgd(steps=40, targets=3, start='uniform')", "closest": 0.4},
        {"attack": "nearest-pgd(steps=60, targets=9, start='uniform')", "closest": 0.12, "go_on": 0.06},
        {"attack": "square(queries=500)", "closest": 0.2},
        {"attack": "square", "closest": 0.1, "go_on": 0.05, "if_closer": True},
    ]
    return plan(stages, threat, full="autoattack")


@register("plan", "upper-bound", source="our design, docs/fast.md")
def upper_bound(threat: ThreatModel) -> Plan:
    """Seconds for thousands of images: forty steps an image, no audit; overstates robustness by up to some points."""
    return plan([{"attack": "nearest-pgd(steps=10, targets=3)"}], threat)
