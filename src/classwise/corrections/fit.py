"""Repair after training: fits a decision rule on held-out images, and attacks what it makes of the model every time.

Our design (docs/correction.md). A search on the pool's logits, which costs no pass of the network, proposes a
correction. The model *as corrected* is attacked, from the closest images up; what breaks joins the pool, and the search
goes on from there until nothing more breaks. This happens at three prices: no loss of average, half of what is allowed,
all of it. These make the curve. Then the fit is repeated in folds, on four fifths for one fifth: what comes out is the
promise, which the choice has not flattered.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classwise import registry
from classwise.attacks.base import Attack, described, predict
from classwise.corrections.base import Pool, Rule
from classwise.corrections.fitted import (
    ADAPTIVE,
    NON_ADAPTIVE,
    Promise,
    Repair,
    Round,
)
from classwise.corrections.pooling import Field, Journal
from classwise.corrections.search import FEW_IMAGES, search, share, tally
from classwise.corrections.targets import Target
from classwise.data.images import ImageSet, refuse_batch_size
from classwise.errors import InputError
from classwise.evaluation.preflight import PREFLIGHT_IMAGES, check_sizes, output_flags, preflight
from classwise.metrics.outcomes import Outcomes
from classwise.models.checkpoint import weights_sha256
from classwise.models.corrected import Corrected, FittedOn
from classwise.provenance import __version__
from classwise.runtime.classifier import Classifier, as_module
from classwise.runtime.inference import judging
from classwise.runtime.memory import batch_that_fits, freed_memory_kept

_MOST_FOLDS = 100
LEAST_IMAGES = 100
"""Images of each class below which a fit warns."""
_SETTLED = 0.1  # points of average that an attack may still take when a round is taken to be at its end


class Progress(NamedTuple):
    """What is known at a step of a fit.

    Attributes:
        stage: what is done, in words.
        number: of steps that are finished.
        steps: the most there can be.
        accuracy: of each class under attack (C,).
        average: over all images.
    """

    stage: str
    number: int
    steps: int
    accuracy: Tensor
    average: float


Watch = Callable[[Progress], None]


@freed_memory_kept()
def repair(
    model: nn.Module,
    data: ImageSet,
    rule: str,
    attacks: Mapping[str, Attack],
    *,
    target: str = "weakest",
    max_loss: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    fit_on_test: bool = False,
    folds: int = 5,
    folder: Path | None = None,
    watch: Watch | None = None,
) -> Repair:
    """Fit a decision rule to a finished model.

    Args:
        model: takes images in [0, 1], returns logits; left as it is, but on ``device``.
        data: held-out images, best such as the model was not trained on; 300 a class are enough for most uses.
        rule: name of a correction, with settings: "iv-offsets(step=0.02)".
        attacks: by name, run one after another on what is still right in every round.
        target: what the correction is for, with settings: "floor(level=0.3)"; "weakest" is the weakest class.
        max_loss: points of robust average that it may cost, 0 … 100.
        seed: of the attacks' random numbers and of the folds.
        batch_size: images attacked at once; what memory holds if None.
        device: where the model is attacked.
        fit_on_test: take test images all the same; everything that comes of it says so.
        folds: parts of the held-out images that the promise is made of, 2 to 100; 0 for no promise.
        folder: where an unfinished fit is kept, so that the same call goes on from there; nowhere if None.
        watch: called after every step.

    Returns:
        The corrected model, what every round came to, and what to expect on new images.

    Raises:
        InputError: test images, a class without images, an unknown rule or target, no attack, a max_loss outside its
            range, or a folder with the unfinished fit of something else.
    """
    built: Rule = registry.build("correction", rule)
    aim: Target = registry.build("target", target)
    on_test = _check(data, attacks, max_loss, fit_on_test)
    if type(folds) is not int or not (folds == 0 or 2 <= folds <= _MOST_FOLDS):
        raise InputError(f"The promise has {folds!r} folds, but must have 2 to {_MOST_FOLDS}, or 0 for no promise.")
    if batch_size is not None:
        refuse_batch_size(batch_size)
    model = as_module(model)
    model.to(device)
    record = _record(data, rule, target, attacks, max_loss, seed, on_test)
    with judging(model, device) as called:
        two = data.fetch(torch.arange(2)).to(device)
        check_sizes(called, two)
        size = batch_size or batch_that_fits(called, two)
        flags = _preflight_flags(called, data, torch.device(device), size)
        journal = Journal.of(folder, {**record, "folds": folds, "weights": weights_sha256(model)})
        images = Field(called, data, attacks, seed, size, torch.device(device), journal)
        fit = _Fit(images, built, aim, max_loss, watch or (lambda progress: None))
        pool = fit.uncorrected()
        pool, tried = fit.rounds(pool)
        chosen = fit.choice(pool, tried)
        promise = fit.cross_fitted(pool, folds, tried[chosen].searched)
    rounds = tuple(
        Round(attempt.price, attempt.correction, _judged(data, pool, attempt.correction)) for attempt in tried
    )
    correction = copy.deepcopy(tried[chosen].correction).to(device)
    threat = next(iter(attacks.values())).threat
    seen = FittedOn(data.name, data.split, frozenset(data.index.tolist()), threat.norm, threat.eps)
    corrected = Corrected(model, correction, fitted_on_test=on_test, fitted_on=seen)
    warnings = tuple(_warnings(data, pool, aim, tried[chosen].correction))
    return Repair(corrected, rounds, chosen, {**record, **flags}, promise, warnings)


def is_test(data: ImageSet) -> bool:
    """Tell whether images are those that results are reported on."""
    return data.split == "test" or (data.name, data.split) == ("imagenet", "val")


class Tried(NamedTuple):
    """A correction that was attacked.

    Attributes:
        price: points of average that it may cost.
        searched: what the search was given of these, after a reserve for what attacks still take.
        correction: on the logits.
    """

    price: float
    searched: float
    correction: nn.Module


@dataclass(frozen=True)
class _Fit:
    """A fit: what it is of, and who watches."""

    field: Field
    rule: Rule
    target: Target
    max_loss: float
    watch: Watch

    @property
    def classes(self) -> tuple[str, ...]:
        return self.field.data.classes

    def uncorrected(self) -> Pool:
        """Return the pool of the clean images and of what breaks the model as it is."""
        pool = self.field.begin()
        zero = self.rule.at(self.rule.start(pool), pool)
        self.target.score(tally(pool, zero), self.classes)  # refuses what does not fit before anything is attacked
        self.field.keep(pool)
        pool = self._grown(
            self.field.everywhere(pool, zero, "uncorrected", _all(pool)), pool, zero, "the model as it is"
        )
        return Pool(pool.logits, pool.image, pool.y, len(pool.logits), pool.head)

    def rounds(self, pool: Pool) -> tuple[Pool, list[Tried]]:
        """Fit and attack in turn, price by price; return everything that was found, and every correction."""
        theta = self.rule.start(pool)
        first = tally(pool, self.rule.at(theta, pool)).average
        part = share(pool, self.rule, self.target, self.classes, self.max_loss)
        tried = [Tried(0.0, self.max_loss, _finished(self.rule, theta, pool))]
        for number, price in enumerate(sorted({0.0, self.max_loss / 2, self.max_loss}), 1):
            reserve = 0.0
            for again in range(self.rule.rounds):
                searched = max(0.0, price - reserve)
                theta = search(pool, self.rule, self.target, self.classes, searched, theta)
                correction = _finished(self.rule, part * theta, pool)
                before = tally(pool, correction).average
                stage = f"at most {price:g} points of average lost, attack {again + 1}"
                grown = self.field.nearest_first(pool, correction, f"round-{number}-{again}", _all(pool))
                pool = self._grown(grown, pool, correction, stage)
                after = tally(pool, correction).average
                # What this attack took from the average, the next one may take again.
                reserve = 100 * float(before - after)
                if reserve <= _SETTLED and float(first - after) <= price / 100:
                    break
            tried.append(Tried(price, searched, correction))
        return pool, tried

    def choice(self, pool: Pool, tried: Sequence[Tried]) -> int:
        """Return the round of the best score among those that keep the average, 0 if none is better than that."""
        counts = [tally(pool, attempt.correction) for attempt in tried]
        scores = [float(self.target.score(count, self.classes)) for count in counts]
        return choice([float(count.average) for count in counts], scores, self.max_loss)

    def cross_fitted(self, pool: Pool, parts: int, searched: float) -> Promise | None:
        """Return what a correction is worth on images that it was not fitted on.

        Args:
            pool: with what was found against every correction.
            parts: number of folds.
            searched: points of average that the search for the chosen correction was given.
        """
        folds = _folds(pool.y, parts, self.field.seed)
        if len(folds) < 2:
            return None
        zero = self.rule.at(self.rule.start(pool), pool)
        before = _verdicts(pool, zero)  # by all candidates too, so that neither side is attacked more
        after = _Verdicts(torch.empty_like(before.clean), torch.empty_like(before.adaptive))
        by_fold = list[Tensor]()
        for number, fold in enumerate(folds):
            rest = pool.of(torch.cat([other for other in folds if other is not fold]).sort().values)
            settings = rest, self.rule, self.target, self.classes, searched
            correction = _finished(self.rule, share(*settings) * search(*settings, self.rule.start(rest)), rest)
            unseen = pool.of(fold)
            stage = f"promise, part {number + 1} of {len(folds)}"
            attacked = self.field.everywhere(unseen, correction, f"fold-{number}", fold)
            verdicts = _verdicts(self._grown(attacked, unseen, correction, stage), correction)
            after.clean[fold], after.adaptive[fold] = verdicts
            by_fold.append(tally(pool, correction).accuracy)
        uncorrected, corrected = (_outcomes(self.field.data, pool.y, {ADAPTIVE: it}) for it in (before, after))
        return Promise(uncorrected, corrected, torch.stack(by_fold).double().numpy())

    def _grown(self, parts: Iterable[Pool], pool: Pool, correction: nn.Module, stage: str) -> Pool:
        """Take in a part of an attack after the other, and show each."""
        for number, pool in enumerate(parts, 1):
            right = pool.right(correction)
            accuracy = torch.bincount(pool.y[right], minlength=pool.num_classes) / pool.n
            self.watch(Progress(stage, number, 8, accuracy, float(right.double().mean())))
        return pool


def choice(average: Sequence[float], score: Sequence[float], max_loss: float) -> int:
    """Return the round with the best score among those that keep the average, 0 if none is better than that.

    Of equally good ones the one with the higher average, then the first.

    Args:
        average: robust average of each round, the first of which is the uncorrected model.
        score: of each round, such as its lowest class accuracy.
        max_loss: points that the average may fall by against the first round.

    Example:
        >>> choice([0.50, 0.495, 0.48], [0.20, 0.25, 0.30], max_loss=1.0)
        1
    """
    allowed = [number for number, value in enumerate(average) if average[0] - value <= max_loss / 100 + 1e-9]
    best = max(allowed, key=lambda number: (score[number], average[number], -number))
    return best if score[best] > score[0] else 0


class _Verdicts(NamedTuple):
    """Predictions of a corrected model: on clean images, and the first wrong one among all candidates (N,)."""

    clean: Tensor
    adaptive: Tensor


@torch.no_grad()
def _verdicts(pool: Pool, correction: nn.Module) -> _Verdicts:
    predicted = predict(correction(pool.logits), pool.y[pool.image])
    rows = torch.arange(len(predicted))
    wrong = torch.where(predicted != pool.y[pool.image], rows, len(rows))
    first = torch.full((len(pool.y),), len(rows)).scatter_reduce(0, pool.image, wrong, "amin")
    clean = predicted[: len(pool.y)]
    # An image that no candidate breaks keeps its clean prediction, which is right.
    return _Verdicts(clean, torch.where(first < len(rows), predicted[first.clamp_max(len(rows) - 1)], clean))


def _finished(rule: Rule, theta: Tensor, pool: Pool) -> nn.Module:
    """Return the correction at θ, in tensors of its own."""
    with torch.no_grad():
        return copy.deepcopy(rule.at(theta, pool))


def _all(pool: Pool) -> Tensor:
    return torch.arange(len(pool.y))


def _folds(y: Tensor, parts: int, seed: int) -> list[Tensor]:
    """Return the positions (N,) in parts with like shares of each class; fewer where a class has fewer images."""
    n = torch.bincount(y)
    parts = min(parts, int(n[n > 0].min()))
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    order = shuffled[y[shuffled].argsort(stable=True)]
    place = torch.arange(len(y)) - (n.cumsum(0) - n)[y[order]]
    return [order[place % parts == part].sort().values for part in range(parts)]


def _preflight_flags(model: Classifier, data: ImageSet, device: torch.device, size: int) -> dict[str, Any]:
    """Return the flags of the model's preflight for the record, nothing where there are none."""
    some = torch.linspace(0, len(data) - 1, max(2, min(PREFLIGHT_IMAGES, size, len(data)))).long()
    x, y = data.fetch(some).to(device), data.y[some].to(device)
    flags = (*output_flags(model, x), *preflight(model, x, y, data.classes, min(size, len(data))).flags)
    return {"flags": [flag.record() for flag in flags]} if flags else {}


def _judged(data: ImageSet, pool: Pool, correction: nn.Module) -> Outcomes:
    """Return what a correction makes of the pool, with all candidates and with those against the uncorrected model."""
    views = {NON_ADAPTIVE: _verdicts(pool.before(), correction), ADAPTIVE: _verdicts(pool, correction)}
    return _outcomes(data, pool.y, views)


def _outcomes(data: ImageSet, y: Tensor, views: Mapping[str, _Verdicts]) -> Outcomes:
    """Return verdicts, by view, as outcomes; the clean predictions of all views are the same."""
    clean = next(iter(views.values())).clean.numpy()
    adaptive = {name: verdicts.adaptive.numpy() for name, verdicts in views.items()}
    return Outcomes(data.classes, data.index.cpu().numpy(), y.numpy(), clean, adaptive, {}, {})


def _check(data: ImageSet, attacks: Mapping[str, Attack], max_loss: float, fit_on_test: bool) -> bool:
    """Refuse what cannot be fitted on; return whether it is fitted on test images."""
    if not attacks:
        raise InputError("A correction is fitted under attack; name at least one attack.")
    if not 0 <= max_loss <= 100:
        raise InputError(f"The average may lose {max_loss:g} points, but this must be between 0 and 100.")
    if is_test(data) and not fit_on_test:
        raise InputError(
            f"A correction fitted on the {data.split} images of {data.name} makes every number on them too high; take "
            "held-out images (--split train), or force it with --fit-on-test, which every output will say."
        )
    if len(data) < len(data.classes):
        raise InputError(
            f"{len(data)} images are fewer than the {len(data.classes)} classes; give at least one of each class, "
            f"better {FEW_IMAGES}."
        )
    counts = torch.bincount(data.y.cpu(), minlength=len(data.classes))
    if not counts.all():
        name = data.classes[int((counts == 0).nonzero()[0])]
        raise InputError(f"Class {name!r} has no images to fit the correction on; take more images.")
    return is_test(data)


def _warnings(data: ImageSet, pool: Pool, target: Target, correction: nn.Module) -> Iterable[str]:
    """Yield what the user should know of the images and of what was reached."""
    least = int(pool.n.argmin())
    if int(pool.n[least]) < LEAST_IMAGES:
        yield (
            f"Class {data.classes[least]} has {int(pool.n[least])} images to fit on: below {LEAST_IMAGES} a class what "
            f"is fitted follows their noise; {FEW_IMAGES} are recommended."
        )
    right = torch.bincount(pool.y[predict(pool.clean, pool.y) == pool.y], minlength=pool.num_classes)
    never = [name for name, count in zip(data.classes, right.tolist(), strict=True) if count == 0]
    if never:
        yield (
            f"The model gets no clean image of {', '.join(never)} right: a correction moves the boundaries between "
            "classes, and can hardly help where the model knows nothing of a class."
        )
    if missed := target.missed(tally(pool, correction), data.classes):
        yield missed


def _record(
    data: ImageSet, rule: str, target: str, attacks: Mapping[str, Attack], max_loss: float, seed: int, on_test: bool
) -> dict[str, Any]:
    threat = next(iter(attacks.values())).threat
    return {
        "classwise": __version__,
        "rule": rule,
        "target": target,
        "fitted_on_test": on_test,
        "data": {"name": data.name, "split": data.split, "n": len(data), "sha256": data.sha256(), "note": data.note},
        "shape": list(data.shape),
        "index": data.index.tolist(),
        "threat": {"norm": threat.norm, "eps": threat.eps, "eps_text": threat.eps_text},
        "attacks": {name: repr(attack) for name, attack in attacks.items()},
        "attack_settings": {name: described(attack) for name, attack in attacks.items()},
        "max_loss": max_loss,
        "seed": seed,
    }
