"""The homing study: train with and without each class, and count which adversarial images are safe then.

C + 3 trainings: all classes, all classes from another seed, all classes with fewer images, and one without each class.
Each has a folder of its own; an interrupted study goes on with the command that began it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from classwise import registry
from classwise.analysis.finding import Finding
from classwise.analysis.fooling import crafted, predicted
from classwise.analysis.homing import Bools, Selected, Verdicts, dissimilar, homing
from classwise.attacks.plan import Contender
from classwise.data.images import Images
from classwise.data.splits import stratified_sample
from classwise.evaluation import evaluate
from classwise.metrics.outcomes import Outcomes
from classwise.models import load_model
from classwise.runs import Run

_FIRST = "pgd(keep='last')"  # selects the images; one that stops at the boundary would leave nothing to replay


@dataclass(frozen=True)
class Study:
    """What all networks of a study have in common.

    Attributes:
        train: images with every class.
        test: images with every class.
        run: settings of the training; the other seed is its seed plus 1.
        attacks: by name, whose worst case decides whether an image is safe when it is attacked again.
        folder: of the study.
        fit: :func:`classwise.fit` with its Fabric.
        say: called with a line before each network.
    """

    train: Images
    test: Images
    run: Run
    attacks: Mapping[str, Contender]
    folder: Path
    fit: Callable[..., object]
    say: Callable[[str], None]

    def result(self) -> Finding:
        """Train what is not trained yet, attack, and compare."""
        size = len(self.train.classes)
        y, everything = self.test.y, torch.arange(len(self.test))
        model = self._network("all", self.run, self.train)
        first = registry.build("attack", _FIRST, self.run.threat)
        x_adv = crafted(model, self.test, first, self.run.seed)
        answer = predicted(model, x_adv, y)
        right = predicted(model, self.test.fetch(everything), y) == y
        broken = (right & (answer != y) & (answer >= 0)).nonzero().flatten()
        selected = Selected(y[broken].numpy(), answer[broken].numpy())
        share = 1 - 1 / size
        fewer = self.train.subset(stratified_sample(self.train.y, round(share * len(self.train)), self.run.seed))
        networks = {
            "again": (replace(self.run, seed=self.run.seed + 1), self.train),
            "fewer": (self.run, fewer),
            **{f"without-{c}": (self.run, without(self.train, c)) for c in range(size)},
        }
        safe = {name: self._safe(name, *given, broken, x_adv[broken]) for name, given in networks.items()}
        forms = {
            form: Verdicts(
                np.stack([safe[f"without-{c}"][form] for c in range(size)]), safe["again"][form], safe["fewer"][form]
            )
            for form in ("replay", "attack again")
        }
        flow = _flow(self.test, answer, right)
        other = dissimilar(flow, np.bincount(y.numpy(), minlength=size), _groups(self.test))
        subject = f"{self.run.method} on {self.train.name}, seed {self.run.seed}"
        return homing(self.train.classes, selected, forms, other, subject)

    def _network(self, name: str, run: Run, images: Images) -> nn.Module:
        """Return the best network of a run of the study, trained now if it is not there yet."""
        self.say(f"{name}: {len(images):,} images of {len(images.classes)} classes")
        network = load_model(run.model, num_classes=len(images.classes), shape=images.shape, seed=run.seed)
        method = registry.build("method", run.method, len(images.classes), run.attack)
        self.fit(network, method, images, run, self.folder / name)
        # Its record names the model that was given for this study, or training would have refused the folder.
        return load_model(
            f"run:{self.folder / name}", num_classes=len(images.classes), shape=images.shape, trust_code=True
        )

    def _safe(self, name: str, run: Run, images: Images, broken: Tensor, x_adv: Tensor) -> dict[str, Bools]:
        """Tell which of the broken images are safe in another network, in both forms, (N,) each."""
        network = self._network(name, run, images)
        missing = int(name.removeprefix("without-")) if name.startswith("without-") else len(self.train.classes)
        there = self.test.y[broken] != missing
        test = without(self.test.subset(broken), missing)
        found = {form: np.zeros(len(broken), dtype=bool) for form in ("replay", "attack again")}
        if there.any():
            found["replay"][there.numpy()] = (predicted(network, x_adv[there], test.y) == test.y).numpy()
            found["attack again"][there.numpy()] = self._attacked(name, network, test).correct()
        return found

    def _attacked(self, name: str, network: nn.Module, test: Images) -> Outcomes:
        folder = self.folder / name / "evaluation"
        return evaluate(network, test, self.attacks, seed=self.run.seed, audit=0, examples=0, directory=folder).outcomes


def without(images: Images, c: int) -> Images:
    """Leave a class out and close the gap in the labels; all classes stay if c is none of them."""
    kept = images.subset((images.y != c).nonzero().flatten())
    classes = tuple(name for k, name in enumerate(images.classes) if k != c)
    groups = {name: tuple(m for m in members if m in classes) for name, members in images.groups.items()}
    return replace(kept, y=kept.y - (kept.y > c).long(), classes=classes, groups=groups)


def _flow(test: Images, answer: Tensor, right: Tensor) -> np.ndarray:
    size = len(test.classes)
    moved = right & (answer >= 0)
    cells = test.y[moved] * size + answer[moved]
    return np.asarray(torch.bincount(cells, minlength=size * size).view(size, size).numpy())


def _groups(test: Images) -> np.ndarray:
    names = {member: g for g, members in enumerate(test.groups.values()) for member in members}
    return np.array([names.get(name, -1) for name in test.classes])
