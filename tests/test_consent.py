"""Data run no code: what a folder or file names runs only if the person at the keyboard says so."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from classwise import registry
from classwise.cli.main import main
from classwise.errors import InputError
from classwise.models import load_model, save_weights
from classwise.models.corrected import Corrected, save_corrected
from classwise.models.exported import exported

SHAPE = {"num_classes": 10, "shape": (1, 8, 8)}
EVIL = """
from pathlib import Path
from torch import nn
Path({ran!r}).write_text("ran")
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears once foreign code has run; beside it, ``sent/`` with a run and a correction of it."""
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "sent").mkdir()
    (tmp_path / "mine.py").write_text(EVIL.format(ran=str(marker)))
    write_run(tmp_path / "sent" / "run", "mine.py:net")
    return marker


def write_run(folder: Path, model: str) -> None:
    folder.mkdir(parents=True)
    record = {"model": model, "classes": [str(c) for c in range(10)], "shape": [1, 8, 8], "data": {"name": "digits"}}
    (folder / "run.json").write_text(json.dumps(record))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    save_file(net.state_dict(), folder / "best.safetensors")


def write_correction(folder: Path, model: str) -> None:
    folder.mkdir(parents=True)
    record = {"model": model, "sha256": "0" * 64, "rule": "iv-offsets", "fitted_on_test": False}
    (folder / "corrected.json").write_text(json.dumps({**record, "data": {"name": "digits"}}))


def test_a_run_of_a_python_file_runs_it_only_with_consent(ran: Path) -> None:
    with pytest.raises(InputError, match=r"mine\.py:net.*--trust-code"):
        load_model("run:sent/run", **SHAPE)
    assert not ran.exists()
    assert load_model("run:sent/run", **SHAPE, trust_code=True)
    assert ran.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "run:sent/run", "--data", "digits"],
        ["critical-eps", "run:sent/run", "--data", "digits"],
        ["correct", "run:sent/run", "--data", "digits", "--split", "test", "--fit-on-test"],
        ["train", "at", "--model", "run:sent/run", "--data", "digits"],
        ["train", "rslad(teacher='run:sent/run')", "--model", "digits_cnn", "--data", "digits"],
        ["evaluate", "digits_cnn", "--data", "digits", "--attacks", "transfer(source='run:sent/run')"],
        ["evaluate", "corrected:sent/fixed", "--data", "digits"],
        ["evaluate", "--config", "sent/c.yaml"],
        ["study", "sent/s.toml"],
    ],
)
def test_no_command_runs_what_was_sent(ran: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_correction(Path("sent/fixed"), "run:sent/run")
    Path("sent/c.yaml").write_text("model: mine.py:net\ndata: digits\n")
    Path("sent/s.toml").write_text('name = "s"\ndata = "digits"\n[[given]]\nname = "x"\nmodel = "mine.py:net"\n')
    assert main(words) == 2
    assert not ran.exists()
    said = capsys.readouterr().err
    assert "--trust-code" in said
    assert said.count("\n") == 1


def test_a_file_named_on_the_command_line_runs_as_always(ran: Path) -> None:
    assert main(["evaluate", "mine.py:net", "--data", "digits", "--limit", "20", "--attacks", "fgsm"]) == 0
    assert ran.exists()


def test_the_command_on_record_says_that_code_was_trusted(ran: Path) -> None:
    words = ["evaluate", "run:sent/run", "--data", "digits", "--limit", "20", "--attacks", "fgsm", "--out", "out"]
    assert main([*words, "--trust-code"]) == 0
    assert json.loads(Path("out/result.json").read_text())["command"].endswith(" --trust-code")


@pytest.mark.parametrize("text", ["export:net.pt2", "timm:hf-hub:somebody/net"])
def test_other_code_in_a_record_needs_consent_too(ran: Path, text: str) -> None:
    write_run(Path("sent/other"), text)
    with pytest.raises(InputError, match="--trust-code"):
        load_model("run:sent/other", **SHAPE)


def test_records_that_name_themselves_are_refused(ran: Path) -> None:
    write_correction(Path("sent/a"), "corrected:sent/b")
    write_correction(Path("sent/b"), "corrected:sent/a")
    write_correction(Path("sent/self"), "corrected:sent/self")
    write_run(Path("sent/loop"), "run:sent/loop")
    for text in ("corrected:sent/a", "corrected:sent/self", "run:sent/loop"):
        with pytest.raises(InputError, match="names itself"):
            load_model(text, **SHAPE)
    assert main(["correct", "corrected:sent/a", "--data", "digits"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "5",
        "null",
        '{"model": 5, "classes": ["a"], "shape": [1, 8, 8]}',
        '{"model": "digits_cnn", "classes": 10, "shape": [1, 8, 8]}',
        '{"model": "digits_cnn", "classes": ["a"], "shape": "188"}',
        '{"model": "digits_cnn", "classes": ["a"], "shape": [1, -8, 8]}',
        '{"model": "digits_cnn", "classes": ["a"], "shape": [NaN, 8, 8]}',
        '{"model": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"model": ' + "[" * 100 + "]" * 100 + "}",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_a_record_of_other_types_is_one_sentence(ran: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sent/run/run.json").write_text(text)
    assert main(["evaluate", "run:sent/run", "--data", "digits"]) == 2
    said = capsys.readouterr().err
    assert "run.json" in said
    assert said.count("\n") == 1


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)).eval()
    batch = ({0: torch.export.Dim("batch")},)
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=batch), path)
    return path


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


Change = Callable[[str, bytes, Path], bytes]
CALL = "__import__('os').mkdir('pwned')"
CHANGES: dict[str, Change] = {
    "sample inputs": lambda name, b, ran: pickle.dumps(Touch(ran)) if "sample_inputs" in name else b,
    "pickled weights": lambda name, b, ran: (
        b.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith("weights_config.json") else b
    ),
    "an expression": lambda name, b, ran: (
        b.replace(b'"expr_str": "Symbol', f'"expr_str": "{CALL} or Symbol'.encode()) if "/models/" in name else b
    ),
    "a guard": lambda name, b, ran: (
        b.replace(b'"guards_code": [', f'"guards_code": ["{CALL}"'.encode()) if "/models/" in name else b
    ),
    "a function": lambda name, b, ran: (
        b.replace(b"torch.ops.aten.relu.default", b"torch.ops.load_library") if "/models/" in name else b
    ),
    "another function": lambda name, b, ran: (
        b.replace(b"torch.ops.aten.relu.default", b"torch.hub.load") if "/models/" in name else b
    ),
    "a file of a system": lambda name, b, ran: (
        b.replace(b"torch.ops.aten.relu.default", b"torch.ops.aten.from_file.default") if "/models/" in name else b
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_exported_program_that_would_run_code_is_refused_before_torch_reads_it(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.chdir(tmp_path)
    evil, marker = tmp_path / "evil.pt2", tmp_path / "pwned"
    with zipfile.ZipFile(archive) as good, zipfile.ZipFile(evil, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, CHANGES[change](name, good.read(name), marker))
    with pytest.raises(InputError, match="could run code"):
        exported(evil)
    assert not marker.exists()
    assert exported(archive)(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_a_correction_of_weights_needs_no_consent(tmp_path: Path) -> None:
    net = load_model("digits_cnn", **SHAPE)
    save_weights(net, tmp_path / "w.safetensors")
    correction = registry.build("correction", "iv-offsets").module(offset=torch.zeros(10))
    save_corrected(Corrected(net, correction), f"digits_cnn@{tmp_path}/w.safetensors", "iv-offsets", tmp_path / "c", {})
    assert load_model(f"corrected:{tmp_path}/c", **SHAPE)
