"""Expectation over transformation: attacks on models that are random at test time.

Athalye et al. 2018, "Synthesizing robust adversarial examples": a randomised model is attacked through the mean of its
output, whose gradient is the mean of the gradients. The mean is a model like any other (:class:`Expectation`), so every
attack works on it unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from classwise.attacks.base import Attack, predict
from classwise.attacks.pgd import preset
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.classifier import as_classifier
from classwise.runtime.inference import attacking
from classwise.threat import ThreatModel

Mean = Literal["logits", "probabilities"]


class Expectation(nn.Module):
    """A randomised model as the mean of several passes: what is attacked, and what may be evaluated in its place.

    Args:
        model: takes [0, 1], returns logits (N, K), different ones at each call.
        samples: passes a call; a gradient keeps the activations of all of them.
        mean: "logits" averages the logits; "probabilities" the softmax, and returns its logarithm as logits.

    Raises:
        InputError: fewer than one sample, or another mean.
    """

    def __init__(self, model: nn.Module, samples: int = 20, mean: Mean = "logits") -> None:
        super().__init__()
        _check(samples, mean)
        self.model = as_classifier(model)  # a copy of the images for each pass
        self.samples, self.mean = samples, mean
        self.training = model.training  # wrapping a model does not put it into train mode

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits, (N, C, H, W) -> (N, K)."""
        # One batch of samples·N images would draw once where a model draws once a call.
        passes = torch.stack([self.model(x) for _ in range(self.samples)])
        if self.mean == "logits":
            return passes.mean(0)
        return passes.log_softmax(2).logsumexp(0) - math.log(self.samples)


@dataclass(frozen=True)
class EoT:
    """An attack on the expectation of a randomised model.

    The model draws from PyTorch's generators, one number after another for a whole batch. They are seeded from the
    noise and put back afterwards, so a result is repeatable; but unlike that of any other attack it depends on which
    images share the batch.

    Attributes:
        attack: what is called on the mean.
        samples: passes that each of its queries and gradients stands for.
        mean: of what, see :class:`Expectation`.

    Raises:
        InputError: fewer than one sample, or another mean.
    """

    attack: Attack
    samples: int = 20
    mean: Mean = "logits"

    def __post_init__(self) -> None:
        _check(self.samples, self.mean)

    @property
    def threat(self) -> ThreatModel:
        """The set of allowed images."""
        return self.attack.threat

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`."""
        with seeded(noise, x.device):
            return self.attack(Expectation(model, self.samples, self.mean), x, y, noise=noise)


def fooled_share(model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise, passes: int = 20) -> Tensor:
    """Return the share of passes in which a randomised model misclassifies each image, (N,) in [0, 1].

    Whether an image counts as broken is a rule laid over it: ``> 0`` if the attacker may try again, ``> 0.5`` if the
    model votes, ``== 1`` if it must never be right. The deviation of a share is at most 0.5/√passes.

    Args:
        model: takes [0, 1], returns logits (N, K); run in eval mode, left in the mode it came in.
        x: images (N, C, H, W), attacked or not.
        y: true classes (N,).
        noise: seeds the model's own randomness; the caller's random state stays untouched.
        passes: forward passes, at least 1.

    Raises:
        InputError: fewer than one pass.
    """
    _check(passes, "logits")
    with seeded(noise.fold("verdict"), x.device), attacking(model) as model, torch.no_grad():
        wrong = torch.stack([predict(model(x), y) != y for _ in range(passes)])
    return wrong.float().mean(0)


@contextmanager
def seeded(noise: Noise, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators from the seed and path of ``noise``, and put the caller's state back after."""
    stream = Noise(noise.seed, torch.zeros(1, dtype=torch.int64), noise.path).fold("model")
    seed, cuda = int(stream.integers(1 << 62, ())), device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        # torch.manual_seed would seed every device, of which only this one is put back.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _check(samples: int, mean: str) -> None:
    if not isinstance(samples, int) or samples < 1:
        raise InputError(f"The number of passes over a randomised model must be a whole number above 0, not {samples}.")
    if mean not in get_args(Mean):
        raise InputError(f"There is no mean {mean!r} of a randomised model: use logits or probabilities.")


@register("attack", "eot-pgd", source="Athalye et al. 2018")
def eot_pgd(threat: ThreatModel, samples: int = 20, mean: Mean = "logits", **settings: Any) -> EoT:
    """PGD-20 on the mean of 20 passes, for models that are random at test time."""
    return EoT(preset(threat, **{"loss": "cross_entropy", **settings}), samples, mean)
