"""What is asked of every model before it is attacked: does it work, and is it one function of one image?

Every number of classwise is about such a function: it answers for an image alike in any batch, with gradients and
without, and as often as it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from classwise.attacks.base import input_gradient
from classwise.data.images import ImageSet
from classwise.errors import InputError
from classwise.evaluation.flags import Flag, affected_classes
from classwise.models.corrected import FITTED_ON_TEST, FittedOn, corrections_of
from classwise.runtime.classifier import Classifier, as_classifier
from classwise.runtime.inference import attacking, forward
from classwise.runtime.memory import out_of_memory
from classwise.threat import ThreatModel

PREFLIGHT_IMAGES = 64
"""Images that a model is looked at with."""
_ALONE = 8  # of them are passed each by itself too
_JITTER = 4 * torch.finfo(torch.float32).eps  # that pixels are moved by at least, to see what rounding can do
# Differences as shares of the logits' size. Measured on sound networks in float32 (docs/evaluation.md): below 1e-5.
_MOST, _ROUNDING_OF_MOST = 1e-3, 8  # of half of the images or more; and rounding steps of the model's arithmetic
_ANY, _ROUNDING_OF_ANY = 5e-2, 32  # of a single image, which a quantiser may carry across a step
_FEW = 4  # images whose median says something
_BEYOND = 4  # times what a jitter of rounding size does, and what asking again does


class Dependence(NamedTuple):
    """How far two answers for the same images are apart.

    Attributes:
        difference: largest difference of a logit.
        changed: share of the predictions that differ.
        images: (N,) bool, where the answers differ beyond rounding.
    """

    difference: float
    changed: float
    images: Tensor

    def classes(self, y: Tensor, names: Sequence[str]) -> tuple[str, ...]:
        """Name the classes of these images, labelled y (N,)."""
        return affected_classes(self.images.cpu(), y.cpu(), names, 0.0) if names else ()


@dataclass(frozen=True, eq=False)
class Preflight:
    """What was seen of a model.

    Attributes:
        flags: signs that it is not one function of one image.
        x: images (N, C, H, W) that it was asked about.
        logits: its answer, without gradients (N, K).
        jitter: what rounding does to the answer for each image, and what asking again does, in logits (N,).
        eps: rounding step of the coarsest arithmetic seen inside, relative to 1.
    """

    flags: tuple[Flag, ...]
    x: Tensor
    logits: Tensor
    jitter: Tensor
    eps: float

    def again(self, model: nn.Module) -> Iterator[Flag]:
        """Flag a model that answers otherwise now: one that counts its calls, or learns from them."""
        everything = torch.arange(len(self.x), device=self.x.device)
        effect = _effect([(everything, forward(model, self.x))], self.logits, self.jitter, self.eps)
        if effect is not None:
            yield Flag(
                "non_deterministic",
                f"After the attacks the logits of the same images differ by up to {effect.difference:.2g} from those "
                f"before ({effect.changed:.0%} of predictions): the model changes with its calls, so that a verdict "
                "depends on when it was made; freeze its state.",
                value=effect.difference,
            )


def known_flags(model: nn.Module, data: ImageSet, threat: ThreatModel | None = None) -> Iterator[Flag]:
    """Flag what is known of a model before it is asked anything: its mode, and what it was fitted on.

    Args:
        model: as it was given, before it is put into eval mode.
        data: images that it is tested with.
        threat: of the attacks; None before any is known.
    """
    if getattr(model, "training", False):
        yield Flag("train_mode", "The model was in train mode; it was evaluated in eval mode and put back.")
    for corrected in corrections_of(model):
        fit = corrected.fitted_on
        if fit is None:
            if corrected.fitted_on_test:
                yield Flag("fitted_on_test", FITTED_ON_TEST)
            continue
        both = (
            len(fit.index.intersection(data.index.tolist())) if (fit.data, fit.split) == (data.name, data.split) else 0
        )
        if both:
            yield Flag(
                "fitted_on_test",
                f"The decision rule of this model was fitted on {both:,} of these {len(data):,} images, so its "
                "accuracy on them is too high; leave them out.",
                value=float(both),
            )
        where = f"{fit.data} at {fit.norm} {fit.eps:.4g}"
        if fit.data != data.name or (threat is not None and not _same_threat(threat, fit)):
            yield Flag(
                "fitted_elsewhere",
                f"The decision rule of this model was fitted on {where}; what it is worth here is only what is "
                "measured here.",
            )


def _same_threat(threat: ThreatModel, fit: FittedOn) -> bool:
    return threat.norm == fit.norm and math.isclose(threat.eps, fit.eps, rel_tol=1e-6)


def preflight(
    model: nn.Module, x: Tensor, y: Tensor, classes: Sequence[str] = (), batch_size: int | None = None
) -> Preflight:
    """Pass a few images through a model in several companies, with gradients and without.

    Args:
        model: as evaluated, with gradients enabled, see :func:`classwise.runtime.inference.judging`.
        x: images (N, C, H, W) in [0, 1], best two or more.
        y: labels (N,).
        classes: names of the classes, for the flags; none are named if empty.
        batch_size: images of the largest batch that is to come; of these if None.

    Raises:
        InputError: the model fails, with one image or several, with gradients or without.
    """
    x = x.detach()
    check_sizes(model, x[:2])
    logits = forward(model, x)
    eps = _coarsest(model, x[:2])
    companies, modes = list(_companies(model, x, batch_size or len(x))), list(_modes(model, x))
    jitter = _jitter(model, x, logits, eps)
    flags = list[Flag]()
    if (effect := _effect(companies, logits, jitter, eps)) is not None:
        flags.append(
            Flag(
                "batch_dependent",
                f"The logits of an image change by up to {effect.difference:.2g} with the images beside it "
                f"({effect.changed:.0%} of predictions change): every number depends on the batch size and on the "
                "order of the images. Let the model treat each image by itself, or pass each alone with fixed_shape=1.",
                classes=effect.classes(y, classes),
                value=effect.difference,
            )
        )
    if (effect := _effect(modes, logits, jitter, eps)) is not None:
        flags.append(
            Flag(
                "gradient_dependent",
                f"With gradients switched on the logits change by up to {effect.difference:.2g} ({effect.changed:.0%} "
                "of predictions change): attacks climb another function than the one that is judged, and overstate "
                "robustness. Let forward answer alike in both modes.",
                classes=effect.classes(y, classes),
                value=effect.difference,
            )
        )
    return Preflight(tuple(flags), x, logits, jitter, eps)


def check_passes(model: Any, x: Tensor) -> str:
    """Pass images through a model in train mode, and one and all of them in eval mode with a gradient.

    Nothing is left behind: modes, buffers and PyTorch's random state on the CPU are put back.

    Args:
        model: a module, or a function of images.
        x: images (N, C, H, W) in [0, 1], best two or more.

    Returns:
        How the logits are picked out of its output; "" where they are the output.

    Raises:
        InputError: it fails.
    """
    with torch.random.fork_rng(devices=[]):
        with attacking(model) as called:
            how = called.ask(x)[1]
            for part in (x[:1], x):
                _gradient(called, part)
        with attacking(model, "train") as called:
            called(x)
    return how


def check_sizes(model: nn.Module, x: Tensor) -> None:
    """Pass all of some images through a model, and one alone.

    Args:
        model: in eval mode.
        x: images (N, C, H, W), best two or more.

    Raises:
        InputError: it fails with either number; where it works with the other, the sentence says what to do.
    """
    error = {len(part): _refusal(model, part) for part in (x, x[:1])}
    remedy = {
        1: f"it takes several images at a time but not one: {_FIXED.format(64)}",
        len(x): f"it takes images one at a time only: {_FIXED.format(1)}",
    }
    for size, refusal in error.items():
        if refusal is not None:
            if not all(error.values()):
                raise _with(remedy[size], refusal)
            own = refusal.__cause__ is not None  # what the model itself raised, not what is wrong with its output
            raise _with(_ONE_SIZE, refusal) if own else refusal


def output_flags(model: Classifier, x: Tensor) -> Iterator[Flag]:
    """Say which part of its output is taken for the logits, where that is not the output itself.

    Raises:
        InputError: the model fails on these images, or returns no logits.
    """
    with torch.no_grad():
        how = model.ask(x)[1]
    if how:
        yield Flag("logits_taken", f"The model returns more than logits; {how} was evaluated.")


_FIXED = "evaluate it with fixed_shape={0} (--fixed-shape {0}), or wrap it in classwise.models.fixed_shape.FixedShape"
_ONE_SIZE = f"if it takes batches of one size only, {_FIXED.format('that')}"


def _with(remedy: str, error: InputError) -> InputError:
    return InputError(f"{str(error).rstrip('.')}; {remedy}.")


def _refusal(model: nn.Module, x: Tensor) -> InputError | None:
    """Return what keeps a model from taking images (N, C, H, W), None where nothing does."""
    try:
        forward(model, x)
    except InputError as error:
        return error
    except (RuntimeError, MemoryError) as error:  # the model's own are sentences already
        return InputError(f"Memory does not hold {len(x)} images with this model; use a larger device: {error}")
    return None


def _companies(model: nn.Module, x: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield positions and logits of images in other batches: shuffled, half, alone, in one as large as will come."""
    everything = torch.arange(len(x), device=x.device)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    half = everything[: max(1, len(x) // 2)]
    yield order, forward(model, x[order])
    yield half, forward(model, x[half])
    alone = everything[:: max(1, len(x) // _ALONE)][:_ALONE]
    yield alone, torch.cat([forward(model, x[place]) for place in torch.split(alone, 1)])
    if batch_size > len(x):
        try:
            yield everything, forward(model, x.repeat(-(-batch_size // len(x)), 1, 1, 1)[:batch_size])[: len(x)]
        except Exception as error:
            if not out_of_memory(error):  # the engine takes smaller batches then
                raise


def _modes(model: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield positions and logits with gradients switched on: in the images, with their gradient taken, and without."""
    everything = torch.arange(len(x), device=x.device)
    called = as_classifier(model)
    yield everything, called(x).detach().float()
    yield everything, _gradient(called, x)
    _gradient(called, x[:1])


def _gradient(model: Classifier, x: Tensor) -> Tensor:
    """Return the logits (N, K) of a pass after which the gradient in the images is taken."""
    x = x.detach().requires_grad_(True)
    logits = model(x)
    input_gradient(logits.sum(1), x)
    answer: Tensor = logits.detach().float()
    return answer


def _jitter(model: nn.Module, x: Tensor, logits: Tensor, eps: float) -> Tensor:
    """Return how far rounding moves the logits of each image, (N,): its pixels are moved by as much as it could."""
    generator = torch.Generator().manual_seed(0)
    passes = [logits, forward(model, x)]
    for _ in range(2):
        signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
        passes.append(forward(model, (x + max(_JITTER, eps) * signs).clamp(0, 1)))
    return (torch.stack(passes) - logits).nan_to_num().abs().amax((0, 2))


def _effect(asked: Sequence[tuple[Tensor, Tensor]], logits: Tensor, jitter: Tensor, eps: float) -> Dependence | None:
    """Return how far other answers are from the first beyond rounding, None where they are not.

    They are if a pass moves half of its images by more than rounding could, or one image by much more. A quantiser
    inside turns rounding into steps on a few images, which a jitter of that size shows as well.

    Args:
        asked: positions (n,) and logits (n, K) of each pass.
        logits: the first answer (N, K).
        jitter: what rounding does, (N,).
        eps: rounding step inside the model.
    """
    size = float(logits.nan_to_num().abs().amax(1).median())
    most = max(size * max(_MOST, _ROUNDING_OF_MOST * eps), _BEYOND * float(jitter.median()))
    any_ = max(size * max(_ANY, _ROUNDING_OF_ANY * eps), _BEYOND * float(jitter.max()))
    images, largest, changed = torch.zeros(len(logits), dtype=torch.bool, device=logits.device), 0.0, list[Tensor]()
    for which, answer in asked:
        apart = (answer.nan_to_num() - logits[which].nan_to_num()).abs().amax(1)
        if (len(apart) >= _FEW and apart.median() > most) or apart.max() > any_:
            images[which[apart > most]] = True
            largest = max(largest, float(apart.max()))
            changed.append(answer.argmax(1) != logits[which].argmax(1))
    return Dependence(largest, float(torch.cat(changed).float().mean()), images) if changed else None


class _Coarsest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the largest rounding step of all floating types that operators return."""

    eps = torch.finfo(torch.float32).eps

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would import its compiler, which takes seconds, to leave this mode out of compiled code.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.eps = max(self.eps, torch.finfo(tensor.dtype).eps)
        return made


def _coarsest(model: nn.Module, x: Tensor) -> float:
    """Return the rounding step of the coarsest floating type inside a model; that of float32 where none can be seen."""
    dtypes = _Coarsest()  # type: ignore[no-untyped-call]
    try:
        with dtypes:
            forward(model, x)
    except InputError:  # such as compiled code that runs under no such mode
        pass
    return float(dtypes.eps)
