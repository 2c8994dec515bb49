"""A teacher answers and is never changed, whatever is done to the network that it was made from."""

from __future__ import annotations

import torch
from tests.models_for_tests import Stateful
from torch import nn

from classwise.models import Teacher, weights_sha256


def test_it_answers_as_the_network_does_in_eval_mode_and_without_a_graph() -> None:
    network = Stateful().train()
    x = torch.rand(5, 1, 6, 6, requires_grad=True)
    logits = Teacher(network, "t")(x)
    assert network.training, "the network itself is left as it was"
    torch.testing.assert_close(logits, network.eval()(x).detach())
    assert not logits.requires_grad


def test_an_attack_that_enables_gradients_finds_none_in_it() -> None:
    with torch.enable_grad():
        assert not Teacher(Stateful(), "t")(torch.rand(2, 1, 6, 6, requires_grad=True)).requires_grad


def test_training_the_network_that_it_was_made_from_leaves_it_alone() -> None:
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)
    teacher = Teacher(network, "t")
    before, record = teacher(x), teacher.record()
    network(x).sum().backward()
    torch.optim.SGD(network.parameters(), lr=1.0).step()
    assert torch.equal(teacher(x), before)
    assert teacher.record() == record == {"name": "t", "sha256": record["sha256"]}
    assert record["sha256"] != weights_sha256(network)


def test_it_is_named_by_its_weights() -> None:
    network = Stateful()
    assert Teacher(network, "t").record()["sha256"] == weights_sha256(network)


def test_its_weights_are_not_those_of_a_module_that_holds_it() -> None:
    holder = nn.Module()
    holder.teacher = Teacher(Stateful(), "t")
    assert list(holder.parameters()) == []
    assert holder.state_dict() == {}
