"""The attacks of fra31/auto-attack as its class has them: mutable settings under the names there.

A script reads and writes them (``adversary.apgd.n_restarts = 2``) and may call ``perturb`` by itself. Each makes the
frozen attack of this package that its settings stand for; a name that no such attack has is refused, not ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from classwise.attacks import APGD, FAB, Attack, EoT, Square, predict
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.runtime.classifier import as_module
from classwise.runtime.inference import device_of, forward, judging
from classwise.threat import ThreatModel, over_pixels, parse_eps, parse_norm

Model = nn.Module | Callable[[Tensor], Tensor]

_LOSSES = {"ce": "cross_entropy", "dlr": "dlr", "dlr-targeted": "dlr", "margin": "margin"}
_ALSO = {"predict": "model", "eps_orig": "eps", "n_iter_orig": "n_iter"}  # other names of settings


def chosen_device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Return where to compute: ``device``, or else where the model is."""
    return torch.device(device) if device is not None else device_of(model)


@dataclass
class ReleasedSettings:
    """What all four attacks have.

    Attributes:
        model: takes [0, 1], returns logits; ``predict`` is another name of it.
        norm: "Linf", "L2" or "L1".
        eps: radius in [0, 1] pixel units; ``eps_orig`` is another name of it.
        n_restarts: independent starts.
        seed: of ``perturb``; None is 0, not the clock.
        verbose: whether ``perturb`` prints its accuracies.
        device: where to compute; that of the model if None.
        logger: kept for scripts that read it.
    """

    model: Model
    norm: str = "Linf"
    eps: float = 0.3
    n_restarts: int = 1
    seed: int | None = 0
    verbose: bool = False
    device: torch.device | str | None = None
    logger: Any = None

    def __setattr__(self, name: str, value: object) -> None:
        name = _ALSO.get(name, name)
        if name not in {field.name for field in fields(self)}:
            raise InputError(f"{type(self).__name__} has no setting {name!r} here, so it would be ignored.")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _ALSO:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self, _ALSO[name])

    @property
    def threat(self) -> ThreatModel:
        """The set of allowed images."""
        return ThreatModel(parse_norm(self.norm), parse_eps(self.eps))

    def attack(self) -> Attack:
        """Return the attack that the settings stand for.

        Raises:
            InputError: a setting outside its range.
        """
        raise NotImplementedError

    def perturb(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Attack images (N, C, H, W), or one (C, H, W) with a label of no dimension.

        Args:
            x: in [0, 1].
            y: labels (N,); the predicted classes if None.

        Returns:
            x_adv (N, C, H, W) on the device that is computed on, the image itself where nothing broke it.

        Raises:
            InputError: a setting outside its range.
        """
        return self._found(x, y, keep_all=False)

    def _found(self, x: Tensor, y: Tensor | None, *, keep_all: bool) -> Tensor:
        model = as_module(self.model)
        device = chosen_device(model, self.device)
        x = x.detach().to(device, torch.float32)
        x = x[None] if x.dim() == 3 else x
        with judging(model, device):
            logits = forward(model, x)
            y = logits.argmax(1) if y is None else y.detach().reshape(-1).to(device, torch.int64)
            right = predict(logits, y) == y
            x_adv = x.clone()
            if right.any():
                noise = Noise(self.seed or 0, torch.arange(len(x))).select(right)
                x_adv[right] = self.attack()(model, x[right], y[right], noise=noise)
            broken = self.threat.contains(x_adv, x) & (predict(forward(model, x_adv), y) != y)
        if self.verbose:
            before, after = right.float().mean(), (right & ~broken).float().mean()
            sys.stdout.write(f"initial accuracy: {before:.2%}\nrobust accuracy: {after:.2%}\n")
        return x_adv if keep_all else torch.where(over_pixels(broken, x), x_adv, x)


@dataclass
class APGDAttack(ReleasedSettings):
    """Auto-PGD.

    Attributes:
        n_iter: steps; ``n_iter_orig`` is another name of it.
        loss: "ce" or "dlr".
        eot_iter: passes whose mean is attacked, for a randomised model.
        thr_decr: the share rho of steps that ought to raise the loss.
        use_largereps: L1 only: begin in balls of three times and twice the radius.
    """

    n_iter: int = 100
    loss: str = "ce"
    eot_iter: int = 1
    thr_decr: float = 0.75
    use_largereps: bool = False
    losses: ClassVar[tuple[str, ...]] = ("ce", "dlr")

    def attack(self) -> Attack:
        """Return the attack that the settings stand for."""
        if self.loss not in self.losses:
            raise InputError(f"APGD has no loss {self.loss!r} here: use {' or '.join(self.losses)}.")
        apgd = APGD(
            self.threat,
            steps=self.n_iter,
            loss=_LOSSES[self.loss],
            restarts=self.n_restarts,
            targets=self._number_of_targets(),
            rho=self.thr_decr,
            large_eps=self.use_largereps,
        )
        return apgd if self.eot_iter == 1 else EoT(apgd, self.eot_iter)

    def perturb(
        self, x: Tensor, y: Tensor | None = None, best_loss: bool = False, x_init: Tensor | None = None
    ) -> Tensor:
        """Attack images; see :meth:`Settings.perturb`.

        Args:
            x: in [0, 1].
            y: labels (N,); the predicted classes if None.
            best_loss: return the candidate of the largest loss also where it does not fool the model.
            x_init: refused; each image starts at random.

        Raises:
            InputError: a start is given, or a setting outside its range.
        """
        if x_init is not None:
            raise InputError("x_init is not supported: every image starts from its own random numbers.")
        return self._found(x, y, keep_all=best_loss)

    def _number_of_targets(self) -> int:
        return 0


@dataclass
class APGDAttackTargeted(APGDAttack):
    """Auto-PGD on the targeted difference of logits ratio, towards the likeliest wrong classes.

    Attributes:
        n_target_classes: how many of them.
    """

    loss: str = "dlr-targeted"
    n_target_classes: int = 9
    losses: ClassVar[tuple[str, ...]] = ("dlr-targeted",)

    def _number_of_targets(self) -> int:
        if self.n_target_classes < 1:
            raise InputError("n_target_classes must be at least 1.")
        return self.n_target_classes


@dataclass
class FABAttack(ReleasedSettings):
    """The fast adaptive boundary attack.

    Attributes:
        n_iter: gradients a restart and target; ``n_iter_orig`` is another name of it.
        alpha_max: greatest weight of the clean image's projection.
        eta: extrapolation beyond the boundary.
        beta: share of a perturbation that a misclassified iterate keeps.
        targeted: aim at the likeliest wrong classes one by one; a run sets it for "fab" and "fab-t".
        n_target_classes: how many of them.
    """

    n_iter: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    targeted: bool = False
    n_target_classes: int = 9

    def attack(self) -> Attack:
        """Return the attack that the settings stand for."""
        return FAB(
            self.threat,
            steps=self.n_iter,
            restarts=self.n_restarts,
            targets=self.n_target_classes if self.targeted else 0,
            alpha_max=self.alpha_max,
            beta=self.beta,
            eta=self.eta,
        )


@dataclass
class SquareAttack(ReleasedSettings):
    """Square Attack.

    Attributes:
        n_queries: forward passes an image and restart.
        p_init: share of the pixels that the first squares cover.
        loss: "margin" or "ce".
        rescale_schedule: stretch the schedule of sizes, stated for 10,000 queries, to ``n_queries``.
        targeted: True is refused.
    """

    n_queries: int = 5000
    p_init: float = 0.8
    loss: str = "margin"
    rescale_schedule: bool = False
    targeted: bool = False

    def attack(self) -> Attack:
        """Return the attack that the settings stand for."""
        if self.targeted or self.loss not in ("margin", "ce"):
            raise InputError("Square is untargeted here, on the loss margin or ce.")
        return Square(
            self.threat,
            queries=self.n_queries,
            p_init=self.p_init,
            loss=_LOSSES[self.loss],
            restarts=self.n_restarts,
            rescale_schedule=self.rescale_schedule,
        )
