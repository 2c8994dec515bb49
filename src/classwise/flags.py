"""Signs that a robustness number may be wrong, as data (docs/evaluation.md).

A flag never changes a verdict. Each names what was seen, where, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from classwise.attacks.apgd import APGD
from classwise.attacks.base import Attack, input_gradient, predict
from classwise.attacks.pgd import PGD
from classwise.attacks.temperature import TemperaturePGD
from classwise.errors import InputError
from classwise.losses import cross_entropy
from classwise.metrics.outcomes import INVALID, Outcomes

_PASSES = 5
_MASKED_SHARE = 0.1
_MARGIN_DEFICIT = 0.02


@dataclass(frozen=True)
class Flag:
    """One sign.

    Attributes:
        flag: its name.
        message: one sentence: what was seen and what to do.
        attack: the attack it concerns, or None.
        classes: the classes it concerns; empty for all.
        value: the number behind it, or None.
    """

    flag: str
    message: str
    attack: str | None = None
    classes: tuple[str, ...] = ()
    value: float | None = None

    def record(self) -> dict[str, Any]:
        """Return the flag for JSON."""
        return {**asdict(self), "classes": list(self.classes)}


def check_logits(logits: Any, x: Tensor, classes: Sequence[str]) -> None:
    """Refuse a model whose output cannot be evaluated.

    Raises:
        InputError: no matrix of logits, the wrong number of classes, probabilities, or nothing finite at all.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"The model returns {shape} for {len(x)} images; it must return logits of shape (N, classes).")
    if logits.shape[1] != len(classes):
        raise InputError(
            f"The model returns {logits.shape[1]} logits and the data set has {len(classes)} classes; "
            "choose the data set that the model was made for."
        )
    if not logits.isfinite().any():
        raise InputError("The model returns NaN or infinity for every image; check its weights and its input range.")
    if len(classes) > 1 and (logits >= 0).all() and torch.allclose(logits.sum(1), logits.new_ones(len(x)), atol=1e-4):
        raise InputError("The model returns probabilities, which hide gradients; remove the softmax, return logits.")


def look(model: nn.Module, x: Tensor, y: Tensor, classes: Sequence[str]) -> Iterator[Flag]:
    """Look at the model on a few images: is it deterministic, does it have gradients, is its output finite?

    Args:
        model: in eval mode with gradients enabled.
        x: images (N, C, H, W).
        y: labels (N,).
        classes: names of the classes.
    """
    x = x.detach().requires_grad_(True)
    logits = model(x)
    check_logits(logits, x, classes)
    first = logits.detach().nan_to_num()
    with torch.no_grad():
        spread = max(float((model(x).nan_to_num() - first).abs().max()) for _ in range(_PASSES - 1))
    if spread > 0:
        yield Flag(
            "non_deterministic",
            f"Five passes over the same images differ by up to {spread:.2g} in the logits: the model is randomised, "
            "so a single verdict is not its robustness; attack the expectation over its randomness.",
            value=spread,
        )
    right = predict(logits.detach(), y) == y
    zero = (input_gradient(cross_entropy(logits, y), x).flatten(1) == 0).all(1) & right
    if zero.sum() > _MASKED_SHARE * right.sum():
        yield _masked(float(zero.sum() / right.sum()), classes, y[zero])


def after(outcomes: Outcomes, attacks: Mapping[str, Attack], rejected: Sequence[int]) -> Iterator[Flag]:
    """Look at the finished outcomes: what do they say about the strength of the attacks?"""
    broken = [c for c, bad in zip(outcomes.classes, _non_finite(outcomes), strict=True) if bad]
    if broken:
        count = int((outcomes.clean == INVALID).sum())
        yield Flag(
            "non_finite",
            f"The logits of {count} clean images, or of attacked ones, are NaN or infinite; these images count as "
            "broken: check the model's numerics.",
            classes=tuple(broken),
        )
    for (name, attack), outside in zip(attacks.items(), rejected, strict=True):
        if outside:
            yield Flag(
                "outside_threat",
                f"{name} returned {outside} images outside the threat set; they were not counted: mend the attack.",
                attack=name,
                value=float(outside),
            )
        yield from _short_steps(name, attack)
        yield from _few_classes(name, attack, len(outcomes.classes))
    yield from _scale(outcomes, attacks)


def _masked(share: float, classes: Sequence[str], y: Tensor) -> Flag:
    return Flag(
        "zero_gradient",
        f"The gradient is exactly zero on {share:.0%} of the images classified right: gradients are masked, and "
        "gradient attacks overstate robustness; add a score-based or transfer attack.",
        classes=tuple(classes[c] for c in sorted(set(y.tolist()))),
        value=share,
    )


def _non_finite(outcomes: Outcomes) -> list[bool]:
    bad = outcomes.clean == INVALID
    for prediction in outcomes.predictions.values():
        bad = bad | (prediction == INVALID)
    return [bool(bad[outcomes.y == c].any()) for c in range(len(outcomes.classes))]


def _loops(attack: Attack) -> list[PGD]:
    if isinstance(attack, TemperaturePGD):
        return [attack.pgd]
    return [attack] if isinstance(attack, PGD) else []


def _short_steps(name: str, attack: Attack) -> Iterator[Flag]:
    for pgd in _loops(attack):
        reach = pgd.steps * pgd.length
        if pgd.steps > 1 and reach < 2 * pgd.threat.eps * (1 - 1e-9):
            yield Flag(
                "short_steps",
                f"{name} can move {reach:.3g} in all, less than twice eps = {pgd.threat.eps:.3g}, so it cannot cross "
                "the ball: raise steps or step_size.",
                attack=name,
                value=reach,
            )


def _few_classes(name: str, attack: Attack, num_classes: int) -> Iterator[Flag]:
    for loop in [attack] if isinstance(attack, APGD) else _loops(attack):
        if loop.loss == "dlr" and num_classes < (4 if loop.targets else 3):
            yield Flag(
                "few_classes",
                f"The DLR loss of {name} is undefined for {num_classes} classes; the plain margin was used.",
                attack=name,
                value=float(num_classes),
            )


def _scale(outcomes: Outcomes, attacks: Mapping[str, Attack]) -> Iterator[Flag]:
    """Compare margin-PGD with cross-entropy PGD where both ran with otherwise equal settings."""
    single = {name: a for name, a in attacks.items() if isinstance(a, PGD) and not a.targets}
    for name, attack in single.items():
        for other, reference in single.items():
            same = attack.loss == "margin" and reference.loss == "cross_entropy" and attack.steps == reference.steps
            lead = float(outcomes.correct(other).mean() - outcomes.correct(name).mean()) if same else 0.0
            if lead > _MARGIN_DEFICIT:
                yield Flag(
                    "logit_scale",
                    f"{name} breaks {100 * lead:.1f} points more than {other}: the logits' scale weakens the "
                    "cross-entropy; look at Temperature-PGD and trust the worst case only.",
                    attack=other,
                    value=lead,
                )
