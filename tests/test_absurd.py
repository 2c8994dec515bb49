"""Numbers and paths that cannot be meant end in one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from classwise import registry
from classwise.attacks import PGD
from classwise.cli.commands import COMMANDS
from classwise.cli.main import main
from classwise.errors import InputError
from classwise.studies import parse, spec
from classwise.threat import ThreatModel, parse_eps

HUGE = 10**30


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
    assert parse.read("s.toml").given[0].text == "evil.py:net"
    assert not Path("ran").exists()


# Every option of every command, every key of a study and of a plan, every setting of every name

DIGITS = ["digits_cnn", "--data", "digits", "--limit", "10"]
WORDS = {
    "demo": [],
    "train": ["at", "--model", "digits_cnn", "--data", "digits"],
    "evaluate": [*DIGITS, "--attacks", "fgsm"],
    "critical-eps": DIGITS,
    "correct": DIGITS,
    "export": ["digits_cnn", "--data", "digits"],
    "report": ["nothing"],
    "analyse": ["nothing"],
    "compare": ["nothing", "nothing"],
    "homing": ["--data", "digits"],
    "study": ["s.toml", "--plan"],
    "list": ["attacks"],
}
TEXTS = ("nan", "inf", "-inf", "-1", "1e308", str(HUGE), "", "true", "[1]", "{}")
STUDY = 'name = "s"\ndata = "digits"\nmodel = "digits_cnn"\nrecipe = "digits"\n[[method]]\nmethod = "at"\n'


def numeric_options() -> Iterator[tuple[str, str, bool]]:
    """Yield command and option of each number, and whether it is a whole one."""
    for command, function in COMMANDS.items():
        for name, parameter in inspect.signature(function).parameters.items():
            if "int" in str(parameter.annotation) or "float" in str(parameter.annotation):
                yield command, name, "float" not in str(parameter.annotation)


def is_refused(command: str, option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Call a command with an option; a norm needs a radius, and a missing one would be what is refused."""
    radius = {"norm": ["--eps-max=0.1"] if command == "critical-eps" else ["--eps=0.1"]}.get(option, [])
    out = [] if command in ("report", "analyse", "compare", "list") else ["--out=out"]
    status = main([command, *WORDS[command], *radius, *out, f"--{option.replace('_', '-')}={text}"])
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (2, 1), (text, said)
    assert not list(Path().glob("out/*")), text


@pytest.mark.parametrize(("command", "option", "whole"), list(numeric_options()))
def test_an_absurd_number_is_one_sentence(
    command: str,
    option: str,
    whole: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A limit may be larger than the number of images, as may the number of examples."""
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(STUDY)
    above = "limit" in option or option == "examples"
    is_refused(command, option, "-1" if above else str(HUGE) if whole else "nan", capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "option", "whole"), list(numeric_options()))
@pytest.mark.parametrize("text", TEXTS)
def test_every_absurd_number_is_one_sentence(
    command: str,
    option: str,
    whole: bool,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(STUDY)
    large = "limit" in option or option == "examples"
    if not (text == str(HUGE) and large) and (option, text) != ("norm", "inf"):  # which is a name of Linf
        is_refused(command, option, text, capsys)


VALUES = ("nan", "inf", "-inf", "-1", "1e308", str(HUGE), '""', "true", "[]", "[[]]", "[-1]", f"[{HUGE}]", "{}", '"x"')
TABLES = {"": spec.Study, "[evaluate]": spec.Evaluation, "[homing]": spec.Homing, "[[given]]": spec.Given}
NUMBERS = ("limit", "seed", "seeds", "audit", "eps", "norm")


def refusal(build: Callable[..., Any], *given: Any) -> str:
    """Return the sentence with which something is refused, "" if it is taken."""
    try:
        build(*given)
    except InputError as error:
        said = str(error)
        if "\n" in said:
            raise AssertionError(said) from error
        return said
    return ""


@pytest.mark.parametrize("table", TABLES)
def test_a_study_takes_no_absurd_value(table: str, tmp_path: Path) -> None:
    """Keys of texts may hold any text until it is used; those of numbers hold none of these."""
    needed = {"[homing]": 'method = "at"\n', "[[given]]": 'name = "g"\nmodel = "digits_cnn"\n'}.get(table, "")
    for key in (field.name for field in fields(TABLES[table])):
        for value in VALUES:
            said = "\n".join(line for line in needed.splitlines() if not line.startswith(f"{key} "))
            base = "".join(f"{line}\n" for line in STUDY.splitlines() if table or not line.startswith(f"{key} "))
            text = f"{base}{table}\n{said}\n{key} = {value}\n" if table else f"{key} = {value}\n{base}"
            (tmp_path / "s.toml").write_text(text)
            means = (key, value) in {("seeds", "[]"), ("norm", '""'), ("limit", str(HUGE))}
            assert refusal(parse.read, tmp_path / "s.toml") or key not in NUMBERS or means, text


@pytest.mark.parametrize("key", ["closest", "go_on", "if_closer", "attack"])
@pytest.mark.parametrize("value", VALUES)
def test_a_plan_takes_no_absurd_value(key: str, value: str, tmp_path: Path) -> None:
    attack = "" if key == "attack" else 'attack = "fgsm"\n'
    (tmp_path / "p.toml").write_text(f"[[stage]]\n{attack}{key} = {value}\n")
    if (key, value) != ("if_closer", "true"):
        with pytest.raises(InputError, match=r"^[^\n]+$"):
            registry_plan(tmp_path / "p.toml")


def registry_plan(path: Path) -> Any:
    from classwise.attacks import build_attacks

    return build_attacks(str(path), ThreatModel("Linf", 0.1))


LITERALS = ("-1", "1e308", str(HUGE), "1e400", "-1e400", "1e400/1e400", "''", "None", "[1]", "'x'", "{}")
GIVEN: dict[registry.Kind, tuple[Any, ...]] = {
    "attack": (ThreatModel("Linf", 0.1),),
    "plan": (ThreatModel("Linf", 0.1),),
    "method": (10, PGD(ThreatModel("Linf", 0.1), steps=2)),
    "recipe": (),
    "wrapper": (),
    "correction": (),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_no_setting_of_a_name_takes_what_is_not_of_its_type(kind: registry.Kind) -> None:
    """A whole number is below 2^31, and so is any other that is finite; infinity means something to ``gairat``."""
    never, taken = {"1e308", str(HUGE), "-1e400", "1e400/1e400", "{}"}, set[tuple[str, str]]()
    for entry in registry.entries(kind):
        for key in registry._settings_of(entry.build, len(GIVEN[kind])) or []:
            for literal in LITERALS:
                said = refusal(registry.build, kind, f"{entry.name}({key}={literal})", *GIVEN[kind])
                assert "not supported between" not in said
                taken |= {(key, literal)} if literal in never and not said else set()
    assert taken == set()
