"""What settings files and the command line can name: attacks, losses, methods, models, data, recipes and more.

A file that is present is active: the first look-up of a kind imports every module of the package that
holds it, and each module registers what it defines.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import difflib
import importlib
import inspect
import math
import pkgutil
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from classwise.errors import InputError

Kind = Literal[
    "attack",
    "suite",
    "plan",
    "loss",
    "method",
    "model",
    "data",
    "recipe",
    "wrapper",
    "correction",
    "target",
    "logger",
]
Built = TypeVar("Built", bound=Callable[..., Any])

_HOMES: dict[Kind, str] = {
    "attack": "classwise.attacks",
    "suite": "classwise.attacks",
    "plan": "classwise.attacks",
    "loss": "classwise.losses",
    "method": "classwise.methods",
    "model": "classwise.models",
    "data": "classwise.data",
    "recipe": "classwise.training.recipes",
    "wrapper": "classwise.wrappers",
    "correction": "classwise.corrections",
    "target": "classwise.corrections",
    "logger": "classwise.training.loggers",
}


@dataclass(frozen=True)
class Registration:
    """One registered name.

    Attributes:
        kind: what it is.
        name: what the user types.
        build: makes the thing from settings.
        summary: one line, shown by ``classwise list``.
        source: paper or repository it follows, or "classwise" for our own design.
    """

    kind: Kind
    name: str
    build: Callable[..., Any]
    summary: str
    source: str


_MOST = 2**31
"""Numbers in settings are below it: more is no count of anything, too much for a tensor, or overflows float32."""

_ENTRIES: dict[tuple[Kind, str], Registration] = {}


def register(kind: Kind, name: str, *, source: str, summary: str | None = None) -> Callable[[Built], Built]:
    """Make a class or function available under ``name``; the summary defaults to its docstring's first line.

    Raises:
        RuntimeError: the name is taken, which is a mistake in the code.
    """

    def add(build: Built) -> Built:
        if (kind, name) in _ENTRIES:
            raise RuntimeError(f"{kind} {name!r} is registered twice")
        line = summary or (build.__doc__ or "").strip().partition("\n")[0]
        _ENTRIES[kind, name] = Registration(kind, name, build, line.rstrip("."), source)
        return build

    return add


def entries(kind: Kind) -> list[Registration]:
    """Return every entry of a kind, sorted by name."""
    _import_all(kind)
    return sorted((e for (k, _), e in _ENTRIES.items() if k == kind), key=lambda e: e.name)


def names(kind: Kind) -> list[str]:
    """Return the registered names of a kind, sorted."""
    return [entry.name for entry in entries(kind)]


def entry(kind: Kind, name: str) -> Registration:
    """Return the entry ``name``.

    Raises:
        InputError: there is none; the message offers the nearest name.
    """
    _import_all(kind)
    if (kind, name) not in _ENTRIES:
        raise InputError(unknown(kind, name, names(kind)))
    return _ENTRIES[kind, name]


def build(kind: Kind, text: str, *args: Any, **defaults: Any) -> Any:
    """Build what ``text`` says: a name, or a name with settings such as ``pgd(steps=100, restarts=5)``.

    Args:
        kind: what to build.
        text: name, with settings in parentheses where wanted.
        args: positional arguments of the builder.
        defaults: keyword arguments of the builder; settings in ``text`` win over them.

    Raises:
        InputError: unknown name, or settings that the builder does not take.
    """
    name, settings = parse(text)
    registered = entry(kind, name)
    try:
        built = registered.build(*args, **{**defaults, **settings})
    except (TypeError, LookupError, ArithmeticError, ValueError, AttributeError, RuntimeError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        known = _settings_of(registered.build, len(args))
        if known is not None and (wrong := [key for key in {**settings, **defaults} if key not in known]):
            raise InputError(f"The {kind} {name} has no setting {wrong[0]!r}: {_nearest(wrong[0], known)}") from error
        _refuse_misfits(registered, settings)
        if not isinstance(error, TypeError):
            raise
        raise InputError(f"{kind} {text!r} cannot be built: {error}.") from error
    _refuse_misfits(registered, settings)
    return built


def _refuse_misfits(registered: Registration, settings: Mapping[str, Any]) -> None:
    """Refuse settings that are not of the type that the builder says.

    Raises:
        InputError: one is not, such as steps='x', steps=True, or a whole number that no tensor can count.
    """
    hints = _hints(registered.build)
    for key, value in settings.items():
        if key in hints and not _fits(value, hints[key]):
            short = textwrap.shorten(repr(value), 40, placeholder="…")
            raise InputError(
                f"The setting {key} of the {registered.kind} {registered.name} is {short}; give {_said(hints[key])}."
            )


def _hints(build: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the settings of a builder, and of the class that it passes others on to."""
    made = made_by(build)
    hints: dict[str, Any] = {}
    for function in (made, build):
        with suppress(NameError, TypeError):  # of types that only the type checker imports
            hints |= get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    return hints


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a literal is of a type; of a type that no literal has, its builder knows better."""
    inner = get_args(hint)
    match get_origin(hint) or hint:
        case types.UnionType | typing.Union:
            return any(_fits(value, option) for option in inner)
        case typing.Literal:
            return any(type(value) is type(option) and value == option for option in inner)
        case builtins.tuple if inner and inner[-1] is not Ellipsis:
            several = isinstance(value, tuple | list) and len(value) == len(inner)
            return several and all(_fits(*pair) for pair in zip(value, inner, strict=True))
        case builtins.tuple | builtins.list | collections.abc.Sequence | collections.abc.Iterable:
            return isinstance(value, tuple | list) and all(_fits(item, inner[0]) for item in value if inner)
        case builtins.bool | builtins.str:
            return type(value) is hint
        case types.NoneType:
            return value is None
        case builtins.int:
            return type(value) is int and abs(value) < _MOST
        case builtins.float:
            return type(value) in (int, float) and (abs(value) < _MOST or abs(value) == math.inf)
    return True


def _said(hint: Any) -> str:
    """Say in words what fits."""
    words = {
        int: "a whole number below 2^31",
        float: "a number below 2^31",
        bool: "True or False",
        str: "a text in quotes",
    }
    inner = get_args(hint)
    match get_origin(hint) or hint:
        case types.UnionType | typing.Union:
            return " or ".join(_said(option) for option in inner)
        case typing.Literal:
            return " or ".join(repr(option) for option in inner)
        case builtins.tuple | builtins.list | collections.abc.Sequence | collections.abc.Iterable:
            return "a list" + (f", each {_said(inner[0])}" if inner else "")
    return words.get(hint, str(getattr(hint, "__name__", hint)).replace("NoneType", "None"))


def made_by(build: Callable[..., Any]) -> type | None:
    """Return the class of what a builder makes: itself, or what it says it returns; None where that is no class."""
    made = build if isinstance(build, type) else get_type_hints(build).get("return")
    return made if isinstance(made, type) else None


def taken_by(entry: Registration) -> set[str]:
    """Return the names of the settings that something registered can be built with."""
    return set(inspect.signature(entry.build).parameters)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name(key=value, …)`` into name and settings; values are Python literals or fractions like 2/255.

    Raises:
        InputError: the text has another form.

    Example:
        >>> parse("pgd(steps=100, step_size=1/4)")
        ('pgd', {'steps': 100, 'step_size': 0.25})
    """
    match = re.fullmatch(r"\s*([\w.:/@+-]+)\s*(?:\((.*)\))?\s*", text, flags=re.DOTALL)
    if match is None:
        raise InputError(f"{text!r} is not a name; write a name, or a name with settings like pgd(steps=100).")
    name, inside = match.groups()
    try:
        return name, _settings(inside or "")
    except (SyntaxError, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(
            f"The settings in {text!r} are not of the form name(key=value, key=value), each key once and each value a "
            "number, a fraction, True, False, or a text in quotes."
        ) from error


def split(text: str) -> list[str]:
    """Split a comma-separated list, leaving commas inside parentheses or brackets alone.

    Example:
        >>> split("pgd(steps=10, restarts=2), margin-pgd")
        ['pgd(steps=10, restarts=2)', 'margin-pgd']
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def unknown(what: str, name: str, known: list[str] | Mapping[str, Any]) -> str:
    """Say in one sentence that ``name`` is not known, with the nearest match."""
    return f"Unknown {what} {name!r}: {_nearest(name, known)}"


def _nearest(name: str, known: list[str] | Mapping[str, Any]) -> str:
    if near := difflib.get_close_matches(name, list(known), n=1, cutoff=0.5):
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(sorted(known))}." if known else "there is none."


def _settings_of(build: Callable[..., Any], given: int) -> list[str] | None:
    """Return what can be set of something, without the first so many arguments, which its builder is given anyway.

    A builder that passes its settings on has those of what it makes as well; None where that is no class.
    """
    parameters = list(inspect.signature(build).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        made = made_by(build)
        if made is None:
            return None
        parameters += inspect.signature(made).parameters.values()
    names = dict.fromkeys(parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD)
    return list(names)[given:]


def _settings(text: str) -> dict[str, Any]:
    call = ast.parse(f"f({text})", mode="eval").body
    # A second pair of parentheses would make the call of a call.
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError("not a list of key=value")
    settings = {keyword.arg: _literal(keyword.value) for keyword in call.keywords if keyword.arg is not None}
    if len(settings) < len(call.keywords):
        raise ValueError("a key twice, or **")
    return settings


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _literal(node.left) / _literal(node.right)
    return ast.literal_eval(node)


def _import_all(kind: Kind) -> None:
    for module in _modules(_HOMES[kind]):
        importlib.import_module(module)


def _modules(home: str) -> Iterator[str]:
    package = importlib.import_module(home)
    yield home
    for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
        yield f"{home}.{module.name}"


assert set(_HOMES) == set(get_args(Kind))
