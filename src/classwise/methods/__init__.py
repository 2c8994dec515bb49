"""Training methods: small modules whose forward is the loss of a batch, one paper a file."""

from classwise.methods.absld import ABSLD
from classwise.methods.alp import ALP
from classwise.methods.ard import ARD
from classwise.methods.at import AT
from classwise.methods.base import Distillation, Epoch, Method, Pass, Step
from classwise.methods.bat import BAT
from classwise.methods.cfa import CFA
from classwise.methods.cfol import CFOL
from classwise.methods.chi_square import ChiSquareClassDRO
from classwise.methods.cluster_reg import ClusterReg
from classwise.methods.confusion_margin import ConfusionMargin
from classwise.methods.cost_sensitive import CostSensitive
from classwise.methods.dafa import DAFA
from classwise.methods.faal import FAAL
from classwise.methods.fair_ard import FairARD
from classwise.methods.fair_tat import FairTAT
from classwise.methods.fat import FAT
from classwise.methods.frl import FRL
from classwise.methods.gairat import GAIRAT
from classwise.methods.he import HE
from classwise.methods.iad import IAD
from classwise.methods.kl_instance_dro import KLInstanceDRO
from classwise.methods.mart import MART
from classwise.methods.rslad import RSLAD
from classwise.methods.s_at import SAT
from classwise.methods.standard import Standard
from classwise.methods.trades import TRADES
from classwise.methods.tv import BetaOfVulnerable, MarginOfVulnerable, RadiusOfVulnerable, WeightOfVulnerable
from classwise.methods.wat import WAT

__all__ = [
    "ABSLD",
    "ALP",
    "ARD",
    "AT",
    "BAT",
    "CFA",
    "CFOL",
    "DAFA",
    "FAAL",
    "FAT",
    "FRL",
    "GAIRAT",
    "HE",
    "IAD",
    "MART",
    "RSLAD",
    "SAT",
    "TRADES",
    "WAT",
    "BetaOfVulnerable",
    "ChiSquareClassDRO",
    "ClusterReg",
    "ConfusionMargin",
    "CostSensitive",
    "Distillation",
    "Epoch",
    "FairARD",
    "FairTAT",
    "KLInstanceDRO",
    "MarginOfVulnerable",
    "Method",
    "Pass",
    "RadiusOfVulnerable",
    "Standard",
    "Step",
    "WeightOfVulnerable",
]
