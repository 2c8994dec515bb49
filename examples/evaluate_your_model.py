"""Evaluate any network class by class from Python: here scikit-learn's digits and a network trained in a second.

Run it with ``python examples/evaluate_your_model.py``.
"""

from __future__ import annotations

import torch
from torch import nn

import classwise


def trained_network(data: classwise.Images) -> nn.Module:
    """Train a plain classifier without any defence, as you may have one."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    x = data.fetch(torch.arange(len(data)))
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), data.y).backward()
        optimizer.step()
    return network.eval()


def main() -> None:
    """Train, attack, and print what each class keeps."""
    train, test = (classwise.load_data("digits", split=split) for split in ("train", "test"))
    assert isinstance(train, classwise.Images)
    threat = classwise.ThreatModel("Linf", 0.05)
    attacks = classwise.build_attacks("pgd,margin-pgd", threat)
    result = classwise.evaluate(trained_network(train), test, attacks, seed=0)
    for entry in result.by_class:
        print(f"class {entry.name}: {entry.clean_accuracy:6.1%} clean, {entry.accuracy:6.1%} under attack")
    low, high = result.worst.interval
    print(f"weakest class: {result.worst.name}; the true minimum lies in {low:.1%} – {high:.1%} with 95 % confidence")


if __name__ == "__main__":
    main()
