"""Targets: the number that a correction is fitted for, and what is said of a limit that is missed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from tests.corrections.pools import leaning
from tests.strategies import SEEDS, examples
from torch import nn

from classwise import registry
from classwise.corrections.search import closest, smoothed, tally
from classwise.corrections.targets import Tally
from classwise.errors import InputError

CLASSES = ("cat", "dog", "bird", "deer")
TARGETS = registry.names("target")


def counted() -> Tally:
    """Return five images of three classes: cat 1 of 2 right, dog 0 of 1, bird 1 of 2; wrong answers dog, cat, cat."""
    y = torch.tensor([0, 0, 1, 2, 2])
    answers = torch.tensor([0, 1, 0, 2, 0])
    logits = 3.0 * nn.functional.one_hot(answers, 4) + 0.1 * nn.functional.one_hot(y, 4)
    return Tally((answers == y).float(), logits, y, torch.tensor([2, 1, 2, 0]), 1e-6)


def score(text: str) -> float:
    return float(registry.build("target", text).score(counted(), CLASSES))


def test_counts_by_class_and_shares_of_wrong_answers() -> None:
    counts = counted()
    assert counts.accuracy[:3].tolist() == [0.5, 0, 0.5]
    assert counts.accuracy[3].isnan()
    assert float(counts.average) == pytest.approx(0.4)
    assert counts.false_positives.tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_scores_by_hand() -> None:
    assert score("weakest") == 0
    assert score("two-weakest") == score("weakest(classes=2)") == 0.25
    assert score("weakest(classes=9)") == pytest.approx(1 / 3), "all that have images"
    assert score("weakest-tenth") == 0, "a tenth of three classes is one"
    assert score("floor(level=0.4)") == pytest.approx(0.4 - 10 * 0.4), "dog misses 0.4"
    assert score("floor(level=0.6, classes=('cat', 'bird'))") == pytest.approx(0.4 - 10 * 0.2)
    assert score("equal-false-positives") == pytest.approx(-2 / 3)
    assert score("weakest(max_cfps=0.5)") == pytest.approx(-10 * (2 / 3 - 0.5))


def test_a_missed_limit_is_said_with_what_was_reached() -> None:
    counts = counted()
    floor = registry.build("target", "floor(level=0.4)").missed(counts, CLASSES)
    assert floor.startswith("The floor of 40.0% is out of reach at this loss of average: dog at 0.0%;")
    share = registry.build("target", "weakest(max_cfps=0.5)").missed(counts, CLASSES)
    assert "but cat takes 66.7%" in share
    for text in ("weakest", "weakest-tenth", "equal-false-positives", "floor(level=0.4, classes='cat')"):
        assert registry.build("target", text).missed(counts, CLASSES) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weakest(classes=0)", "at least 1"),
        ("weakest(classes=1.5)", "at least 1"),
        ("weakest(max_cfps=0)", "above 0 and at most 1"),
        ("floor(level=30)", "between 0 and 1, such as 0.3"),
        ("floor(level='a')", "between 0 and 1"),
        ("weakst", "did you mean 'weakest'"),
    ],
)
def test_settings_outside_their_range_are_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        registry.build("target", text)


def test_a_floor_for_a_class_that_is_none_names_those_there_are() -> None:
    with pytest.raises(InputError, match=r"dgo.*dog"):
        registry.build("target", "floor(classes='dgo')").score(counted(), CLASSES)


@given(SEEDS)
@examples(10)
def test_soft_counts_approach_the_counts_as_their_width_shrinks(seed: int) -> None:
    pool = leaning(seed)
    identity = nn.Identity()
    counts, soft = tally(pool, identity), smoothed(pool, closest(pool, identity), identity, 1e-4)
    for target in TARGETS:
        built = registry.build("target", target)
        torch.testing.assert_close(built.score(soft, CLASSES), built.score(counts, CLASSES), atol=0.02, rtol=0)
