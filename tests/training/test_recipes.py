"""Recipes: schedules in closed form, and settings refused at once instead of an hour into a run."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from classwise import registry
from classwise.errors import InputError
from classwise.training.recipes import Recipe

NAMES = registry.names("recipe")


@pytest.mark.parametrize(
    ("progress", "rate"), [(0, 0.1), (99.999, 0.1), (100, 0.01), (104.5, 0.01), (105, 0.001), (110, 0.001)]
)
def test_the_piecewise_rate_falls_to_a_tenth_at_each_milestone(progress: float, rate: float) -> None:
    assert Recipe(epochs=110, milestones=(100, 105)).rate(progress) == pytest.approx(rate)


def test_the_piecewise_rate_without_milestones_is_constant() -> None:
    assert {Recipe(epochs=7, lr=0.03).rate(t) for t in (0, 3.5, 6.99, 7)} == {0.03}


@pytest.mark.parametrize(("share", "part"), [(0, 1), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1, 0)])
def test_the_cosine_rate_follows_half_a_wave(share: float, part: float) -> None:
    assert Recipe(epochs=30, lr=0.2, schedule="cosine").rate(30 * share) == pytest.approx(0.2 * part, abs=1e-15)


@pytest.mark.parametrize(("share", "part"), [(0, 0), (0.1, 0.25), (0.4, 1), (0.7, 0.5), (0.85, 0.25), (1, 0)])
def test_the_cyclic_rate_is_a_triangle_with_its_peak_at_two_fifths(share: float, part: float) -> None:
    assert Recipe(epochs=20, lr=0.4, schedule="cyclic").rate(20 * share) == pytest.approx(0.4 * part, abs=1e-15)


@pytest.mark.parametrize(("progress", "share"), [(0, 0), (0.5, 0.125), (1, 0.25), (3, 0.75), (4, 1), (9, 1)])
def test_the_reach_of_the_attack_grows_linearly_to_the_whole(progress: float, share: float) -> None:
    assert Recipe(epochs=9, eps_warmup=4).reach(progress) == share


def test_without_warm_up_the_attack_has_its_whole_reach_from_the_start() -> None:
    assert {Recipe(epochs=3).reach(t) for t in (0, 0.01, 1, 3)} == {1.0}


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_recipe_has_a_rate_between_zero_and_its_peak_all_along(name: str) -> None:
    recipe = registry.build("recipe", name)
    rates = [recipe.rate(recipe.epochs * k / 1000) for k in range(1001)]
    assert all(0 <= rate <= recipe.lr and math.isfinite(rate) for rate in rates)
    assert max(rates) == pytest.approx(recipe.lr, rel=1e-2)


# spec/methods.md section 7.
PUBLISHED: dict[str, dict[str, Any]] = {
    "pang2021": {"epochs": 110, "milestones": (100, 105), "lr": 0.1, "weight_decay": 5e-4, "attack_mode": "eval"},
    "rice2020": {"epochs": 200, "milestones": (100, 150), "lr": 0.1, "weight_decay": 5e-4, "attack_mode": "train"},
    "mnist": {"epochs": 100, "milestones": (54, 74, 89), "lr": 0.01, "weight_decay": 0, "steps": 40, "step_size": 0.01},
    # Counted from 0 here and from 1 there: the 75th epoch comes after 74.
    "trades": {"epochs": 76, "milestones": (74,), "lr": 0.1, "weight_decay": 2e-4, "steps": 10, "normalize": False},
    "mart": {"epochs": 120, "milestones": (74, 89, 99), "lr": 0.01, "weight_decay": 3.5e-3, "steps": 10},
    "he": {"epochs": 77, "milestones": (74,), "lr": 0.1, "weight_decay": 5e-4, "steps": 10, "normalize": True},
    "gairat": {"epochs": 120, "milestones": (59, 89), "lr": 0.1, "weight_decay": 2e-4, "normalize": False},
    "bat": {"epochs": 200, "milestones": (74, 89, 99), "lr": 0.1, "weight_decay": 2e-4, "normalize": False},
    "cfa": {"epochs": 200, "milestones": (100, 150), "lr": 0.1, "attack_mode": "train", "normalize": True},
    "wat": {"epochs": 100, "milestones": (74, 89, 99), "weight_decay": 2e-4, "normalize": False, "holdout": 0.06},
    "dafa": {"epochs": 110, "milestones": (99, 104), "lr": 0.1, "nesterov": True, "normalize": False},
    "fat": {"epochs": 120, "milestones": (59, 89), "lr": 0.1, "weight_decay": 2e-4, "steps": 10, "normalize": False},
    "rslad": {"epochs": 300, "milestones": (215, 260, 285), "lr": 0.1, "weight_decay": 2e-4, "normalize": False},
    "finetune-frl": {
        "epochs": 40,
        "milestones": (40,),
        "lr": 0.001,
        "weight_decay": 5e-4,
        "holdout": 0.06,
        "steps": 10,
    },
    "finetune-faal": {"epochs": 2, "milestones": (1,), "lr": 0.01, "weight_decay": 5e-4, "steps": 10},
    "svhn": {
        "epochs": 200,
        "milestones": (100, 150),
        "lr": 0.01,
        "augment": "none",
        "step_size": 1 / 255,
        "attack_mode": "train",
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_published_settings(name: str) -> None:
    recipe = registry.build("recipe", name)
    common = {"batch_size": 128, "momentum": 0.9, "nesterov": False}
    wanted = common | PUBLISHED[name]
    assert {key: getattr(recipe, key) for key in wanted} == wanted


@pytest.mark.parametrize(("name", "steps"), [("fast", 7), ("cpu-small", 10)])
def test_our_short_recipes_are_cyclic_and_step_by_a_quarter_of_the_radius(name: str, steps: int) -> None:
    recipe = registry.build("recipe", name)
    assert (recipe.epochs, recipe.schedule, recipe.steps, recipe.step_size) == (15, "cyclic", steps, None)
    assert registry.entry("recipe", name).source == "our design"


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_in_the_text_changes_that_setting_alone(name: str) -> None:
    plain = registry.build("recipe", name)
    assert registry.build("recipe", f"{name}(epochs=3, lr=1/4)") == replace(plain, epochs=3, lr=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_its_own_record(name: str) -> None:
    recipe = registry.build("recipe", name)
    assert eval(repr(recipe)) == recipe


def test_milestones_may_come_as_a_list() -> None:
    assert Recipe(epochs=9, milestones=[3, 6]) == Recipe(epochs=9, milestones=(3, 6))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", "a"),
        ("epochs", True),
        ("batch_size", 1),
        ("batch_size", 64.0),
        ("lr", 0),
        ("lr", -0.1),
        ("lr", math.inf),
        ("lr", math.nan),
        ("lr", "fast"),
        ("milestones", 3),
        ("milestones", ("a",)),
        ("milestones", (3, 1.5)),
        ("schedule", "linear"),
        ("schedule", 3),
        ("momentum", -0.1),
        ("momentum", 1),
        ("nesterov", 1),
        ("weight_decay", -1e-4),
        ("weight_decay", math.nan),
        ("augment", 3),
        ("steps", 0),
        ("steps", 2.5),
        ("step_size", -0.1),
        ("step_size", "a"),
        ("step_size", math.inf),
        ("eps_warmup", -1),
        ("eps_warmup", 1.5),
        ("eps_warmup", 5),
        ("eps_warmup", "a"),
        ("attack_mode", "test"),
        ("normalize", "no"),
        ("holdout", -0.1),
        ("holdout", 1),
        ("holdout", "some"),
        ("holdout", math.nan),
    ],
)
def test_a_setting_outside_its_range_is_refused_by_name(setting: str, value: Any) -> None:
    settings = {"epochs": 4, setting: value}
    with pytest.raises(InputError, match=rf"{setting} is {re.escape(repr(value))}, but must be "):
        Recipe(**settings)


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="epocs"):
        registry.build("recipe", "digits(epocs=3)")


def test_an_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'digits'"):
        registry.build("recipe", "digitz")
