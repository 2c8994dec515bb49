"""From what a user types to wrappers: ``awp(gamma=0.005), ema(decay=0.999)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from classwise import registry
from classwise.errors import InputError
from classwise.wrappers.awp import AWP
from classwise.wrappers.base import Average


@dataclass(frozen=True)
class Wrappers:
    """What goes around a training method.

    Attributes:
        perturbation: of the weights, in every step; None for none.
        averages: of the weights, by the name that their files begin with.
    """

    perturbation: AWP | None = None
    averages: Mapping[str, Average] = field(default_factory=dict)


def build(text: str) -> Wrappers:
    """Build wrappers by name, with settings in parentheses, separated by commas; "" for none.

    Raises:
        InputError: an unknown name, a setting that a wrapper does not take, or a name twice.

    Example:
        >>> build("awp(gamma=0.005), ema(decay=0.99)").averages
        {'ema': EMA(decay=0.99, each='step', warmup=None)}
    """
    wrappers: dict[str, AWP | Average] = {}
    for part in registry.split(text):
        name = registry.parse(part)[0]
        if name in wrappers:
            raise InputError(f"Wrapper {name!r} is named twice; name each once.")
        wrappers[name] = registry.build("wrapper", part)
    perturbation = next((wrapper for wrapper in wrappers.values() if isinstance(wrapper, AWP)), None)
    return Wrappers(perturbation, {name: value for name, value in wrappers.items() if not isinstance(value, AWP)})
