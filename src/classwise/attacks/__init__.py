"""Attacks: frozen settings called on a model, one file each.

An attack returns candidate images. Whether a candidate counts is decided by :mod:`classwise.evaluation` alone.
"""

from classwise.attacks.base import Attack, attacking, build, predict
from classwise.attacks.fab import FAB
from classwise.attacks.fgsm import fgsm
from classwise.attacks.pgd import PGD
from classwise.attacks.temperature import TemperaturePGD

__all__ = ["FAB", "PGD", "Attack", "TemperaturePGD", "attacking", "build", "fgsm", "predict"]
