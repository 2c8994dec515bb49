"""Adversarial weight perturbation: Wu, Xia, Wang, "Adversarial Weight Perturbation Helps Robust Generalization", 2020.

The release adds the perturbation to the weights, takes the optimiser's step there and subtracts it again. Here the
weights never move: the loss is computed with w + v in their place, so its gradient reaches w. The one difference is
that weight decay sees w and not w + v, which differ by γ in norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from classwise.errors import InputError
from classwise.methods.base import Method, Step, attacks_replaced
from classwise.noise import Noise
from classwise.registry import register


@register("wrapper", "awp", source="Wu et al. 2020, csdongxian/AWP")
@dataclass(frozen=True)
class AWP:
    """Adversarial weight perturbation: the loss at the weights that are worst for it nearby, min_w max_v L(w + v).

    The images are attacked at w; then every parameter with at least two dimensions and "weight" in its name is moved
    along the gradient of the method's loss by γ of its own norm, ‖v_l‖ = γ‖w_l‖; the gradient of the step is that at
    w + v. BatchNorm's statistics, the method's class state and the log are those of the pass at w + v.

    Attributes:
        gamma: γ, at least 0; 0.01 for adversarial training, 0.005 for TRADES in the release.
        start: epochs without perturbation; 0 for adversarial training, 10 for TRADES, 5 on SVHN in the release.

    Raises:
        InputError: a setting outside its range.
    """

    gamma: float = 0.01
    start: int = 0

    def __post_init__(self) -> None:
        if type(self.gamma) not in (int, float) or not 0 <= self.gamma < float("inf"):
            raise InputError(f"The gamma of awp is {self.gamma!r}, but must be a finite number of at least 0.")
        if type(self.start) is not int or self.start < 0:
            raise InputError(f"The start of awp is {self.start!r}, but must be a whole number of epochs.")

    def step(
        self, method: Method, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, mean: Callable[[Tensor], Tensor]
    ) -> Step:
        """Return the method's step on a batch, with its loss at w + v.

        Args:
            method: the training method.
            model: in train mode.
            x: clean images (N, C, H, W) in [0, 1].
            y: true classes (N,).
            noise: random numbers of these images in this epoch.
            mean: averages a tensor over processes, so that each perturbs alike.
        """
        with crafting_once(method) as tape:
            with buffers_kept(model, method):
                shift = self.shift(method(model, x, y, noise).loss, model, mean)
            tape.rewind()
            step: Step = method(Shifted(model, shift), x, y, noise)
        return step

    def shift(self, loss: Tensor, model: nn.Module, mean: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return v by name of the parameter; the gradient's length cancels, and with it the proxy's learning rate."""
        weights = {name: weight for name, weight in model.named_parameters() if perturbed(name, weight)}
        grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        gradients = [
            torch.zeros_like(weight) if gradient is None else gradient
            for gradient, weight in zip(grads, weights.values(), strict=True)
        ]
        if not gradients:
            return {}
        flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        named = zip(weights.items(), parts, strict=True)
        return {name: scaled(weight.detach(), part.view(weight.shape), self.gamma) for (name, weight), part in named}


def perturbed(name: str, parameter: Tensor) -> bool:
    """Tell whether AWP moves a parameter: at least two dimensions, "weight" in its name, and trained."""
    return parameter.dim() >= 2 and "weight" in name and parameter.requires_grad


def scaled(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    """Return γ·‖w‖·g/‖g‖, of any shape; 0 where the gradient is.

    Example:
        >>> scaled(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 7.0]), gamma=0.1)
        tensor([0.0000, 0.5000])
    """
    direction = gradient / (torch.linalg.vector_norm(gradient) + 1e-20)
    moved: Tensor = gamma * torch.linalg.vector_norm(weight) * direction
    return moved


class Shifted(nn.Module):
    """A model whose training passes use w + v.

    Attacks, which come in eval mode or ask for a gradient in the images, see w.
    """

    def __init__(self, model: nn.Module, shift: dict[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        weights = dict(model.named_parameters())
        # Not w + v, whose strides may differ from those of w, and with them the gradient's, of which DDP would warn.
        self._moved = {name: weights[name].clone().add_(value) for name, value in shift.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) on images (N, C, H, W)."""
        attacked = x.requires_grad or not self.model.training
        moved: dict[str, Tensor] = {} if attacked else self._moved
        logits: Tensor = functional_call(self.model, moved, (x,))
        return logits

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class Tape:
    """What attacks returned in the first pass, to be returned again in the second, in order."""

    def __init__(self) -> None:
        self._made: list[Tensor] = []
        self._next: int | None = None

    def rewind(self) -> None:
        """Return from now on what was made before."""
        self._next = 0

    def once(self, craft: Callable[[], Tensor]) -> Tensor:
        """Craft images, or return what the same call made in the first pass."""
        if self._next is None:
            x_adv = craft()
            self._made.append(x_adv.clone())  # the method may go on with it in place
            return x_adv
        self._next += 1
        return self._made[self._next - 1]


class _Taped:
    """Stands for an attack, and calls it once for both passes."""

    def __init__(self, attack: Any, tape: Tape) -> None:
        self._attack, self._tape = attack, tape

    def __call__(self, *args: Any, **settings: Any) -> Tensor:
        craft = partial(self._attack, *args, **settings)
        # A loss of the method's own may keep count of what it sees, which the second pass needs as well.
        counted = settings.get("loss") is not None
        x_adv: Tensor = craft() if counted else self._tape.once(craft)
        return x_adv

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attack, name)


@contextmanager
def crafting_once(method: Method) -> Iterator[Tape]:
    """Let every attack of a method attack in its first pass and repeat its result in the second."""
    tape = Tape()
    with attacks_replaced(method, lambda attack: _Taped(attack, tape)):
        yield tape


@contextmanager
def buffers_kept(*modules: nn.Module) -> Iterator[None]:
    """Put the buffers of modules back: the first pass must count neither in BatchNorm nor in a class state."""
    buffers = [buffer for module in modules for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
