"""What differs between a record and what is asked for is named."""

from __future__ import annotations

import pytest

from classwise.files.difference import first_difference

STORED = {
    "model": {"name": "m", "sha256": "a" * 64},
    "data": {"n": 10, "sha256": "b" * 64},
    "threat": {"eps": 0.1, "eps_text": "0.1", "norm": "Linf"},
    "seed": 0,
    "attacks": {"pgd": {"settings": "PGD(steps=20)"}},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "the seed = 0, and now 1 is asked for"),
        (
            {"model": {"name": "m", "sha256": "c" * 64}},
            "the model's weights (SHA-256) = aaaaaaaaaaaa, and now cccccccccccc",
        ),
        ({"data": {"n": 5, "sha256": "d" * 64}}, "the data (SHA-256) = bbbbbbbbbbbb"),
        ({"threat": {"eps": 0.2, "eps_text": "0.2", "norm": "Linf"}}, 'the radius = "0.1", and now "0.2"'),
        ({"attacks": {"pgd": {"settings": "PGD(steps=5)"}}}, "the settings of the attack pgd = "),
    ],
)
def test_the_first_difference_is_named_with_both_values(change: dict[str, object], said: str) -> None:
    assert said in str(first_difference(STORED, {**STORED, **change}))


def test_what_a_record_does_not_mention_agrees() -> None:
    assert first_difference({}, STORED) is None
    assert first_difference(STORED, STORED) is None
