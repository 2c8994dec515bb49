"""How long what is left of a study will take."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from classwise import registry, resolve
from classwise.errors import InputError
from classwise.files import schemas
from classwise.metrics.result import Result
from classwise.studies.trials import StudyContext, Trial, log, prepared
from classwise.training.loop import fit

_MEASURED_IMAGES, _MEASURED_BATCH = 4, 16  # images a class, and a batch, of a short timing


@dataclass(frozen=True)
class TimeEstimate:
    """How long what is left of a run will take.

    Attributes:
        training: seconds.
        evaluation: seconds; None where no run of the study with this model has been evaluated.
        basis: what that is taken from.
    """

    training: float
    evaluation: float | None
    basis: str


def estimate(trials: Sequence[Trial], where: StudyContext) -> dict[Trial, TimeEstimate]:
    """Estimate every run: from logs of the same data and model, or from a short timing of adversarial training.

    Logs of the same method come first, then those of any; they are looked for in the study's folder and in the folders
    beside it. Time goes by images, epochs and gradients of the attack.
    """
    paces, evaluated = list(_paces(where.out)), {trial: trial.results(where.out) for trial in trials}
    measured: dict[str, float] = {}
    estimates: dict[Trial, TimeEstimate] = {}
    for trial in trials:
        if trial.recipe is None:
            estimates[trial] = TimeEstimate(0.0, _evaluation_left(trial, evaluated), "given")
            continue
        left = trial.recipe.epochs - trial.epochs(where.out)
        pace, basis = (0.0, "trained") if not left else _logged(trial, paces)
        if basis == _NO_LOG:
            if trial.model not in measured:
                measured[trial.model] = measured_pace(trial, where)
            pace, basis = measured[trial.model], "a short timing of at"
        seconds = left * trial.images * _passes(trial.recipe.steps) * pace
        estimates[trial] = TimeEstimate(seconds, _evaluation_left(trial, evaluated), basis)
    return estimates


_NO_LOG = "no log"


def _logged(trial: Trial, paces: Iterable[_Pace]) -> tuple[float, str]:
    """Return the mean pace of the logs that are nearest to a run, and which those are."""
    known = [pace for pace in paces if (pace.data, pace.arch) == (registry.parse(trial.data)[0], arch(trial.model))]
    same = [pace for pace in known if pace.method == registry.parse(trial.method)[0]]
    if not known:
        return 0.0, _NO_LOG
    basis = f"{len(same)} logs of this method" if same else f"{len(known)} logs of other methods"
    return fmean(pace.seconds for pace in same or known), basis


def total(estimates: Iterable[TimeEstimate]) -> tuple[float, float, int]:
    """Return seconds of training, of evaluation as far as known, and for how many runs the latter is unknown."""
    listed = list(estimates)
    known = [estimate.evaluation for estimate in listed if estimate.evaluation is not None]
    return sum(estimate.training for estimate in listed), sum(known), len(listed) - len(known)


def arch(model: str) -> str:
    """Return the name of the architecture in a model string.

    Example:
        >>> arch("small_resnet(mean=[0.5])@runs/at/best.safetensors")
        'small_resnet'
    """
    return model.partition("@")[0].partition("(")[0]


def measured_pace(trial: Trial, where: StudyContext) -> float:
    """Train a moment, and return seconds an image, epoch and pass of the second of two epochs."""
    assert trial.recipe is not None
    classes = len(resolve.training_images(trial.data, where.data_dir, None, 0, False).classes)
    recipe = replace(
        trial.recipe, epochs=2, batch_size=_MEASURED_BATCH, milestones=(), eps_warmup=0, holdout=1 / _MEASURED_IMAGES
    )
    limit = classes * _MEASURED_IMAGES
    short = replace(trial, method="at", recipe=recipe, wrappers="", limit=limit, images=limit, start=None, teacher=None)
    images, (run, method, network) = prepared(short, where)
    fabric = resolve.launched(where.accelerator, 1, precision=trial.precision)
    with tempfile.TemporaryDirectory() as folder:
        seconds = fit(fabric, network, method, images, run, Path(folder) / "timing")[-1]["seconds"]
    return float(seconds) / len(images) / _passes(recipe.steps)


@dataclass(frozen=True)
class _Pace:
    """What a log says: seconds an image, epoch and pass."""

    data: str
    arch: str
    method: str
    seconds: float


def _paces(out: Path) -> Iterator[_Pace]:
    for path in sorted({*out.parent.glob("*/run.json"), *out.parent.glob("*/*/run.json")}):
        lines = log(path.parent)
        try:
            record = schemas.read(path, schemas.RECORD, "train again")
            seconds = fmean(line["seconds"] for line in lines)
            per = seconds / record["data"]["n"] / _passes(record["recipe"]["steps"])
            yield _Pace(record["data"]["name"], arch(record["model"]), registry.parse(record["method"])[0], per)
        except (ValueError, TypeError, KeyError, InputError):  # not ours, or not begun
            continue


def _passes(steps: int) -> int:
    return steps + 1  # the gradients of the attack, and that of the loss


def _evaluation_left(trial: Trial, evaluated: Mapping[Trial, Mapping[str, Result]]) -> float | None:
    """Return the seconds that evaluations of this study took with the same model, times those that are left."""
    left = len(trial.weights) - len(evaluated[trial])
    seconds = [
        result.header["seconds"]
        for other, results in evaluated.items()
        for result in results.values()
        if other.model == trial.model
    ]
    if left and not seconds:
        return None
    return fmean(seconds) * left if left else 0.0
