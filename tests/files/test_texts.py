"""Text that leaves the program: nothing in it drives a terminal, and nothing in a record names a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classwise.files.texts import escaped_json, located, plain, plain_lines, portable, portable_record

# Of each kind: C0, C1, separators of lines, directions, joiners and marks without a width, a tag, half a pair.
UNSEEN = (
    "\x00\x07\x08\x1b\r\n\t\x7f\x85\x9b\u2028\u2029\u202a\u202e\u2066\u2069\u200b\u200d\u200f\ufeff\U000e0041\udc80"
)


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a working folder of our own."""
    (tmp_path / "home" / "alice" / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "alice"))
    monkeypatch.chdir(tmp_path / "home" / "alice" / "project")


@pytest.mark.parametrize("character", UNSEEN)
def test_a_character_that_is_not_seen_is_written_out(character: str) -> None:
    said = plain(f"a{character}b")
    assert character not in said
    assert said.startswith("a\\")
    assert said.endswith("b")


@given(st.text())
def test_what_is_written_out_is_printable_and_stays_so(text: str) -> None:
    assert plain(plain(text)) == plain(text)
    assert not set(plain(text)) & set(UNSEEN)
    assert not set(plain_lines(text)) & (set(UNSEEN) - set("\n\t"))


@pytest.mark.parametrize("name", ["cat", "日本", "sports car", "naïve ✓", "\u0627\u0644\u0642\u0637\u0629", "a\\x1b"])
def test_names_that_can_be_read_stay_as_they_are(name: str) -> None:
    assert plain(name) == plain_lines(name) == name


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_document_means_the_same_after_escaping(text: str) -> None:
    written = escaped_json(json.dumps({"name": text}, ensure_ascii=False, indent=2))
    assert json.loads(written) == {"name": text}
    assert not set(written) & (set(UNSEEN) - {"\n"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run:/scratch/alice/runs/at@best", "run:…/at@best"),
        ("small_cnn@/home/bob/w.pt", "small_cnn@…/w.pt"),
        ("/home/bob/net.py:load", "…/net.py:load"),
        ("transfer(source='run:/home/bob/at', attack='fgsm')", "transfer(source='run:…/at', attack='fgsm')"),
        (
            "classwise evaluate x --out '/home/bob/my runs/at' --eps 8/255",
            "classwise evaluate x --out '…/at' --eps 8/255",
        ),
        ("--data-dir=/tmp/x", "--data-dir=…/x"),
        ("Cannot write /tmp/x: File exists", "Cannot write …/x: File exists"),
        (r"C:\Users\bob\net.py:load", "…/net.py:load"),
        (r"\\server\share\w.pt", "…/w.pt"),
        ("file:///home/bob/r.html", "file://…/r.html"),
    ],
)
def test_of_a_path_elsewhere_the_name_is_left(text: str, said: str) -> None:
    assert portable(text) == said
    assert portable(said) == said


@pytest.mark.parametrize(
    "text",
    ["run:runs/at", "../data", "~/runs", "8/255", "1/4", "https://example.org/a/b", "$MODELS/net.py:f", "a / b", "n/a"],
)
def test_what_was_typed_without_the_machine_stays(text: str) -> None:
    assert portable(text) == text


def test_a_path_in_or_beside_the_working_folder_is_relative(tmp_path: Path) -> None:
    assert portable(f"run:{Path.cwd()}/runs/at@last") == "run:runs/at@last"
    assert portable(str(Path.cwd())) == "."
    assert portable(f"{tmp_path}/home/alice/data") == "../data"
    assert portable(f"{tmp_path}/home/bob/data") == "…/data"  # what lies beside a home is of somebody else


def test_a_path_near_its_record_is_found_from_there(tmp_path: Path) -> None:
    record = tmp_path / "studies" / "fixed"
    said = portable(f"run:{tmp_path}/studies/at@best", record)
    assert said == "run:$FOLDER/../at@best"
    assert located(said, record) == f"run:{tmp_path}/studies/at@best"
    assert located(said, tmp_path / "moved" / "fixed") == f"run:{tmp_path}/moved/at@best"


@pytest.mark.parametrize(
    "text", ["run:{}/at@best", "{}/mine.py:net", "digits_cnn@{}/a b/w.pt", "export:{}/fixed/e.pt2"]
)
@pytest.mark.parametrize("folder", ["fixed", "./fixed", "../studies/fixed", "{}/fixed"])
def test_a_record_that_is_read_and_written_again_says_the_same(
    text: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(tmp_path / "studies")
    record = Path(folder.format(Path.cwd()))
    said = portable(text.format(Path.cwd()), record)
    assert "$FOLDER" in said
    assert portable(located(said, record), record) == said


def test_names_of_classes_are_no_paths() -> None:
    record = {"classes": ["/tmp/x"], "deep": [{"model": "/tmp/x", "n": 3}]}
    assert portable_record(record) == {"classes": ["/tmp/x"], "deep": [{"model": "…/x", "n": 3}]}
