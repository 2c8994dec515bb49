"""Find the worst class with a strong attack on few images: the race of `classwise.metrics.race`, run on a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from classwise.analysis.finding import Finding, table
from classwise.analysis.fooling import BATCH, survives
from classwise.attacks.base import Attack
from classwise.data.images import ImageSet
from classwise.data.splits import evenly
from classwise.evaluation import flags
from classwise.evaluation.flags import Flag
from classwise.evaluation.preflight import LOOK, check_sizes, preflight, standing, taken_from
from classwise.evaluation.probe import probe
from classwise.files.texts import plain
from classwise.metrics.race import Race
from classwise.metrics.resampling import generator
from classwise.noise import Noise
from classwise.report.tables import percent, span
from classwise.runtime.classifier import Classifier, as_module
from classwise.runtime.inference import device_of, judging


def until_worst(
    model: nn.Module | Callable[[Tensor], Tensor],
    data: ImageSet,
    cheap: Attack,
    strong: Attack,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    batch: int = 8,
    watch: Callable[[Race], None] = lambda race: None,
) -> tuple[Race, list[Flag]]:
    """Attack in rounds until one class is worst at a confidence, or the tied ones are known for sure.

    Args:
        model: a module or function that takes [0, 1] and returns logits; left as it was.
        data: images; all of them meet the cheap attack.
        cheap: an image that it breaks counts as broken.
        strong: meets as many survivors as it takes, drawn at random within their classes.
        seed: of the attacks and of the draws.
        confidence: that the worst class of these images, under both attacks together, is among those named. What the
            images say about further ones is `Race.population_worst`.
        batch: images of a class drawn at once; a multiple costs some images and saves rounds.
        watch: called after each round.

    Returns:
        The race at its end, whose `worst` names one class, or those tied; and the signs that it may be wrong, which an
        evaluation would raise of the same model and attacks.

    Raises:
        InputError: the model fails, or returns no logits for these classes.
    """
    model = as_module(model)
    y, size = data.y.numpy(), len(data.classes)
    with _watching(model, data) as seen:
        left = survives(model, data, cheap, seed)
        order = [generator(seed).permutation(np.flatnonzero(left & (y == c))) for c in range(size)]
        race = Race.start(np.bincount(y, minlength=size), [len(which) for which in order], confidence)
        kept = np.zeros_like(left)
        while not race.decided:
            drawn = race.draw(batch)
            which = np.concatenate([order[c][race.sampled[c] : race.sampled[c] + drawn[c]] for c in range(size)])
            robust = survives(model, data.subset(torch.from_numpy(which)), strong, seed)
            kept[which[robust]] = True
            race = race.after(drawn, np.bincount(y[which[~robust]], minlength=size))
            watch(race)
        seen += flags.unmeasured(race.n, data.classes)
        seen += flags.of_settings("the strong attack", strong, size)
        seen += _probed(model, data, strong, torch.from_numpy(kept if kept.any() else left), seed)
    return race, flags.distinct(seen)


@contextmanager
def _watching(model: nn.Module, data: ImageSet) -> Iterator[list[Flag]]:
    """Look at a model before and after a block, which may add to what is noticed."""
    seen, few = list(standing(model)), evenly(data.index, LOOK)
    called, device = Classifier(model, None, len(data.classes)), device_of(model)
    x, y = data.fetch(few).to(device), data.y[few].to(device)
    with judging(called, device):
        check_sizes(called, x[:2])
        seen += taken_from(called, x[:2])
        looked = preflight(called, x, y, data.classes, min(BATCH, len(data)))
        seen += looked.flags
        seen += flags.of_model(called, x, y, data.classes)
    yield seen
    with judging(called, device):
        seen += looked.again(called)


def _probed(model: nn.Module, data: ImageSet, strong: Attack, survivors: Tensor, seed: int) -> list[Flag]:
    """Climb once more with a few images that the strong attack did not break, and say what looks odd."""
    few, device = evenly(data.index, LOOK, among=survivors), device_of(model)
    x, y = data.fetch(few).to(device), data.y[few].to(device)
    noise = Noise(seed, data.index[few].to(device)).fold("probe")
    with judging(model, device) as called:
        return list(probe(called, x, y, strong.threat, noise, data.classes))


def worst_class(race: Race, classes: tuple[str, ...], subject: str) -> Finding:
    """Say which class is the worst of these images, and which could be of all that they were drawn from."""
    low, high = race.bounds
    names = [plain(name) for name in classes]
    worst = [names[c] for c in race.worst]
    what = f"{worst[0]} is the worst class" if len(worst) == 1 else f"{', '.join(worst)} tie for the worst class"
    further = [names[c] for c in race.population_worst]
    bound = span(float(np.nanmin(low)), float(np.nanmin(high))) if worst else "–"
    met = f"{int(race.sampled.sum()):,} of {int(race.n.sum()):,} images, {percent(race.share)} %"
    sentence = (
        f"With {100 * race.confidence:g} % confidence {what} of these images (robust accuracy in {bound} %); the "
        f"strong attack met {met}. Of further images like these the worst class may be {_any_of(further)} "
        "(same confidence)."
    )
    counts = {key: getattr(race, key) for key in ("n", "survivors", "sampled", "broken")}
    order = [int(c) for c in np.argsort(np.nan_to_num(high, nan=np.inf), kind="stable") if race.n[c]]
    rows = [[names[c], *(int(each[c]) for each in counts.values()), (low[c], high[c])] for c in order]
    sheet = table(
        "worst-class",
        "The race: survivors of the cheap attack, images that met the strong one, robust accuracy in per cent",
        {
            "class": "words",
            "n": "count",
            "survive cheap": "count",
            "met strong": "count",
            "broken": "count",
            "robust": "interval",
        },
        rows,
        marked=0 if len(worst) == 1 else None,
    )
    values = {
        "worst": worst,
        "confidence_is_about": "the worst class of the images at hand",
        "population_worst": further,
        "share": race.share,
        "confidence": race.confidence,
        "bounds": race.bounds,
    }
    return Finding("worst-class", "", subject, "described", sentence, (sheet,), {**values, **counts})


def _any_of(names: list[str]) -> str:
    """Name them all while they are few."""
    if len(names) > 10:
        return f"any of {len(names)} classes"
    return " or ".join(names) or "–"
