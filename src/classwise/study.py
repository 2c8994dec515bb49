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
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from classwise import arguments, registry, schemas
from classwise.analysis import QUESTIONS
from classwise.attacks.base import kinds
from classwise.errors import InputError
from classwise.recipes import Recipe
from classwise.threat import ThreatModel
from classwise.wrappers import build as build_wrappers

SHRUNK_MODEL = "digits_cnn"
"""What a shrunk study trains in place of its models: small, and made for images of any size."""

STAND_IN = "digits"
"""What a shrunk study looks at in place of data that are not there."""

_SHRUNK_TRAIN, _SHRUNK_TEST = 10, 2  # images a class
_SHRUNK_ATTACKS = "fgsm,pgd(steps=2)"
_SHRUNK_MOST = 200  # test images, where there are many classes
_WEIGHTS = r"(?:(\w+)-)?(?:best|last)"


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
    limit: int | None = None
    audit: float = 1.0
    seed: int = 0


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
    eps: str | float | None = None
    norm: str | int | None = None
    limit: int | None = None

    @property
    def text(self) -> str:
        """The model string, with environment variables put in.

        Raises:
            InputError: one is not set.
        """
        found = os.path.expandvars(self.model)
        if missing := re.search(r"\$\w+", found):
            raise InputError(f"given {self.name!r} names {missing[0]}, which is not set; export it as a folder.")
        return found


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
    limit: int | None = None
    seeds: tuple[int, ...] = ()


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

    Raises:
        InputError: a name that is taken or unknown, or settings that cannot be.
    """

    name: str
    data: str
    model: tuple[str, ...] = ()
    recipe: str = ""
    method: tuple[Entry, ...] = ()
    given: tuple[Given, ...] = ()
    analyse: tuple[str, ...] = ()
    homing: Homing | None = None
    seeds: tuple[int, ...] = (0,)
    wrappers: str = ""
    limit: int | None = None
    eps: str | float | None = None
    norm: str | int | None = None
    precision: str = "32-true"
    evaluate: Evaluation = Evaluation()
    reference: str = ""

    def __post_init__(self) -> None:
        _check_parts(self)
        for key in ("model", "seeds", "analyse"):
            _refuse_repeats(key, getattr(self, key))
        _refuse_repeats("method", [entry.name for entry in self.method])
        _refuse_repeats("given", self.names)
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise InputError(f"name is {self.name!r}, but names a folder; use letters, digits and hyphens.")
        for data in self.all_data:
            registry.entry("data", registry.parse(data)[0])
        for model in self.model:
            if ":" not in model:
                registry.entry("model", registry.parse(model)[0])
        for entry in self.method:
            _check_entry(self, entry)
        _ = self.ordered  # a circle is refused here
        for each in self.given:
            _check_given(self, each)
        names = [entry.name for entry in self.method]
        if self.reference and self.reference not in names:
            raise InputError(registry.unknown("method", self.reference, names))
        _check_attack(self)
        for weights in self.evaluate.weights if self.method else ():
            _check_weights(self, weights)
        if self.homing is not None:
            _check_homing(self, self.homing)
        stranger = next((name for name in self.analyse if name not in QUESTIONS), None)
        if stranger is not None:
            raise InputError(registry.unknown("question", stranger, QUESTIONS))

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
        return arguments.recipe(entry.recipe or self.recipe, self.data)

    def wrappers_of(self, entry: Entry) -> str:
        """Return what goes around an entry."""
        return self.wrappers if entry.wrappers is None else entry.wrappers

    @property
    def names(self) -> list[str]:
        """What the rows of the table are called, in the order of the file."""
        return [entry.name for entry in self.method] + [each.name for each in self.given]

    @property
    def all_data(self) -> list[str]:
        """Every data set of the study."""
        return list(dict.fromkeys((self.data, *(self.data_of(each) for each in self.given))))

    @property
    def mixed(self) -> bool:
        """Whether models are evaluated on several data sets, or under several threats."""
        found = {(self.data_of(each), self.threat_of(each)) for each in self.given}
        if self.method:
            found.add((self.data, arguments.threat(self.data, self.eps, self.norm)))
        return len(found) > 1

    def data_of(self, given: Given) -> str:
        """Return the data set that a given model is evaluated on."""
        return given.data or self.data

    def threat_of(self, given: Given) -> ThreatModel:
        """Return the threat model that a given model is evaluated under."""
        own = given.data or given.eps is not None or given.norm is not None
        eps, norm = (given.eps, given.norm) if own else (self.eps, self.norm)
        return arguments.threat(self.data_of(given), eps, norm)

    def weights_of(self, entry: Entry) -> tuple[str, ...]:
        """Return the weights of an entry that are evaluated: those that it has."""
        averages = {"", *build_wrappers(self.wrappers_of(entry)).averages}
        return tuple(each for each in self.evaluate.weights if _average(each) in averages)

    def shrunk(self, num_classes: int) -> Study:
        """Return the same grid in seconds: one seed, a tiny network, ten images a class, two epochs, weak attacks.

        Given models become such a network with fresh weights.
        """
        limit = min(_SHRUNK_TEST * num_classes, _SHRUNK_MOST)
        return replace(
            self,
            name=f"{self.name}-shrunk",
            model=(SHRUNK_MODEL,) if self.method else (),
            recipe=self.recipe and _shrunk(self.recipe),
            method=tuple(replace(entry, recipe=entry.recipe and _shrunk(entry.recipe)) for entry in self.method),
            given=tuple(replace(each, model=SHRUNK_MODEL, limit=None) for each in self.given),
            seeds=self.seeds[:1],
            homing=self.homing and replace(self.homing, attacks=_SHRUNK_ATTACKS, limit=limit, seeds=()),
            limit=_SHRUNK_TRAIN * num_classes if self.method else None,
            evaluate=replace(self.evaluate, limit=limit, attacks=_SHRUNK_ATTACKS, audit=0.0),
        )

    def standing_in(self, directory: Path | None) -> tuple[Study, list[str]]:
        """Put digits, which are always there, in the place of data sets that are not, and name those."""
        trained = {self.data} if self.method else set()
        absent = [data for data in self.all_data if not _there(data, directory, data in trained)]
        data = STAND_IN if self.data in absent else self.data
        given = tuple(replace(each, data=STAND_IN) if each.data in absent else each for each in self.given)
        return replace(self, data=data, given=given), absent


def read(path: Path | str) -> Study:
    """Read a study from a TOML file.

    Raises:
        InputError: the file cannot be read; the message names the line, and the key that is missing or wrong.
    """
    try:
        text = schemas.content(Path(path), "give the TOML file of a study").decode()
        found = tomllib.loads(text)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"The study {path} is nested too deeply; write its tables as docs/studies.md does.") from error
    except ValueError as error:
        raise InputError(f"The study {path} is no TOML: {error}; mend that line.") from error
    try:
        return _study(found, text)
    except InputError as error:
        raise InputError(f"The study {path}: {error}") from error


def models_of(study: Study) -> list[str]:
    """Return every model string that a study names."""
    trained = [text for entry in study.method for text in (entry.start, entry.teacher) if text]
    return [*study.model, *trained, *(each.text for each in study.given)]


def _study(found: Mapping[str, Any], text: str) -> Study:
    settings = dict(_checked(found, Study, "", _Place(text)))
    evaluate = settings.get("evaluate", {})
    settings["evaluate"] = Evaluation(**_checked(evaluate, Evaluation, "evaluate.", _Place(text, "[evaluate]")))
    if "homing" in settings:
        place = _Place(text, "[homing]")
        settings["homing"] = Homing(**_checked(settings["homing"], Homing, "homing.", place))
    rows: tuple[tuple[str, type], ...] = (("method", Entry), ("given", Given))
    for key, kind in rows:
        tables = enumerate(settings.get(key, ()), start=1)
        settings[key] = tuple(
            kind(**_checked(table, kind, f"{key} {number}, ", _Place(text, f"[[{key}]]", number)))
            for number, table in tables
        )
    return Study(**settings)


@dataclass(frozen=True)
class _Place:
    """Where a table stands in a file: below the ``number``-th line with that header, or at the top."""

    text: str
    header: str = ""
    number: int = 1

    def line(self, key: str) -> str:
        """Return "line 3: " for a key, that of the header for one that is missing; "" if neither can be found."""
        lines = [line.partition("#")[0].strip() for line in self.text.splitlines()]
        heads = [place for place, line in enumerate(lines, start=1) if line == self.header] if self.header else [0]
        if len(heads) < self.number:
            return ""
        first = heads[self.number - 1]
        within = enumerate(takewhile(lambda line: not re.match(r"\[\[?\w+\]", line), lines[first:]), start=first + 1)
        place = next((place for place, line in within if re.match(rf"{re.escape(key)}\s*=", line)), first)
        return f"line {place}: " if place else ""


# Of each key: what it may be, and how that is said. A tuple may be written as a single value.
_TEXT, _COUNT = "a text", "a whole number of at least 1"
_KINDS: dict[str, str] = {
    "model": "a text or a list of texts",
    "weights": "a text or a list of texts",
    "analyse": "a text or a list of texts",
    "method": _TEXT,
    "seeds": "a list of whole numbers of at least 0 and below 2^63",
    "seed": "a whole number of at least 0 and below 2^63",
    "limit": _COUNT,
    "audit": "a number between 0 and 100",
    "eps": 'a text such as "8/255", or a number',
    "norm": 'a text such as "Linf", or a number',
    "evaluate": "a table, [evaluate]",
    "homing": "a table, [homing]",
    "methods": "tables, [[method]]",
    "given": "tables, [[given]]",
}


def _checked(table: Any, kind: type, where: str, place: _Place) -> dict[str, Any]:
    """Return the settings of a table, refusing keys that it does not have and values of the wrong type."""
    known = {field.name: field for field in fields(kind)}
    if not isinstance(table, Mapping):
        raise InputError(f"{where.rstrip('., ')} is {table!r}, but must be a table.")
    for key, value in table.items():
        if key not in known:
            table_named = where and f"{where.rstrip('., ')}: "
            raise InputError(place.line(key) + table_named + registry.unknown("key", key, list(known)))
        said = _said(kind, key)
        if not _fits(said, value):
            raise InputError(f"{place.line(key)}{where}{key} is {value!r}, but must be {said}.")
    # A dataclass of settings has no default for what must be said.
    missing = [name for name in known if name not in table and not hasattr(kind, name)]
    if missing:
        raise InputError(f"{place.line(missing[0])}{where}{missing[0]} is missing; add it.")
    return {key: _tupled(_said(kind, key), value) for key, value in table.items()}


def _said(kind: type, key: str) -> str:
    """Return what a key of a table may be: one model is given, or one method named, where a study may list several."""
    if kind is Study and key == "method":
        return _KINDS["methods"]
    return _TEXT if kind is Given and key == "model" else _KINDS.get(key, _TEXT)


def _fits(said: str, value: Any) -> bool:
    whole, number = type(value) is int, type(value) in (int, float)
    texts = isinstance(value, list) and value and all(isinstance(each, str) for each in value)
    tables = isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value)
    rules = {
        _TEXT: isinstance(value, str),
        _COUNT: whole and value >= 1,
        _KINDS["model"]: isinstance(value, str) or texts,
        _KINDS["seeds"]: isinstance(value, list) and value and all(type(n) is int and 0 <= n < 2**63 for n in value),
        _KINDS["seed"]: whole and 0 <= value < 2**63,
        _KINDS["audit"]: number and 0 <= value <= 100,
        _KINDS["eps"]: isinstance(value, str) or number,
        _KINDS["norm"]: isinstance(value, str) or number,
        _KINDS["evaluate"]: isinstance(value, Mapping),
        _KINDS["homing"]: isinstance(value, Mapping),
        _KINDS["methods"]: tables,
        _KINDS["given"]: tables,
    }
    return bool(rules[said])


def _tupled(said: str, value: Any) -> Any:
    if said == _KINDS["model"] and isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _check_parts(study: Study) -> None:
    """Refuse a study of nothing, and settings of a training that is lacking or that lacks them."""
    if not (study.method or study.given):
        raise InputError("method is missing, and given too; add a table [[method]] or [[given]].")
    for key in ("model", "recipe"):
        if bool(getattr(study, key)) != bool(study.method):
            said = "is missing; add it" if study.method else "is for training, but there is no [[method]]; leave it out"
            raise InputError(f"{key} {said}.")


def _there(data: str, directory: Path | None, trained: bool) -> bool:
    """Tell whether the images of a data set can be loaded, its training images too where they are needed."""
    try:
        for split in ("test", "train")[: 1 + trained]:
            arguments.images(data, directory, split, None, 0)
    except InputError:
        return False
    return True


def _refuse_repeats(key: str, values: Sequence[Any]) -> None:
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        remedy = "; give one of them a name" if key == "method" else "; leave one out"
        raise InputError(f"{key} has {twice!r} twice{remedy}.")


def _check_entry(study: Study, entry: Entry) -> None:
    """Refuse what can be seen to be wrong without data.

    Raises:
        InputError: the entry has an unknown name in it, or names weights that another does not have.
    """
    name, settings = registry.parse(entry.method)
    takes = registry.entry("method", name)
    try:
        study.recipe_of(entry), build_wrappers(study.wrappers_of(entry))
    except InputError as error:
        raise InputError(f"method {entry.name!r}: {error}") from error
    if "teacher" in settings:
        raise InputError(f'method {entry.name!r} names a teacher in its settings; make it a key, teacher = "…".')
    if bool(entry.teacher) != ("teacher" in arguments.taken_by(takes)):
        wants = "learns from a teacher; add teacher" if not entry.teacher else "has no teacher; leave out teacher"
        raise InputError(f"method {entry.name!r} {wants}.")
    fresh = [model for model in study.model if arguments.fresh(model)]
    if arguments.fine_tunes(takes) and not entry.start and fresh:
        raise InputError(
            f"method {entry.name!r} goes on with a robust network, and {fresh[0]} has fresh weights; add start, the "
            "name of another method."
        )
    for text in (entry.start, entry.teacher):
        if other := study.named(text):
            _check_source(study, entry, text, other)


def _check_attack(study: Study) -> None:
    """Refuse a radius that cannot be, and attacks that there are none of."""
    if study.method:
        arguments.threat(study.data, study.eps, study.norm)
    known = ["transfer", *kinds()]
    for text in registry.split(study.evaluate.attacks):
        if not text.endswith(".toml") and (name := registry.parse(text)[0]) not in known:
            raise InputError(f"evaluate.attacks: {registry.unknown('attack', name, known)}")


def _check_homing(study: Study, homing: Homing) -> None:
    """Refuse a method that the study has not, or that a network without a class could not be trained with."""
    entry = next((entry for entry in study.method if entry.name == homing.method), None)
    if entry is None:
        raise InputError(registry.unknown("method", homing.method, [entry.name for entry in study.method]))
    if entry.start or entry.teacher:
        raise InputError(
            f"homing.method is {homing.method!r}, which takes another network, with all classes; name a method without."
        )
    if missing := [seed for seed in homing.seeds if seed not in study.seeds]:
        raise InputError(f"homing.seeds has {missing[0]}, which is not among the seeds of the study; add it there.")


def _check_given(study: Study, given: Given) -> None:
    try:
        study.threat_of(given)
    except InputError as error:
        raise InputError(f"given {given.name!r}: {error}") from error


def _check_source(study: Study, entry: Entry, text: str, name: str) -> None:
    """Refuse weights that the entry called ``name`` will not have."""
    which = text[len(name) + 1 :] or "best"
    source = next(each for each in study.method if each.name == name)
    averages = {"", *build_wrappers(study.wrappers_of(source)).averages}
    if not re.fullmatch(_WEIGHTS, which) or _average(which) not in averages:
        raise InputError(f"method {entry.name!r} takes {text!r}, but {name!r} has no weights {which!r}.")


def _check_weights(study: Study, weights: str) -> None:
    if not re.fullmatch(_WEIGHTS, weights):
        raise InputError(f"evaluate.weights has {weights!r}; write best, last, or those of an average as in ema-best.")
    if not any(weights in study.weights_of(entry) for entry in study.method):
        raise InputError(f"evaluate.weights has {weights!r}, but no method has that average; add it to wrappers.")


def _average(weights: str) -> str:
    """Return the name of the average that weights are of, "" for the model itself."""
    return weights.rpartition("-")[0]


def _shrunk(recipe: str) -> str:
    """Return a recipe of two epochs and an attack of two steps, with what else it says."""
    name, settings = registry.parse(recipe)
    short = {"epochs": 2, "batch_size": 20, "steps": 2, "milestones": (), "eps_warmup": 0, "holdout": 0.2}
    return arguments.written(name, {**settings, **short})
