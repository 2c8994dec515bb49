"""Names: what is registered, how it is looked up, and the text that builds it."""

from __future__ import annotations

import contextlib
import keyword
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import examples

from classwise import registry
from classwise.attacks import PGD
from classwise.errors import InputError
from classwise.registry import Kind
from classwise.threat import ThreatModel

KINDS: tuple[Kind, ...] = get_args(Kind)
KEYS = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda key: not keyword.iskeyword(key))
VALUES = st.recursive(
    st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner, inner)),
    max_leaves=4,
)


# What is there.


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_names_in_order(kind: Kind) -> None:
    assert registry.names(kind)
    assert registry.names(kind) == sorted(set(registry.names(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_says_what_it_is_and_where_it_comes_from(kind: Kind) -> None:
    for entry in registry.entries(kind):
        assert entry.kind == kind
        assert callable(entry.build)
        assert entry.source
        assert 10 < len(entry.summary) < 160
        assert not entry.summary.endswith(".")
        assert "\n" not in entry.summary


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_can_be_typed(kind: Kind) -> None:
    for name in registry.names(kind):
        assert registry.parse(name) == (name, {})
        assert registry.split(f"{name}, {name}(a=1)") == [name, f"{name}(a=1)"]


def test_the_attacks_and_suites_of_the_protocol_are_there() -> None:
    assert {"fgsm", "pgd", "margin-pgd", "dlr-pgd", "kl-pgd", "targeted-pgd", "temperature-pgd"} <= set(
        registry.names("attack")
    )
    assert {"quick", "pgd-family", "temperature-curve"} <= set(registry.names("suite"))


def test_a_name_is_either_an_attack_or_a_suite() -> None:
    assert not set(registry.names("attack")) & set(registry.names("suite"))


# Registering.


@pytest.mark.usefixtures("scratch")
def test_a_registered_function_is_found_and_left_as_it_is() -> None:
    def flat(logits: Any, y: Any) -> Any:
        """Is flat.

        And says more.
        """

    assert registry.register("loss", "flat", source="here")(flat) is flat
    assert registry.entry("loss", "flat") == registry.Registration("loss", "flat", flat, "Is flat", "here")
    assert "flat" in registry.names("loss")
    assert "flat" not in registry.names("attack")


@pytest.mark.usefixtures("scratch")
def test_a_summary_may_be_given() -> None:
    registry.register("loss", "flat", source="here", summary="Flat as can be.")(lambda logits, y: 0)
    assert registry.entry("loss", "flat").summary == "Flat as can be"


@pytest.mark.usefixtures("scratch")
def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(RuntimeError, match="loss 'margin' is registered twice"):
        registry.register("loss", "margin", source="here")(lambda logits, y: 0)


@pytest.mark.usefixtures("scratch")
def test_two_kinds_may_share_a_name() -> None:
    registry.register("attack", "margin", source="here", summary="An attack.")(lambda threat: None)
    assert registry.entry("loss", "margin").build is not registry.entry("attack", "margin").build


# Looking up.


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("attack", "pdg", "Unknown attack 'pdg': did you mean 'pgd'?"),
        ("loss", "cross entropy", "Unknown loss 'cross entropy': did you mean 'cross_entropy'?"),
        ("suite", "xxxxxx", "Unknown suite 'xxxxxx': known are "),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(kind: Kind, name: str, says: str) -> None:
    with pytest.raises(InputError) as raised:
        registry.entry(kind, name)
    assert str(raised.value).startswith(says)


def test_names_that_resemble_none_are_answered_with_all() -> None:
    with pytest.raises(InputError) as raised:
        registry.entry("suite", "xxxxxx")
    assert all(name in str(raised.value) for name in registry.names("suite"))


# Building.


def test_settings_in_the_text_win_over_defaults() -> None:
    threat = ThreatModel("Linf", 0.1)
    built = registry.build("attack", "pgd(steps=7)", threat, steps=3, restarts=2)
    assert (built.steps, built.restarts, built.threat) == (7, 2, threat)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pgd(step=7)", "The attack pgd has no setting 'step': did you mean 'steps'\\?"),
        ("fgsm(steps=2)", "The attack fgsm has no setting 'steps'"),
        ("pgd(steps=0)", "of at least 1"),
        ("pgd(steps='many')", "whole numbers"),
        ("pgd(step_size='2/255')", "step_size of the attack pgd is .* give a number"),
        ("nothing(steps=7)", "Unknown attack 'nothing'"),
        ("pgd(steps=1/0)", "are not of the form"),
    ],
)
def test_what_cannot_be_built_is_said(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        registry.build("attack", text, ThreatModel("Linf", 0.1))


def test_a_frozen_attack_is_built_again_from_its_settings() -> None:
    built = registry.build("attack", "pgd(steps=5, step_size=2/255)", ThreatModel("Linf", 0.1))
    assert isinstance(built, PGD)
    assert built.step_size == 2 / 255


# The text.


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("pgd", "pgd", {}),
        (" pgd ( ) ", "pgd", {}),
        ("pgd(steps=100, step_size=1/4)", "pgd", {"steps": 100, "step_size": 0.25}),
        ("pgd(step_size=-1/4/2)", "pgd", {"step_size": -0.125}),
        ("a-b.c/d:e@f+g(x=[1, 2], y=(1/2, 'z'))", "a-b.c/d:e@f+g", None),
        ("pgd(loss='soft_margin(temperature=0.1)')", "pgd", {"loss": "soft_margin(temperature=0.1)"}),
        ("pgd(a=None, b=True, c='x,y')", "pgd", {"a": None, "b": True, "c": "x,y"}),
        ("pgd(\n  steps=1,\n)", "pgd", {"steps": 1}),
    ],
)
def test_a_name_with_settings_is_read(text: str, name: str, settings: dict[str, Any] | None) -> None:
    if settings is None:
        with pytest.raises(InputError):  # a fraction inside a list is no literal
            registry.parse(text)
    else:
        assert registry.parse(text) == (name, settings)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
@examples(100)
def test_settings_written_as_python_are_read_as_they_were(settings: dict[str, Any]) -> None:
    written = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    assert registry.parse(f"pgd({written})") == ("pgd", settings)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pgd(",
        "pgd)",
        "pgd(1)",
        "pgd(*[1])",
        "pgd(**{'steps': 1})",
        "pgd(steps=1)(restarts=2)",
        "pgd(steps=1, steps=2)",
        "pgd(steps=1) margin-pgd",
        "pgd(steps=1) + (2)",
        "pgd(steps=two)",
        "pgd(steps=f(1))",
        "pgd(steps=1/0)",
        "pgd(steps='a'/2)",
        "pgd(steps=1 + 1)",
        "pgd(steps=)",
        "pgd(steps 1)",
        "pgd(__import__('os').system('true'))",
        "pgd(a=__import__('os'))",
        "two words",
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="name"):
        registry.parse(text)


@given(st.text(alphabet="pgd()=,'1/ [*+", max_size=12))
@examples(300)
def test_no_text_makes_a_traceback(text: str) -> None:
    with contextlib.suppress(InputError):
        registry.parse(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" , ,", []),
        ("pgd", ["pgd"]),
        ("pgd,fgsm", ["pgd", "fgsm"]),
        (" pgd ,\n fgsm, ", ["pgd", "fgsm"]),
        ("pgd(steps=1, restarts=2),fgsm", ["pgd(steps=1, restarts=2)", "fgsm"]),
        ("t(inverse_temperatures=[1, 2], steps=3), fgsm", ["t(inverse_temperatures=[1, 2], steps=3)", "fgsm"]),
    ],
)
def test_a_list_is_split_at_the_commas_between_names(text: str, parts: list[str]) -> None:
    assert registry.split(text) == parts


@pytest.mark.parametrize(
    ("kind", "text", "given", "says"),
    [
        ("recipe", "digits(epoch=3)", (), "The recipe digits has no setting 'epoch': did you mean 'epochs'"),
        ("method", "frl-rw(bta=1)", (3, None), "The method frl-rw has no setting 'bta': did you mean 'beta'"),
        ("suite", "temperature-curve(stps=5)", (ThreatModel("Linf", 0.1),), "cannot be built"),
    ],
)
def test_a_builder_that_passes_its_settings_on_has_those_of_what_it_makes(
    kind: registry.Kind, text: str, given: tuple[Any, ...], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        registry.build(kind, text, *given)
