"""The command line's options, made from the typed signatures of the commands."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from classwise.errors import InputError
from classwise.files.texts import portable
from classwise.provenance import __version__

# Positional arguments that take several words, with the help of each; jsonargparse wants a list in brackets.
_SEVERAL = {"runs": "folders that `classwise evaluate --out` or `classwise train --out` wrote."}
TRUST = "--trust-code"
# Options that may be given several times; what is given is joined by commas.
_REPEATED = ("--fail_under", "--allow_flag")
# How jsonargparse's messages become the end of one plain sentence.
_PLAIN = (
    (r'Parser key "(\w+)":', r"\1:"),
    (r"Expected a typing\.Literal\[(.*)\]", r"expected one of \1"),
    (r"Does not validate .* Subtypes: \[(.*)\] Errors: .* Given value: ", r"expected \1, not "),
    (r"Expected a (<class '\w+'>)", r"expected \1"),
    (r", <class 'NoneType'>", ""),
    (r"<class 'int'>", "a whole number"),
    (r"<class 'float'>", "a number"),
    (r"<class '(\w+)'>", r"\1"),
    (r"\. Got value:", ", not"),
    (r"required: [\w-]+\.", "required: "),
)


class _Parser(ArgumentParser):
    """Shows options with dashes, which ``main`` turns into the underscores of Python names."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what was wrong in one sentence, in place of the usage and several lines."""
        sentence = " ".join(message.split()).rstrip(".")
        lacking = re.search(r"required: ([\w-]+)\.", sentence)  # what a command lacks, the parser above it notices
        prog = f"{self.prog} {lacking[1]}" if lacking else self.prog.replace(" [options]", "")
        for pattern, words in _PLAIN:
            sentence = re.sub(pattern, words, sentence)
        raise InputError(f"{sentence}; see `{prog} --help`.") from ex

    def format_help(self, *formatter: Any) -> str:
        text = str(super().format_help(*formatter)).replace(" [options] ", " ", 1)
        for pattern, words in ((r"<class '(\w+)'>", r"\1"), (r"Union\[([^][]*)\]", r"\1"), (r", null", " or null")):
            text = re.sub(pattern, words, text)
        return re.sub(r"--[a-z_]+", lambda option: option[0].replace("_", "-"), text)


def parser(commands: Mapping[str, Callable[..., Any]]) -> ArgumentParser:
    """Build the command line from the signatures of the commands."""
    top = _Parser(
        prog="classwise",
        allow_abbrev=False,
        version=__version__,
        description="Class-wise adversarial robustness: find the weakest class, attack it, explain it, repair it.",
        epilog="--debug anywhere shows the traceback of an error. --trust-code lets run what folders and files name: "
        "Python files and exported programs of whoever wrote them, who can do with your machine what you can.",
    )
    added = top.add_subcommands(required=True, title="commands", metavar="COMMAND")
    for name, command in commands.items():
        sub = _Parser(
            prog=f"classwise {name}", allow_abbrev=False, description=(command.__doc__ or "").partition("\n\n")[0]
        )
        sub.add_argument("--config", action="config", help="YAML file with options; --print-config writes one.")
        # jsonargparse wants a value after an option of type bool; a switch has none.
        switches = [name for name, parameter in inspect.signature(command).parameters.items() if _switch(parameter)]
        several = [words for words in _SEVERAL if words in inspect.signature(command).parameters]
        for words in several:
            sub.add_argument(words, type=Path, nargs="+", help=_SEVERAL[words])
        sub.add_function_arguments(command, as_positional=True, skip={*switches, *several})
        for switch in switches:
            sub.add_argument(f"--{switch}", action="store_true", help=_help_of(command, switch))
        added.add_subcommand(name, sub, help=(command.__doc__ or "").partition("\n")[0])
    return top


def gathered(words: Sequence[str]) -> list[str]:
    """Join by commas what options of ``_REPEATED`` are given each time, of which argparse would keep the last alone."""
    rest, options, left = list[str](), dict[str, list[str]](), list(words)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        if option not in _REPEATED or not (equals or (left and not left[0].startswith("--"))):
            rest.append(word)
            continue
        options.setdefault(option, []).append(value if equals else left.pop(0))
    return rest + [f"{option}={','.join(values)}" for option, values in options.items()]


def joined(words: Sequence[str]) -> list[str]:
    """Join an option and a value such as -8/255, which argparse would take for an option; it knows plain numbers."""
    joined: list[str] = []
    for word in words:
        if re.fullmatch(r"-[\d.]+/[\d.]+", word) and joined and joined[-1].startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def underscored(word: str) -> str:
    """Write an option with the underscores of Python names."""
    option, equals, value = word.partition("=")
    return option.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def command_line(name: str, command: Callable[..., Any], settings: Mapping[str, Any]) -> str:
    """Return the command line that gives these settings; what is at its default is left out."""
    words = ["classwise", name]
    for option, parameter in inspect.signature(command).parameters.items():
        value = settings[option]
        if parameter.default is parameter.empty:
            words.append(str(value))
        elif value != parameter.default:
            words += [f"--{option.replace('_', '-')}", *([] if _switch(parameter) else [str(value)])]
    from classwise.models.foreign import trusted

    return portable(shlex.join([*words, *([TRUST] if trusted() else [])]))


def _switch(parameter: inspect.Parameter) -> bool:
    """Tell whether an option is a switch, which is off unless it is named."""
    return parameter.default is False


def _help_of(command: Callable[..., Any], option: str) -> str:
    match = re.search(rf"^ +{option}: (.+)$", command.__doc__ or "", flags=re.MULTILINE)
    return match[1] if match else ""
