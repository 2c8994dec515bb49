"""Transfer: images crafted on one model, shown to another.

The model under attack is an argument of every attack and a setting of none; the source is another model, of which the
attack needs the weights as it needs its step size. So this one object holds a module beside its settings, and takes
from the caller a name that says for the record which one it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from classwise.attacks.base import Attack
from classwise.noise import Noise
from classwise.threat import ThreatModel


@dataclass(frozen=True)
class Transfer:
    """An attack carried out on a source model, whatever model it is called with; made by :func:`transfer`.

    Two of them are equal where attack and name are: the name must identify the source.

    Attributes:
        attack: how the images are crafted.
        name: of the source, in results; a result is resumed only under the same name.
        source: takes [0, 1], returns logits.
    """

    attack: Attack
    name: str
    source: nn.Module = field(repr=False, compare=False)

    @property
    def threat(self) -> ThreatModel:
        """The set of allowed images."""
        return self.attack.threat

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Perturb images; see :class:`classwise.attacks.Attack`. The model under attack is not asked."""
        return self.attack(self.source.to(x.device), x, y, noise=noise)


def transfer(attack: Attack, source: nn.Module, name: str | None = None) -> Transfer:
    """Return the attack that crafts on ``source`` what any other model is then shown.

    An attack with keep="success" stops at the source's decision boundary, which transfers badly: PGD(threat), or
    "pgd(keep='last')" by name, spends every step.

    Args:
        attack: how to craft.
        source: the model to craft on.
        name: identifies the source in results; its class if None, which tells no two trainings apart.
    """
    return Transfer(attack, name or type(source).__name__, source)
