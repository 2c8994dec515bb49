"""Repair after training: fits a decision rule on held-out images, and attacks what it makes of the model every time.

Our design (docs/correction.md). In each round the model *as corrected so far* is attacked, so that no correction is
judged by images that were made against another; candidates stay in a pool, and at the end all corrections are judged
on the whole pool. One of them is kept: the one whose weakest class is best, at a stated loss of the average at most.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from classwise import files, registry
from classwise.attacks.base import Attack, described, predict
from classwise.corrections import Head, Pool, Rule
from classwise.data.images import ImageSet, batches, refuse_batch_size
from classwise.errors import InputError
from classwise.evaluation.preflight import PREFLIGHT_IMAGES, check_sizes, output_flags, preflight
from classwise.metrics.outcomes import CLEAN, Outcomes
from classwise.metrics.trade_off import CURVE_FILE
from classwise.metrics.views import ViewSummary, summarize
from classwise.models.corrected import FITTED_ON_TEST, RECORD, Corrected, save_corrected
from classwise.models.heads import linear_head
from classwise.noise import Noise
from classwise.provenance import __version__
from classwise.runtime.classifier import Classifier, as_module
from classwise.runtime.inference import forward, judging
from classwise.runtime.memory import batch_that_fits, freed_memory_kept
from classwise.threat import over_pixels

ADAPTIVE, NON_ADAPTIVE = "adaptive", "non_adaptive"
FINAL_NUMBER = (
    "The rule was chosen on these very images; the final number comes from `classwise evaluate corrected:DIR`, which "
    "attacks the corrected model afresh on test images."
)
ILLUSTRATION = "illustration only: candidates that were made against the uncorrected model"
_Z = 1.96  # 95 % of a normal distribution lie within so many standard errors
_BEYOND = 2.0  # points of average past the allowed loss that are still tried, so that the curve shows what comes there


class Progress(NamedTuple):
    """What is known after a round: its number, the most there can be, class accuracies under attack (C,), average."""

    number: int
    rounds: int
    accuracy: Tensor
    average: float


class PairedChange(NamedTuple):
    """A change of a share, with an interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Round:
    """A correction that was tried.

    Attributes:
        correction: the decision rule; that of round 0 changes nothing.
        outcomes: on the held-out images. View "adaptive" is the worst case over everything that was found against
            any correction, "non_adaptive" that over what was found against the uncorrected model.
    """

    correction: nn.Module
    outcomes: Outcomes

    @property
    def average(self) -> float:
        """Share of images right under adaptive attack."""
        return float(self.outcomes.correct(ADAPTIVE).mean())

    @property
    def worst(self) -> float:
        """Lowest class accuracy under adaptive attack."""
        return float(np.nanmin(self.outcomes.accuracy(ADAPTIVE)))


@dataclass(frozen=True, eq=False)
class RoundSummary:
    """A round in numbers, on the held-out images.

    Attributes:
        number: of the round; 0 changes nothing.
        chosen: whether its correction is in the model.
        clean, adaptive, non_adaptive: accuracies in these views.
        change: of the adaptive average against round 0, as a share.
        paying: points that each class loses against round 0, by name, below 0; the others are left out.
        parameters: of the correction, by name, in plain types.
    """

    number: int
    chosen: bool
    clean: ViewSummary
    adaptive: ViewSummary
    non_adaptive: ViewSummary
    change: PairedChange
    paying: Mapping[str, float]
    parameters: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as in curve.json; changes in points."""
        return {
            "round": self.number,
            "average_change": 100 * self.change.value,
            "average_change_interval": [100 * self.change.low, 100 * self.change.high],
            "paying": dict(self.paying),
            CLEAN: _with_interval(self.clean),
            ADAPTIVE: _with_interval(self.adaptive),
            NON_ADAPTIVE: {**_with_interval(self.non_adaptive), "label": ILLUSTRATION},
            "chosen": self.chosen,
            "parameters": dict(self.parameters),
        }


@dataclass(frozen=True, eq=False)
class Repair:
    """What a fit came to.

    Attributes:
        model: the corrected model.
        rounds: every correction that was tried, in order.
        chosen: which of them is in the model; 0 where none was better than nothing.
        record: how it was fitted.
    """

    model: Corrected
    rounds: tuple[Round, ...]
    chosen: int
    record: Mapping[str, Any]

    @cached_property
    def points(self) -> tuple[RoundSummary, ...]:
        """Worst against average, a point a round."""
        first = self.rounds[0].outcomes
        return tuple(_point(k, tried, first, k == self.chosen) for k, tried in enumerate(self.rounds))

    @property
    def warning(self) -> str | None:
        """What makes every number of the fit too high; None where nothing does."""
        return FITTED_ON_TEST if self.record["fitted_on_test"] else None

    def curve(self) -> dict[str, Any]:
        """Return what curve.json holds: the record, and `points` as dicts."""
        first = self.rounds[0].outcomes
        return {
            **self.record,
            "warning": self.warning,
            "final_number": FINAL_NUMBER,
            "classes": list(first.classes),
            "n": first.n.tolist(),
            "chosen": self.chosen,
            "rounds": [point.as_dict() for point in self.points],
        }

    def write(self, folder: Path, text: str, images: str = "") -> None:
        """Write the corrected model and the curve.

        Args:
            folder: one that holds no corrected model yet.
            text: model string of the uncorrected model.
            images: what it was fitted on, in words.

        Raises:
            InputError: the folder holds one, or cannot be written.
        """
        refuse_used(folder)
        files.write_json(folder / CURVE_FILE, {"model": text, "images": images, **self.curve()})
        save_corrected(self.model, text, self.record["rule"], folder, {"images": images, **self.record})


@freed_memory_kept()
def repair(
    model: nn.Module,
    data: ImageSet,
    rule: str,
    attacks: Mapping[str, Attack],
    *,
    max_loss: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    fit_on_test: bool = False,
    watch: Callable[[Progress], None] | None = None,
) -> Repair:
    """Fit a decision rule to a finished model.

    Args:
        model: takes images in [0, 1], returns logits; left as it is, but on ``device``.
        data: held-out images, best such as the model was not trained on.
        rule: name of a correction, with settings: "iv-offsets(step=0.02)".
        attacks: by name, run one after another on what is still right in every round.
        max_loss: points of robust average that the weakest class may cost, 0 … 100.
        seed: of the attacks' random numbers.
        batch_size: images attacked at once; what memory holds if None.
        device: where the model is attacked.
        fit_on_test: take test images all the same; everything that comes of it says so.
        watch: called after each round.

    Returns:
        The corrected model, and what every round came to.

    Raises:
        InputError: test images, a class without images, an unknown rule, no attack, or a max_loss outside its range.
    """
    built: Rule[Any] = registry.build("correction", rule)
    on_test = _check(data, attacks, max_loss, fit_on_test)
    if batch_size is not None:
        refuse_batch_size(batch_size)
    model = as_module(model)
    model.to(device)
    with judging(model, device) as called:
        two = data.fetch(torch.arange(2)).to(device)
        check_sizes(called, two)
        size = batch_size or batch_that_fits(called, two)
        field = _Field(called, data, attacks, seed, size, torch.device(device))
        checks = _looked_at(called, data, torch.device(device), size)
        pool, tried = _rounds(field, built, max_loss, watch or (lambda progress: None))
    rounds = tuple(Round(correction, _outcomes(data, pool, correction)) for correction in tried)
    chosen = choice([candidate.average for candidate in rounds], [candidate.worst for candidate in rounds], max_loss)
    correction = copy.deepcopy(rounds[chosen].correction).to(device)
    record = {**_record(data, rule, attacks, max_loss, seed, on_test), **checks}
    return Repair(Corrected(model, correction, fitted_on_test=on_test), rounds, chosen, record)


def choice(average: Sequence[float], worst: Sequence[float], max_loss: float) -> int:
    """Return the round with the best worst class among those that keep the average, 0 if none is better than that.

    Of equally good ones the one with the higher average, then the first.

    Args:
        average: robust average of each round, the first of which is the uncorrected model.
        worst: lowest class accuracy of each round.
        max_loss: points that the average may fall by against the first round.

    Example:
        >>> choice([0.50, 0.495, 0.48], [0.20, 0.25, 0.30], max_loss=1.0)
        1
    """
    allowed = [number for number, value in enumerate(average) if average[0] - value <= max_loss / 100 + 1e-9]
    best = max(allowed, key=lambda number: (worst[number], average[number], -number))
    return best if worst[best] > worst[0] else 0


def is_test(data: ImageSet) -> bool:
    """Tell whether images are those that results are reported on."""
    return data.split == "test" or (data.name, data.split) == ("imagenet", "val")


def refuse_used(folder: Path) -> None:
    """Refuse a folder that holds a corrected model or cannot be one, before hours are spent on what goes there.

    Raises:
        InputError: it is such a folder.
    """
    files.refuse_unwritable(folder / RECORD)
    if (folder / RECORD).exists():
        raise InputError(f"{folder} holds a corrected model already; choose another --out, or delete it.")


@dataclass(frozen=True)
class _Field:
    """The uncorrected model on its held-out images, and what attacks them."""

    model: nn.Module
    data: ImageSet
    attacks: Mapping[str, Attack]
    seed: int
    batch_size: int
    device: torch.device

    def begin(self) -> Pool:
        """Return the pool of the clean images."""
        logits = torch.cat([forward(self.model, x).cpu() for _, x, _ in self.batches(torch.arange(len(self.data)))])
        if logits.shape[1] != len(self.data.classes):
            raise InputError(f"The model has {logits.shape[1]} logits, the data {len(self.data.classes)} classes.")
        if not logits.isfinite().all():
            raise InputError("Some logits of the model are NaN or infinite; mend its numerics before correcting it.")
        layer = linear_head(self.model, self.data.fetch(torch.arange(1)).to(self.device))
        head = None if layer is None else Head(*(value.detach().float().cpu() for value in _norm_and_bias(layer)))
        return Pool(logits[None], self.data.y.cpu(), 1 + len(self.attacks), head)

    def attacked(self, pool: Pool, correction: nn.Module, number: int) -> Pool:
        """Attack the corrected model on the images it still gets right, and return the pool with what was found."""
        composite = Corrected(self.model, copy.deepcopy(correction).to(self.device)).eval()
        for name, attack in self.attacks.items():
            logits = pool.logits[0].clone()
            for positions, x, y in self.batches(pool.right(correction).nonzero().squeeze(1)):
                noise = Noise(self.seed, self.data.index[positions].to(self.device)).fold("correct", number, name)
                x_adv = attack(composite, x, y, noise=noise)
                inside = attack.threat.contains(x_adv, x)
                x_adv = torch.where(over_pixels(inside, x), x_adv, x)
                logits[positions] = forward(self.model, x_adv).cpu()
            pool = pool.added([logits])
        return pool

    def batches(self, positions: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return batches(self.data, self.batch_size, self.device, positions)


def _rounds(
    field: _Field, rule: Rule[Any], max_loss: float, watch: Callable[[Progress], None]
) -> tuple[Pool, list[nn.Module]]:
    """Attack and follow the rule in turn; return everything that was found, and every correction tried."""
    pool = field.begin()
    tried, following = list[nn.Module](), rule.begin(pool)
    while following is not None:
        pool = field.attacked(pool, following, len(tried))
        tried.append(following)
        average = [float(pool.right(correction).double().mean()) for correction in (tried[0], following)]
        watch(Progress(len(tried) - 1, rule.rounds, pool.accuracy(following), average[1]))
        too_far = average[0] - average[1] > (max_loss + _BEYOND) / 100
        following = None if too_far or len(tried) > rule.rounds else rule.follow(following, pool)
    return pool, tried


def _looked_at(model: Classifier, data: ImageSet, device: torch.device, size: int) -> dict[str, Any]:
    """Look at the model before it is attacked; returns its flags for the record, nothing where there are none."""
    some = torch.linspace(0, len(data) - 1, max(2, min(PREFLIGHT_IMAGES, size, len(data)))).long()
    x, y = data.fetch(some).to(device), data.y[some].to(device)
    flags = (*output_flags(model, x), *preflight(model, x, y, data.classes, min(size, len(data))).flags)
    return {"flags": [flag.record() for flag in flags]} if flags else {}


def _norm_and_bias(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    return layer.weight.norm(dim=1), bias


def _outcomes(data: ImageSet, pool: Pool, correction: nn.Module) -> Outcomes:
    """Return what a correction makes of the pool: the first view of an image that is wrong counts."""
    with torch.no_grad():
        predicted = torch.stack([predict(view, pool.y) for view in correction(pool.logits)])
    return Outcomes(
        classes=data.classes,
        index=data.index.cpu().numpy(),
        y=pool.y.numpy(),
        clean=predicted[0].numpy(),
        predictions={
            NON_ADAPTIVE: _first_wrong(predicted[: pool.uncorrected], pool.y).numpy(),
            ADAPTIVE: _first_wrong(predicted, pool.y).numpy(),
        },
        margins={},
        distances={},
    )


def _first_wrong(predicted: Tensor, y: Tensor) -> Tensor:
    """Return the first prediction of each image that is not y (V, N) -> (N,); y where there is none."""
    first = (predicted != y).int().argmax(0)
    return predicted.gather(0, first[None]).squeeze(0)


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
    counts = torch.bincount(data.y.cpu(), minlength=len(data.classes))
    if not counts.all():
        name = data.classes[int((counts == 0).nonzero()[0])]
        raise InputError(f"Class {name!r} has no images to fit the correction on; take more images.")
    return is_test(data)


def _record(
    data: ImageSet, rule: str, attacks: Mapping[str, Attack], max_loss: float, seed: int, on_test: bool
) -> dict[str, Any]:
    threat = next(iter(attacks.values())).threat
    return {
        "classwise": __version__,
        "rule": rule,
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


def _point(number: int, tried: Round, first: Outcomes, chosen: bool) -> RoundSummary:
    outcomes = tried.outcomes
    change = 100 * (outcomes.accuracy(ADAPTIVE) - first.accuracy(ADAPTIVE))
    return RoundSummary(
        number,
        chosen,
        summarize(outcomes, CLEAN),
        summarize(outcomes, ADAPTIVE),
        summarize(outcomes, NON_ADAPTIVE),
        paired_change(first.correct(ADAPTIVE), outcomes.correct(ADAPTIVE)),
        {name: float(value) for name, value in zip(first.classes, change, strict=True) if value < 0},
        {name: value.tolist() for name, value in tried.correction.state_dict().items()},
    )


def paired_change(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> PairedChange:
    """Return how much the share of right images changes, with a 95 % interval (normal, from the images that change).

    Args:
        before: which images (N,) are right before, and
        after: afterwards, the same images.

    Example:
        >>> paired_change(np.array([True] * 50 + [False] * 50), np.array([True] * 60 + [False] * 40)).value
        0.1
    """
    difference = after.astype(float) - before
    value, half = float(difference.mean()), float(_Z * difference.std() / len(difference) ** 0.5)
    return PairedChange(value, value - half, value + half)


def _with_interval(summary: ViewSummary) -> dict[str, Any]:
    return {**summary.as_dict(), "accuracy_interval": list(summary.average.interval)}
