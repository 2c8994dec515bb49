"""What every training method shares: its call, what it gives back, and what it learns of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classwise.attacks.base import is_attack, predict, scaled
from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import Loss, cross_entropy, kl
from classwise.metrics.stats import ClassStats
from classwise.models.teacher import Teacher
from classwise.noise import Noise
from classwise.runtime.processes import over_processes


class Step(NamedTuple):
    """A method's loss on one batch, with the logits it made on the way, which class statistics are taken from.

    Attributes:
        loss: mean over the batch, a scalar with a graph.
        logits_adv: logits on the attacked images (N, K), None where the method attacks nothing.
        logits: logits on the clean images (N, K), None where the method does not see them.
    """

    loss: Tensor
    logits_adv: Tensor | None
    logits: Tensor | None = None


class Measured(NamedTuple):
    """What a method sees on held-out images.

    Attributes:
        logits: on the clean images (N, K).
        logits_adv: on the attacked images (N, K).
        loss: of each image (N,).
    """

    logits: Tensor
    logits_adv: Tensor
    loss: Tensor


class Pass(NamedTuple):
    """Sums by class over one pass, clean and attacked; an empty one where nothing was measured."""

    clean: ClassStats
    robust: ClassStats


@dataclass(frozen=True)
class Epoch:
    """What happened in one epoch, summed over processes.

    Attributes:
        number: epochs finished before this one.
        train: sums over the training batches.
        valid: sums over the held-out images under PGD-10; None if nothing is held out.
        measured: sums of what the method measured itself; None if it does not.
    """

    number: int
    train: Pass
    valid: Pass | None
    measured: Pass | None = None


class Method(nn.Module):
    """A training method: settings in attributes, class state in buffers, the loss of a batch in forward.

    Attributes:
        attacks: every attack of the method by its name, and the only place for one: warm-up of the radius and AWP go
            through it. An attack that is assigned to an attribute goes there, as a module does in torch; several
            are put there by hand (``self.attacks["strong"] = …``). What depends on a radius reads it there in forward.
        attack: the one that crafts the training images.
        num_classes: number of classes.
        head: the last layer that the network must have, as ``models.heads`` reads it, such as "cosine(scale=10)";
            None for whatever it has. ``classwise train`` puts it there.
        teacher: the frozen network that it learns from, if any; run.json names it.
        validates: whether it needs held-out images; training is refused without.
        measures: whether it measures them itself, by ``measure``, before the first epoch and after each.
        fine_tunes: whether it needs a network that is robust already; fresh weights are refused.
    """

    head: str | None = None
    teacher: Teacher | None = None
    validates: bool = False
    measures: bool = False
    fine_tunes: bool = False
    attacks: dict[str, Any]
    attack: PGD

    def __init__(self, num_classes: int, attack: PGD) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.attacks = {}
        self.attack = attack

    def __setattr__(self, name: str, value: Any) -> None:
        if is_attack(value):
            self.attacks[name] = value
        else:
            self.__dict__.get("attacks", {}).pop(name, None)
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        attacks = self.__dict__.get("attacks", {})
        return attacks[name] if name in attacks else super().__getattr__(name)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Return the loss of a batch.

        Args:
            model: in train mode.
            x: clean images (N, C, H, W) in [0, 1].
            y: true classes (N,).
            noise: random numbers of these images in this epoch.
        """
        raise NotImplementedError

    def class_probs(self) -> Tensor | None:
        """Return the probability with which the next batch draws each class (C,), None to go through the images.

        With probabilities, each item of a batch is a class drawn by them, and then an image of that class drawn
        uniformly, with replacement. All processes must find the same.
        """
        return None

    def class_radius(self) -> Tensor | None:
        """Return the radius within which each class is attacked, in units of the run's (C,); None if all are alike.

        For the log, where it says how much of a gain is plain strength.
        """
        return None

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Measured:
        """Return what the class state depends on, on held-out images of a batch; only where it ``measures``."""
        raise NotImplementedError

    def start_from(self, measured: Pass) -> None:
        """Adapt the class state to the network that training starts from; only where it ``measures``."""

    def end_epoch(self, epoch: Epoch) -> None:
        """Adapt the class state; nothing, unless the method says otherwise."""


@contextmanager
def attacks_replaced(method: Method, change: Callable[[Any], Any]) -> Iterator[None]:
    """Put ``change(attack)`` in the place of each attack of a method and of methods inside it; then put all back."""
    held = [(module, module.attacks) for module in method.modules() if isinstance(module, Method)]
    for owner, attacks in held:
        owner.attacks = {name: change(attack) for name, attack in attacks.items()}
    try:
        yield
    finally:
        for owner, attacks in held:
            owner.attacks = attacks


def weakened(method: Method, share: float) -> AbstractContextManager[None]:
    """Let every attack of a method have ``share`` times its radius and its step, share in 0 … 1."""
    return nullcontext() if share == 1 else attacks_replaced(method, lambda attack: scaled(attack, share))


def refuse_hidden_attacks(method: Method) -> None:
    """Refuse a method that keeps an attack elsewhere than among its attacks.

    Raises:
        InputError: some attribute holds one; the message names it.
    """
    for owner in method.modules():
        for name, value in vars(owner).items():
            if not (isinstance(owner, Method) and name == "attacks") and _holds_attack(value):
                raise InputError(
                    f"{type(method).__name__} keeps an attack in {name!r}, where warm-up of the radius does not reach "
                    f"it: put each of its attacks into self.attacks, as in self.attacks[{name!r}] = …"
                )


def _holds_attack(value: Any, depth: int = 4) -> bool:
    """Tell whether a value is an attack, or holds one in containers, objects or arguments that it is bound to."""
    if is_attack(value):
        return True
    if not depth or isinstance(value, nn.Module | Tensor | str | type):
        return False  # modules are looked into one by one
    if isinstance(value, Mapping):
        parts = [*value.values()]
    elif isinstance(value, Collection):
        parts = [*value]
    elif isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    else:
        parts = [*getattr(value, "__dict__", {}).values(), getattr(value, "__self__", None)]
        parts += [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    return any(_holds_attack(part, depth - 1) for part in parts)


class Terms(NamedTuple):
    """The two terms of a base method's loss, for each image, and the logits they are made of.

    Attributes:
        error: cross-entropy (N,), on the attacked images for "at", on the clean ones for "trades".
        divergence: KL(p ‖ p_adv) (N,); 0 for "at".
        logits_adv: logits on the attacked images (N, K).
        logits: logits on the clean images (N, K); None for "at".
    """

    error: Tensor
    divergence: Tensor
    logits_adv: Tensor
    logits: Tensor | None

    def step(self, loss: Tensor) -> Step:
        """Return the step whose loss is the mean of a loss of each image (N,)."""
        return Step(loss.mean(), self.logits_adv, self.logits)


class BasedMethod(Method):
    """A method that changes a base method by class: abstract, since what changes is said in forward.

    Base "at" is adversarial training (Madry et al. 2018), CE(f(x_adv), y); base "trades" is TRADES (Zhang et al. 2019),
    CE(f(x), y) + β·KL(p(x) ‖ p(x_adv)), whose attack climbs the divergence from x + 0.001·N(0, 1).

    Attributes:
        base: "at" or "trades".
        beta: weight of the divergence; 0 for "at".
    """

    def __init__(self, num_classes: int, attack: PGD, base: str, beta: float | None = None) -> None:
        """Check the base, and give the attack its loss.

        Args:
            num_classes: number of classes.
            attack: its steps, step size and mode are used.
            base: "at" or "trades".
            beta: weight of the divergence of "trades", at least 0; None for 6.

        Raises:
            InputError: no such base, a beta outside its range, or one for "at", which has no divergence.
        """
        if base not in ("at", "trades"):
            raise InputError(f"There is no base {base!r}: use 'at' or 'trades'.")
        if base == "at" and beta is not None:
            raise InputError("The base 'at' has one term and no beta; leave it out, or use base='trades'.")
        super().__init__(num_classes, attack if base == "at" else replace(attack, loss="kl", start="jitter"))
        self.base = base
        self.beta = 0.0 if base == "at" else number("beta", 6.0 if beta is None else beta)

    def terms(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        noise: Noise,
        *,
        radius: Tensor | None = None,
        step: Tensor | None = None,
    ) -> Terms:
        """Attack the batch, and return the terms of the base.

        Args:
            model: in train mode.
            x: clean images (N, C, H, W) in [0, 1].
            y: true classes (N,).
            noise: random numbers of these images in this epoch.
            radius: radius of each image (N,), in units of the attack's; None for 1.
            step: step size of each image (N,), in units of the attack's; None for 1.
        """
        eps = None if radius is None else radius.to(x.dtype) * self.attack.threat.eps
        length = None if step is None else step.to(x.dtype) * self.attack.length
        x_adv = self.attack(model, x, y, noise=noise, eps=eps, step_size=length)
        if self.base == "at":
            logits_adv = model(x_adv)
            error = cross_entropy(logits_adv, y)
            return Terms(error, torch.zeros_like(error), logits_adv, None)
        logits, logits_adv = model(x), model(x_adv)
        return Terms(cross_entropy(logits, y), kl(logits_adv, logits), logits_adv, logits)


def under_attack(attack: PGD, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Measured:
    """Return logits and cross-entropy under an attack on what is classified right.

    An image that is wrong already is its own adversarial image, so robust accuracy never exceeds clean accuracy.

    Args:
        attack: how to perturb.
        model: in eval mode.
        x: images (N, C, H, W) in [0, 1].
        y: true classes (N,).
        noise: random numbers of these images.
    """
    with torch.no_grad():
        logits = model(x)
    right, x_adv = predict(logits, y) == y, x.clone()
    x_adv[right] = attack(model, x[right], y[right], noise=noise.select(right))
    with torch.no_grad():
        logits_adv = model(x_adv)
    return Measured(logits, logits_adv, cross_entropy(logits_adv, y))


def fill_absent(new: Tensor, old: Tensor) -> Tensor:
    """Return the new class values (C,), and the old one of each class without images, whose new one is NaN."""
    return torch.where(new.isfinite(), new, old.to(new.dtype))


class Distillation(Method):
    """A method whose student learns from a teacher: what to attack and the loss of each image; abstract.

    Divergences are summed over classes, as in IAD; RSLAD, ABSLD and Fair-ARD take the mean. Their loss is smaller by
    the number of classes, which with weight decay is another training: ``scale`` gives it back.

    Args:
        num_classes: number of classes.
        attack: crafts the training images.
        teacher: the frozen network.
        scale: factor of the loss, at least 0.

    Raises:
        InputError: no teacher, a setting outside its range, or, when called, a teacher of other classes.
    """

    teacher: Teacher

    def __init__(self, num_classes: int, attack: PGD, teacher: Teacher | None, scale: float = 1.0) -> None:
        super().__init__(num_classes, attack)
        if not isinstance(teacher, Teacher):
            raise InputError(
                f"{type(self).__name__} learns from a teacher: on the command line name its weights, as in "
                "teacher='run:FOLDER' or teacher='ARCH@FILE', and in Python pass a models.Teacher."
            )
        self.teacher, self.scale = teacher, number("scale", scale)

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the mean of the loss."""
        taught = self.taught(x)
        x_adv = self.attack(model, x, y, noise=noise, loss=self.objective(taught))
        step = self.errors(model, x, x_adv, y, taught)
        return step._replace(loss=self.scale * step.loss.mean())

    def taught(self, x: Tensor) -> Tensor:
        """Return the teacher's logits (N, K) on images (N, C, H, W), without gradient."""
        logits = self.teacher(x)
        if logits.shape[1] != self.num_classes:
            raise InputError(
                f"The teacher {self.teacher.name!r} knows {logits.shape[1]} classes and its student is to learn "
                f"{self.num_classes}; give a teacher that was trained on the same data set."
            )
        return logits

    def objective(self, taught: Tensor) -> Loss | None:
        """Return what the attack climbs on a batch, of which the teacher has logits (N, K); None for its own loss."""
        raise NotImplementedError

    def errors(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, taught: Tensor) -> Step:
        """Return a step whose loss is that of each image, (N,).

        Args:
            model: in train mode.
            x: clean images (N, C, H, W) in [0, 1].
            x_adv: attacked images (N, C, H, W).
            y: true classes (N,).
            taught: the teacher's logits on x, (N, K).
        """
        raise NotImplementedError


class Trace:
    """A loss that on the way counts how often each image is classified right; bound to one batch.

    An attack asks for its loss before each of its K steps, so the count is κ of Zhang et al. (GAIRAT, 2021), from 0 to
    K: the start is counted, and the result of the last step is not.

    Attributes:
        right: the counts so far, (N,) float32.
    """

    def __init__(self, loss: Loss, y: Tensor) -> None:
        self.loss = loss
        self.right = torch.zeros(len(y), device=y.device)

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each image, (N, K) and (N,) -> (N,)."""
        self.right += predict(logits.detach(), y) == y
        return self.loss(logits, y)


def number(name: str, value: float, least: float = 0.0) -> float:
    """Return a setting that is a finite number of at least ``least``.

    Raises:
        InputError: it is something else.
    """
    if type(value) not in (int, float) or not least <= value < math.inf:
        raise InputError(f"The setting {name} is {value!r}, but must be a finite number of at least {least:g}.")
    return float(value)


def positive(name: str, value: float) -> float:
    """Return a setting that is a finite number above 0.

    Raises:
        InputError: it is something else.
    """
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise InputError(f"The setting {name} is {value!r}, but must be a finite number above 0.")
    return float(value)


def part(name: str, value: float) -> float:
    """Return a setting that is a number from 0 to 1.

    Raises:
        InputError: it is something else.
    """
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise InputError(f"The setting {name} is {value!r}, but must be a number from 0 to 1.")
    return float(value)


def whole(name: str, value: int, least: int = 0) -> int:
    """Return a setting that is a whole number of at least ``least``.

    Raises:
        InputError: it is something else.
    """
    if type(value) is not int or value < least:  # True is an int to isinstance
        raise InputError(f"The setting {name} is {value!r}, but must be a whole number of at least {least}.")
    return value


def wholes(name: str, value: int | Sequence[int], fewest: int = 0) -> tuple[int, ...]:
    """Return a setting that is a whole number of at least 0, or a list of them.

    Raises:
        InputError: it is something else, or has fewer than ``fewest``.
    """
    numbers = [value] if isinstance(value, int) else value
    if not isinstance(numbers, list | tuple) or len(numbers) < fewest:
        raise InputError(f"The setting {name} is {value!r}, but must be whole numbers, as in {name}=(0, 1, 2).")
    return tuple(whole(name, number) for number in numbers)


def flag(name: str, value: bool) -> bool:
    """Return a setting that is True or False.

    Raises:
        InputError: it is something else, which Python would take for one of the two.
    """
    if not isinstance(value, bool):
        raise InputError(f"The setting {name} is {value!r}, but must be True or False.")
    return value


def normalised(weight: Tensor) -> Tensor:
    """Scale weights (N,) to mean 1 over the batch of all processes, in float32."""
    count, sum_of_weights = over_processes(torch.stack([torch.ones_like(weight).sum(), weight.sum()]))
    scaled: Tensor = weight * count / sum_of_weights
    return scaled.float()


def by_class(value: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the sums of a value of each image (N,) by class, over all processes: (C,) float64, without a graph.

    Several values of each image, (V, N), give (V, C).
    """
    sums = torch.zeros(*value.shape[:-1], num_classes, dtype=torch.float64, device=y.device)
    return over_processes(sums.index_add_(-1, y, value.detach().double()))


def counted_by_class(value: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the images of each class and the sums of their values (N,), as :func:`by_class` does: (2, C)."""
    return by_class(torch.stack([torch.ones_like(value), value]), y, num_classes)
