"""Plans: attacks one after another, each on the part of the survivors where it can change a verdict.

A plan is run by :func:`classwise.evaluate` over a whole data set, not batch by batch like an attack: which survivors
are closest to breaking shows only once all are known. It can be written in a TOML file::

    full = "autoattack"                            # audits what the stages leave; leave it out for no audit

    [[stage]]
    attack = "nearest-pgd(steps=10, targets=3)"

    [[stage]]
    attack = "square(queries=500)"
    closest = 0.2                                  # share of the survivors, by their margin

    [[stage]]
    attack = "square"
    closest = 0.2
    go_on = 0.1                                    # with the next such share, until one of them breaks nothing
    if_closer = true                               # only if the stage before came closer than those before it
"""

from __future__ import annotations

from dataclasses import dataclass

from classwise.attacks.base import Attack
from classwise.errors import InputError
from classwise.threat import ThreatModel


@dataclass(frozen=True)
class Stage:
    """One attack of a plan.

    Attributes:
        name: what it is called in results.
        attack: what is run.
        closest: share of the survivors that it is run on, those with the largest margin so far; above 0, at most 1.
        go_on: above 0, the survivors are attacked in shares of this size, at least until ``closest`` of them have
            been, and as long as the last share broke something.
        if_closer: only if the stage before broke an image, or had a larger margin on one than all before it.
        path: stream of its random numbers; that of its place in the plan if empty.

    Raises:
        InputError: a share outside its range.
    """

    name: str
    attack: Attack
    closest: float = 1.0
    go_on: float = 0.0
    if_closer: bool = False
    path: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.closest <= 1:
            raise InputError(f"The share closest = {self.closest} of {self.name} must be above 0 and at most 1.")
        if not 0 <= self.go_on <= 1:
            raise InputError(f"The share go_on = {self.go_on} of {self.name} must be between 0 and 1.")


@dataclass(frozen=True)
class Plan:
    """Stages, and the suite that audits them.

    Attributes:
        stages: in this order, each on survivors of those before.
        full: attacks of the suite that the plan stands in for. A sample of the survivors meets it (the audit), and
            all of them do where something speaks against the plan. Empty: neither.

    Raises:
        InputError: no stage, or different threat models.
    """

    stages: tuple[Stage, ...]
    full: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        object.__setattr__(self, "full", tuple(self.full))
        if len({stage.attack.threat for stage in (*self.stages, *self.full)}) != 1 or not self.stages:
            raise InputError("A plan needs at least one stage, and one threat model for all its attacks.")

    @property
    def threat(self) -> ThreatModel:
        """The set of allowed images."""
        return self.stages[0].attack.threat

    def path(self, view: str, place: int) -> tuple[str | int, ...]:
        """Return the stream of random numbers of a stage, where the plan is run under the name ``view``."""
        return self.stages[place].path or (view, "stage", place)


AttackOrPlan = Attack | Plan
"""What an evaluation can run."""
