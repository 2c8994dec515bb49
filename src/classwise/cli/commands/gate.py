"""What ``--fail-under`` asks of a result, and where it writes what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classwise.errors import InputError

GATE_CLOSED = 3
GATE_OPTIONS = ("fail_under", "allow_flag", "junit", "gate_json")


class GateClosed(Exception):
    """A result fails the gate; the message says what besides went wrong, if anything."""


@dataclass(frozen=True)
class GateRequest:
    """What a command asks of a result, and where it writes what it found."""

    asked: tuple[Any, ...] = ()
    allow: frozenset[str] = frozenset()
    junit: Path | None = None
    json: Path | None = None

    def test(self, result: Any) -> None:
        """Write and say whether a result meets the conditions, if there are any.

        Raises:
            GateClosed: it does not.
            InputError: it does, but a file could not be written.
        """
        if not self.asked:
            return
        from classwise.cli.show import results
        from classwise.report import gate

        decision = gate.gate(result, self.asked, allow=self.allow)
        unwritten = self._write(decision)
        results.gate(decision)
        if not decision.passed:
            raise GateClosed(unwritten)
        if unwritten:
            raise InputError(f"The gate passed, but {unwritten[0].lower()}{unwritten[1:]}")

    def _write(self, decision: Any) -> str:
        """Write the files, each whether or not the other can be written; return what went wrong."""
        from classwise import files

        failed = list[str]()
        for path, write, content in (
            (self.junit, files.write_text, decision.junit()),
            (self.json, files.write_json, decision.as_dict()),
        ):
            try:
                if path is not None:
                    write(path, content)
            except InputError as error:
                failed.append(str(error))
        return " ".join(failed)


def asked_gate(options: Mapping[str, Any], classes: Sequence[str]) -> GateRequest:
    """Read the options of the gate, before anything is attacked."""
    from classwise import files
    from classwise.report import gate

    fail_under, *others = (options[name] for name in GATE_OPTIONS)
    allow, junit, json = others
    if fail_under is None:
        if any(others):
            raise InputError("--allow-flag, --junit and --gate-json belong to --fail-under; give that too.")
        return GateRequest()
    if junit is not None and junit == json:
        raise InputError(f"--junit and --gate-json both name {junit}; give each a file of its own.")
    for path in (junit, json):
        if path is not None:
            files.refuse_unwritable(path)
    return GateRequest(gate.conditions(fail_under, classes), gate.waived(allow) if allow else frozenset(), junit, json)
