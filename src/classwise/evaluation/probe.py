"""A short PGD on survivors, which tells whether the attacks that they survived can be believed.

Every restart spends all its steps on every image, so that its whole way can be looked at. What it breaks is no
verdict: the caller's attacks decide that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from classwise.attacks.base import input_gradient, predict
from classwise.data.images import ImageSet
from classwise.data.splits import evenly
from classwise.evaluation.flags import Flag, affected_classes, masked
from classwise.losses import cross_entropy, soft_margin
from classwise.noise import Noise
from classwise.runtime.inference import attacking, device_of
from classwise.threat import ThreatModel

_STEPS = 20
_STEP = 1 / 4  # of eps: 8 of the 20 steps cross the ball, so a settled climb has its last quarter to show it
# A loss that rises steadily gains a quarter of its rise in the last quarter of the steps, one that has settled gains
# what oscillation leaves. Above this share, measured on survivors of PGD and margin-PGD at the usual radius, are none
# of 180 images on an adversarially trained CIFAR-10 network (their 95th percentile is 0.02) and 6 % of 188 on a
# TRADES network for MNIST, whose gradients are weak; in L2 on the latter 22 to 25 %.
_STILL_RISING = 0.1
# Signs that are right drive a coordinate to the border and hold it there. Signs drawn anew at each step walk over nine
# places eps/4 apart, two of which are the border: 2/9. Measured means are 0.89 (CIFAR-10) and 0.58 (MNIST).
_FEW_ON_BORDER = 1 / 3
_LARGE_PART = 1 / 3  # of the images, for the two signs above: no single odd image, nor the 25 % above
_RESTART_GAIN = 0.05  # of the survivors; measured 0 to 0.02, and above 0.05 of 64 are four images
_BREAKS = 0.1  # of the survivors; measured up to 0.04 after PGD alone, 0.01 after margin-PGD too, 0.45 after FGSM
_FEWEST = 2  # images that anything but zero gradients must be seen on


@dataclass(frozen=True)
class Climb:
    """What one restart did to N images.

    Attributes:
        heights: the loss at the start and after each step, (21, N), as the soft margin in logits.
        blind: share of the steps at which the gradient was zero in every pixel, (N,).
        border: how much of the perturbation is on the border, (N,) in [0, 1], see :func:`on_border`; NaN if unknown.
        fooled: whether the model got any iterate wrong, (N,) bool.
    """

    heights: Tensor
    blind: Tensor
    border: Tensor
    fooled: Tensor


def probe_survivors(
    model: nn.Module, data: ImageSet, survivors: Tensor, threat: ThreatModel, seed: int, most: int
) -> list[Flag]:
    """Climb once more with a few of the images that nothing broke, evenly spread; see :func:`probe`.

    Args:
        model: in eval mode with gradients enabled.
        data: all images.
        survivors: those that nothing broke, (N,) bool.
        threat: what may be done to an image.
        seed: of the start of each restart.
        most: images to climb with.
    """
    which, device = evenly(data.index, max(1, most), among=survivors), device_of(model)
    x, y = data.fetch(which).to(device), data.y[which].to(device)
    noise = Noise(seed, data.index[which].to(device)).fold("probe")
    return list(probe(model, x, y, threat, noise, data.classes)) if len(which) else []


def probe(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, noise: Noise, classes: Sequence[str]
) -> Iterator[Flag]:
    """Attack survivors with two restarts of PGD-20 on the cross-entropy, and say what is suspicious about its way.

    Flags: ``zero_gradient``, along the way; ``loss_rising``, still so in the last quarter of the steps;
    ``off_border``, most of a perturbation far from the border of the ball; ``probe_breaks``, the survivors fall to
    this PGD; ``restart_gain``, the second restart breaks what the first did not.

    Args:
        model: takes [0, 1], returns logits (N, K); left in the mode it came in.
        x: images (N, C, H, W) in [0, 1] that are classified right and that the attacks did not break; 64 will do.
        y: labels (N,).
        threat: what the attacks were allowed.
        noise: random numbers of these images.
        classes: names of the K classes.

    Yields:
        Flags that concern the model; none for no image or a radius of 0.
    """
    if not len(x) or threat.eps == 0:
        return
    first, second = (climb(model, x, y, threat, noise.fold("restart", restart)) for restart in range(2))
    y = y.cpu()
    yield from masked(first.blind >= 0.5, y, classes, "the images probed, at half of the steps or more")
    yield from _loss_rising(still_rising(first.heights), ~first.fooled, y, classes)
    yield from _off_border(first.border, y, classes)
    yield from _probe_breaks(first.fooled | second.fooled, y, classes)
    yield from _restart_gain(second.fooled & ~first.fooled, y, classes)


def climb(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, noise: Noise) -> Climb:
    """Take every step of one restart with every image, and keep what its way tells; tensors on the CPU."""
    with attacking(model) as model:
        x = x.detach()
        x_adv, felt = threat.sample(x, noise.fold("start")), torch.zeros_like(x, dtype=torch.bool)
        blind, fooled, heights = x.new_zeros(len(x)), torch.zeros_like(y, dtype=torch.bool), []
        for step in range(_STEPS + 1):
            point = x_adv.requires_grad_(step < _STEPS)
            logits = model(point)
            # Cross-entropy is log(1 + exp(soft margin)): the same climb, in a unit that does not saturate.
            heights.append(soft_margin(logits.detach(), y))
            fooled |= predict(logits.detach(), y) != y
            if step == _STEPS:
                break
            gradient = input_gradient(cross_entropy(logits, y), point)
            felt |= gradient != 0
            blind += (gradient == 0).flatten(1).all(1)
            x_adv, length = point.detach(), _STEP * threat.eps
            x_adv = threat.project(x_adv + length * threat.ascend(gradient, x_adv, length), x)
    border = on_border(x_adv.detach(), x, threat, felt)
    return Climb(torch.stack(heights).cpu(), (blind / _STEPS).cpu(), border.cpu(), fooled.cpu())


def still_rising(heights: Tensor) -> Tensor:
    """Tell where the best of the last quarter beats the best before by more than a tenth of the whole rise.

    The best so far, not the last: PGD with a fixed step oscillates about a maximum.

    Args:
        heights: loss at each iterate, (steps + 1, N).

    Returns:
        (N,) bool; false where a loss is not finite or never rose.

    Example:
        >>> steady, settled = torch.linspace(0, 1, 21), torch.linspace(0, 4, 21).clamp_max(1)
        >>> still_rising(torch.stack([steady, settled], 1)).tolist()
        [True, False]
    """
    late = len(heights) - (len(heights) - 1) // 4
    before, last = heights[:late].amax(0), heights[late:].amax(0)
    return last - before > _STILL_RISING * (last - heights[0])


def on_border(x_adv: Tensor, x: Tensor, threat: ThreatModel, felt: Tensor) -> Tensor:
    """Return how much of each perturbation is on the border of the ball, (N,) in [0, 1].

    For Linf the share of coordinates, among those that had a gradient and that the pixel range stops on neither side;
    one that the model never looks at tells nothing. NaN where there are none. For L2 and L1 it is 1 where the whole
    perturbation is at least 0.9·eps long and 0 where it is shorter.

    Args:
        x_adv: perturbed images (N, ...).
        x: clean images (N, ...) in [0, 1].
        threat: the ball.
        felt: which coordinates had a gradient on the way, (N, ...) bool.
    """
    if threat.norm != "Linf":
        return (threat.distance(x_adv, x) >= 0.9 * threat.eps).to(x.dtype)
    free = (felt & (x >= threat.eps) & (x <= 1 - threat.eps)).flatten(1)
    out = ((x_adv - x).abs() >= 0.99 * threat.eps).flatten(1)
    return (free & out).sum(1) / free.sum(1)


def _loss_rising(rising: Tensor, unbroken: Tensor, y: Tensor, classes: Sequence[str]) -> Iterator[Flag]:
    # A loss that goes on rising on an image broken already has nothing left to find.
    yield from _often(
        Flag(
            "loss_rising",
            "On {share:.0%} of the images probed the loss of PGD still rises in the last quarter of its steps: the "
            "attacks have not converged; give them more steps, or take Auto-PGD.",
        ),
        rising[unbroken],
        _LARGE_PART,
        y[unbroken],
        classes,
    )


def _off_border(border: Tensor, y: Tensor, classes: Sequence[str]) -> Iterator[Flag]:
    known = ~border.isnan()
    yield from _often(
        Flag(
            "off_border",
            "On {share:.0%} of the images probed PGD ends mostly inside the ball, as along random signs: the "
            "gradients are weak or contradict each other; add a score-based or transfer attack.",
        ),
        border[known] < _FEW_ON_BORDER,
        _LARGE_PART,
        y[known],
        classes,
    )


def _probe_breaks(fooled: Tensor, y: Tensor, classes: Sequence[str]) -> Iterator[Flag]:
    yield from _often(
        Flag(
            "probe_breaks",
            "Two restarts of PGD break {share:.0%} of the images probed, which had survived the attacks: the attacks "
            "are too weak; add stronger ones.",
        ),
        fooled,
        _BREAKS,
        y,
        classes,
    )


def _restart_gain(gained: Tensor, y: Tensor, classes: Sequence[str]) -> Iterator[Flag]:
    yield from _often(
        Flag(
            "restart_gain",
            "A second restart of PGD breaks {share:.0%} of the images probed that the first did not: the attacks have "
            "not converged; give them more restarts.",
        ),
        gained,
        _RESTART_GAIN,
        y,
        classes,
    )


def _often(flag: Flag, noticed: Tensor, limit: float, y: Tensor, classes: Sequence[str]) -> Iterator[Flag]:
    """Yield a flag, its share filled in, where it was found on more than a share of the images and on two at least.

    Args:
        flag: whose message names the share.
        noticed: on which images, (N,) bool.
        limit: the share.
        y: labels (N,).
        classes: names of the classes.
    """
    share = float(noticed.float().mean())
    if noticed.sum() >= _FEWEST and share > limit:
        message = flag.message.format(share=share)
        yield replace(flag, message=message, classes=affected_classes(noticed, y, classes, limit), value=share)
