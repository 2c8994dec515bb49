"""Training methods: small modules whose forward is the loss of a batch, one paper a file."""

from classwise.methods.at import AT
from classwise.methods.base import Epoch, Method, Pass, Step
from classwise.methods.standard import Standard

__all__ = ["AT", "Epoch", "Method", "Pass", "Standard", "Step"]
