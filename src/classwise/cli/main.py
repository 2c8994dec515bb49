"""The command line: ``classwise train``, ``evaluate``, ``report`` and the others of ``COMMANDS``.

Options come from the typed signatures below. PyTorch is imported only once a command runs, so help is instant; this
module names no type of a heavy package even for the type checker, since jsonargparse imports what annotations name,
and no command has the name of a public function of the package, since jsonargparse would import that too.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from classwise.cli import output, supervised
from classwise.cli.commands import COMMANDS
from classwise.cli.commands.gate import GATE_CLOSED, GateClosed
from classwise.cli.parser import TRUST, gathered, joined, parser, underscored
from classwise.errors import InputError
from classwise.files.texts import plain
from classwise.registry import unknown

_DECIMAL = r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?|[+-]?\.\d+([eE][+-]?\d+)?"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST = 2000  # characters of a sentence that says what was wrong
# Commands that go on where they were stopped, if they have a folder.
_RESUMED = ("demo", "train", "evaluate", "critical-eps", "correct", "homing", "study")
_MAY_GATE = ("--fail_under", "--config")  # a file of options may hold conditions
_LEFT = "The model, or code that it runs, ended the program"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    0, 2 for bad input, 3 for a result below --fail-under, 130 for Ctrl-C, 1 for a fault of ours or lost output. What
    becomes of the output does not change the others.
    """
    # Threads that spin while they wait made small networks ten times slower on a busy machine; read when PyTorch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and any(underscored(word).startswith(_MAY_GATE) for word in words):
        status = supervised.reported(lambda: _ended(words))
        return fail(f"{_LEFT}; remove that call.", 2, False) if status is None else status
    return _ended(words)


def _ended(words: Sequence[str]) -> int:
    """Run a command line, and return its exit status whatever becomes of its output."""
    with output.unbroken() as out:
        status = _run(words)
        out.flush()
        lost = output.reason(out.lost)
        return fail(f"Cannot write to standard output: {lost}.", 1, False) if lost and not status else status


def _run(words: Sequence[str]) -> int:
    debug = "--debug" in words
    arguments = [underscored(word) for word in words if word not in ("--debug", TRUST)]
    command = next((word for word in arguments if not word.startswith("-")), "")
    settings: dict[str, Any] = {}
    try:
        if any("\0" in word for word in words):
            raise InputError("An argument holds a NUL character, which no name or path can hold; leave it out.")
        if command and command not in COMMANDS:
            raise InputError(unknown("command", command, COMMANDS))
        _refuse_unbounded(arguments)
        settings = vars(parser(COMMANDS).parse_args(joined(gathered(arguments)))[command])
    except SystemExit as done:  # after --help, --version and --print-config
        return int(done.code or 0)
    except InputError as error:
        return fail(str(error), 2, debug)
    except (ValueError, RecursionError) as error:  # of YAML, which reads the options
        return fail(f"The options cannot be read ({error}); write plain texts and numbers.", 2, debug)
    try:
        if not 0 <= settings.get("seed", 0) < 2**63:
            raise InputError(f"--seed is {settings['seed']}, but must be a whole number from 0 to 2^63 - 1.")
        _refuse_odd_numbers(settings, arguments)
        with _consent(settings, words):
            COMMANDS[command](**{name: value for name, value in settings.items() if name != "config"})
    except GateClosed as closed:
        return fail(str(closed), GATE_CLOSED, False) if str(closed) else GATE_CLOSED
    except SystemExit as done:  # of foreign code: whatever it says, the command has not come to its end
        return fail(f"{_LEFT} ({done!r}); remove that call.", 2, debug)
    except InputError as error:
        return fail(str(error), 2, debug)
    except OSError as error:  # a path that cannot be: too long, through a file, in a circle, without permission
        if error.filename is None and error.errno not in _FULL:
            return _fault(error, debug)
        where = f" {error.filename}" if error.filename is not None else ""
        return fail(f"Cannot use{where or ' a file'}: {error.strerror}; give another path.", 2, debug)
    except KeyboardInterrupt:
        resumable = command in _RESUMED and settings.get("out") is not None and not settings.get("until")
        remedy = "run the same command again to go on from the last saved state" if resumable else "nothing was kept"
        return fail(f"Interrupted; {remedy}.", 130, debug)
    except Exception as error:
        return _fault(error, debug)
    finally:
        _leave_group()
    return 0


def _fault(error: Exception, debug: bool) -> int:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return fail(f"This should not happen ({reason}); run again with --debug and report what it prints.", 1, debug)


def _refuse_unbounded(words: Sequence[str]) -> None:
    """Look at files of options before they are read whole."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        if option == "--config" and (equals or following):
            from classwise.files.schemas import refuse_unbounded_yaml

            refuse_unbounded_yaml(Path(value if equals else following))


def _refuse_odd_numbers(settings: Mapping[str, Any], words: Sequence[str]) -> None:
    """Refuse numbers that YAML, which reads the options, takes for others than they seem, as 010 for 8.

    Raises:
        InputError: a number is not written in plain decimals.
    """
    options = dict(zip(words, [*words, ""][1:], strict=True)) | dict(
        word.split("=", 1) for word in words if "=" in word
    )
    for name, value in settings.items():
        text = options.get(f"--{name}", "")
        if type(value) in (int, float) and text and not re.fullmatch(_DECIMAL, text, flags=re.ASCII):
            raise InputError(f"--{name.replace('_', '-')} is {text}; write a number in plain decimals, such as 10.")


def _leave_group() -> None:
    """Leave the group of processes, whose threads keep a process that torchrun started from ending."""
    distributed = sys.modules.get("torch.distributed")  # loaded by commands that compute
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _consent(settings: Mapping[str, Any], words: Sequence[str]) -> AbstractContextManager[None]:
    """Let code run that files name, if --trust-code says so; what stands on the command line itself is consented to.

    Raises:
        InputError: a file of --config names code, and there is no --trust-code.
    """
    if TRUST in words:
        from classwise.models.foreign import trusting

        return trusting(True)
    for name, value in settings.items() if settings.get("config") else ():
        named = isinstance(value, str) and not any(value in word for word in words)
        if named and re.search(r"\.py\b|export:", str(value)):
            raise InputError(
                f"The file of --config names code that would run ({name}: {value}); if you trust it, add {TRUST}."
            )
    return nullcontext()


def fail(message: str, status: int, debug: bool) -> int:
    """Say what went wrong on standard error and return the status; with ``debug`` let the error through."""
    if debug and sys.exc_info()[1] is not None:
        raise
    line = plain(" ".join(message.split("\n")))
    sys.stderr.write(f"classwise: {line if len(line) <= _LONGEST else f'{line[:_LONGEST]} …'}\n")
    return status
