"""Numbers and paths that cannot be meant end in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from classwise import study
from classwise.cli import main
from classwise.errors import InputError
from classwise.threat import parse_eps


@pytest.mark.parametrize("text", ["1e400", "9" * 5000, "nan", "inf", "8/0", "1/0", "0x10", "1_0", "\uff11", "-1", ""])
def test_a_radius_that_is_no_plain_number_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_eps(text)


@pytest.mark.parametrize("text", ["010", "0x10", "1_0", "0b11"])
def test_numbers_that_yaml_reads_as_others_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "digits_cnn", "--data", "digits", "--limit", text]) == 2
    assert "limit" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--junit", "--gate-json", "--config"])
@pytest.mark.parametrize("path", ["a" * 5000, "/".join(["b" * 200] * 40)], ids=["one long name", "many names"])
def test_a_path_that_is_too_long_is_one_sentence(option: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "digits_cnn", "--data", "digits", "--limit", "2", "--attacks", "fgsm", option, path]) == 2
    said = capsys.readouterr().err
    assert said.startswith("classwise: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("prefix", ["", "run:", "corrected:", "export:", "digits_cnn@"])
def test_a_model_whose_path_is_too_long_is_one_sentence(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", prefix + "a" * 5000, "--data", "digits", "--limit", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


YAML = {
    "references to references": "a: &a [lol, lol]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(9)),
    "a circle": "data: &a [*a]\n",
    "depth": "data: " + "[" * 20_000,
    "a null byte": "data: a\0b\n",
    "no text": "data: \x80\n",
    "size": "# " + "x" * 2**20,
    "a tag": "data: !!python/object/apply:os.system [touch ran]\n",
    "an infinite number": "data: digits\nlimit: 1e400\n",
    "thousands of digits": "data: digits\nlimit: " + "9" * 10_000,
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_a_hostile_file_of_options_is_one_sentence(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_bytes(text.encode("latin-1"))
    assert main(["evaluate", "digits_cnn", "--config", "c.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 20_000, "a = " + "9" * 10_000, "limit = 1e400", "limit = nan", 'a = "\0"']
)
def test_a_hostile_study_is_one_sentence(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.toml").write_text(text)
    assert main(["study", str(tmp_path / "s.toml"), "--plan"]) == 2
    assert main(["evaluate", "digits_cnn", "--data", "digits", "--attacks", str(tmp_path / "s.toml")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("words", [["study"], ["evaluate", "digits_cnn", "--config"]])
def test_a_device_is_no_file_of_settings(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "/dev/zero"]) == 2
    assert "is no file" in capsys.readouterr().err


def test_a_study_is_read_without_running_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').write_text('')\n")
    Path("s.toml").write_text(
        'name = "s"\ndata = "digits"\n[evaluate]\nattacks = "fgsm"\n[[given]]\nname = "theirs"\nmodel = "evil.py:net"\n'
    )
    assert study.read("s.toml").given[0].text == "evil.py:net"
    assert not Path("ran").exists()
