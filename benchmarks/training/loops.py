"""Plain loops of adversarial training, written the way released scripts do it: float32, channels first, a DataLoader.

Each function named after a script takes one step of SGD on a batch and makes the passes that the script makes:

- ``robust_overfitting``: ``train_cifar.py`` of locuslab/robust_overfitting (PGD adversarial training). The attack runs
  in train mode, and its backward passes reach the weights too; one more pass finds the loss of its result, and another,
  after the step, the clean accuracy that is logged.
- ``trades``: ``trades.py`` of yaodongyu/TRADES. Each step of the attack passes the clean images as well, and so does
  the loss, twice.
- ``lean`` and ``by_torchattacks``: adversarial training that passes nothing twice. The attack runs in eval mode, and
  its backward passes go to the images only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from classwise.data.images import Images
from classwise.training.recipes import Recipe

EPS, STEP, STEPS, BETA = 8 / 255, 2 / 255, 10, 6.0
Step = Callable[[nn.Module, Optimizer, Tensor, Tensor], None]


def train(step: Step, model: nn.Module, data: Images, recipe: Recipe, seed: int) -> None:
    """Train a network in place for the epochs, the batches and the learning rates of a recipe."""
    torch.manual_seed(seed)
    settings = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    optimizer = SGD(model.parameters(), lr=recipe.lr, **settings)
    images = TensorDataset(data.fetch(torch.arange(len(data))), data.y)
    loader = DataLoader(images, batch_size=recipe.batch_size, shuffle=True, drop_last=True)
    for epoch in range(recipe.epochs):
        for number, (x, y) in enumerate(loader):
            optimizer.param_groups[0]["lr"] = recipe.rate(epoch + number / len(loader))
            step(model, optimizer, x, y)


def lean(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> None:
    """Attack in eval mode, differentiating to the images only; learn in train mode."""
    _learn(model, optimizer, _pgd(model.eval(), x, y), y)


def by_torchattacks(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> None:
    """Attack with torchattacks' PGD; learn in train mode."""
    attack = torchattacks.PGD(model.eval(), eps=EPS, alpha=STEP, steps=STEPS)
    _learn(model, optimizer, attack(x, y), y)


def robust_overfitting(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> None:
    """Make the passes of locuslab/robust_overfitting, all in train mode."""
    model.train()
    delta = _random_start(x) - x
    for _ in range(STEPS):
        delta.requires_grad_(True)
        F.cross_entropy(model(x + delta), y).backward()
        gradient = delta.grad
        if gradient is None:
            raise RuntimeError("no gradient arrived at the images")
        moved = (delta.detach() + STEP * gradient.sign()).clamp(-EPS, EPS)
        delta = torch.max(torch.min(moved, 1 - x), -x)
    F.cross_entropy(model(x + delta), y, reduction="none")
    _learn(model, optimizer, (x + delta).clamp(0, 1), y)
    F.cross_entropy(model(x), y)


def trades(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> None:
    """Make the passes of yaodongyu/TRADES."""
    model.eval()
    x_adv = x + 0.001 * torch.randn_like(x)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_(True)
        gradient = torch.autograd.grad(_divergence(model(x_adv), model(x)), x_adv)[0]
        x_adv = _stepped(x_adv, gradient, x)
    model.train()
    optimizer.zero_grad()
    natural = F.cross_entropy(model(x), y)
    (natural + BETA * _divergence(model(x_adv), model(x)) / len(x)).backward()
    optimizer.step()


def _divergence(logits_adv: Tensor, logits: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(logits_adv, dim=1), F.softmax(logits, dim=1), reduction="sum")


def _pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x_adv = _random_start(x)
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_(True)
        gradient = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)[0]
        x_adv = _stepped(x_adv, gradient, x)
    return x_adv


def _random_start(x: Tensor) -> Tensor:
    return (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)


def _stepped(x_adv: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
    moved = x_adv.detach() + STEP * gradient.sign()
    return torch.min(torch.max(moved, x - EPS), x + EPS).clamp(0, 1)


def _learn(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> None:
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
