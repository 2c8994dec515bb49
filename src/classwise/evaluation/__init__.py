"""Evaluation: attacks and plans over a data set, to the outcome of every image.

:mod:`classwise.evaluation.run` is where to begin reading.
"""

from classwise.evaluation.run import AUDIT, evaluate

__all__ = ["AUDIT", "evaluate"]
