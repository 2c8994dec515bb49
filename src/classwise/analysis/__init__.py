"""Analyses: one question a file, from the files of earlier stages to numbers, tables and a verdict (docs/analysis.md).

Importing this package does not import torch; what needs a network is in :mod:`classwise.analysis.network`.
"""

from classwise.analysis.evidence import Evidence, Subject, read
from classwise.analysis.finding import Finding
from classwise.analysis.questions import QUESTIONS, Question, answer
from classwise.metrics.training import Training

__all__ = ["QUESTIONS", "Evidence", "Finding", "Question", "Subject", "Training", "answer", "read"]
