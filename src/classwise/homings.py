"""Homing studies (A6) within a study: one for each model and seed, in the folder of the run whose settings it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from classwise import arguments, files, registry
from classwise.analysis import Finding
from classwise.data import Images
from classwise.errors import InputError
from classwise.homing import Study as Homing
from classwise.study import Study
from classwise.train import fit
from classwise.trials import LOCK_FILE, Trial, Where, prepared
from classwise.verdicts import Answers

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
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

    def folder(self, where: Where, test: Images) -> Path:
        """Return its folder, which changes with everything that its numbers depend on."""
        attacks = arguments.attacks(self.attacks, self.trial.threat, test, self.trial.seed)
        again = {name: repr(attack) for name, attack in attacks.items()}
        return self.trial.subfolder(where.out, "homing", {"attacks": again, "test_sha256": test.sha256()})

    def finding(self, where: Where, say: Say) -> Finding:
        """Train what is not trained yet, attack, and compare.

        Raises:
            InputError: another process is at it, or a network cannot be trained.
        """
        trial = self.trial
        test = arguments.training_images(trial.data, where.data_dir, self.limit, trial.seed, False, "test")
        folder = self.folder(where, test)
        with files.held(folder / LOCK_FILE) as free:
            if not free:
                raise InputError(f"Another process does the homing of {trial.title}; ask again when it has ended.")
            train, training = prepared(trial, where)
            again = arguments.attacks(self.attacks, trial.threat, test, trial.seed)
            trainer = partial(fit, arguments.fabric(where.accelerator, 1, precision=trial.precision))
            return Homing(train, test, training.run, again, folder, trainer, say).result()


def asked(study: Study, trials: Sequence[Trial]) -> list[Asked]:
    """Return the homing studies that a study asks for."""
    if study.homing is None:
        return []
    wanted = study.homing
    chosen = [trial for trial in trials if trial.name == wanted.method and trial.seed in (wanted.seeds or study.seeds)]
    return [Asked(trial, wanted.attacks, wanted.limit) for trial in chosen]


def answers(study: Study, trials: Sequence[Trial], where: Where, say: Say) -> list[Answers]:
    """Do every homing study that is not done, one after another, and return what they say, of each model apart."""
    every = asked(study, trials)
    models = dict.fromkeys(each.trial.model for each in every)
    return [_answers([each for each in every if each.trial.model == model], where, say) for model in models]


def _answers(every: Sequence[Asked], where: Where, say: Say) -> Answers:
    first, unanswered = every[0].trial, list[str]()
    about = f"{first.name} with and without each class, {registry.parse(first.model)[0]}, {first.data}, {first.threat}"
    return Answers(about, tuple(_findings(every, where, say, unanswered)), tuple(unanswered))


def _findings(every: Sequence[Asked], where: Where, say: Say, unanswered: list[str]) -> Iterator[Finding]:
    for each in every:
        try:
            yield each.finding(where, say)
        except InputError as error:
            unanswered.append(str(error))
