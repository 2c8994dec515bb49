"""A study: which methods are trained how often on what, which models are given, how all are evaluated; one TOML file.

::

    name = "fair-digits"
    data = "digits"
    model = "digits_cnn"                          # or a list
    recipe = "digits"
    wrappers = "ema"
    seeds = [0, 1, 2]

    [evaluate]
    attacks = "fast"
    weights = ["best", "ema-best"]

    [[method]]
    method = "at"

    [[method]]
    method = "frl-rwrm"
    start = "at"                                  # the run of that method with the same model and seed
    recipe = "finetune-frl(epochs=10)"

    [[given]]                                     # not trained, only evaluated
    name = "theirs"
    model = "$MODELS/net.py:load_model"
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from classwise import resolve
from classwise.errors import InputError
from classwise.studies.kinds import Count, Eps, NormName, PerCent, Seed
from classwise.threat import ThreatModel
from classwise.training.recipes import Recipe
from classwise.wrappers import build as build_wrappers


@dataclass(frozen=True)
class Evaluation:
    """How every run is evaluated.

    Attributes:
        attacks: attacks, suites and plans, as for ``classwise evaluate``.
        weights: which weights of a run: "best", "last", "ema-best" and so on; those of an average that a method does
            not have are left out for it.
        limit: attack a stratified sample of so many test images, the same for every run; None for all.
        audit: of plans, see :func:`classwise.evaluate`.
        seed: of that sample and of the attacks.
    """

    attacks: str = "fast"
    weights: tuple[str, ...] = ("best",)
    limit: Count | None = None
    audit: PerCent = 1.0
    seed: Seed = 0


@dataclass(frozen=True)
class Entry:
    """A training method of a study, and what it has of its own.

    Attributes:
        method: its name, with settings.
        name: what it is called in the table and in other entries; the method if empty.
        recipe: in place of the study's.
        wrappers: in place of the study's.
        start: what it goes on with: another entry, by name, of which the run with the same model and seed is taken,
            or a model string. Its best weights, or as ``NAME@WEIGHTS`` says. Fresh weights if empty.
        teacher: whom it learns from, in the same form.
    """

    method: str
    name: str = ""
    recipe: str | None = None
    wrappers: str | None = None
    start: str = ""
    teacher: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.method)


@dataclass(frozen=True)
class Given:
    """A model that a study evaluates and does not train.

    Attributes:
        name: what it is called in the table.
        model: any model string; ``$NAME`` in it is an environment variable.
        data: in place of the study's.
        eps: in place of the study's; the usual one of ``data`` if that is given alone.
        norm: with ``eps``.
        limit: number of test images, in place of that of the evaluation.
    """

    name: str
    model: str
    data: str = ""
    eps: Eps | None = None
    norm: NormName | None = None
    limit: Count | None = None

    @property
    def text(self) -> str:
        """The model string, with environment variables put in.

        Raises:
            InputError: one is not set.
        """
        expanded = os.path.expandvars(self.model)
        if missing := re.search(r"\$\w+", expanded):
            raise InputError(f"given {self.name!r} names {missing[0]}, which is not set; export it as a folder.")
        return expanded


@dataclass(frozen=True)
class Homing:
    """Networks that are trained without each class, to see whether the images broken towards it are safe then (A6).

    Attributes:
        method: the entry, by name, that is trained like that; one with fresh weights and without a teacher.
        attacks: what an image must survive to be safe.
        limit: look at a stratified sample of so many test images; None for all.
        seeds: of those of the study; all if empty.
    """

    method: str
    attacks: str = "fast"
    limit: Count | None = None
    seeds: tuple[Seed, ...] = ()


@dataclass(frozen=True)
class Study:
    """A grid of runs, model × method × seed, and models that are given.

    Attributes:
        name: of the study, and of its folder.
        data: data set, settings included.
        model: architectures to train.
        recipe: how every method is trained that has no recipe of its own.
        method: training methods.
        given: models that are evaluated as they are.
        analyse: questions that the evaluations are asked, see ``classwise list questions``.
        homing: a method that is trained without each class as well.
        seeds: one run each; of weights, order, augmentation, attacks, and of the sample that ``limit`` draws.
        wrappers: what goes around every method.
        limit: train on a stratified sample of so many images; None for all.
        eps: radius, such as "8/255"; the usual one of the data set if None.
        norm: with ``eps``.
        precision: of training.
        evaluate: how every run is evaluated.
        reference: the method, by name, that the others are compared with in the table; ``at`` if the study has one
            of that name.

    What it says is checked by :func:`classwise.studies.checks.check`, as reading its file does.
    """

    name: str
    data: str
    model: tuple[str, ...] = ()
    recipe: str = ""
    method: tuple[Entry, ...] = ()
    given: tuple[Given, ...] = ()
    analyse: tuple[str, ...] = ()
    homing: Homing | None = None
    seeds: tuple[Seed, ...] = (0,)
    wrappers: str = ""
    limit: Count | None = None
    eps: Eps | None = None
    norm: NormName | None = None
    precision: str = "32-true"
    evaluate: Evaluation = Evaluation()
    reference: str = ""

    @property
    def ordered(self) -> tuple[Entry, ...]:
        """The methods, each after those that it starts from or learns from.

        Raises:
            InputError: they go round in a circle.
        """
        left, done = list(self.method), list[Entry]()
        while left:
            names = {entry.name for entry in left}
            ready = [entry for entry in left if not names & set(self.needs(entry))]
            if not ready:
                raise InputError(f"{left[0].name!r} needs itself to start or to learn from; break the circle.")
            done += ready
            left = [entry for entry in left if entry not in ready]
        return tuple(done)

    @property
    def baseline(self) -> str:
        """The name of the method that the others are compared with, "" for none."""
        return self.reference or next((entry.name for entry in self.method if entry.name == "at"), "")

    def needs(self, entry: Entry) -> list[str]:
        """Return the names of the entries that another one starts from and learns from."""
        return [name for text in (entry.start, entry.teacher) if (name := self.named(text))]

    def named(self, text: str) -> str:
        """Return the name of the entry that ``NAME`` or ``NAME@WEIGHTS`` means, "" if it means none."""
        names = {entry.name for entry in self.method}
        return next((name for name in (text, text.rpartition("@")[0]) if name in names), "")

    def recipe_of(self, entry: Entry) -> Recipe:
        """Return how an entry is trained."""
        return resolve.recipe(entry.recipe or self.recipe, self.data)

    def wrappers_of(self, entry: Entry) -> str:
        """Return what goes around an entry."""
        return self.wrappers if entry.wrappers is None else entry.wrappers

    @property
    def names(self) -> list[str]:
        """What the rows of the table are called, in the order of the file."""
        return [entry.name for entry in self.method] + [given.name for given in self.given]

    @property
    def all_data(self) -> list[str]:
        """Every data set of the study."""
        return list(dict.fromkeys((self.data, *(self.data_of(given) for given in self.given))))

    @property
    def mixed(self) -> bool:
        """Whether models are evaluated on several data sets, or under several threats."""
        combinations = {(self.data_of(given), self.threat_of(given)) for given in self.given}
        if self.method:
            combinations.add((self.data, resolve.threat(self.data, self.eps, self.norm)))
        return len(combinations) > 1

    def data_of(self, given: Given) -> str:
        """Return the data set that a given model is evaluated on."""
        return given.data or self.data

    def threat_of(self, given: Given) -> ThreatModel:
        """Return the threat model that a given model is evaluated under."""
        own = given.data or given.eps is not None or given.norm is not None
        eps, norm = (given.eps, given.norm) if own else (self.eps, self.norm)
        return resolve.threat(self.data_of(given), eps, norm)

    def weights_of(self, entry: Entry) -> tuple[str, ...]:
        """Return the weights of an entry that are evaluated: those that it has."""
        averages = {"", *build_wrappers(self.wrappers_of(entry)).averages}
        return tuple(weights for weights in self.evaluate.weights if average_of(weights) in averages)


def models_of(study: Study) -> list[str]:
    """Return every model string that a study names."""
    trained = [text for entry in study.method for text in (entry.start, entry.teacher) if text]
    return [*study.model, *trained, *(given.text for given in study.given)]


def average_of(weights: str) -> str:
    """Return the name of the average that weights are of, "" for the model itself."""
    return weights.rpartition("-")[0]
