"""Training methods: small modules whose forward is the loss of a batch, one paper a file."""

from classwise.methods.alp import ALP
from classwise.methods.at import AT
from classwise.methods.base import Epoch, Method, Pass, Step
from classwise.methods.cfa import CFA
from classwise.methods.cfol import CFOL
from classwise.methods.chi_square import ChiSquareClassDRO
from classwise.methods.cost_sensitive import CostSensitive
from classwise.methods.dafa import DAFA
from classwise.methods.fat import FAT
from classwise.methods.frl import FRL
from classwise.methods.gairat import GAIRAT
from classwise.methods.he import HE
from classwise.methods.mart import MART
from classwise.methods.standard import Standard
from classwise.methods.trades import TRADES
from classwise.methods.tv import BetaOfVulnerable, MarginOfVulnerable, RadiusOfVulnerable, WeightOfVulnerable
from classwise.methods.wat import WAT

__all__ = [
    "ALP",
    "AT",
    "CFA",
    "CFOL",
    "DAFA",
    "FAT",
    "FRL",
    "GAIRAT",
    "HE",
    "MART",
    "TRADES",
    "WAT",
    "BetaOfVulnerable",
    "ChiSquareClassDRO",
    "CostSensitive",
    "Epoch",
    "MarginOfVulnerable",
    "Method",
    "Pass",
    "RadiusOfVulnerable",
    "Standard",
    "Step",
    "WeightOfVulnerable",
]
