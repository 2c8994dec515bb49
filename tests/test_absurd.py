"""Numbers and paths that cannot be meant end in one sentence."""

from __future__ import annotations

import pytest

from classwise.cli import main
from classwise.errors import InputError
from classwise.threat import parse_eps


@pytest.mark.parametrize(
    "text", ["1e400", "9" * 5000, "nan", "inf", "8/0", "1/0", "0x10", "1_0/255", "\uff11", "-1", ""]
)
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
