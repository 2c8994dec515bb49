"""Worst-class adversarial training (WAT): Li & Liu, AAAI 2023.

"WAT: Improve the Worst-Class Robustness in Adversarial Training". The weights follow the released code (boqili/WAT);
of the paper only the abstract was read.

Departures from the released code: the loss is scaled to class weights of mean 1, so that it compares with TRADES at the
same learning rate (``normalise_loss=False`` for the released scale, twice that of TRADES in the first epoch); the sums
are in the checkpoint, where the release loses them; radius and step are those of the run (released 0.031 and 0.007).
The guarantee of the paper is for a mixture of all epochs, not for the last.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from classwise.attacks.pgd import PGD
from classwise.errors import InputError
from classwise.losses import cross_entropy, kl
from classwise.methods.base import BasedMethod, Epoch, Measured, Step, fill_absent, flag, number
from classwise.noise import Noise
from classwise.registry import register


@register("method", "wat", source="Li & Liu 2023, boqili/WAT")
class WAT(BasedMethod):
    """Worst-class training: TRADES weighted by Hedge on the summed held-out losses of classes and of their mean.

    After each epoch the held-out loss CE + β·KL of each class, and of all images as one more expert, is added to sums;
    the experts' weights are C times the softmax of η times the sums. An image has the weight of its class plus that of
    the mean, on both terms of its loss.

    Attributes:
        total: sums of the losses of the classes and of all images (C + 1,).
        weight: of an image of each class, that of the class plus that of the mean (C,); equal at first.

    Args:
        num_classes: number of classes.
        attack: its steps, step size and mode are used.
        beta: weight of the divergence, at least 0.
        eta: rate of Hedge, at least 0; 0 keeps the weights equal.
        decay: share of the sums that is kept from epoch to epoch, in [0, 1]; 1 in the paper, less is our design.
        normalise_loss: whether the class weights are scaled to mean 1.

    Raises:
        InputError: a setting outside its range.
    """

    validates: bool = True
    measures: bool = True
    total: Tensor
    weight: Tensor

    def __init__(
        self,
        num_classes: int,
        attack: PGD,
        beta: float = 6.0,
        eta: float = 0.1,
        decay: float = 1.0,
        normalise_loss: bool = True,
    ) -> None:
        super().__init__(num_classes, attack, "trades", beta)
        self.eta, self.decay = number("eta", eta), number("decay", decay)
        self.normalise_loss = flag("normalise_loss", normalise_loss)
        if self.decay > 1:
            raise InputError(f"The setting decay is {decay!r}, but must be a number from 0 to 1.")
        self.examiner = replace(self.attack, mode="eval")
        self.register_buffer("total", torch.zeros(num_classes + 1, dtype=torch.float64))
        ones = torch.ones(num_classes + 1, dtype=torch.float64)
        self.register_buffer("weight", image_weight(ones, normalise_loss))

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Step:
        """Attack the batch, and return the weighted loss of TRADES."""
        terms = self.terms(model, x, y, noise)
        return terms.step(self.weight[y].float() * (terms.error + self.beta * terms.divergence))

    def measure(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Measured:
        """Return the loss of TRADES on held-out images, under its own attack, in eval mode."""
        x_adv = self.examiner(model, x, y, noise=noise)
        with torch.no_grad():
            logits, logits_adv = model(x), model(x_adv)
        return Measured(logits, logits_adv, cross_entropy(logits, y) + self.beta * kl(logits_adv, logits))

    def end_epoch(self, epoch: Epoch) -> None:
        """Add up the held-out losses, and weigh the experts by them."""
        assert epoch.measured is not None, "refused before training"
        stats = epoch.measured.robust
        mean = stats.loss.sum() / stats.n.sum()
        # A class without held-out images costs what all do.
        cost = torch.cat([fill_absent(stats.mean_loss, mean.expand(self.num_classes)), mean[None]])
        self.total.mul_(self.decay).add_(cost)
        self.weight.copy_(image_weight(hedge(self.total, self.eta), self.normalise_loss))


def hedge(total: Tensor, eta: float) -> Tensor:
    """Return the weights C·softmax(η·V) of C + 1 experts by their summed losses V (C + 1,); a costlier one has more.

    Example:
        >>> hedge(torch.tensor([0.0, 0.0, 0.0]), eta=0.1)
        tensor([0.6667, 0.6667, 0.6667])
    """
    return (len(total) - 1) * (eta * total).softmax(0)


def image_weight(expert: Tensor, normalise: bool) -> Tensor:
    """Return the weights of the images of each class (C,), w_c + w_{C+1} of C + 1 experts; of mean 1 if normalised."""
    weight = expert[:-1] + expert[-1]
    return weight / weight.mean() if normalise else weight
