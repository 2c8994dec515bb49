"""The ladder: which images each stage sees, when it escalates, and whether the audit's bounds hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from tests.strategies import SEEDS, examples
from torch import Tensor, nn

from classwise.attacks.plan import Plan, Stage
from classwise.evaluation import plan
from classwise.evaluation.engine import StageGain
from classwise.evaluation.plan import PlanResult
from classwise.metrics.audit import at_most
from classwise.noise import Noise
from classwise.threat import ThreatModel

Path = tuple[str | int, ...]
THREAT = ThreatModel("Linf", 0.1)


@dataclass(frozen=True)
class Idle:
    """An attack that is never called; what it breaks is planted in the images."""

    threat: ThreatModel = THREAT

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        raise AssertionError


@dataclass
class Planted:
    """Images whose fate is known.

    Attributes:
        y: true classes.
        index: position of each in its data set.
        margin: of each, as after a first attack.
        breaks: for each stage, the data set positions of the images that it breaks.
        closer: for each stage, how many images it comes closer on, broken or not.
        seen: what each turn attacked: name of the stage, and data set positions in increasing order.
        paths: streams of random numbers of the turns.
    """

    y: Tensor
    margin: Tensor
    breaks: dict[str, set[int]] = field(default_factory=dict)
    closer: dict[str, int] = field(default_factory=dict)
    index: Tensor = field(default_factory=lambda: torch.zeros(0))
    seen: list[tuple[str, list[int]]] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not len(self.index):
            self.index = torch.arange(len(self.y))
        self.survivors = torch.ones(len(self.y), dtype=torch.bool)

    def attack(self, stage: Stage, path: Path, which: Tensor) -> StageGain:
        which = which & self.survivors
        if not which.any():
            return StageGain(0, 0)
        self.seen.append((stage.name, sorted(self.index[which].tolist())))
        self.paths.append(path)
        name = stage.name.removeprefix("audit: ").removeprefix("full: ")
        doomed = self.breaks.get(name, set())
        broken = which & torch.tensor([position in doomed for position in self.index.tolist()])
        self.survivors = self.survivors & ~broken
        return StageGain(int(broken.sum()), self.closer.get(name, 0))

    def breakable(self, *names: str) -> Tensor:
        """Tell which survivors some of these stages would break, (N,) bool."""
        doomed = set().union(*(self.breaks.get(name, set()) for name in names))
        return self.survivors & torch.tensor([position in doomed for position in self.index.tolist()])


def stage(name: str, **settings: Any) -> Stage:
    return Stage(name, Idle(), **settings)


def member(name: str) -> Stage:
    return Stage(name, Idle(), path=("full", "member", name))


def row(n: int, **planted: Any) -> Planted:
    """Return n images of two classes by turns; the first has the largest margin."""
    settings = {"margin": -torch.arange(n, dtype=torch.float32), **planted}
    return Planted(torch.arange(n) % 2, **settings)


def climb(images: Planted, *stages: Stage, full: tuple[Stage, ...] = (), **settings: Any) -> PlanResult:
    chosen = {"suspicions": lambda survivors: [], "points": 0.0, "num_classes": 2, **settings}
    return plan.run(Plan(stages, full), images, "mine", noise=Noise(0, images.index).fold("mine"), **chosen)


# Which images a stage sees.


def test_a_stage_sees_all_survivors_unless_told_otherwise() -> None:
    images = row(6, breaks={"a": {1, 4}})
    climb(images, stage("a"), stage("b"))
    assert images.seen == [("a", [0, 1, 2, 3, 4, 5]), ("b", [0, 2, 3, 5])]


def test_a_stage_sees_the_share_with_the_largest_margins() -> None:
    images = Planted(torch.zeros(5).long(), torch.tensor([-3.0, -1.0, -9.0, -0.5, -2.0]))
    climb(images, stage("a", closest=0.4), num_classes=1)
    assert images.seen == [("a", [1, 3])]


@pytest.mark.parametrize(("closest", "count"), [(0.01, 1), (0.2, 2), (0.21, 3), (0.5, 5), (0.999, 10), (1.0, 10)])
def test_a_share_is_rounded_up(closest: float, count: int) -> None:
    images = row(10)
    climb(images, stage("a", closest=closest))
    assert images.seen == [("a", list(range(count)))]


def test_a_share_is_one_of_the_survivors_not_of_all_images() -> None:
    images = row(10, breaks={"a": {0, 1, 2, 3, 5, 7}})
    climb(images, stage("a"), stage("b", closest=0.5))
    assert images.seen[1] == ("b", [4, 6])


def test_without_go_on_there_is_one_share() -> None:
    images = row(10, breaks={"a": set(range(10))})
    climb(images, stage("a", closest=0.3))
    assert images.seen == [("a", [0, 1, 2])]


def test_a_stage_goes_on_until_a_share_breaks_nothing() -> None:
    images = row(10, breaks={"a": {0, 3, 9}})
    climb(images, stage("a", closest=0.2, go_on=0.2))
    assert images.seen == [("a", [0, 1]), ("a", [2, 3]), ("a", [4, 5])]


def test_a_stage_that_always_breaks_something_goes_on_to_the_end() -> None:
    images = row(10, breaks={"a": {0, 4, 8}})
    climb(images, stage("a", closest=0.4, go_on=0.4))
    assert images.seen == [("a", [0, 1, 2, 3]), ("a", [4, 5, 6, 7]), ("a", [8, 9])]


def test_a_stage_may_go_on_in_smaller_shares_than_it_begins_with() -> None:
    images = row(10, breaks={"a": {3, 5}})
    climb(images, stage("a", closest=0.4, go_on=0.2))
    assert images.seen == [("a", [0, 1]), ("a", [2, 3]), ("a", [4, 5]), ("a", [6, 7])]


def test_the_first_share_is_attacked_to_its_end_whatever_breaks() -> None:
    images = row(10)
    climb(images, stage("a", closest=0.5, go_on=0.2))
    assert images.seen == [("a", [0, 1]), ("a", [2, 3]), ("a", [4, 5])]


def test_a_later_share_has_the_stream_of_the_first() -> None:
    images = row(10, breaks={"a": {0}})
    climb(images, stage("b"), stage("a", closest=0.4, go_on=0.4), full=(member("m"),), points=100.0)
    assert images.paths == [("mine", "stage", 0), ("mine", "stage", 1), ("mine", "stage", 1)]


def test_a_stage_with_a_stream_of_its_own_keeps_it() -> None:
    images = row(3)
    climb(images, Stage("a", Idle(), path=("pgd",)))
    assert images.paths == [("pgd",)]


# Only if the stage before came closer.


def test_a_stage_is_skipped_where_the_one_before_came_no_closer() -> None:
    images = row(10)
    climb(images, stage("a"), stage("b", if_closer=True))
    assert [name for name, _ in images.seen] == ["a"]


@pytest.mark.parametrize("planted", [{"breaks": {"a": {3}}}, {"closer": {"a": 1}}])
def test_a_stage_is_run_where_the_one_before_broke_something_or_came_closer(planted: dict[str, Any]) -> None:
    images = row(10, **planted)
    climb(images, stage("a"), stage("b", if_closer=True))
    assert [name for name, _ in images.seen] == ["a", "b"]


def test_a_stage_is_run_where_the_one_before_broke_something_in_its_first_share_alone() -> None:
    images = row(10, breaks={"a": {0}})
    climb(images, stage("a", closest=0.2, go_on=0.2), stage("b", if_closer=True))
    assert [name for name, _ in images.seen] == ["a", "a", "b"]


def test_a_skipped_stage_does_not_hide_what_the_one_before_it_did() -> None:
    images = row(10, breaks={"a": set(), "b": {4}}, closer={"a": 2})
    climb(images, stage("a"), stage("b", if_closer=True), stage("c", if_closer=True))
    assert [name for name, _ in images.seen] == ["a", "b", "c"]
    images = row(10)
    climb(images, stage("a"), stage("b", if_closer=True), stage("c", if_closer=True))
    assert [name for name, _ in images.seen] == ["a"]


# Escalation.

FULL = (member("m"), member("n"))


@pytest.mark.parametrize(("broken", "escalates"), [(1, False), (2, True)])
def test_a_plan_that_still_breaks_at_its_end_meets_the_whole_suite(broken: int, escalates: bool) -> None:
    # 0.5 % of the 398 or 399 that survive are 1.99.
    images = row(400, breaks={"b": set(range(broken))})
    ending = climb(images, stage("a"), stage("b"), full=FULL)
    assert [name for name, _ in images.seen[2:]] == (["full: m", "full: n"] if escalates else [])
    assert ending.reasons == ((f"the last stage still broke {broken} images where {400 - broken} survive",) * escalates)


def test_only_the_last_share_of_the_last_stage_tells_whether_it_came_to_an_end() -> None:
    images = row(10, breaks={"a": set(range(3))})
    assert climb(images, stage("a", closest=0.5, go_on=0.5), full=FULL).reasons == ()


def test_what_an_earlier_stage_broke_is_no_reason() -> None:
    images = row(10, breaks={"a": set(range(3))})
    assert climb(images, stage("a"), stage("b"), full=FULL).reasons == ()


def test_a_suspicion_lets_every_survivor_meet_every_member() -> None:
    images = row(10, breaks={"a": {0}, "m": {1, 2}})
    ending = climb(images, stage("a"), stage("b"), full=FULL, suspicions=lambda survivors: ["masked"], points=1.0)
    assert images.seen[2:] == [("full: m", list(range(1, 10))), ("full: n", list(range(3, 10)))]
    assert images.paths[2:] == [("full", "member", "m"), ("full", "member", "n")]
    assert ending == PlanResult(("masked",), None)


def test_suspicions_are_asked_of_the_survivors() -> None:
    asked: list[list[bool]] = []
    images = row(4, breaks={"a": {0, 2}})
    climb(
        images, stage("a"), stage("b"), full=FULL, suspicions=lambda survivors: asked.append(survivors.tolist()) or []
    )
    assert asked == [[False, True, False, True]]


def test_without_a_suite_there_is_nothing_to_escalate_to() -> None:
    images = row(10, breaks={"a": set(range(9))})
    ending = climb(images, stage("a"), suspicions=lambda survivors: pytest.fail("asked"), points=1.0)
    assert ending == PlanResult()
    assert len(images.seen) == 1


def test_where_nothing_survives_the_plan_ends() -> None:
    images = row(6, breaks={"a": set(range(6))})
    assert climb(images, stage("a"), stage("b"), full=FULL, points=1.0) == PlanResult()
    assert [name for name, _ in images.seen] == ["a"]


def test_no_image_at_all_is_a_plan_too() -> None:
    images = row(0)
    assert climb(images, stage("a"), full=FULL, points=1.0) == PlanResult()
    assert images.seen == []


# The audit.


def test_no_audit_is_made_where_none_is_asked_for() -> None:
    images = row(50)
    assert climb(images, stage("a"), full=FULL, points=0.0) == PlanResult()
    assert len(images.seen) == 1


def test_an_audit_that_finds_nothing_ends_after_one_round() -> None:
    images = row(400)
    audit = climb(images, stage("a"), full=FULL, points=5.0).audit
    assert audit is not None
    assert set(audit) == {"points", "confidence", "rounds", "at_most", "at_most_by_class"}
    (only,) = audit["rounds"]
    assert [name for name, _ in images.seen[1:]] == ["audit: m", "audit: n"]
    assert len(images.seen[1][1]) == sum(only["sampled"])
    assert only == {"survivors": [200, 200], "sampled": only["sampled"], "broken": [0, 0], "broken_by": {}}
    assert audit["at_most"] == at_most(np.array([200, 200]), np.array(only["sampled"]), 0.04) <= 20
    assert audit["at_most"] <= sum(audit["at_most_by_class"])


def test_a_member_that_breaks_an_image_of_the_sample_meets_every_survivor() -> None:
    images = row(400, breaks={"n": set(range(0, 400, 2))})
    audit = climb(images, stage("a"), full=FULL, points=2.0).audit
    assert audit is not None
    assert not images.breakable("n").any()
    first, second = audit["rounds"]
    assert first["broken_by"] == {"n": first["broken"][0]}
    assert first["broken"][1] == 0
    assert second["survivors"][0] == 0, "everybody of class 0 broke"
    # The second round spends its sample on the member that has not met everybody.
    assert [name for name, _ in images.seen[1:]] == ["audit: m", "audit: n", "full: n", "audit: m"]
    assert set(images.seen[1][1]).isdisjoint(images.seen[4][1])


def test_no_member_meets_an_image_twice() -> None:
    images = row(300, breaks={"m": set(range(0, 300, 3)), "n": set(range(0, 300, 4))})
    climb(images, stage("a"), full=(*FULL, member("o")), points=1.0)
    for name in "mno":
        met = [position for turn, positions in images.seen if turn.endswith(f": {name}") for position in positions]
        assert len(met) == len(set(met)), name


@given(SEEDS)
@examples(30)
def test_an_audit_has_at_most_one_round_more_than_the_suite_has_members(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = ("m", "n", "o")
    breaks = {
        name: set(np.flatnonzero(random.random(120) < random.choice([0.0, 0.02, 0.3])).tolist()) for name in names
    }
    images = row(120, breaks=breaks)
    audit = climb(images, stage("a"), full=tuple(map(member, names)), points=3.0).audit
    assert audit is not None
    assert len(audit["rounds"]) <= len(names) + 1
    assert not any(audit["rounds"][-1]["broken"])
    assert all(any(entry["broken"]) for entry in audit["rounds"][:-1])


def test_an_audit_so_strict_that_it_takes_everybody_leaves_no_miss() -> None:
    images = row(60, breaks={"m": {7}})
    audit = climb(images, stage("a"), full=FULL, points=1.0).audit
    assert audit is not None
    assert audit["at_most"] == 0
    assert images.survivors.sum() == 59


def test_the_sample_is_shared_out_among_the_classes() -> None:
    y = torch.tensor([0] * 600 + [1] * 200 + [3] * 200)
    images = Planted(y, torch.zeros(1000))
    audit = climb(images, stage("a"), full=FULL, points=5.0, num_classes=5).audit
    assert audit is not None
    sampled = audit["rounds"][0]["sampled"]
    assert 3 * (sampled[1] - 1) <= sampled[0] <= 3 * sampled[1]
    assert [sampled[2], sampled[4], audit["at_most_by_class"][2], audit["at_most_by_class"][4]] == [0, 0, 0, 0]
    assert torch.bincount(y[images.seen[1][1]], minlength=5).tolist() == sampled


def test_hundreds_of_classes_do_not_make_the_sample_larger() -> None:
    # One image of each of 500 classes would be more than the 3.2·4000/40 that 1 point takes.
    images = Planted(torch.arange(4000) % 500, -torch.ones(4000))
    ending = climb(images, stage("a"), full=(member("m"),), points=1.0, num_classes=500)
    assert ending.audit is not None
    assert sum(ending.audit["rounds"][0]["sampled"]) < 330
    assert ending.audit["at_most"] <= 40


def test_a_set_of_one_image_is_audited() -> None:
    images = Planted(torch.tensor([2]), torch.tensor([-1.0]))
    audit = climb(images, stage("a", closest=0.1), full=FULL, points=1.0, num_classes=5).audit
    assert audit is not None
    assert audit["rounds"][0]["sampled"] == [0, 0, 1, 0, 0]
    assert audit["at_most"] == 0


def test_more_classes_than_images_are_no_trouble() -> None:
    images = Planted(torch.tensor([90, 3, 41]), torch.zeros(3), breaks={"m": {1}})
    audit = climb(images, stage("a"), full=FULL, points=1.0, num_classes=100).audit
    assert audit is not None
    assert len(audit["at_most_by_class"]) == 100
    assert images.survivors.tolist() == [True, False, True]


def test_members_of_one_name_are_counted_together() -> None:
    images = row(60, breaks={"m": {7, 9}})
    audit = climb(images, stage("a"), full=(member("m"), member("m")), points=1.0).audit
    assert audit is not None
    assert audit["rounds"][0]["broken_by"] == {"m": 2}


# What must not matter.


@given(SEEDS)
@examples(40)
def test_the_order_of_the_images_does_not_matter_even_where_margins_tie(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(1, 60))
    y, margin = torch.from_numpy(random.integers(0, 3, size)), torch.from_numpy(random.integers(-3, 0, size)).float()
    index = torch.from_numpy(random.permutation(1000)[:size])
    breaks = {name: set(index[torch.from_numpy(random.random(size) < 0.1)].tolist()) for name in "abmn"}
    stages = stage("a", closest=0.3, go_on=0.3), stage("b", closest=0.1, if_closer=True)
    straight, shuffled = [], []
    for order, told in ((torch.arange(size), straight), (torch.from_numpy(random.permutation(size)), shuffled)):
        images = Planted(y[order], margin[order], breaks=breaks, index=index[order])
        told += [climb(images, *stages, full=FULL, points=5.0, num_classes=3), images.seen]
    assert straight == shuffled


def test_another_seed_draws_another_sample() -> None:
    samples = []
    for seed in (0, 1):
        images = row(300)
        plan.audit(FULL, images, 5.0, Noise(seed, images.index), 2)
        samples.append(images.seen[0][1])
    assert samples[0] != samples[1]


# Coverage of all rounds together, by simulation.

_AUDITS = 800
_TOO_OFTEN = plan.ERROR + 3 * math.sqrt(plan.ERROR * (1 - plan.ERROR) / _AUDITS)  # 0.05 and 3 × 0.0077

# How many images of each class each member breaks, of 40 a class.
_SHAPES: dict[str, dict[str, list[int]]] = {
    "one member, all in one class": {"m": [5, 0, 0], "n": [0, 0, 0]},
    "one member, spread": {"m": [2, 2, 1], "n": [0, 0, 0]},
    "a common and a rare one": {"m": [15, 15, 15], "n": [0, 5, 0]},
    "two of equal strength": {"m": [4, 0, 3], "n": [0, 4, 3]},
    "hardly more than allowed, of two": {"m": [0, 0, 3], "n": [2, 0, 0]},
}


@pytest.mark.parametrize("shape", _SHAPES)
def test_the_bounds_of_an_audit_of_several_rounds_are_too_low_in_five_of_a_hundred_at_most(shape: str) -> None:
    """Both the bound of all classes and, at once, those of each; the Monte-Carlo standard error is 0.77 points."""
    y = torch.arange(3).repeat_interleave(40)
    of_class = [(y == c).nonzero().squeeze(1).numpy() for c in range(3)]
    random, wrong, wrong_by_class, several = np.random.default_rng(0), 0, 0, 0
    for seed in range(_AUDITS):
        places = [random.permutation(images) for images in of_class]
        taken = [0, 0, 0]
        breaks: dict[str, set[int]] = {}
        for name, counts in _SHAPES[shape].items():
            breaks[name] = {int(i) for c in range(3) for i in places[c][taken[c] : taken[c] + counts[c]]}
            taken = [t + k for t, k in zip(taken, counts, strict=True)]
        images = Planted(y, torch.zeros(120), breaks=breaks)
        audit = plan.audit(FULL, images, 4.0, Noise(seed, images.index), 3)
        left = torch.bincount(y[images.breakable("m", "n")], minlength=3)
        wrong += int(left.sum()) > audit["at_most"]
        wrong_by_class += bool((left > torch.tensor(audit["at_most_by_class"])).any())
        several += len(audit["rounds"]) > 1
    assert several > 0
    assert wrong / _AUDITS <= _TOO_OFTEN
    assert wrong_by_class / _AUDITS <= _TOO_OFTEN
