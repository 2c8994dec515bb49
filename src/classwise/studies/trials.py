"""One run of a study: what identifies it, where it lies, how far it is, and how it is done.

The folder of a run is called after what a reader wants to know and the first digits of its key, a hash of all that its
numbers depend on: settings, data, version, and the runs that it starts or learns from. In it lie the training run, as
``classwise train`` writes it, and a folder for each evaluation, named by a hash of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from classwise import files, registry, resolve
from classwise.analysis.evidence import TRIAL_FILE
from classwise.data import Images
from classwise.data.images import ImageSet
from classwise.errors import InputError
from classwise.evaluation.run import evaluate
from classwise.files import schemas
from classwise.metrics.result import RESULT_FILE, Result
from classwise.metrics.training import LOG_FILE, SUMMARY_FILE, read_log
from classwise.models.checkpoint import weights_sha256
from classwise.models.fingerprint import fingerprint, refuse_changed
from classwise.models.foreign import trusting
from classwise.provenance import __version__, code, short
from classwise.runtime.inference import judging
from classwise.studies.spec import Evaluation, Study
from classwise.threat import ThreatModel
from classwise.training.loop import fit
from classwise.training.recipes import LATER, Recipe

State = Literal["done", "running", "failed", "begun", "open"]
GIVEN = "given"
"""What the weights of a model that is given are called."""
FAILURE_FILE = "failure.json"
LOCK_FILE = "running.lock"
_LOOKED_AT = 16  # images that say what a model from elsewhere computes
_PATIENCE = 0.5  # seconds, with someone who looks how far a run is


@dataclass(frozen=True)
class StudyContext:
    """What results do not depend on.

    Attributes:
        out: folder of the study.
        data_dir: folder of the data set.
        accelerator: cpu, cuda or auto.
        command: the command line, for the record.
        trust_code: whether the person at the keyboard lets run what records and the study name.
    """

    out: Path
    data_dir: Path | None = None
    accelerator: str = "auto"
    command: str = "classwise study"
    trust_code: bool = False


@dataclass(frozen=True)
class Source:
    """A trained network that a run starts from or learns from.

    Attributes:
        of: the run of this study that makes it, or the hash of the weights of one from elsewhere.
        text: which of that run's weights, or the model string.
    """

    of: Trial | str
    text: str

    @property
    def key(self) -> str:
        """What identifies it."""
        return f"{self.of.key if isinstance(self.of, Trial) else self.of}@{self.text}"

    def model(self, out: Path) -> str:
        """Return its model string."""
        return f"run:{self.of.folder(out)}@{self.text}" if isinstance(self.of, Trial) else self.text


@dataclass(frozen=True)
class Trial:
    """A run of a study: a network is trained and evaluated, or one that is given is evaluated.

    Attributes:
        name: of the method in the study, or of the model that is given.
        method: training method, without its teacher; empty for a model that is given.
        model: architecture; its weights come from ``start`` if there is one. Of a given model its string.
        seed: of training.
        recipe: how it is trained; None for a model that is given.
        wrappers: what goes around the method.
        threat: of training and evaluation.
        precision: of training.
        data: name of the data set.
        limit: sample of its training images, None for all.
        images: number of those.
        train_sha256: hash of those; of a given model that of its weights.
        weights: which are evaluated.
        attacks: that they are evaluated with.
        evaluation: what else an evaluation depends on: limit, audit, seed, hash of the images, the attacks spelt out.
        start: what it goes on with.
        teacher: whom it learns from.
        typed: model string as the study has it, with its variables, for the record; that of ``model`` if empty.
        functions: fingerprints of the models that come from elsewhere, whose code may change, by what they are.
    """

    name: str
    method: str
    model: str
    seed: int
    recipe: Recipe | None
    wrappers: str
    threat: ThreatModel
    precision: str
    data: str
    limit: int | None
    images: int
    train_sha256: str
    weights: tuple[str, ...]
    attacks: str
    evaluation: Mapping[str, Any] = field(hash=False)
    start: Source | None = None
    teacher: Source | None = None
    typed: str = ""
    functions: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that training depends on, for JSON; of a given model what it is and where it is evaluated."""
        if self.recipe is None:
            about = {"data": self.data, "threat": asdict(self.threat), "weights_sha256": self.train_sha256}
            return {"classwise": __version__, "given": self.name, **about}
        return {
            "classwise": __version__,
            "data": self.data,
            "train_sha256": self.train_sha256,
            "model": self.model,
            "method": self.method,
            # A setting that came later changes no key while it does what was done before: finished runs stay finished.
            "recipe": {name: v for name, v in asdict(self.recipe).items() if name not in LATER or v != LATER[name]},
            "wrappers": self.wrappers,
            "threat": asdict(self.threat),
            "precision": self.precision,
            "seed": self.seed,
            "start": self.start and self.start.key,
            "teacher": self.teacher and self.teacher.key,
        }

    @cached_property
    def key(self) -> str:
        """Hash of the settings of training, 64 hexadecimal digits."""
        return _hash(self.settings)

    @property
    def sources(self) -> list[Trial]:
        """The runs of the study that must be done before this one."""
        trials = [source.of for source in (self.start, self.teacher) if source is not None]
        return [trial for trial in trials if isinstance(trial, Trial)]

    @property
    def title(self) -> str:
        """What it is called in a line of text."""
        if self.recipe is None:
            return f"{self.name} on {registry.parse(self.data)[0]}, {self.threat}"
        return f"{self.name} on {registry.parse(self.model)[0]}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Return the folder of the run."""
        made = (GIVEN,) if self.recipe is None else (re.split(r"[(:]", self.model)[0], f"seed{self.seed}")
        return out / "-".join(_slug(part) for part in (self.name, *made, short(self.key)))

    def evaluation_folder(self, out: Path, weights: str) -> Path:
        """Return the folder of an evaluation, which changes with its settings."""
        return self.subfolder(out, weights, self.evaluation)

    def subfolder(self, out: Path, name: str, settings: Mapping[str, Any]) -> Path:
        """Return the folder of something that is done with the run, which changes with the settings of that."""
        return self.folder(out) / f"{name}-{short(_hash({'classwise': __version__, **settings}))}"

    def network(self, out: Path, weights: str) -> str:
        """Return the model string of the network with one kind of its weights."""
        return self.model if self.recipe is None else f"run:{self.folder(out)}@{weights}"

    def epochs(self, out: Path) -> int:
        """Return the epochs finished so far."""
        path = self.folder(out) / LOG_FILE
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def trained(self, out: Path) -> bool:
        """Tell whether training is finished, or there is none."""
        return self.recipe is None or (self.folder(out) / SUMMARY_FILE).exists()

    def evaluated(self, out: Path) -> bool:
        """Tell whether every evaluation is finished."""
        return all((self.evaluation_folder(out, weights) / RESULT_FILE).exists() for weights in self.weights)

    def state(self, out: Path) -> State:
        """Return how far it is.

        Raises:
            InputError: its folder holds something else.
        """
        folder = self.folder(out)
        if not (folder / TRIAL_FILE).exists():
            return "open"
        refuse_changed(_same_key(folder, self.key).get("functions"), self.functions, f"{folder} holds a run")
        if self.trained(out) and self.evaluated(out):
            return "done"
        with files.held(folder / LOCK_FILE) as free:
            if not free:
                return "running"
        return "failed" if (folder / FAILURE_FILE).exists() else "begun"

    def failure(self, out: Path) -> str:
        """Return why it failed, "" if it did not."""
        path = self.folder(out) / FAILURE_FILE
        return str(schemas.read(path, schemas.FAILURE, "delete it")["error"]) if path.exists() else ""

    def results(self, out: Path) -> dict[str, Result]:
        """Return the finished evaluations, by their weights."""
        folders = {weights: self.evaluation_folder(out, weights) for weights in self.weights}
        return {weights: Result.read(folder) for weights, folder in folders.items() if (folder / RESULT_FILE).exists()}


def grid(study: Study, where: StudyContext) -> list[Trial]:
    """Return every run of a study, each after those it needs.

    Raises:
        InputError: the data cannot be had, or an attack, a start or a teacher.
    """
    return [*_trainings(study, where), *_given(study, where)]


def _trainings(study: Study, where: StudyContext) -> list[Trial]:
    if not study.method:
        return []
    threat = resolve.threat(study.data, study.eps, study.norm)
    train = {seed: _train(study.data, where, study.limit, seed) for seed in study.seeds}
    common: dict[str, Any] = {
        "threat": threat,
        "precision": study.precision,
        "data": study.data,
        "limit": study.limit,
        "attacks": study.evaluate.attacks,
        "evaluation": _evaluation(study.evaluate, where, study.data, threat),
    }
    hashes = {seed: images.sha256() for seed, images in train.items()}
    made: dict[tuple[str, str, int], Trial] = {}
    for entry, model, seed in product(study.ordered, study.model, study.seeds):
        start, teacher = (_source(study, text, made, model, seed, train[seed]) for text in (entry.start, entry.teacher))
        trial = Trial(
            name=entry.name,
            method=entry.method,
            model=model,
            seed=seed,
            recipe=study.recipe_of(entry),
            wrappers=study.wrappers_of(entry),
            images=len(train[seed]),
            train_sha256=hashes[seed],
            weights=study.weights_of(entry),
            start=start,
            teacher=teacher,
            functions=_functions(model, start, teacher, train[seed], seed),
            **common,
        )
        made[entry.name, model, seed] = trial
    return list(made.values())


def _given(study: Study, where: StudyContext) -> Iterator[Trial]:
    for given in study.given:
        data, threat = study.data_of(given), study.threat_of(given)
        chosen = replace(study.evaluate, limit=given.limit or study.evaluate.limit)
        images = resolve.images(data, where.data_dir, "test", chosen.limit, chosen.seed)
        network = resolve.model(given.text, images, chosen.seed)
        yield Trial(
            name=given.name,
            method="",
            model=given.text,
            typed=given.model,
            seed=chosen.seed,
            recipe=None,
            wrappers="",
            threat=threat,
            precision="32-true",
            data=data,
            limit=None,
            images=0,
            train_sha256=weights_sha256(network),
            functions={"the model": _function(network, images)},
            weights=(GIVEN,),
            attacks=chosen.attacks,
            evaluation=_evaluation(chosen, where, data, threat),
        )


def _functions(model: str, start: Source | None, teacher: Source | None, images: Images, seed: int) -> dict[str, Any]:
    """Return the fingerprints of the models of a training run whose code is not of this package."""
    texts = {"the model": "" if resolve.fresh(model) else model}
    for name, source in (("the start", start), ("the teacher", teacher)):
        texts[name] = source.text if source is not None and isinstance(source.of, str) else ""
    return {
        name: _function(resolve.model(resolve.start(text), images, seed), images)
        for name, text in texts.items()
        if text
    }


def _function(network: nn.Module, images: ImageSet) -> dict[str, Any] | None:
    """Return what a network computes on a few images, evenly spread, for JSON."""
    which = torch.linspace(0, len(images) - 1, min(_LOOKED_AT, len(images))).long()
    with judging(network, "cpu") as called:
        mark = fingerprint(called, images.fetch(which))
    return None if mark is None else mark.record


def perform(trial: Trial, where: StudyContext) -> State:
    """Train and evaluate, or go on where that was stopped; nothing is done that is done, or that is being done.

    Returns:
        "done"; "running" if another process has it; "failed" if it cannot be done, with the reason in the folder.
    """
    if trial.state(where.out) == "done":
        return "done"  # and this state of the code has not worked on it
    folder = trial.folder(where.out)
    with files.held(folder / LOCK_FILE, _PATIENCE) as free:
        if not free:
            return "running"
        _note(trial, folder)
        try:
            with trusting(where.trust_code):
                if not trial.trained(where.out):
                    _train_one(trial, where)
                for weights in trial.weights:
                    _evaluate_one(trial, weights, where)
        except InputError as error:
            files.write_json(folder / FAILURE_FILE, {"error": str(error)})
            return "failed"
        (folder / FAILURE_FILE).unlink(missing_ok=True)
    return "done"


def prepared(trial: Trial, where: StudyContext) -> tuple[Images, resolve.TrainingJob]:
    """Return the training images of a run, and what it trains."""
    assert trial.recipe is not None
    images = _train(trial.data, where, trial.limit, trial.seed)
    method, start = trial.method, trial.model
    if trial.teacher is not None:
        name, settings = registry.parse(method)
        method = resolve.written(name, {**settings, "teacher": trial.teacher.model(where.out)})
    if trial.start is not None:
        start = trial.start.model(where.out)
    return images, resolve.training_job(method, start, images, trial.recipe, trial.threat, trial.seed, trial.wrappers)


def log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log.jsonl, none if there is no run."""
    return read_log(folder) if (folder / LOG_FILE).exists() else []


def _train_one(trial: Trial, where: StudyContext) -> None:
    images, (run, method, network) = prepared(trial, where)
    fabric = resolve.launched(where.accelerator, 1, precision=trial.precision)
    fit(fabric, network, method, images, run, trial.folder(where.out))


def _evaluate_one(trial: Trial, weights: str, where: StudyContext) -> None:
    about = trial.evaluation
    images = resolve.images(trial.data, where.data_dir, "test", about["limit"], about["seed"])
    network = resolve.model(trial.network(where.out, weights), images, trial.seed)
    evaluate(
        network,
        images,
        resolve.named_attacks(trial.attacks, trial.threat, images, about["seed"]),
        seed=about["seed"],
        audit=about["audit"],
        directory=trial.evaluation_folder(where.out, weights),
        device=resolve.workers(where.accelerator).device,
        name=trial.title if trial.recipe is None else f"{trial.title}, {weights}",
        command=where.command,
    )


def _note(trial: Trial, folder: Path) -> None:
    """Write down what the folder is for, and every state of the code that has worked on it."""
    codes = [] if not (folder / TRIAL_FILE).exists() else _same_key(folder, trial.key)["code"]
    about = {"name": trial.name, "key": trial.key, "model": trial.typed or trial.model}
    record = {**about, **trial.settings, "evaluation": trial.evaluation, "functions": trial.functions}
    files.write_json(folder / TRIAL_FILE, {**record, "code": list(dict.fromkeys([*codes, code()]))})


def _same_key(folder: Path, key: str) -> dict[str, Any]:
    """Return the record of a folder, refusing that of another run whose key begins alike."""
    record = schemas.read(folder / TRIAL_FILE, schemas.TRIAL, f"delete {folder}, or choose another --out")
    if record["key"] != key:
        raise InputError(f"{folder} holds another run; choose another --out.")
    return record


def _source(
    study: Study, text: str, made: Mapping[tuple[str, str, int], Trial], model: str, seed: int, train: Images
) -> Source | None:
    """Find a start or a teacher among the runs made so far, or elsewhere."""
    name = study.named(text)
    if name:
        return Source(made[name, model, seed], text[len(name) + 1 :] or "best")
    return Source(weights_sha256(resolve.model(resolve.start(text), train, seed)), text) if text else None


def _train(data: str, where: StudyContext, limit: int | None, seed: int) -> Images:
    return resolve.training_images(data, where.data_dir, limit, seed, download=False)


def _evaluation(chosen: Evaluation, where: StudyContext, data: str, threat: ThreatModel) -> dict[str, Any]:
    """Return what every evaluation on these data depends on besides the network, for JSON."""
    images = resolve.images(data, where.data_dir, "test", chosen.limit, chosen.seed)
    attacks = resolve.named_attacks(chosen.attacks, threat, images, chosen.seed)
    return {
        "test_sha256": images.sha256(),
        "images": len(images),
        "limit": chosen.limit,
        "audit": chosen.audit,
        "seed": chosen.seed,
        "attacks": {name: repr(attack) for name, attack in attacks.items()},
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _slug(text: str) -> str:
    """Return text as a part of a file name."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:40]
