"""The pool of a fit as it grows: clean logits, then what attacks on corrected models find; kept on disk on the way."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from classwise import files
from classwise.attacks.base import Attack
from classwise.corrections.base import Head, Pool
from classwise.data.images import ImageSet, batches
from classwise.errors import InputError
from classwise.files import schemas
from classwise.losses import margin
from classwise.models.corrected import Corrected
from classwise.models.heads import linear_head
from classwise.noise import Noise
from classwise.runtime.inference import forward
from classwise.threat import over_pixels

PARTIAL = "fit-partial"
"""Folder of an unfinished fit, inside that of the corrected model."""
_SETTINGS, _CLEAN = "fit.json", "clean"
_PARTS = 8
_SAME = 1e-3  # logits of the same model on another machine differ by less


class Candidates(NamedTuple):
    """What attacks found: the images (K,) that candidates are made of, and the uncorrected logits of these (K, C)."""

    image: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Journal:
    """What attacks have found so far, in files that a fit started anew reads instead of attacking again.

    Attributes:
        folder: where; None keeps nothing.
        settings: of the fit, for JSON.
    """

    folder: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path | None, settings: Mapping[str, Any]) -> Journal:
        """Open the journal of a fit.

        Args:
            folder: of the corrected model; None keeps nothing.
            settings: of the fit, for JSON.

        Raises:
            InputError: the folder holds the journal of a fit with other settings, or cannot be written.
        """
        if folder is None:
            return cls()
        # What attacks are is said by their settings; their text may name an address in memory.
        plain = json.loads(json.dumps({name: value for name, value in settings.items() if name != "attacks"}))
        path = folder / PARTIAL / _SETTINGS
        if path.exists() and schemas.read(path, schemas.RECORD, "delete the folder") != plain:
            raise InputError(
                f"{folder / PARTIAL} holds an unfinished fit with other settings, data or weights; choose another "
                "--out, or delete that folder."
            )
        return cls(folder / PARTIAL, plain)

    def read(self, name: str) -> Candidates | None:
        """Return what is kept under a name; None where nothing is.

        Raises:
            InputError: the file is damaged.
        """
        if self.folder is None or not (path := self.folder / f"{name}.npz").exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                return Candidates(torch.from_numpy(stored["image"]), torch.from_numpy(stored["logits"]))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} is damaged; delete it, and the fit attacks these images again.") from error

    def write(self, name: str, candidates: Candidates) -> None:
        """Keep candidates under a name."""
        if self.folder is not None:
            if not (self.folder / _SETTINGS).exists():
                files.write_json(self.folder / _SETTINGS, self.settings)
            content = io.BytesIO()
            np.savez(content, image=candidates.image.numpy(), logits=candidates.logits.numpy())
            files.write_bytes(self.folder / f"{name}.npz", content.getvalue())


def forget(folder: Path) -> None:
    """Delete what is kept of an unfinished fit, once it is finished."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


@dataclass(frozen=True)
class Field:
    """The uncorrected model on its held-out images, and what attacks them."""

    model: nn.Module
    data: ImageSet
    attacks: Mapping[str, Attack]
    seed: int
    batch_size: int
    device: torch.device
    journal: Journal

    def begin(self) -> Pool:
        """Return the pool of the clean images.

        Raises:
            InputError: the model has not a finite logit for each class, or is not the one that the journal is of.
        """
        logits = torch.cat([forward(self.model, x).cpu() for _, x, _ in self._batches(torch.arange(len(self.data)))])
        if logits.shape[1] != len(self.data.classes):
            raise InputError(f"The model has {logits.shape[1]} logits, the data {len(self.data.classes)} classes.")
        if not logits.isfinite().all():
            raise InputError("Some logits of the model are NaN or infinite; mend its numerics before correcting it.")
        kept = self.journal.read(_CLEAN)
        if kept is not None and not torch.allclose(
            kept.logits, logits, rtol=_SAME, atol=_SAME * float(logits.abs().max())
        ):
            raise InputError(
                f"The model computes other logits than when {self.journal.folder} was begun; delete that folder."
            )
        layer = linear_head(self.model, self.data.fetch(torch.arange(1)).to(self.device))
        head = None if layer is None else Head(*(value.detach().float().cpu() for value in _norm_and_bias(layer)))
        # As first computed, so that a resumed fit is the same to the last bit.
        first = logits if kept is None else kept.logits
        return Pool(first, torch.arange(len(first)), self.data.y.cpu(), len(first), head)

    def keep(self, pool: Pool) -> None:
        """Keep the clean logits in the journal, once nothing of the input is to be refused any more."""
        if self.journal.read(_CLEAN) is None:
            self.journal.write(_CLEAN, Candidates(pool.image, pool.logits))

    def everywhere(self, pool: Pool, correction: nn.Module, name: str, images: Tensor) -> Iterator[Pool]:
        """Attack the corrected model on every image that it gets right; yields the pool as it grows, a part at a time.

        Args:
            pool: of the images (K,), which number those of the data.
            correction: on the logits.
            name: of this attack among those of the fit.
            images: positions in the data.
        """
        for part, positions in enumerate(_parts(pool, correction)):
            pool = self._attacked(pool, correction, positions, name, part, images)
            yield pool

    def nearest_first(self, pool: Pool, correction: nn.Module, name: str, images: Tensor) -> Iterator[Pool]:
        """Do the same from the smallest lead up, and stop after a part of which no image breaks.

        Leads fall with the strength of the attack, so that images further away do not break either, but for a few. The
        fit only learns from these; what it promises and what is reported comes from attacks on all images.
        """
        for part, positions in enumerate(_parts(pool, correction)):
            pool = self._attacked(pool, correction, positions, name, part, images)
            yield pool
            if bool(pool.right(correction)[positions].all()):
                return

    def _attacked(
        self, pool: Pool, correction: nn.Module, positions: Tensor, name: str, part: int, images: Tensor
    ) -> Pool:
        candidates = self.journal.read(f"{name}-{part}")
        if candidates is None:
            candidates = self._candidates(pool, correction, positions, name, images)
            self.journal.write(f"{name}-{part}", candidates)
        return pool.added(*candidates)

    def _candidates(
        self, pool: Pool, correction: nn.Module, positions: Tensor, name: str, images: Tensor
    ) -> Candidates:
        composite = Corrected(self.model, copy.deepcopy(correction).to(self.device)).eval()
        image, logits = [positions[:0]], [pool.logits[:0]]
        left = positions
        for attack_name, attack in self.attacks.items():
            broken = []
            for batch, x, y in self._batches(images[left]):
                noise = Noise(self.seed, self.data.index[batch].to(self.device)).fold("correct", name, attack_name)
                x_adv = attack(composite, x, y, noise=noise)
                x_adv = torch.where(over_pixels(attack.threat.contains(x_adv, x), x), x_adv, x)
                logits.append(forward(self.model, x_adv).cpu())
                with torch.no_grad():
                    broken.append(margin(composite.correction(logits[-1].to(self.device)), y) >= 0)
            image.append(left)
            left = left[~torch.cat(broken).cpu()] if broken else left
        return Candidates(torch.cat(image), torch.cat(logits))

    def _batches(self, positions: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return batches(self.data, self.batch_size, self.device, positions)


def _parts(pool: Pool, correction: nn.Module) -> list[Tensor]:
    """Return the positions of the images that are right, from the smallest lead up, in eight parts."""
    with torch.no_grad():
        closest = pool.closest(pool.leads(correction(pool.logits)))
    right = (closest > 0).nonzero().squeeze(1)
    order = right[closest[right].argsort(stable=True)]
    return [part for part in torch.tensor_split(order, _PARTS) if len(part)]


def _norm_and_bias(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    return layer.weight.norm(dim=1), bias
