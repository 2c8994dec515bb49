"""How a plan is run over a data set: stage by stage, watching itself, with an audit at the end.

Our design (docs/fast.md). A stage is spent on the survivors with the largest margin, because the images that a
stronger attack still breaks are nearly always among them. Where something speaks against that – gradients that are
masked, a stage that still breaks images at its end, a randomised model – every survivor meets the full suite instead.
Else a random sample of them does, which bounds what the full suite would still have broken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from classwise.attacks.plan import Plan, Stage
from classwise.evaluation.engine import StageGain
from classwise.metrics.audit import at_most, at_most_by_class, round_error, sample_size
from classwise.metrics.outcomes import Ints
from classwise.noise import Noise

ERROR = 0.05
"""Probability that a bound of the audit is too low; the bounds of all classes hold at once with one minus it."""
_STRATIFY = 1.25  # a sample drawn class by class may be so much larger than one drawn from all survivors
_TOO_MANY = 0.005  # share of the survivors broken by the last turn above which the plan has not come to an end


class StagedImages(Protocol):
    """What a plan is run on; :class:`classwise.evaluation.engine.ViewRun` is one."""

    @property
    def y(self) -> Tensor:
        """True classes, (N,)."""
        ...

    @property
    def index(self) -> Tensor:
        """Position of each image in its data set, (N,)."""
        ...

    @property
    def survivors(self) -> Tensor:
        """Which images nothing has broken, (N,) bool."""
        ...

    @property
    def margin(self) -> Tensor:
        """Largest wrong logit minus true logit on the best candidate so far, (N,)."""
        ...

    def attack(self, stage: Stage, path: tuple[str | int, ...], which: Tensor) -> StageGain:
        """Attack the survivors of a mask."""
        ...


@dataclass(frozen=True)
class PlanResult:
    """How a plan ended.

    Attributes:
        reasons: why every survivor met the full suite; empty where none had to.
        audit: rounds and bounds, see docs/fast.md; None where nothing was audited.
    """

    reasons: tuple[str, ...] = ()
    audit: dict[str, Any] | None = None


def run(
    plan: Plan,
    images: StagedImages,
    view: str,
    *,
    suspicions: Callable[[Tensor], list[str]],
    points: float,
    noise: Noise,
    num_classes: int,
) -> PlanResult:
    """Run a plan.

    Args:
        plan: its stages, and the suite that audits them.
        images: what it is run on.
        view: name of the plan, of which its random numbers depend.
        suspicions: called with the survivors (N,) after the stages; returns what speaks against trusting them.
        points: misses that the audit shall exclude, in per cent of all images; 0 for no audit.
        noise: of all images; draws the sample.
        num_classes: C.
    """
    last = StageGain(0, 0)
    for place, stage in enumerate(plan.stages):
        if stage.if_closer and last == StageGain(0, 0):
            continue
        last = _stage(images, stage, plan.path(view, place))
    if not plan.full or not images.survivors.any():
        return PlanResult()
    left = int(images.survivors.sum())
    reasons = suspicions(images.survivors)
    if last.broken > _TOO_MANY * left:
        reasons = [*reasons, f"the last stage still broke {last.broken} images where {left} survive"]
    if reasons:
        for member in plan.full:
            _spend(images, "full", member, images.survivors)
        return PlanResult(tuple(reasons))
    return PlanResult((), audit(plan.full, images, points, noise, num_classes) if points else None)


def _stage(images: StagedImages, stage: Stage, path: tuple[str | int, ...]) -> StageGain:
    """Attack the closest survivors, share by share where that is asked for; returns what the last share broke."""
    ranked = _closest_first(images)
    wanted = math.ceil(stage.closest * len(ranked))
    size, done, gain = max(1, math.ceil((stage.go_on or stage.closest) * len(ranked))), 0, StageGain(0, 0)
    while done < len(ranked) and (done < wanted or (stage.go_on and gain.broken)):
        share = torch.zeros_like(images.survivors).index_fill_(0, ranked[done : done + size], True)
        turn = images.attack(stage, path, share)
        closer = gain.closer + max(turn.closer, turn.broken)  # what broke came closer, of course
        gain, done = StageGain(turn.broken, closer), done + size
    return gain


def _closest_first(images: StagedImages) -> Tensor:
    """Return the positions of the survivors, those with the largest margin first."""
    which = images.survivors.nonzero().squeeze(1)
    which = which[images.index[which].argsort()]  # so that ties do not depend on the order of the images
    return which[images.margin[which].argsort(descending=True, stable=True)]


def audit(
    full: tuple[Stage, ...], images: StagedImages, points: float, noise: Noise, num_classes: int
) -> dict[str, Any]:
    """Attack a random sample of the survivors with the full suite, until nothing more breaks, and bound the rest.

    A member that breaks an image of the sample is run on every survivor; then a new sample is drawn among those that
    have not met the whole suite. The rounds share the allowed error (:func:`classwise.metrics.round_error`).

    Args:
        full: the members of the suite.
        images: what survived.
        points: misses to exclude, in per cent of all images.
        noise: of all images.
        num_classes: C.

    Returns:
        See docs/fast.md: points, confidence, rounds, at_most, at_most_by_class.
    """
    met = torch.zeros(len(full), len(images.y), dtype=torch.bool)
    allowed, rounds = math.floor(points / 100 * len(images.y)), list[dict[str, Any]]()
    while True:
        error = round_error(len(rounds), ERROR)
        population, before = images.survivors & ~met.all(0), images.survivors
        strata = _by_class(images.y[population], num_classes)
        wanted = sample_size(strata, allowed, error)
        pooled = strata.sum(keepdims=True)
        # One image of each class is far too many where there are hundreds of classes.
        apart = wanted.sum() <= _STRATIFY * sample_size(pooled, allowed, error).sum()
        drawn = wanted if apart else sample_size(pooled, allowed, error)
        group = images.y if apart else torch.zeros_like(images.y)
        sample = _draw(population, group, drawn, noise.fold("audit", len(rounds)))
        sampled = _by_class(images.y[sample], num_classes)
        broke = [_spend(images, "audit", member, sample & ~met[k]).broken for k, member in enumerate(full)]
        met |= sample
        lost = _by_class(images.y[before & ~images.survivors], num_classes)
        by_member = Counter[str]()
        for member, count in zip(full, broke, strict=True):
            by_member[member.name] += count
        counts = {"survivors": strata.tolist(), "sampled": sampled.tolist(), "broken": lost.tolist()}
        rounds.append({**counts, "broken_by": dict(+by_member)})
        if not any(broke):
            total = at_most(strata if apart else pooled, drawn, error)
            by_class = at_most_by_class(strata, sampled, error)
            return {
                "points": points,
                "confidence": 1 - ERROR,
                "rounds": rounds,
                "at_most": total,
                "at_most_by_class": np.minimum(by_class, total).tolist(),
            }
        for k in np.flatnonzero(broke).tolist():
            _spend(images, "full", full[k], images.survivors & ~met[k])
            met[k] = True


def _spend(images: StagedImages, purpose: str, member: Stage, which: Tensor) -> StageGain:
    """Attack with a member of the full suite, which draws what it would draw in the suite itself."""
    return images.attack(replace(member, name=f"{purpose}: {member.name}"), member.path, which)


def _draw(population: Tensor, group: Tensor, wanted: Ints, noise: Noise) -> Tensor:
    """Draw so many images of each group (N,) at random, (N,) bool; which ones depends on the noise alone."""
    ticket = noise.uniform(()).double().masked_fill(~population, torch.inf)
    sample = torch.zeros_like(population)
    for c, count in enumerate(wanted.tolist()):
        of_group = ticket.masked_fill(group != c, torch.inf)
        sample[of_group.argsort(stable=True)[:count]] = True
    return sample


def _by_class(y: Tensor, num_classes: int) -> Ints:
    counts: Ints = torch.bincount(y, minlength=num_classes).numpy()
    return counts
