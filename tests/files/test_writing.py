"""Files written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from classwise import files
from classwise.errors import InputError
from classwise.files import locks, writing


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    content = bytes(range(256)) + b"\r\n\n"
    files.write_bytes(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content


def test_missing_folders_are_made(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "a" / "b" / "file", b"x")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for content in (b"long old content", b"new"):
        files.write_bytes(tmp_path / "file", content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


@pytest.mark.parametrize("broken", ["fsync", "fdopen"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_write_that_breaks_off_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException
) -> None:
    def fail(*args: Any) -> None:
        raise error

    (tmp_path / "file").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(InputError if isinstance(error, OSError) else type(error)):
            files.write_bytes(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file", []
    path.write_bytes(b"old")
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(path.read_bytes()), fsync(handle)))
    files.write_bytes(path, b"new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        files.write_bytes(tmp_path / "file", b"")
        (tmp_path / "plain").touch()
        assert os.umask(mask) == mask  # the mask itself is as it was
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "plain")}
    assert len(modes) == 1


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(InputError, match=r"Cannot write .*file: Is a directory"):
        files.write_bytes(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match=r"Cannot write .*choose a folder you may write to"):
        files.write_bytes(tmp_path / "a" / "file", b"x")


def test_text_is_utf_8_with_plain_line_ends(tmp_path: Path) -> None:
    files.write_text(tmp_path / "file", "ε ≤ 8/255\n")
    assert (tmp_path / "file").read_bytes() == b"\xce\xb5 \xe2\x89\xa4 8/255\n"


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = {"ε": [1, 0.1, None, True], "empty": {}}
    files.write_json(tmp_path / "file", value)
    text = (tmp_path / "file").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "ε" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"a": float("-inf")}]])
def test_json_does_not_hold_what_json_cannot_say(tmp_path: Path, value: Any) -> None:
    files.write_json(tmp_path / "file", "old")
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "file", value)
    assert json.loads((tmp_path / "file").read_text()) == "old"


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3_000_000)])
def test_the_sum_of_a_file_is_its_sha256(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_sum_of_abc_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert files.sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with files.held(path) as first:
        with files.held(path) as second:
            assert (first, second) == (True, False)
        with files.held(path) as third:
            assert not third
    with files.held(path) as later:
        assert later


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = f"import fcntl, time; f = open({str(path)!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True)"
    with subprocess.Popen([sys.executable, "-c", f"{script}; time.sleep(60)"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        with files.held(path) as free:
            assert not free
        other.kill()
        other.wait()
    with files.held(path) as free:
        assert free


def test_a_lock_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match="choose another folder"), files.held(tmp_path / "a" / "lock"):
        pass


def test_who_waits_gets_a_lock_that_someone_only_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    look = files.held(path)
    assert look.__enter__()
    leaving = threading.Timer(0.1, look.__exit__, (None, None, None))
    leaving.start()
    with files.held(path) as at_once, files.held(path, patience=30.0) as later:
        assert (at_once, later) == (False, True)
    leaving.join()


def test_a_path_that_cannot_be_written_is_refused_before_there_is_anything_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for path in (tmp_path / "file" / "more", tmp_path, Path("/proc/nowhere/file")):
        with pytest.raises(InputError, match=f"Cannot write {path}: .*; choose a folder you may write to"):
            files.refuse_unwritable(path)
    files.refuse_unwritable(tmp_path / "a" / "b")
    files.refuse_unwritable(tmp_path / "file")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_what_a_living_process_is_writing_is_never_removed(tmp_path: Path) -> None:
    handle, partial = writing._reserved(tmp_path / "file")
    try:
        files.write_bytes(tmp_path / "file", b"whole")
        files.remove_leftovers(tmp_path)
        assert partial.exists()
    finally:
        os.close(handle)
    files.write_bytes(tmp_path / "file", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # its writer is dead


HOLDER = """
import sys, time
from pathlib import Path
from classwise import files
with files.owned(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_a_folder_belongs_to_one_process_until_that_ends_even_by_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(InputError, match="Another process is at work"), files.owned(folder):
            pass
    finally:
        other.kill()
        other.communicate()
    with files.owned(folder):
        (folder / "result").write_text("")
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_a_folder_that_was_made_for_nothing_is_gone_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.owned(tmp_path / "out"):
        _ = 1 / 0
    assert not (tmp_path / "out").exists()


def test_a_folder_without_locks_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks, "take_lock", none)
    with pytest.raises(InputError, match="choose another file system"), files.owned(tmp_path):
        pass
    files.write_bytes(tmp_path / "file", b"whole")  # single files need none
    assert (tmp_path / "file").read_bytes() == b"whole"
