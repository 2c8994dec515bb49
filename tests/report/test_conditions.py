from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classwise.errors import InputError
from classwise.report.conditions import Condition, conditions

CLASSES = ("cat", "a,b=0.3", "dog]", "worst=1", "x], class[y")


def test_conditions_are_read_in_every_form() -> None:
    text = "worst=0.2, worst_q10 = .3,average=1,clean.worst=0, class[cat]=0.1,clean.class[a,b=0.3]=0.5,class[dog]]=0.4"
    assert [(c.view, c.metric, c.label, c.least) for c in conditions(text, CLASSES)] == [
        ("worst_case", "worst", "", 0.2),
        ("worst_case", "worst_q10", "", 0.3),
        ("worst_case", "average", "", 1.0),
        ("clean", "worst", "", 0.0),
        ("worst_case", "class", "cat", 0.1),
        ("clean", "class", "a,b=0.3", 0.5),
        ("worst_case", "class", "dog]", 0.4),
    ]


@given(st.lists(st.sampled_from(CLASSES), unique=True, min_size=1))
def test_names_may_hold_what_separates_conditions(labels: list[str]) -> None:
    text = ",".join(f"class[{label}]=0.5" for label in labels)
    assert [c.label for c in conditions(text, CLASSES)] == labels


REFUSED = [
    # wrong names
    ("wrst=0.2", "Unknown condition 'wrst': did you mean 'worst'?"),
    ("wrst=0.2,average=0.1", "Unknown condition 'wrst': did you mean 'worst'?"),
    ("worst=0.2,avrage=0.1", "Unknown condition 'avrage': did you mean 'average'?"),
    ("Worst=0.2", "Unknown condition 'Worst': did you mean 'worst'?"),
    ("clean.wrst=0.2", "did you mean 'clean.worst'?"),
    ("worst>=0.2", "Unknown condition 'worst>': did you mean 'worst'?"),
    ("gap=1", "Unknown condition 'gap'"),
    ("wrst", "Unknown condition 'wrst'"),
    ("=0.2", "Unknown condition ''"),
    ("class[cow]=0.1", "no class 'cow'"),
    ("class[]=0.1", "no class ''"),
    ("class[cat=0.1", "Unknown condition 'class[cat'"),
    # wrong numbers
    ("worst=abc", "'abc' is not a number"),
    ("worst=0.2.3", "'0.2.3' is not a number"),
    ("worst=0.2=0.3", "'0.2=0.3' is not a number"),
    ("worst=0_2", "is not a number"),
    ("worst=0.2,worst_q10=x,average=1", "'x' is not a number"),
    ("worst=20%", "write worst=0.2."),
    ("worst=20 %", "write worst=0.2."),
    ("worst=0.5%", "write worst=0.005."),
    ("worst=20", "write worst=0.2."),
    ("class[cat]=35", "write class[cat]=0.35."),
    ("worst=-0.1", "worst=-0.1 is no share between 0 and 1"),
    ("worst=-20%", "is no share between 0 and 1"),
    ("worst=200", "is no share between 0 and 1"),
    ("worst=nan", "worst=nan is no share between 0 and 1"),
    ("worst=inf", "worst=inf is no share between 0 and 1"),
    ("worst=-Infinity", "is no share between 0 and 1"),
    ("worst=1e999", "is no share between 0 and 1"),
    ("worst=0,2", "write a share with a point, as in worst=0.2."),
    # nothing, and twice
    ("", "No condition was given"),
    ("  ", "No condition was given"),
    (",", "comma with no condition beside it"),
    ("worst=0.1,", "comma with no condition beside it"),
    ("worst=0.1,,average=0.1", "comma with no condition beside it"),
    ("worst", "'worst' asks for no share"),
    ("worst=", "'worst' asks for no share"),
    ("worst=,average=0.1", "'worst' asks for no share"),
    ("worst=0.1,average=0.1,worst=0.2", "worst is asked for twice"),
    ("clean.class[cat]=0.1, clean.class[cat]=0.1", "clean.class[cat] is asked for twice"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED)
def test_what_is_no_condition_is_refused_in_a_sentence_that_says_why(text: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        conditions(text, CLASSES)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text(alphabet="worst=,.0129%[]clean ave", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = conditions(text, CLASSES)
    except InputError:
        return
    assert all(0 <= condition.least <= 1 for condition in found)


def test_of_many_classes_some_are_listed() -> None:
    with pytest.raises(InputError, match="c19 and 980 more"):
        conditions("class[cow]=0.1", [f"c{c}" for c in range(1000)])


@pytest.mark.parametrize(
    "fields",
    [
        ("worst", "worst_case", "worst", "", float("nan")),
        ("worst", "worst_case", "worst", "", -1.0),
        ("worst", "worst_case", "best", "", 0.1),
        ("worst", "adversarial", "worst", "", 0.1),
        ("worst", "worst_case", "worst", "cat", 0.1),
        ("class[]", "worst_case", "class", "", 0.1),
    ],
)
def test_a_condition_that_cannot_be_is_refused_from_python_too(fields: tuple[str, str, str, str, float]) -> None:
    with pytest.raises(InputError):
        Condition(*fields)
