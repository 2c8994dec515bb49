"""What an attack is follows from what a result recorded of it, in new results and in old ones."""

from __future__ import annotations

import json

import pytest
import torch

from classwise.attacks import PGD, Ensemble, EoT, Square, build_attacks, transfer
from classwise.attacks.base import Attack, described
from classwise.metrics.recorded import attack_of, kinds
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.1)


def record(attack: object) -> dict[str, object]:
    return {"settings": repr(attack), "attack": json.loads(json.dumps(described(attack)))}


@pytest.mark.parametrize("name", ["pgd", "temperature-pgd", "autoattack", "fast", "square"])
def test_an_old_result_says_the_same_as_a_new_one(name: str) -> None:
    (attack,) = build_attacks(name, THREAT).values()
    new, old = record(attack), {"settings": repr(attack)}
    assert attack_of(old) == attack_of(new)
    assert kinds(old) == kinds(new)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (Ensemble((PGD(THREAT), EoT(Square(THREAT), 2))), {"PGD", "Square"}),
        (transfer(PGD(THREAT), torch.nn.Flatten()), {"Transfer"}),
    ],
)
def test_kinds_are_those_of_the_members_and_a_transfer_is_a_kind_of_its_own(attack: Attack, expected: set[str]) -> None:
    assert kinds(record(attack)) == expected


def test_fast_is_audited_by_more_than_pgd() -> None:
    (attack,) = build_attacks("fast", THREAT).values()
    assert {"NearestPGD", "APGD", "FAB", "Square"} == kinds(record(attack))


def test_what_is_no_settings_is_of_no_kind() -> None:
    assert kinds({"settings": "an attack of mine"}) == kinds({}) == set()
