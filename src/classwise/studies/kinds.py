"""What a key of a TOML file may be: read from the annotation of the field that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Whole:
    """A whole number of at least ``low``, and below ``2^power`` where that is said."""

    low: int
    power: int | None = None

    @property
    def words(self) -> str:
        """What fits, after "whole number" or "whole numbers"."""
        return f"of at least {self.low}" + ("" if self.power is None else f" and below 2^{self.power}")

    def fits(self, value: Any) -> bool:
        """Tell whether a value is one; True and False are none."""
        return type(value) is int and self.low <= value and (self.power is None or value < 2**self.power)


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``."""

    low: float
    high: float

    def fits(self, value: Any) -> bool:
        """Tell whether a value is one."""
        return _is_number(value) and self.low <= value <= self.high


@dataclass(frozen=True)
class Such:
    """A text like this one, or a number."""

    example: str


Count = Annotated[int, Whole(1)]
Seed = Annotated[int, Whole(0, 63)]
PerCent = Annotated[float, Between(0, 100)]
Eps = Annotated[str | float, Such("8/255")]
NormName = Annotated[str | int, Such("Linf")]


@dataclass(frozen=True)
class Kind:
    """What a key may be.

    Attributes:
        words: as the end of "must be …".
        fits: tells whether a value is one.
        table: what a table under this key becomes, None for a plain value.
        alone: whether a single value may stand for a list of one.
    """

    words: str
    fits: Callable[[Any], bool]
    table: type | None = None
    alone: bool = False


@cache
def kinds(settings: type) -> Mapping[str, Kind]:
    """Return what each key of the table that becomes ``settings``, a dataclass, may be."""
    hints = get_type_hints(settings, include_extras=True)
    return {key: _kind(key, _without_none(hint)) for key, hint in hints.items()}


def _without_none(hint: Any) -> Any:
    """Return a type without None, which TOML cannot say."""
    options = [option for option in get_args(hint) if option is not NoneType]
    return options[0] if NoneType in get_args(hint) and len(options) == 1 else hint


def _kind(key: str, hint: Any) -> Kind:
    if is_dataclass(hint):
        return Kind(f"a table, [{key}]", _is_table, table=_as_type(hint))
    if get_origin(hint) is tuple:
        return _several(key, get_args(hint)[0])
    match _limits(hint):
        case Whole() as limits:
            return Kind(f"a whole number {limits.words}", limits.fits)
        case Between() as limits:
            return Kind(f"a number between {limits.low} and {limits.high}", limits.fits)
        case Such() as limits:
            words = f'a text such as "{limits.example}", or a number'
            return Kind(words, lambda value: isinstance(value, str) or _is_number(value))
    assert hint is str, f"no kind of TOML value is known for {key}: {hint}"
    return Kind("a text", _is_text)


def _several(key: str, item: Any) -> Kind:
    if is_dataclass(item):
        return Kind(
            f"tables, [[{key}]]", lambda value: _all(lambda row: isinstance(row, Mapping), value), _as_type(item)
        )
    if item is str:
        return Kind("a text or a list of texts", lambda value: _is_text(value) or _all(_is_text, value), alone=True)
    limits = _limits(item)
    assert isinstance(limits, Whole), f"no kind of TOML list is known for {key}: {item}"
    return Kind(f"a list of whole numbers {limits.words}", lambda value: _all(limits.fits, value))


def _limits(hint: Any) -> Any:
    return hint.__metadata__[0] if get_origin(hint) is Annotated else None


def _as_type(hint: Any) -> type:
    return hint  # type: ignore[no-any-return]


def _all(fits: Callable[[Any], bool], value: Any) -> bool:
    """Tell whether a value is a list with something in it, all of which fits."""
    return isinstance(value, list) and bool(value) and all(fits(item) for item in value)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
