"""Find the worst class with a strong attack on few images: the race of `classwise.metrics.race`, run on a model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from classwise.analysis.finding import Finding, table
from classwise.analysis.fooling import BATCH, survives
from classwise.attacks.base import Attack
from classwise.data.images import ImageSet
from classwise.evaluation import flags
from classwise.evaluation.flags import Flag
from classwise.evaluation.preflight import PREFLIGHT_IMAGES
from classwise.evaluation.probe import probe_survivors
from classwise.evaluation.under_test import under_test
from classwise.files.texts import plain
from classwise.metrics.race import Race
from classwise.metrics.resampling import generator
from classwise.report.tables import percent, span
from classwise.runtime.classifier import as_module
from classwise.runtime.inference import device_of


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
    with under_test(model, data, device_of(model), batch_size=BATCH) as test:
        left = survives(test.called, data, cheap, seed)
        order = [generator(seed).permutation(np.flatnonzero(left & (y == c))) for c in range(size)]
        race = Race.start(np.bincount(y, minlength=size), [len(which) for which in order], confidence)
        robust_images = np.zeros_like(left)
        while not race.decided:
            drawn = race.draw(batch)
            which = np.concatenate([order[c][race.sampled[c] : race.sampled[c] + drawn[c]] for c in range(size)])
            robust = survives(test.called, data.subset(torch.from_numpy(which)), strong, seed)
            robust_images[which[robust]] = True
            race = race.after(drawn, np.bincount(y[which[~robust]], minlength=size))
            watch(race)
        test.flags.extend(flags.unmeasured(race.n, data.classes))
        test.flags.extend(flags.of_settings("the strong attack", strong, size))
        survivors = torch.from_numpy(robust_images if robust_images.any() else left)
        test.flags.extend(probe_survivors(test.called, data, survivors, strong.threat, seed, PREFLIGHT_IMAGES))
    return race, flags.distinct(test.flags)


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
    rows = [[names[c], *(int(count[c]) for count in counts.values()), (low[c], high[c])] for c in order]
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
