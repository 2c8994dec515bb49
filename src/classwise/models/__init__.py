"""Architectures, weights files, and the way from what a user types to a model that takes [0, 1]."""

from classwise.models.checkpoint import load_weights, read_weights, save_weights, weights_sha256
from classwise.models.corrected import Corrected
from classwise.models.heads import CosineHead, cosine_head, linear_head, put_head
from classwise.models.load import load_model
from classwise.models.normalize import Normalize
from classwise.models.preact_resnet import preact_resnet18
from classwise.models.resnet import resnet18
from classwise.models.small import digits_cnn, small_cnn, small_resnet
from classwise.models.teacher import Teacher
from classwise.models.wide_resnet import wrn_28_10, wrn_34_10

__all__ = [
    "Corrected",
    "CosineHead",
    "Normalize",
    "Teacher",
    "cosine_head",
    "digits_cnn",
    "linear_head",
    "load_model",
    "load_weights",
    "preact_resnet18",
    "put_head",
    "read_weights",
    "resnet18",
    "save_weights",
    "small_cnn",
    "small_resnet",
    "weights_sha256",
    "wrn_28_10",
    "wrn_34_10",
]
