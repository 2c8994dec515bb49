"""Text that leaves the program: nothing in it drives a terminal, and nothing in a record names a machine."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = "$FOLDER"
"""Stands in a record for the folder that the record lies in."""
_NAMES = frozenset({"class", "classes", "groups"})
_CLIMB = 2  # folders above its own that a record may point through
# Letters, though of class Cf: signs before Arabic and Syriac numbers, and of Kaithi and Egyptian.
_SEEN = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
_BARE = r"[^\s'\"`,;:()\[\]{}<>|*?=&@]"
_ABSOLUTE = re.compile(
    r"(?P<quote>['\"])(?P<quoted>(?:/(?!/)|[A-Za-z]:[\\/]|\\\\)[^'\"\n]*\.?[^'\"\n:@]*?)(?P<rest>[@:][^'\"\n]*)?(?P=quote)"
    rf"|(?<![\w.~/…)\]}}$\\<-])(?P<bare>/(?!/){_BARE}+|[A-Za-z]:[\\/]{_BARE}+|\\\\{_BARE}+)"
    rf"|(?<=file://)(?P<address>/{_BARE}+)"
)


def plain(text: str) -> str:
    r"""Write out what would end a line, drive a terminal, turn the direction of writing, or not be seen at all.

    These are control characters, marks of format such as U+202E, separators of lines, and lone surrogates, which stand
    for bytes of a path that are no Unicode.

    Example:
        >>> print(plain("cat\x1b[31m\n\u202edog"))
        cat\x1b[31m\n\u202edog
    """
    return "".join(c.encode("unicode_escape").decode() if _unseen(c) else c for c in text)


def plain_lines(text: str) -> str:
    """Do the same, but leave ends of lines and tabs as they are."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _unseen(c) and c not in "\n\t" else c for c in text)


def escaped_json(text: str) -> str:
    """Write the same characters in the text of a JSON document as JSON escapes them, so that it means what it did."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_json_escape(c) if _unseen(c) and c != "\n" else c for c in text)


def portable(text: str, here: Path | str | None = None) -> str:
    """Take out of a text the absolute paths, which say whose machine it is.

    A path near the record becomes relative to that, one inside the working folder relative to it, one beside the
    working folder begins with ``../``, and of any other the name is left: ``…/name``.

    Args:
        text: a command line, a model string, a sentence.
        here: folder of the record that the text is for, if readers follow the path from there; see :func:`located`.

    Example:
        >>> portable("--data-dir /volume/alice/data --out /volume/alice/runs/at@last --eps 8/255")
        '--data-dir …/data --out …/at@last --eps 8/255'
    """
    return _ABSOLUTE.sub(lambda match: _relative(match, here), text)


def portable_record(value: Any, here: Path | str | None = None) -> Any:
    """Do so with every text in a record but names of classes, which are no paths whatever they look like."""
    if isinstance(value, str):
        return portable(value, here)
    if isinstance(value, Mapping):
        return {k: entry if k in _NAMES else portable_record(entry, here) for k, entry in value.items()}
    if isinstance(value, list | tuple):
        return [portable_record(entry, here) for entry in value]
    return value


def located(text: str, folder: Path | str) -> str:
    """Put the folder that a record was read from into the paths of a text that :func:`portable` made relative to it.

    The paths are absolute, as those were that :func:`portable` met, so a record that is read and written again says
    the same, however its folder is spelt.
    """
    pattern = re.escape(HERE) + r"/([^'\"`,;:()\[\]{}<>|*?=&@]*)"
    return re.sub(pattern, lambda match: os.path.normpath(Path(folder).absolute() / match[1]), text)


def _relative(match: re.Match[str], here: Path | str | None) -> str:
    if match["quoted"] is not None:
        return f"{match['quote']}{_named(match['quoted'], here)}{match['rest'] or ''}{match['quote']}"
    return _named(match["bare"] or match["address"], here)


def _named(path: str, here: Path | str | None) -> str:
    if re.match(r"[A-Za-z]:|\\", path):
        return "…/" + re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    path = os.path.normpath(path)
    cwd = str(Path.cwd())
    if here is not None:
        near = os.path.relpath(path, Path(here).absolute())
        shared = os.path.commonpath([path, Path(here).absolute()])
        if not _public(shared) and Path(near).parts.count("..") <= _CLIMB:
            return f"{HERE}/{near}"
    if path == cwd or _inside(path, cwd):
        return os.path.relpath(path, cwd)
    above = str(Path(cwd).parent)
    if not _public(above) and _inside(path, above):
        return os.path.relpath(path, cwd)
    return f"…/{Path(path).name}"


def _inside(path: str, folder: str) -> bool:
    return folder != os.sep and path.startswith(folder + os.sep)


def _public(folder: str) -> bool:
    """Tell whether the folders below are of different people: the root, and what lies above a home."""
    home = os.path.normpath(Path("~").expanduser())
    return folder in (os.sep, "/home", "/Users") or _inside(home, folder)


def _unseen(c: str) -> bool:
    # Characters of ASCII first: they are nearly all.
    if " " <= c <= "~":
        return False
    return unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and c not in _SEEN


def _json_escape(c: str) -> str:
    return "".join(f"\\u{unit:04x}" for unit in memoryview(c.encode("utf-16-le", "surrogatepass")).cast("H"))
