"""From words to objects: what a command line, a TOML entry or a call means, said once.

What comes out is built and checked; nothing later reads the words again.
"""

from classwise.resolve.attacks import named_attacks, radii, single, threat, widest
from classwise.resolve.data import data_of_run, held_out, images, training_images, unseen
from classwise.resolve.models import fresh, last_layers, model, start
from classwise.resolve.training import (
    TrainingJob,
    fine_tunes,
    headed,
    method,
    normalised,
    recipe,
    teacher,
    training_job,
    written,
)
from classwise.runtime.fabric import launched, processes, synchronised, workers

__all__ = [
    "TrainingJob",
    "data_of_run",
    "fine_tunes",
    "fresh",
    "headed",
    "held_out",
    "images",
    "last_layers",
    "launched",
    "method",
    "model",
    "named_attacks",
    "normalised",
    "processes",
    "radii",
    "recipe",
    "single",
    "start",
    "synchronised",
    "teacher",
    "threat",
    "training_images",
    "training_job",
    "unseen",
    "widest",
    "workers",
    "written",
]
