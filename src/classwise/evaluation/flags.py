"""Signs that a robustness number may be wrong, as data (docs/evaluation.md).

A flag never changes a verdict. Each names what was seen, where, and what to do about it. :func:`of_model` needs the
model and a few images, :func:`of_outcomes` the finished outcomes; what takes an attack of its own is in
:mod:`classwise.evaluation.probe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from classwise.attacks.apgd import APGD
from classwise.attacks.base import Attack, input_gradient, predict
from classwise.attacks.ensemble import Ensemble
from classwise.attacks.eot import EoT
from classwise.attacks.momentum import MomentumPGD
from classwise.attacks.pgd import PGD
from classwise.attacks.square import Square
from classwise.attacks.temperature import TemperaturePGD
from classwise.attacks.transfer_attack import Transfer
from classwise.errors import InputError
from classwise.losses import cross_entropy, margin
from classwise.metrics.outcomes import INVALID, Outcomes

MASKED_SHARE = 0.1
"""Share of images without any gradient above which ``zero_gradient`` fires."""
SERIOUS = frozenset(
    {
        "batch_dependent",
        "gradient_dependent",
        "in_forward_optimisation",
        "loss_rising",
        "misleading_gradient",
        "non_deterministic",
        "off_border",
        "probe_breaks",
        "restart_gain",
        "zero_gradient",
    }
)
"""Flags upon which a plan lets every survivor meet the full suite by itself.

They say that the attacks so far overstate robustness: gradients are zero, random or not those of what predicts, or the
attacks had not converged. ``black_box_gain`` and ``logit_scale`` say so too, but come from the finished outcomes.
"""
_PASSES = 5
_MARGIN_DEFICIT = 0.02
_BLACK_BOX_GAIN = 0.002  # of all images
_FEWEST = 2  # images: one that only a black-box attack breaks is what such an attack is added for
_NEAR_CHANCE = 0.1  # of the way from guessing to being always right; our choice
_NAMED = 5  # classes without images, in a sentence
_HANDFUL = 10  # images below which a model that is right on four of five may look like guessing
_RESCALED_GAIN, _RESCALED_MORE = 0.2, 8  # three standard errors of 64 images; and no small sample fires by luck
# How far images are moved along their gradient: a quantiser that hands gradients on needs some length to move at all.
_LENGTHS = (1 / 1024, 1 / 255, 4 / 255, 16 / 255)
_LEAST_GAIN_RATIO = 0.25  # of the rise that a gradient promises; sound models kept 0.87 or more (docs/evaluation.md)
_PROMISING = 4  # images whose median says something
_ENGINE = "_engine_run_backward"  # what every way to a gradient in Python ends in, whatever name it was imported by
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MNIST = (0.1307,), (0.3081,)


@dataclass(frozen=True)
class Flag:
    """One sign.

    Attributes:
        flag: its name.
        message: one sentence: what was seen and what to do.
        attack: the attack it concerns, or None.
        classes: the classes it concerns, each by its own images; empty for all.
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


class Member(NamedTuple):
    """An attack that is made of no others, found inside one that may be.

    Attributes:
        label: what to call it in a sentence.
        attack: its settings.
        transferred: whether it is carried out on another model than the one under attack.
    """

    label: str
    attack: Attack
    transferred: bool = False


def distinct(flags: Iterable[Flag]) -> list[Flag]:
    """Return one flag of each name that concerns the model as a whole: of the largest value, with all their classes.

    Several looks at one model see the same thing twice, as the clean images and the probe do zero gradients. Flags
    of an attack stay apart by what they say, since an ensemble may have two members that fall short.

    Example:
        >>> [flag.value for flag in distinct([Flag("zero_gradient", "…", value=v) for v in (0.2, 0.4)])]
        [0.4]
    """
    first: dict[tuple[str, str | None, str | None], Flag] = {}
    for flag in flags:
        key = (flag.flag, flag.attack, flag.attack and flag.message)
        first[key] = _joined(first[key], flag) if key in first else flag
    return list(first.values())


def affected_classes(mask: ArrayLike, y: ArrayLike, classes: Sequence[str], share: float) -> tuple[str, ...]:
    """Name the classes that have ``mask`` true on more than a share of their images.

    Args:
        mask: (N,) bool.
        y: class of each image, (N,).
        classes: names of the classes.
        share: in [0, 1); a class without images is never named.

    Example:
        >>> affected_classes([True, False, False], [0, 0, 2], ("cat", "dog", "owl"), share=0.4)
        ('cat',)
    """
    label = np.asarray(y, dtype=np.int64)
    among = np.bincount(label, minlength=len(classes))
    hit = np.bincount(label[np.asarray(mask, dtype=bool)], minlength=len(classes))
    return tuple(name for name, named in zip(classes, hit > share * among, strict=True) if named)


def members(attack: Attack, label: str) -> Iterator[Member]:
    """Walk down to the attacks that an attack is made of; one that is made of no others is its own member.

    The temperatures of a Temperature-PGD differ in their loss alone, so the first stands for all.

    Args:
        attack: of any kind; attacks of one's own are members of themselves.
        label: what it is called.
    """
    if isinstance(attack, Ensemble):
        for place, part in enumerate(attack.attacks, start=1):
            yield from members(part, f"{label}, member {place} ({type(part).__name__})")
    elif isinstance(attack, EoT):
        yield from members(attack.attack, label)
    elif isinstance(attack, Transfer):
        yield from (member._replace(transferred=True) for member in members(attack.attack, label))
    elif isinstance(attack, TemperaturePGD):
        yield Member(label, attack.member(attack.inverse_temperatures[0]))
    else:
        yield Member(label, attack)


def is_black_box(attack: Attack) -> bool | None:
    """Tell whether an attack asks the model for outputs only, as its class says by ``black_box = True``.

    None if it is made of both kinds, or was crafted on another model, which is neither.
    """
    kinds = {
        None if member.transferred else bool(getattr(member.attack, "black_box", False))
        for member in members(attack, "")
    }
    return kinds.pop() if len(kinds) == 1 else None


def check_logits(logits: Any, x: Tensor, classes: Sequence[str]) -> None:
    """Refuse a model whose output cannot be evaluated.

    Raises:
        InputError: no matrix of logits, the wrong number of classes, probabilities, or nothing finite at all.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"The model returns {shape} for {len(x)} images; it must return logits of shape (N, classes).")
    if not logits.is_floating_point():
        raise InputError(f"The model returns {logits.dtype}; it must return logits, which are floating point.")
    if logits.shape[1] != len(classes):
        raise InputError(
            f"The model returns {logits.shape[1]} logits and the data set has {len(classes)} classes; "
            "choose the data set that the model was made for."
        )
    if not logits.isfinite().any():
        raise InputError("The model returns NaN or infinity for every image; check its weights and its input range.")
    if len(classes) > 1 and (logits >= 0).all() and torch.allclose(logits.sum(1), logits.new_ones(len(x)), atol=1e-4):
        raise InputError("The model returns probabilities, which hide gradients; remove the softmax, return logits.")


def of_model(model: nn.Module, x: Tensor, y: Tensor, classes: Sequence[str]) -> Iterator[Flag]:
    """Look at the model on a few images: its output, its gradients, its randomness and the input it seems to want.

    Args:
        model: in eval mode with gradients enabled.
        x: images (N, C, H, W).
        y: labels (N,).
        classes: names of the classes.

    Raises:
        InputError: see :func:`check_logits`.
    """
    x = x.detach().requires_grad_(True)
    with _backward_runs() as runs:
        logits = model(x)
        check_logits(logits, x, classes)
        with torch.no_grad():  # all alike: with a graph to build, kernels may round differently
            passes = torch.stack([model(x).nan_to_num() for _ in range(_PASSES)])
        spread = (passes - passes[0]).abs().amax((0, 2))
    predicted = predict(logits.detach(), y)
    yield from _optimises(len(runs))
    yield from _randomised(spread, y, classes)
    zero = (input_gradient(cross_entropy(logits, y), x).flatten(1) == 0).all(1)
    right = predicted == y
    yield from masked(zero[right], y[right], classes, "the images classified right")
    yield from _misleading(gain_ratios(model, x.detach(), y), y, classes)
    yield from _input_range(model, x.detach(), y, predicted, len(classes))


def masked(zero: Tensor, y: Tensor, classes: Sequence[str], where: str) -> Iterator[Flag]:
    """Flag a gradient that is exactly zero in every pixel of more than a tenth of some images.

    Args:
        zero: (N,) bool, which images have no gradient.
        y: labels (N,).
        classes: names of the classes.
        where: what the N images are, in words.
    """
    share = float(zero.float().mean()) if len(zero) else 0.0
    if share > MASKED_SHARE:
        yield Flag(
            "zero_gradient",
            f"The gradient is exactly zero on {share:.0%} of {where}: gradients are masked, and gradient attacks "
            "overstate robustness; add a score-based or transfer attack.",
            classes=affected_classes(zero.cpu(), y.cpu(), classes, MASKED_SHARE),
            value=share,
        )


def gain_ratios(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Compare what the margin gains along its gradient with what the gradient promises, by steps of four lengths.

    The step is the sign of the gradient, in [0, 1]; the promise its product with the gradient. Their ratio is 1 for a
    linear model, and near 1 at short lengths wherever the backward pass is the derivative of the forward pass.

    Args:
        model: in eval mode with gradients enabled.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).

    Returns:
        Ratios (4, N), by length; NaN where a gradient is zero or not finite.
    """
    x = x.detach().requires_grad_(True)
    before = margin(model(x), y)
    gradient = input_gradient(before, x)
    with torch.no_grad():
        steps = [(x + length * gradient.sign()).clamp(0, 1) - x for length in _LENGTHS]
        gains = torch.stack([margin(model(x + step), y) - before for step in steps])
        promises = torch.stack([(gradient * step).flatten(1).sum(1) for step in steps])
        ratios = torch.where(promises > 0, gains / promises, torch.nan).float()
    return ratios.where(ratios.isfinite(), torch.nan)


def of_outcomes(outcomes: Outcomes, attacks: Mapping[str, Attack], rejected: Sequence[int]) -> Iterator[Flag]:
    """Look at the finished outcomes: what do they say about the model, and about the strength of the attacks?

    Args:
        outcomes: of every image.
        attacks: by the names that the outcomes have.
        rejected: for each attack, in that order, how many of its candidates lay outside the threat set.
    """
    yield from unmeasured(outcomes.n, outcomes.classes)
    yield from _near_chance(outcomes)
    yield from _non_finite(outcomes)
    for (name, attack), outside in zip(attacks.items(), rejected, strict=True):
        if outside:
            yield Flag(
                "outside_threat",
                f"{name} returned {outside} images outside the threat set; they were not counted: mend the attack.",
                attack=name,
                value=float(outside),
            )
        yield from of_settings(name, attack, len(outcomes.classes))
    yield from _scale(outcomes, attacks)
    yield from _black_box(outcomes, attacks)


def of_settings(name: str, attack: Attack, num_classes: int) -> Iterator[Flag]:
    """Flag settings of an attack, or of those that it is made of, with which it cannot do what is expected of it.

    Args:
        name: of the attack.
        attack: of any kind.
        num_classes: that the model tells apart.
    """
    for member in members(attack, name):
        yield from _short_steps(name, member)
        yield from _few_classes(name, member, num_classes)


def black_box_gain(
    broken_gradient: NDArray[np.bool_], broken_black_box: NDArray[np.bool_], y: ArrayLike, classes: Sequence[str]
) -> Iterator[Flag]:
    """Flag black-box attacks that break images which survive gradient attacks: more than 0.2 points of all.

    A search that knows less should not find more. That it does says that the gradients mislead.

    Args:
        broken_gradient: (N,), images that some gradient attack broke; those wrong when clean may be in either.
        broken_black_box: (N,), images that some score-based attack broke, whether it saw all images or survivors.
        y: labels (N,).
        classes: names of the classes.
    """
    gained = np.asarray(broken_black_box, dtype=bool) & ~np.asarray(broken_gradient, dtype=bool)
    share = float(gained.mean()) if len(gained) else 0.0
    if share > _BLACK_BOX_GAIN and gained.sum() >= _FEWEST:
        yield Flag(
            "black_box_gain",
            f"Score-based search breaks {100 * share:.1f} points of the images that no gradient attack breaks: the "
            "gradients mislead; trust the worst case only, and give the search more queries.",
            classes=affected_classes(gained, y, classes, _BLACK_BOX_GAIN),
            value=share,
        )


def _misleading(ratio: Tensor, y: Tensor, classes: Sequence[str]) -> Iterator[Flag]:
    """Flag gradients that keep less than a quarter of their promise at every length, see :func:`gain_ratios`."""
    medians = [row[row.isfinite()].median() for row in ratio if row.isfinite().sum() >= _PROMISING]
    best = float(max(medians)) if medians else 1.0
    if best < _LEAST_GAIN_RATIO:
        yield Flag(
            "misleading_gradient",
            f"Along its gradient the margin gains at most {best:.2g} of what the gradient promises (median of images, "
            "best of four lengths): the backward pass is not the derivative of the forward pass, and gradient attacks "
            "overstate robustness; let it be, or add a score-based or transfer attack.",
            classes=affected_classes(
                (ratio.nan_to_num(torch.inf).amax(0) < _LEAST_GAIN_RATIO).cpu(), y.cpu(), classes, 0.5
            ),
            value=best,
        )


def _joined(flag: Flag, other: Flag) -> Flag:
    larger = other if (other.value or 0.0) > (flag.value or 0.0) else flag
    named = flag.classes and other.classes  # no names stand for all classes
    return replace(larger, classes=tuple(dict.fromkeys(flag.classes + other.classes)) if named else ())


@contextmanager
def _backward_runs() -> Iterator[list[None]]:
    """Collect an entry for each run of autograd's backward pass, by whatever call.

    Not seen: gradients that TorchScript or other compiled code takes without coming back to Python, forward-mode
    derivatives, and optimisation without derivatives.
    """
    runs: list[None] = []
    engine = getattr(torch.autograd, _ENGINE, None)
    if engine is None:  # a private name, which a future torch may not have: then nothing is seen
        yield runs
        return

    def counted(*args: Any, **settings: Any) -> Any:
        runs.append(None)
        return engine(*args, **settings)

    setattr(torch.autograd, _ENGINE, counted)
    try:
        yield runs
    finally:
        setattr(torch.autograd, _ENGINE, engine)


def _optimises(runs: int) -> Iterator[Flag]:
    if runs:
        yield Flag(
            "in_forward_optimisation",
            f"The model took {runs} gradients in {_PASSES + 1} forward passes, so it optimises as it predicts: attacks "
            "made for plain networks overstate its robustness; add one made for this defence.",
            value=runs / (_PASSES + 1),
        )


def _randomised(spread: Tensor, y: Tensor, classes: Sequence[str]) -> Iterator[Flag]:
    if (spread > 0).any():
        largest = float(spread.max())
        yield Flag(
            "non_deterministic",
            f"Five passes over the same images differ by up to {largest:.2g} in the logits: the model is randomised, "
            "so a single verdict is not its robustness; attack the expectation over its randomness.",
            classes=affected_classes((spread > 0).cpu(), y.cpu(), classes, 0.0),
            value=largest,
        )


def _input_range(model: nn.Module, x: Tensor, y: Tensor, predicted: Tensor, num_classes: int) -> Iterator[Flag]:
    """Ask whether the model is much better on images scaled as other packages scale them."""
    before, right = _balanced(predicted, y, num_classes), int((predicted == y).sum())
    if before > 1 - _RESCALED_GAIN:
        return
    for text, scaled in _rescaled(x):
        try:
            with torch.no_grad():
                again = predict(model(scaled), y)
        except Exception:  # a model that refuses such images looks after its range itself
            continue
        if _balanced(again, y, num_classes) > before + _RESCALED_GAIN and (again == y).sum() >= right + _RESCALED_MORE:
            share = float((again == y).float().mean())
            yield Flag(
                "input_range",
                f"Of {len(y)} images in [0, 1] the model gets {right / len(y):.0%} right, and {share:.0%} once they "
                f"are {text}: put that into the model, which is given [0, 1] and attacked there.",
                value=share,
            )
            return


def _rescaled(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Scale images (N, C, H, W) in [0, 1] in the usual ways, each with a name."""
    yield "scaled to 0 … 255", 255 * x
    yield "scaled to −1 … 1", 2 * x - 1
    for name, (mean, deviation) in (("ImageNet", _IMAGENET), ("MNIST", _MNIST)):
        if x.shape[1] == len(mean):
            centre, spread = x.new_tensor(mean).view(-1, 1, 1), x.new_tensor(deviation).view(-1, 1, 1)
            yield f"normalised by the mean and deviation of {name}", (x - centre) / spread


def _balanced(predicted: Tensor, y: Tensor, num_classes: int) -> float:
    """Return the mean over the classes present of the share right, to which a constant guess adds nothing."""
    n = torch.bincount(y, minlength=num_classes)
    right = torch.bincount(y[predicted == y], minlength=num_classes)
    return float((right[n > 0] / n[n > 0]).mean())


def unmeasured(n: ArrayLike, classes: Sequence[str]) -> Iterator[Flag]:
    """Flag classes without images.

    Args:
        n: images of each class, (C,).
        classes: names of the classes.
    """
    absent = tuple(name for name, size in zip(classes, np.asarray(n), strict=True) if not size)
    if absent:
        names = ", ".join(repr(name) for name in absent[:_NAMED])
        verb = "has" if len(absent) == 1 else "have"
        more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
        yield Flag(
            "unmeasured_classes",
            f"{len(absent)} of {len(classes)} classes {verb} no images: {names}{more}. Nothing is known of "
            "them, and the weakest class may be among them; evaluate images of every class.",
            classes=absent,
            value=float(len(absent)),
        )


def _near_chance(outcomes: Outcomes) -> Iterator[Flag]:
    """Compare with guessing by class, so that neither a rare class nor a constant prediction passes for skill."""
    clean, chance = float(np.nanmean(outcomes.accuracy("clean"))), 1 / outcomes.num_classes
    if len(outcomes) >= _HANDFUL and clean - chance < _NEAR_CHANCE * (1 - chance):
        yield Flag(
            "near_chance",
            f"Clean accuracy is {clean:.1%} in the mean of the classes, and guessing gives {chance:.1%}: is the "
            "normalisation inside the model, are the classes in the data set's order, are these its weights?",
            value=clean,
        )


def _non_finite(outcomes: Outcomes) -> Iterator[Flag]:
    bad = outcomes.clean == INVALID
    for prediction in outcomes.predictions.values():
        bad = bad | (prediction == INVALID)
    if bad.any():
        count = int((outcomes.clean == INVALID).sum())
        yield Flag(
            "non_finite",
            f"The logits of {count} clean images, or of attacked ones, are NaN or infinite; these images count as "
            "broken: check the model's numerics.",
            classes=affected_classes(bad, outcomes.y, outcomes.classes, 0.0),
        )


def _short_steps(name: str, member: Member) -> Iterator[Flag]:
    attack = member.attack
    if not isinstance(attack, PGD | MomentumPGD):
        return
    # FGSM takes one step from the image, whose ball it need not cross.
    crosses = attack.steps > 1 or attack.start != "clean"
    needed, words = (2 * attack.threat.eps, "twice eps") if crosses else (attack.threat.eps, "eps")
    reach = attack.steps * attack.length
    if reach < needed * (1 - 1e-9):
        yield Flag(
            "short_steps",
            f"{member.label} can move {reach:.3g} in all, less than {words} = {needed:.3g}, so part of the ball is out "
            "of its reach: raise steps or step_size.",
            attack=name,
            value=reach,
        )


def _few_classes(name: str, member: Member, num_classes: int) -> Iterator[Flag]:
    attack = member.attack
    if not isinstance(attack, PGD | MomentumPGD | APGD | Square) or attack.loss.partition("(")[0].strip() != "dlr":
        return
    if num_classes < (4 if getattr(attack, "targets", 0) else 3):
        yield Flag(
            "few_classes",
            f"The DLR loss of {member.label} is undefined for {num_classes} classes; the plain margin was used.",
            attack=name,
            value=float(num_classes),
        )


def _scale(outcomes: Outcomes, attacks: Mapping[str, Attack]) -> Iterator[Flag]:
    """Compare margin-PGD with cross-entropy PGD where both ran with otherwise equal settings."""
    single = {name: a for name, a in attacks.items() if isinstance(a, PGD) and not a.targets}
    for name, attack in single.items():
        for other, reference in single.items():
            losses = attack.loss, reference.loss
            if losses == ("margin", "cross_entropy") and replace(attack, loss=reference.loss) == reference:
                yield from _weaker(outcomes, name, other)


def _weaker(outcomes: Outcomes, name: str, other: str) -> Iterator[Flag]:
    lead = float(outcomes.correct(other).mean() - outcomes.correct(name).mean())
    if lead > _MARGIN_DEFICIT:
        by_class = outcomes.accuracy(other) - outcomes.accuracy(name)  # NaN, and never above, without images
        yield Flag(
            "logit_scale",
            f"{name} breaks {100 * lead:.1f} points more than {other}: the logits' scale weakens the "
            "cross-entropy; look at Temperature-PGD and trust the worst case only.",
            attack=other,
            classes=tuple(c for c, more in zip(outcomes.classes, by_class > _MARGIN_DEFICIT, strict=True) if more),
            value=lead,
        )


def _black_box(outcomes: Outcomes, attacks: Mapping[str, Attack]) -> Iterator[Flag]:
    """Compare the attacks that are black-box with those that climb gradients."""
    kinds = {name: is_black_box(attack) for name, attack in attacks.items()}
    scored, climbed = ([name for name, kind in kinds.items() if kind is black] for black in (True, False))
    if scored and climbed:
        by_score, by_gradient = (np.any([~outcomes.correct(v) for v in views], axis=0) for views in (scored, climbed))
        for flag in black_box_gain(by_gradient, by_score, outcomes.y, outcomes.classes):
            yield replace(flag, attack=scored[0] if len(scored) == 1 else None)
