"""The search on a pool: it keeps the price, finds what is there, and goes only part of the way where images are few."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.corrections.pools import leaning, pool_of, unlike
from tests.strategies import SEEDS, examples

from classwise import registry
from classwise.corrections.base import Pool
from classwise.corrections.search import FEW_IMAGES, search, share, tally

RULES = registry.names("correction")
CLASSES = tuple(f"class {k}" for k in range(10))
OFFSETS, WEAKEST = registry.build("correction", "iv-offsets"), registry.build("target", "weakest")


def reached(pool: Pool, rule: str, target: str, max_loss: float) -> tuple[float, float, float]:
    """Return the loss of average in points, and the score before and after a search."""
    built, aim = registry.build("correction", rule), registry.build("target", target)
    zero = built.start(pool)
    theta = search(pool, built, aim, CLASSES[: pool.num_classes], max_loss, zero)
    before, after = tally(pool, built.at(zero, pool)), tally(pool, built.at(theta, pool))
    loss = 100 * float(before.average - after.average)
    return loss, *(float(aim.score(counts, CLASSES[: pool.num_classes])) for counts in (before, after))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("target", registry.names("target"))
def test_no_search_costs_more_than_it_may_or_ends_below_its_start(rule: str, target: str) -> None:
    for max_loss in (0.0, 2.0):
        loss, before, after = reached(leaning(images=60), rule, target, max_loss)
        assert loss <= max_loss + 1e-4
        assert after >= before


@given(SEEDS, st.floats(0, 20))
@examples(8)
def test_whatever_the_price_it_is_kept(seed: int, max_loss: float) -> None:
    loss, before, after = reached(leaning(seed, images=40), "iv-offsets", "weakest", max_loss)
    assert loss <= max_loss + 1e-4
    assert after >= before


def test_two_classes_on_a_line_get_the_best_threshold() -> None:
    """Class 0 leads by 1 … 10 less 4.5, class 1 by 1 … 10 plus 2; every shift is tried to know the best."""
    steps = torch.arange(1.0, 11)
    zero, one = steps - 4.5, steps + 2
    logits = torch.cat([torch.stack([zero, 0 * zero], 1), torch.stack([0 * one, one], 1)])
    pool = pool_of(logits[None], torch.arange(2).repeat_interleave(10), 1)
    theta = search(pool, OFFSETS, WEAKEST, ("a", "b"), 100.0, OFFSETS.start(pool))
    best = 0.0
    for shift in torch.linspace(-15, 15, 3001):
        right = torch.tensor([float((zero + shift > 0).float().mean()), float((one - shift > 0).float().mean())])
        best = max(best, float(right.min()))
    assert float(tally(pool, OFFSETS.at(theta, pool)).accuracy.min()) == best


def test_classes_that_are_unlike_hard_come_near_one_level() -> None:
    """Where offsets can level the classes, the weakest ends near the average."""
    pool = unlike(1, 100, world=1)
    loss, before, after = reached(pool, "iv-offsets", "weakest", 1.0)
    assert loss <= 1
    assert before < 0.08
    assert after > 0.25


def test_a_floor_is_kept_at_less_loss_than_the_weakest_class_at_its_best() -> None:
    pool = unlike(1, 100, world=2)
    losses = {target: reached(pool, "iv-offsets", target, 100.0)[0] for target in ("weakest", "floor(level=0.2)")}
    assert losses["floor(level=0.2)"] < losses["weakest"]
    built = registry.build("target", "floor(level=0.2)")
    theta = search(pool, OFFSETS, built, CLASSES, 100.0, OFFSETS.start(pool))
    assert built.missed(tally(pool, OFFSETS.at(theta, pool)), CLASSES) is None


def test_few_images_draw_a_correction_towards_nothing_and_many_do_not() -> None:
    """Of classes that are alike nothing is to be gained: what a search finds is noise, and unseen images say so."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(10).repeat(8)
    clean = torch.randn(80, 10, generator=generator) + 2 * torch.eye(10)[y]
    few = pool_of(clean[None], y, 1)
    assert share(few, OFFSETS, WEAKEST, CLASSES, 5.0) < 1
    assert share(unlike(0, FEW_IMAGES), OFFSETS, WEAKEST, CLASSES, 5.0) == 1


def test_a_class_with_one_image_has_no_halves() -> None:
    pool = pool_of(torch.eye(3)[None], torch.arange(3), 1)
    assert share(pool, OFFSETS, WEAKEST, ("a", "b", "c"), 1.0) == 1
