"""What is committed says nothing about the machines that it was made on."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where absolute paths begin that belong to one machine, or to one person.
PLACES = re.compile(
    rb"(?<![\w.~/-])(?:/(?:home|root|Users|work|tmp|private|scratch|mnt)/|[A-Za-z]:\\{1,2}Users\\)[\w.~-]*"
)
# Made-up examples, each in the files that may hold it.
EXAMPLES: dict[str, frozenset[str]] = {
    "tests/files/test_texts.py": frozenset({"/home/alice", "/home/bob", "/scratch/alice", "/tmp/x", "C:\\Users\\bob"}),
}


def committed() -> list[Path]:
    """Return the files that git knows of."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def places(content: bytes) -> set[str]:
    """Return the absolute paths of a machine that a file holds."""
    return {found.decode(errors="replace") for found in PLACES.findall(content)}


def test_no_committed_file_holds_a_path_of_a_machine() -> None:
    found = {}
    for path in committed():
        name = path.relative_to(ROOT).as_posix()
        if path != Path(__file__) and (named := places(path.read_bytes()) - EXAMPLES.get(name, frozenset())):
            found[name] = named
    assert found == {}


@pytest.mark.parametrize(
    "text", [b'"/home/alice/data"', b"--out /tmp/final2", b"run:/Users/bob/x", rb"C:\Users\carol", b"(/work/shared/x)"]
)
def test_a_path_of_a_machine_would_be_seen(text: bytes) -> None:
    assert places(text)


@pytest.mark.parametrize("text", [b"runs/home/x", b"../work/data", b"https://example.org/tmp/x", b"8/255"])
def test_relative_paths_and_addresses_are_not_of_a_machine(text: bytes) -> None:
    assert not places(text)
