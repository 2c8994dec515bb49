"""Data sets by name, in memory or in files, with splits, augmentation and superclasses."""

from classwise.data.augment import AUGMENTS, Augment, augmentation, random_crop, random_flip
from classwise.data.groups import GROUPS
from classwise.data.images import ImageFiles, Images, ImageSet, batches
from classwise.data.sources import Facts, dataset, default_threat, facts, load
from classwise.data.splits import stratified_sample, stratified_split

__all__ = [
    "AUGMENTS",
    "GROUPS",
    "Augment",
    "Facts",
    "ImageFiles",
    "ImageSet",
    "Images",
    "augmentation",
    "batches",
    "dataset",
    "default_threat",
    "facts",
    "load",
    "random_crop",
    "random_flip",
    "stratified_sample",
    "stratified_split",
]
