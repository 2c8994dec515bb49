"""Homing studies: train with and without each class, and count which adversarial images are safe then (A6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from classwise import files, registry, resolve
from classwise.analysis.finding import Finding
from classwise.analysis.fooling import crafted, predicted
from classwise.analysis.homing import Bools, Selected, Verdicts, dissimilar, homing
from classwise.attacks.plan import AttackOrPlan
from classwise.data.images import Images
from classwise.data.splits import stratified_sample
from classwise.errors import InputError
from classwise.evaluation.run import evaluate
from classwise.metrics.outcomes import Outcomes
from classwise.models import load_model
from classwise.studies.answers import Answers
from classwise.studies.spec import Study
from classwise.studies.trials import LOCK_FILE, StudyContext, Trial, prepared
from classwise.training.loop import fit
from classwise.training.run import Run

_FIRST = "pgd(keep='last')"  # selects the images; one that stops at the boundary would leave nothing to replay


@dataclass(frozen=True)
class HomingStudy:
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
    attacks: Mapping[str, AttackOrPlan]
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
        safe = {form: np.zeros(len(broken), dtype=bool) for form in ("replay", "attack again")}
        if there.any():
            safe["replay"][there.numpy()] = (predicted(network, x_adv[there], test.y) == test.y).numpy()
            safe["attack again"][there.numpy()] = self._attacked(name, network, test).correct()
        return safe

    def _attacked(self, name: str, network: nn.Module, test: Images) -> Outcomes:
        folder = self.folder / name / "evaluation"
        return evaluate(network, test, self.attacks, seed=self.run.seed, audit=0, examples=0, directory=folder).outcomes


def without(images: Images, c: int) -> Images:
    """Leave a class out and close the gap in the labels; all classes stay if c is none of them."""
    others = images.subset((images.y != c).nonzero().flatten())
    classes = tuple(name for k, name in enumerate(images.classes) if k != c)
    groups = {name: tuple(m for m in members if m in classes) for name, members in images.groups.items()}
    return replace(others, y=others.y - (others.y > c).long(), classes=classes, groups=groups)


def _flow(test: Images, answer: Tensor, right: Tensor) -> np.ndarray:
    size = len(test.classes)
    moved = right & (answer >= 0)
    cells = test.y[moved] * size + answer[moved]
    return np.asarray(torch.bincount(cells, minlength=size * size).view(size, size).numpy())


def _groups(test: Images) -> np.ndarray:
    names = {member: g for g, members in enumerate(test.groups.values()) for member in members}
    return np.array([names.get(name, -1) for name in test.classes])


Say = Callable[[str], None]


@dataclass(frozen=True)
class HomingRequest:
    """One homing study.

    Attributes:
        trial: the run whose network is trained again without each class.
        attacks: what an image must survive to be safe.
        limit: stratified sample of the test images, None for all.
    """

    trial: Trial
    attacks: str
    limit: int | None

    @property
    def trainings(self) -> str:
        """What it takes, in words."""
        return f"homing of {self.trial.title}: a training without each class and three more, each as long as that run"

    def folder(self, where: StudyContext, test: Images) -> Path:
        """Return its folder, which changes with everything that its numbers depend on."""
        attacks = resolve.named_attacks(self.attacks, self.trial.threat, test, self.trial.seed)
        again = {name: repr(attack) for name, attack in attacks.items()}
        return self.trial.subfolder(where.out, "homing", {"attacks": again, "test_sha256": test.sha256()})

    def finding(self, where: StudyContext, say: Say) -> Finding:
        """Train what is not trained yet, attack, and compare.

        Raises:
            InputError: another process is at it, or a network cannot be trained.
        """
        trial = self.trial
        test = resolve.training_images(trial.data, where.data_dir, self.limit, trial.seed, False, "test")
        folder = self.folder(where, test)
        with files.held(folder / LOCK_FILE) as free:
            if not free:
                raise InputError(f"Another process does the homing of {trial.title}; ask again when it has ended.")
            train, training = prepared(trial, where)
            again = resolve.named_attacks(self.attacks, trial.threat, test, trial.seed)
            trainer = partial(fit, resolve.launched(where.accelerator, 1, precision=trial.precision))
            return HomingStudy(train, test, training.run, again, folder, trainer, say).result()


def asked(study: Study, trials: Sequence[Trial]) -> list[HomingRequest]:
    """Return the homing studies that a study asks for."""
    if study.homing is None:
        return []
    wanted = study.homing
    chosen = [trial for trial in trials if trial.name == wanted.method and trial.seed in (wanted.seeds or study.seeds)]
    return [HomingRequest(trial, wanted.attacks, wanted.limit) for trial in chosen]


def answers(study: Study, trials: Sequence[Trial], where: StudyContext, say: Say) -> list[Answers]:
    """Do every homing study that is not done, one after another, and return what they say, of each model apart."""
    studies = asked(study, trials)
    models = dict.fromkeys(homing_study.trial.model for homing_study in studies)
    return [
        _answers([homing_study for homing_study in studies if homing_study.trial.model == model], where, say)
        for model in models
    ]


def _answers(studies: Sequence[HomingRequest], where: StudyContext, say: Say) -> Answers:
    first, unanswered = studies[0].trial, list[str]()
    about = f"{first.name} with and without each class, {registry.parse(first.model)[0]}, {first.data}, {first.threat}"
    return Answers(about, tuple(_findings(studies, where, say, unanswered)), tuple(unanswered))


def _findings(
    studies: Sequence[HomingRequest], where: StudyContext, say: Say, unanswered: list[str]
) -> Iterator[Finding]:
    for homing_study in studies:
        try:
            yield homing_study.finding(where, say)
        except InputError as error:
            unanswered.append(str(error))
