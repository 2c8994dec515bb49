"""Projected gradient descent: the one gradient loop that training and the PGD family use."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classwise import losses
from classwise.attacks.base import compaction_pays, input_gradient, predict
from classwise.errors import InputError
from classwise.losses import Loss
from classwise.noise import Noise
from classwise.registry import register
from classwise.runtime.inference import attacking
from classwise.threat import ThreatModel, over_pixels

_CHOICES = {"start": ("clean", "uniform", "jitter"), "keep": ("success", "last"), "mode": ("eval", "train")}
_JITTER = 0.001  # standard deviation of the start of TRADES and its kin (Zhang et al. 2019)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent in a norm ball (Madry et al. 2018).

    Attributes:
        threat: the set of allowed images.
        steps: gradients a restart.
        step_size: length of a step in the threat's norm, [0, 1] pixel units; None for 2.5·eps/steps. In L1 the steps
            fall linearly, and this is their mean (:meth:`classwise.threat.ThreatModel.pace`).
        start: "clean", "uniform" in the ball, or "jitter", x + 0.001·N(0, 1), for losses flat at x.
        loss: name of the loss that is climbed; "kl" is KL(p(x) ‖ p(x_adv)).
        restarts: independent starts; each image keeps the first that fools the model. Above 1, use keep="success".
        targets: 0 for the untargeted attack; k aims at each of the k most likely wrong classes, one after another.
        keep: "success" returns the first fooling iterate and spends no further step on that image, "last" returns
            the last iterate whether it fools or not, as most packages do and training needs.
        mode: mode of the model, hence of BatchNorm, while it is attacked.

    Raises:
        InputError: a setting outside its range.
    """

    threat: ThreatModel
    steps: int = 20
    step_size: float | None = None
    start: Literal["clean", "uniform", "jitter"] = "uniform"
    loss: str = "cross_entropy"
    restarts: int = 1
    targets: int = 0
    keep: Literal["success", "last"] = "last"
    mode: Literal["eval", "train"] = "eval"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def length(self) -> float:
        """Step size in use."""
        return 2.5 * self.threat.eps / self.steps if self.step_size is None else self.step_size

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        noise: Noise,
        eps: Tensor | None = None,
        step_size: Tensor | None = None,
        loss: Loss | None = None,
        begin: Tensor | None = None,
    ) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`.

        Args:
            model: takes [0, 1], returns logits (N, K).
            x: clean images (N, C, H, W) in [0, 1].
            y: true classes (N,).
            noise: random numbers of these images.
            eps: radius of each image (N,); the threat's own if None. Training methods set it.
            step_size: step of each image (N,); the attack's own if None.
            loss: a loss bound to this batch, in place of the named one.
            begin: where each image starts (N, C, H, W), in its ball; as the attack's own ``start`` says if None.

        Raises:
            ValueError: eps, step_size, loss or begin are given to an attack that drops images from its batch.
        """
        if self.keep == "success":
            if any(value is not None for value in (eps, step_size, loss, begin)):
                raise ValueError('eps, step_size, loss and begin of a batch need an attack with keep="last"')
            return self.search(model, x, y, noise)[0]
        x = x.detach()
        with attacking(model, self.mode) as model:
            begin = self.starts(x, noise, eps) if begin is None else begin
            return self._climb(model, x, y, loss or self._objective(model, x), begin, eps, step_size)

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Try every restart and target on the images that no earlier one has fooled the model with.

        Returns:
            Candidates (N, C, H, W), and which of them fooled the model (N,).
        """
        with attacking(model, self.mode) as model:
            x, x_adv = x.detach(), x.detach().clone()
            active = torch.arange(len(x), device=x.device)
            ranks = likely_wrong(model, x, y, self.targets)
            for attempt in itertools.product(range(self.restarts), range(max(1, ranks.shape[1]))):
                if not len(active):
                    break
                target = ranks[active, attempt[1]] if self.targets else None
                start = self.starts(x[active], noise.select(active).fold("attempt", *attempt))
                objective = self._objective(model, x[active], target)
                x_adv[active], fooled = self._until_fooled(model, x[active], y[active], objective, start)
                active = active[~fooled]
        return x_adv, ~torch.isin(torch.arange(len(x), device=x.device), active)

    def _climb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        x_adv: Tensor,
        eps: Tensor | None,
        step_size: Tensor | None,
    ) -> Tensor:
        """Take every step with every image, and return the last iterate."""
        length = self.length if step_size is None else over_pixels(step_size, x)
        for step in range(self.steps):
            x_adv = x_adv.detach().requires_grad_(True)
            gradient = input_gradient(loss(model(x_adv), y), x_adv)
            x_adv, now = x_adv.detach(), length * self.threat.pace(step, self.steps)
            x_adv = self.threat.project(x_adv + now * self.threat.ascend(gradient, x_adv, now), x, eps)
        return x_adv.detach()

    def _until_fooled(
        self, model: nn.Module, x: Tensor, y: Tensor, objective: _Objective, x_adv: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Climb until each image fools the model; return that iterate, else the last one, and which fooled."""
        result, project = x_adv.clone(), self.threat.projection(x)
        fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        active = torch.arange(len(x), device=x.device)
        for step in range(self.steps + 1):
            x_adv = x_adv.detach().requires_grad_(step < self.steps)
            logits = model(x_adv)
            new = (predict(logits.detach(), y[active]) != y[active]) & ~fooled[active]
            if new.any():
                result[active[new]], fooled[active[new]] = x_adv.detach()[new], True
            right = ~fooled[active]
            if step == self.steps or not right.any():
                break
            gradient, x_adv = input_gradient(objective(logits, y[active]), x_adv), x_adv.detach()
            if compaction_pays(right):
                active, objective = active[right], objective.select(right)
                x_adv, gradient, project = x_adv[right], gradient[right], self.threat.projection(x[active])
            now = self.length * self.threat.pace(step, self.steps)
            x_adv = project(torch.add(x_adv, self.threat.ascend(gradient, x_adv, now), alpha=now))
        right = ~fooled[active]
        result[active[right]] = x_adv.detach()[right]
        return result, fooled

    def starts(self, x: Tensor, noise: Noise, eps: Tensor | None = None) -> Tensor:
        """Return where each image starts (N, C, H, W): clean images, their noise, their radii (N,) or None."""
        if self.start == "clean":
            return x.clone()
        if self.start == "uniform":
            return self.threat.sample(x, noise.fold("start"), eps)
        return self.threat.project(x + _JITTER * noise.fold("start").normal(x.shape[1:], x.device), x, eps)

    def _objective(self, model: nn.Module, x: Tensor, target: Tensor | None = None) -> _Objective:
        clean = model(x).detach() if self.loss == "kl" else None
        return _Objective(self.loss, target, clean)


@dataclass(frozen=True, eq=False)
class _Objective:
    """The loss of a batch, with what it keeps for each image: its target class, or its clean logits."""

    loss: str
    target: Tensor | None
    clean: Tensor | None

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.clean is not None:
            return losses.kl(logits, self.clean)
        if self.target is not None:
            return losses.targeted(self.loss, self.target)(logits, y)
        return losses.named(self.loss)(logits, y)

    def select(self, mask: Tensor) -> _Objective:
        target = None if self.target is None else self.target[mask]
        return _Objective(self.loss, target, None if self.clean is None else self.clean[mask])


def likely_wrong(model: nn.Module, x: Tensor, y: Tensor, count: int) -> Tensor:
    """Return the ``count`` wrong classes with the largest clean logits, largest first, (N, min(count, K - 1))."""
    if count == 0:
        return y.new_empty(len(y), 0)
    with torch.no_grad():
        logits = model(x)
    rivals: Tensor = logits.scatter(1, y[:, None], -torch.inf)
    return rivals.topk(min(count, logits.shape[1] - 1), dim=1).indices


def _check(attack: PGD) -> None:
    whole = all(isinstance(count, int) for count in (attack.steps, attack.restarts, attack.targets))
    if not whole or attack.steps < 1 or attack.restarts < 1 or attack.targets < 0:
        raise InputError("PGD needs whole numbers: steps and restarts of at least 1 and targets of at least 0.")
    if attack.step_size is not None and not 0 <= attack.step_size < math.inf:
        raise InputError(f"The step size {attack.step_size} must be a finite number of at least 0.")
    for name, value in (("start", attack.start), ("keep", attack.keep), ("mode", attack.mode)):
        if value not in _CHOICES[name]:
            raise InputError(f"PGD has no {name} {value!r}: use one of {', '.join(_CHOICES[name])}.")
    if attack.loss != "kl":
        losses.named(attack.loss)
    elif attack.targets or attack.start == "clean":
        raise InputError("The KL loss has no targets and is flat at the clean image: use start='jitter'.")
    if attack.keep == "last" and (attack.restarts > 1 or attack.targets):
        raise InputError('Restarts and targets choose among candidates, so they need keep="success".')


def preset(
    threat: ThreatModel,
    *,
    loss: str,
    start: Literal["clean", "uniform", "jitter"] = "uniform",
    **settings: Any,
) -> PGD:
    """Return the evaluation form of PGD: 20 steps of eps/4 (2/255 at 8/255), the first fooling iterate kept.

    Another number of steps takes PGD's own step, 2.5·eps/steps.
    """
    step_size = threat.eps / 4 if settings.get("steps", 20) == 20 else None
    return PGD(threat, loss=loss, start=start, **{"step_size": step_size, "keep": "success", **settings})


@register("attack", "pgd", source="Madry et al. 2018")
def pgd(threat: ThreatModel, **settings: Any) -> PGD:
    """PGD-20 on the cross-entropy, or another loss, from a uniform start."""
    return preset(threat, **{"loss": "cross_entropy", **settings})


def _only(loss: str, settings: dict[str, Any]) -> str:
    """Return the loss that a preset is named after.

    Raises:
        InputError: the settings ask for another.
    """
    if settings.get("loss", loss) != loss:
        raise InputError(f"This attack is named after its loss, {loss}; write pgd(loss={settings['loss']!r}) instead.")
    return loss


@register("attack", "margin-pgd", source="Carlini & Wagner 2017; Madry et al. 2018")
def margin_pgd(threat: ThreatModel, **settings: Any) -> PGD:
    """PGD-20 on the margin of the strongest wrong class, the field's CW attack under a norm bound."""
    return preset(threat, **{**settings, "loss": _only("margin", settings)})


@register("attack", "dlr-pgd", source="Croce & Hein 2020")
def dlr_pgd(threat: ThreatModel, **settings: Any) -> PGD:
    """PGD-20 on the difference of logits ratio, which the scale of the logits does not matter to."""
    return preset(threat, **{**settings, "loss": _only("dlr", settings)})


@register("attack", "kl-pgd", source="Zhang et al. 2019 (TRADES)")
def kl_pgd(threat: ThreatModel, **settings: Any) -> PGD:
    """PGD-20 on the divergence from the clean prediction, from x + 0.001·N(0, 1)."""
    return preset(threat, **{"start": "jitter", **settings, "loss": _only("kl", settings)})


@register("attack", "targeted-pgd", source="Kurakin et al. 2017; Croce & Hein 2020 for the targets")
def targeted_pgd(threat: ThreatModel, **settings: Any) -> PGD:
    """PGD-20 on the cross-entropy towards each of the nine most likely wrong classes in turn."""
    return preset(threat, **{"loss": "cross_entropy", "targets": 9, **settings})
