"""Attacks: frozen settings called on a model, one file each.

An attack returns candidate images. Whether a candidate counts is decided by :mod:`classwise.evaluation` alone.
"""

from classwise.attacks.apgd import APGD
from classwise.attacks.base import Attack, predict
from classwise.attacks.ensemble import Ensemble
from classwise.attacks.eot import EoT, Expectation, fooled_share
from classwise.attacks.fab import FAB
from classwise.attacks.momentum import MomentumPGD
from classwise.attacks.named import build, build_attacks
from classwise.attacks.narrowing import Narrowing
from classwise.attacks.nearest import NearestPGD
from classwise.attacks.pgd import PGD
from classwise.attacks.plan import Plan, Stage
from classwise.attacks.single_step import fgsm
from classwise.attacks.square import Square
from classwise.attacks.temperature import TemperaturePGD
from classwise.attacks.transfer_attack import Transfer, transfer
from classwise.runtime.inference import attacking

__all__ = [
    "APGD",
    "FAB",
    "PGD",
    "Attack",
    "Ensemble",
    "EoT",
    "Expectation",
    "MomentumPGD",
    "Narrowing",
    "NearestPGD",
    "Plan",
    "Square",
    "Stage",
    "TemperaturePGD",
    "Transfer",
    "attacking",
    "build",
    "build_attacks",
    "fgsm",
    "fooled_share",
    "predict",
    "transfer",
]
