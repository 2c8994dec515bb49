"""The tables of a study: what each method achieves on average and on its worst class, who pays, and what it costs.

Two uncertainties are kept apart: how far seeds of training differ, mean ± sample standard deviation, and how far other
test images of the same kind might differ, the interval of one seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from classwise import files
from classwise.analysis.comparison.compare import Change
from classwise.analysis.evidence import TRIAL_FILE, Subject
from classwise.analysis.leaderboard import METRICS, Estimate, Metric
from classwise.files import schemas
from classwise.metrics.outcomes import CLEAN, WORST_CASE
from classwise.metrics.result import Result
from classwise.metrics.summaries import rho_wat, worst_classes
from classwise.provenance import __version__
from classwise.report.sheet import Cell, Column, Sheet, escape_markdown, to_markdown
from classwise.report.tables import ABSENT, percent, span
from classwise.studies.spec import Study
from classwise.studies.trials import GIVEN, Trial, log

MEASURES: dict[str, Metric] = {
    "average": METRICS["average"],
    "worst": METRICS["worst"],
    "W10": METRICS["worst_q10"],
    "gap": METRICS["gap"],
    "NSD": METRICS["nsd"],
}
"""What is said of every view."""
_SAID = {CLEAN: "clean", WORST_CASE: "robust"}


@dataclass(frozen=True)
class TableRow:
    """A method with one kind of its weights.

    Attributes:
        name: of the method in the study.
        model: what it trained.
        weights: which of its weights.
        wanted: number of seeds.
        results: finished evaluations by seed.
        seconds: of training by seed, with those of the runs that it starts or learns from.
        radius: mean radius of training by seed, in units of ε; without the seeds that attacked nothing.
        reference: what it is compared with, seed by seed; None for the reference itself, and where there is none.
        about: data and threat.
    """

    name: str
    model: str
    weights: str
    wanted: int
    results: Mapping[int, Result]
    seconds: Mapping[int, float]
    radius: Mapping[int, float] = field(default_factory=dict)
    reference: TableRow | None = None
    about: str = ""

    def values(self, view: str, measure: str) -> list[float]:
        """Return a measure of a view for each seed; undefined ones are left out."""
        values = (_value(result, view, MEASURES[measure]) for result in self.results.values())
        return [value for value in values if not math.isnan(value)]

    def estimate(self, seed: int, view: str, measure: str) -> Estimate:
        """Return a measure of a view for one seed, with the interval that its test images leave."""
        result = self.results[seed]
        return MEASURES[measure].estimate(result.outcomes.counts(view), result.outcomes.n, result.confidence)

    @property
    def worst_classes(self) -> list[str]:
        """The worst class under attack of every seed; the first if several tie."""
        all_outcomes = [result.outcomes for result in self.results.values()]
        return [outcomes.classes[worst_classes(outcomes.accuracy(WORST_CASE))[0]] for outcomes in all_outcomes]

    @cached_property
    def changes(self) -> dict[int, Change]:
        """The paired comparison with the reference under attack, for every seed that both have."""
        if self.reference is None:
            return {}
        return {
            seed: Change(
                _subject(self.reference, seed), _subject(self, seed), (self.reference.name, self.name), WORST_CASE
            )
            for seed in self.results
            if seed in self.reference.results
        }

    @property
    def rho(self) -> list[float]:
        """ρ of WAT against the reference under attack, for every seed that both have and that defines it."""
        values = (_rho(change) for change in self.changes.values())
        return [value for value in values if not math.isnan(value)]

    def beyond_chance(self, sign: int) -> Counter[str]:
        """Count of each class in how many seeds it gains (sign 1) or pays (−1) beyond chance, Holm at 5 % in each."""
        changed = (
            (change.base.result.outcomes.classes, change.beyond_chance(sign)) for change in self.changes.values()
        )
        return Counter(classes[c] for classes, which in changed for c in which)

    def record(self) -> dict[str, Any]:
        """Return the row for JSON, with every attack."""
        views = list(next(iter(self.results.values())).outcomes.views) if self.results else []
        return {
            "name": self.name,
            "model": self.model,
            "weights": self.weights,
            "seeds": list(self.results),
            "wanted": self.wanted,
            "about": self.about,
            "sha256": [result.header["model"]["sha256"] for result in self.results.values()],
            "worst_classes": self.worst_classes,
            "seconds": list(self.seconds.values()),
            "mean_radius": Spread.of(self.radius.values()).as_dict(),
            "reference": self._reference_record(),
            "views": {view: {measure: self._measured(view, measure) for measure in MEASURES} for view in views},
        }

    def _measured(self, view: str, measure: str) -> dict[str, Any]:
        intervals = [self.estimate(seed, view, measure).interval for seed in self.results]
        ends = [None if math.isnan(interval.low) else list(interval) for interval in intervals]
        return {**Spread.of(self.values(view, measure)).as_dict(), "intervals": ends}

    def _reference_record(self) -> dict[str, Any] | None:
        """Return the comparison with the reference for JSON; its networks are known by the hashes of their weights."""
        if self.reference is None:
            return None
        return {
            "name": self.reference.name,
            "weights": self.reference.weights,
            "seeds": list(self.changes),
            "sha256": [change.base.result.header["model"]["sha256"] for change in self.changes.values()],
            "rho_wat": Spread.of(self.rho).as_dict(),
            "gains": dict(self.beyond_chance(1)),
            "pays": dict(self.beyond_chance(-1)),
        }


def rows(study: Study, trials: Iterable[Trial], out: Path) -> list[TableRow]:
    """Gather what is finished of a study, in the order of its file."""
    place = {name: number for number, name in enumerate(study.names)}
    groups: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in trials:
        for weights in trial.weights:
            model = trial.model if trial.recipe is not None else GIVEN
            groups.setdefault((trial.name, model, weights), []).append(trial)
    made = [_row(name, model, weights, group, out) for (name, model, weights), group in groups.items()]
    compared = [replace(row, reference=_reference(study, row, made)) for row in made]
    return sorted(compared, key=lambda row: place[row.name])


def training_seconds(trial: Trial, out: Path) -> float:
    """Return the seconds of a run's training, with those of all runs that it starts or learns from."""
    before = {source.key: source for source in _all_sources(trial)}
    return math.fsum(line["seconds"] for run in (trial, *before.values()) for line in log(run.folder(out)))


def mean_radius(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the mean radius of the attacks of a training run over images and epochs, in units of ε.

    A line of the log has the radii of the classes after its epoch, which are those of the next one; so the first epoch
    is left out. A warm-up of the radius that the recipe asks for is not in it.

    Returns:
        1 for methods that attack every class alike; None if they attack nothing, or after a single epoch.
    """
    attacked = [line for line in lines if "robust" in line["train"]]
    if len(attacked) < 2:
        return None
    if "radius" not in attacked[0]["class_state"]:
        return 1.0
    images = np.array([line["train"]["robust"]["n"] for line in attacked[1:]], dtype=np.float64)
    radius = np.array([line["class_state"]["radius"] for line in attacked[:-1]], dtype=np.float64)
    return float((radius * images).sum() / images.sum())


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Attributes:
        values: one a seed.

    Example:
        >>> Spread.of([0.5, 0.25]).mean, Spread.of([0.5]).std
        (0.375, None)
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of some values."""
        return cls(tuple(values))

    @property
    def mean(self) -> float | None:
        """Mean; None without values."""
        return fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None for fewer than two values."""
        return stdev(self.values) if len(self.values) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """Return the same for JSON."""
        return {"mean": self.mean, "std": self.std, "values": list(self.values)}


def sheets(study: Study, rows: Sequence[TableRow]) -> tuple[Sheet, Sheet, Sheet]:
    """Lay the rows out as tables: what is achieved, who pays and what it costs, and what test images leave open."""
    return achieved(study, rows), price(study, rows), sampling(study, rows)


def achieved(study: Study, rows: Sequence[TableRow]) -> Sheet:
    """Return the table of averages and worst classes over seeds; the best worst class under attack is marked."""
    columns = (
        *_heads(study),
        *(
            Column(f"{word} {measure}", (f"{view}_{measure}", f"{view}_{measure}_std"), spare=view == CLEAN or spare)
            for view, word in _SAID.items()
            for measure, spare in zip(MEASURES, (False, False, True, True, True), strict=True)
        ),
        *([Column("rho_wat", ("rho_wat", "rho_wat_std"), spare=True)] if study.baseline else []),
        Column("seeds", ("seeds",), spare=True),
    )
    worst = [row.values(WORST_CASE, "worst") for row in rows]
    means = [fmean(values) if values else -math.inf for values in worst]
    marked = max(range(len(rows)), key=means.__getitem__) if any(worst) else None
    against = f"; rho_wat against {study.baseline}" if study.baseline else ""
    caption = f"{study.name}: per cent (NSD of the mean over classes), mean ± standard deviation over seeds{against}"
    lines = (
        (
            *_names(study, row),
            *(_cell(Spread.of(row.values(view, measure))) for view in _SAID for measure in MEASURES),
            *([_cell(Spread.of(row.rho), 1.0, 2)] if study.baseline else []),
            Cell(f"{len(row.results)}/{row.wanted}", (len(row.results),)),
        )
        for row in rows
    )
    return Sheet(study.name, caption, columns, tuple(lines), marked)


def price(study: Study, rows: Sequence[TableRow]) -> Sheet:
    """Return the table of the classes that gain and pay against the reference, of radius and seconds of training."""
    compared = ("gains", "pays") if study.baseline else ()
    columns = (
        *_heads(study),
        Column("worst classes", ("worst_classes",), words=True),
        *(Column(name, (name,), words=True) for name in compared),
        Column("mean radius", ("mean_radius", "mean_radius_std"), spare=True),
        Column("seconds", ("seconds", "seconds_std")),
    )
    against = f"; gains and pays against {study.baseline} beyond chance, in how many seeds" if study.baseline else ""
    caption = f"{study.name}: worst class under attack of every seed{against}; mean radius in units of ε"
    lines = (
        (
            *_names(study, row),
            _words(", ".join(row.worst_classes)),
            *(_words(_counted(row, sign)) for _, sign in zip(compared, (1, -1), strict=False)),
            _cell(Spread.of(row.radius.values()), 1.0, 2),
            _cell(Spread.of(row.seconds.values()), 1.0, 0),
        )
        for row in rows
    )
    return Sheet(f"{study.name}-price", caption, columns, tuple(lines))


def sampling(study: Study, rows: Sequence[TableRow]) -> Sheet:
    """Return the table of the intervals that the test images leave to the first seed that is finished."""
    measured = [(view, measure) for view in _SAID for measure in MEASURES]
    columns = (
        *_heads(study),
        Column("seed", ("seed",)),
        *(
            Column(f"{_SAID[view]} {measure}", tuple(f"{view}_{measure}{end}" for end in ("", "_low", "_high")))
            for view, measure in measured
        ),
    )
    done = [(row, seed) for row in rows for seed in list(row.results)[:1]]
    level = next((f"{100 * row.results[seed].confidence:g} % " for row, seed in done), "")
    caption = (
        f"{study.name}: per cent for one seed, with the {level}interval of its test images alone; simultaneous over "
        "classes, but for average and NSD, which are bootstrapped within class"
    )
    lines = (
        (
            *_names(study, row),
            Cell(str(seed), (seed,)),
            *(_interval_cell(row.estimate(seed, *key)) for key in measured),
        )
        for row, seed in done
    )
    return Sheet(f"{study.name}-images", caption, columns, tuple(lines))


def write(study: Study, trials: Sequence[Trial], rows: Sequence[TableRow], out: Path, verdicts: str = "") -> list[Path]:
    """Write ``table.md``, with what the analyses say below it, and ``table.json``; return their paths."""
    tables = (f"{escape_markdown(sheet.caption)}.\n\n{to_markdown(sheet)}" for sheet in sheets(study, rows))
    record = {
        "study": study.name,
        "classwise": __version__,
        "code": _states(trials, out),
        "data": study.data,
        "threat": str(trials[0].threat),
        "training_images": trials[0].images,
        "evaluation": trials[0].evaluation,
        "reference": study.baseline or None,
        "rows": [row.record() for row in rows],
    }
    files.write_text(out / "table.md", f"{remark(study, trials, rows, out)}\n\n" + "\n".join(tables) + verdicts)
    files.write_json(out / "table.json", record)
    return [out / "table.md", out / "table.json"]


def remark(study: Study, trials: Sequence[Trial], rows: Sequence[TableRow], out: Path) -> str:
    """Say what the numbers are of, and how much of the study they cover."""
    states = _states(trials, out)
    covered = f"{sum(len(row.results) for row in rows)} of {sum(row.wanted for row in rows)} evaluations finished"
    if len(states) > 1:
        covered += f"; made by {len(states)} states of the code, {', '.join(states)}"
    against = (
        f" Reference is {study.baseline} with the same model, seed and kind of weights, or the first kind that it has."
        if study.baseline
        else ""
    )
    trained = f"{trials[0].images} training images of {study.data}, {trials[0].threat}; " if study.method else ""
    spent = "; seconds of training include the runs that a method starts or learns from" if study.method else ""
    return (
        f"{trained}attacks {study.evaluate.attacks} on {_test_images(trials)} test images, robust is right under all "
        f"of them{spent}.{against} {covered}."
    )


def _test_images(trials: Sequence[Trial]) -> str:
    """Return how many images the evaluations have, as a text; of several data sets each number once."""
    return " or ".join(str(count) for count in dict.fromkeys(trial.evaluation["images"] for trial in trials))


def _row(name: str, model: str, weights: str, group: Sequence[Trial], out: Path) -> TableRow:
    by_seed = {trial.seed: trial.results(out).get(weights) for trial in group}
    results = {seed: result for seed, result in by_seed.items() if result is not None}
    done = [trial for trial in group if trial.seed in results]
    radii = {trial.seed: mean_radius(log(trial.folder(out))) for trial in done}
    return TableRow(
        name,
        model,
        weights,
        len(group),
        results,
        {trial.seed: training_seconds(trial, out) for trial in done if trial.recipe is not None},
        {seed: radius for seed, radius in radii.items() if radius is not None},
        about=f"{group[0].data}, {group[0].threat}",
    )


def _reference(study: Study, row: TableRow, rows: Sequence[TableRow]) -> TableRow | None:
    """Return what a row is compared with: the reference with the same weights, or with the first of those it has."""
    others = [other for other in rows if (other.name, other.model) == (study.baseline, row.model)]
    if row.name == study.baseline or not others:
        return None
    return next((other for other in others if other.weights == row.weights), others[0])


def _subject(row: TableRow, seed: int) -> Subject:
    return Subject(row.name, row.results[seed], ())


def _rho(change: Change) -> float:
    base, other = (
        [_value(subject.result, WORST_CASE, MEASURES[measure]) for measure in ("worst", "average")]
        for subject in (change.base, change.other)
    )
    return rho_wat(*other, *base)


def _value(result: Result, view: str, metric: Metric) -> float:
    return metric.value(result.outcomes.counts(view), result.outcomes.n)


def _counted(row: TableRow, sign: int) -> str:
    """Return the classes that gain or pay, those of most seeds first, each with the number of its seeds."""
    if not row.changes:
        return ""
    seeds = len(row.changes)
    return ", ".join(f"{name} {count}/{seeds}" for name, count in row.beyond_chance(sign).most_common()) or "no class"


def _heads(study: Study) -> tuple[Column, ...]:
    titles = ("method", *(("data",) if study.mixed else ()), *(("model",) if len(study.model) > 1 else ()), "weights")
    return tuple(Column(title, (title,), words=True) for title in titles)


def _names(study: Study, row: TableRow) -> tuple[Cell, ...]:
    where = (row.about,) if study.mixed else ()
    words = (row.name, *where, *((row.model,) if len(study.model) > 1 else ()), row.weights)
    return tuple(Cell(word, (word,)) for word in words)


def _words(text: str) -> Cell:
    return Cell(text or ABSENT, (text,))


def _cell(spread: Spread, unit: float = 100.0, decimals: int = 1) -> Cell:
    mean, std = spread.mean, spread.std
    texts = [f"{unit * value:.{decimals}f}" for value in (mean, std) if value is not None]
    return Cell(" ± ".join(texts) or ABSENT, (mean, std))


def _interval_cell(estimate: Estimate) -> Cell:
    value, (low, high) = estimate
    defined = tuple(None if math.isnan(number) else number for number in (value, low, high))
    return Cell(f"{percent(value, 1)} ({span(low, high, 1)})" if defined[1] is not None else ABSENT, defined)


def _all_sources(trial: Trial) -> list[Trial]:
    return [run for source in trial.sources for run in (source, *_all_sources(source))]


def _states(trials: Sequence[Trial], out: Path) -> list[str]:
    return sorted({code for trial in trials for code in _codes(trial, out)})


def _codes(trial: Trial, out: Path) -> list[str]:
    path = trial.folder(out) / TRIAL_FILE
    return list(schemas.read(path, schemas.TRIAL, "run the study again")["code"]) if path.exists() else []
