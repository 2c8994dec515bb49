"""The command line: what it promises, and one clear sentence for everything that a user can get wrong."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import classwise
from classwise import registry, resolve
from classwise.attacks import PGD
from classwise.cli.commands import COMMANDS
from classwise.cli.main import main
from classwise.data import Images, default_threat
from classwise.errors import InputError
from classwise.metrics.result import Result
from classwise.models import load_model, save_weights, weights_sha256
from classwise.report.gate import FLAGS, HARMLESS
from classwise.threat import ThreatModel

TINY = ("--model", "digits_cnn", "--data", "digits", "--recipe", "digits(epochs=3, steps=2)", "--limit", "300")
FAST = ("--limit", "40", "--attacks", "pgd(steps=3)")
KINDS: dict[str, registry.Kind] = {
    "attacks": "attack",
    "suites": "suite",
    "losses": "loss",
    "methods": "method",
    "wrappers": "wrapper",
    "corrections": "correction",
    "models": "model",
    "data": "data",
    "recipes": "recipe",
    "loggers": "logger",
}

# A file of the user's with one model for every mistake.
MODELS = """
import sys
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, features=64, classes=10, change=lambda z, x: z):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(features, classes)
        self.change = change

    def forward(self, x):
        return self.change(self.linear(x.flatten(1)), x)


class Noisy(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(10)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(super().forward(x)))


def failing(z, x):
    raise RuntimeError("the flux capacitor is empty\\nand more lines")


def failing_on_real_images(z, x):
    if bool((x != x.flatten()[0]).any()):
        raise ValueError("only grey images, please")
    return z


good = Net
def probabilities(): return Net(change=lambda z, x: z.softmax(1))
def whole_numbers(): return Net(change=lambda z, x: z.long())
def nan(): return Net(change=lambda z, x: z * float("nan"))
def flat(): return Net(change=lambda z, x: z.flatten())
def pairs(): return Net(change=lambda z, x: (z, z))
def large(): return Net(features=784)
def seven(): return Net(classes=7)
def raises(): return Net(change=failing)
def picky(): return Net(change=failing_on_real_images)
def quits(): sys.exit(3)
def nothing(): return None
def training(): return Noisy().train()
def evaluating(): return Noisy().eval()
"""


class Finished(NamedTuple):
    """How a command line ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Finished]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line inside an empty folder that holds only mine.py."""
    (tmp_path / "mine.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: str | Path) -> Finished:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished training run; not to be written into."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "at", *TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def evaluated(trained: Path) -> Path:
    """Return the folder of a finished evaluation of that run; not to be written into."""
    folder = trained.parent / "evaluation"
    words = ["evaluate", f"run:{trained}", "--limit", "60", "--attacks", "pgd(steps=3),margin-pgd(steps=3)"]
    assert main([*words, "--out", str(folder)]) == 0
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return everything in a folder with its content; caches of imported files do not count."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def console_script() -> str:
    return str(Path(sys.executable).with_name("classwise"))


# Help


def test_help_imports_no_heavy_package_and_an_evaluation_none_that_it_does_not_need() -> None:
    heavy = ["torch", "torchvision", "numpy", "sklearn", "scipy", "matplotlib", "plotly", "lightning_fabric", "rich"]
    script = f"""
import sys
from classwise.cli.commands import COMMANDS
from classwise.cli.main import main
from classwise.errors import InputError
for words in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), ["train", "at", "--print-config"]]:
    assert main(words) == 0, words
    heavy = [name for name in {heavy} if name in sys.modules]
    assert not heavy, (words, heavy)
assert main("evaluate digits_cnn --data digits --attacks fgsm --limit 20 --accelerator cpu".split()) == 0
unneeded = ["lightning_fabric", "torch._dynamo", "torchvision", "sklearn", "matplotlib"]
heavy = [name for name in unneeded if name in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(f"classwise {name}" in done.stdout or f"classwise [options] {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_option_with_dashes_and_words(run: Run, command: str) -> None:
    shown = run(command, "--help")
    assert shown.status == 0
    assert shown.err == ""
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown.out, flags=re.MULTILINE))
    assert options
    assert not any("_" in option for option in options)
    # Every option of ours is explained: something other than its type stands behind it.
    for option in options - {"--help", "--print-config"}:
        described = re.search(rf"^  {option}\b.*?\n?\s+([a-zA-Z][^\n]+)", shown.out, flags=re.MULTILINE)
        assert described, option
        assert not described[1].startswith("(type"), option


def test_version(run: Run) -> None:
    assert run("--version").out.strip() == f"classwise {classwise.__version__}"


@pytest.mark.parametrize("command", [[console_script()], [sys.executable, "-m", "classwise"]], ids=["script", "module"])
def test_the_command_line_is_installed(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"classwise {classwise.__version__}\n", "")


@pytest.mark.parametrize("kind", KINDS)
def test_list_shows_each_name_its_line_and_its_source(run: Run, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    shown = run("list", kind)
    assert shown.status == 0
    entries = registry.entries(KINDS[kind])
    assert entries
    lines = {line.split()[0]: line for line in shown.out.splitlines() if line.strip()}
    for entry in entries:
        assert entry.summary in lines[entry.name]
        assert entry.source in lines[entry.name]


@pytest.mark.parametrize("kind", KINDS)
def test_list_breaks_no_name_in_a_narrow_terminal(run: Run, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    words = run("list", kind).out.split()
    assert [name for name in registry.names(KINDS[kind]) if name not in words] == []


# Options


@pytest.mark.parametrize("option", ["--batch-size", "--batch_size"])
def test_dashes_and_underscores_both_work(run: Run, option: str, tmp_path: Path) -> None:
    done = run("evaluate", "mine.py:good", "--data", "digits", *FAST, option, "7", "--out", "out")
    assert done.status == 0
    assert Result.read(tmp_path / "out").header["batch_size"] == 7


def test_an_equals_sign_keeps_the_dashes_of_its_value(run: Run, tmp_path: Path) -> None:
    done = run(
        "evaluate", "mine.py:good", "--data=digits", "--attacks=margin-pgd(steps=2)", "--limit=20", "--out=my-out"
    )
    assert done.status == 0
    assert list(Result.read(tmp_path / "my-out").outcomes.attacks) == ["margin-pgd(steps=2)"]


@pytest.mark.parametrize(
    ("words", "threat"),
    [
        (["--eps", "8/255"], ("Linf", 8 / 255, "8/255")),
        (["--eps", "0.1"], ("Linf", 0.1, "0.1")),
        (["--eps", "1/2", "--norm", "L2"], ("L2", 0.5, "0.5")),
        (["--eps", "3", "--norm", "2"], ("L2", 3.0, "3")),
        (["--eps", "0"], ("Linf", 0.0, "0")),
        ([], ("Linf", 0.15, "0.15")),
    ],
)
def test_a_radius_may_be_a_number_or_a_fraction(
    run: Run, tmp_path: Path, words: list[str], threat: tuple[str, float, str]
) -> None:
    assert run("evaluate", "mine.py:good", "--data", "digits", *FAST, *words, "--out", "out").status == 0
    assert tuple(json.loads((tmp_path / "out/result.json").read_text())["threat"].values()) == threat


def test_what_print_config_writes_can_be_given_back(run: Run, tmp_path: Path) -> None:
    words = ("evaluate", "mine.py:good", "--data", "digits", *FAST, "--eps", "8/255", "--seed", "3")
    printed = run(*words, "--print-config")
    assert printed.status == 0
    settings = yaml.safe_load(printed.out)
    assert settings["model"] == "mine.py:good"
    assert settings["eps"] == "8/255"
    (tmp_path / "c.yaml").write_text(printed.out)
    assert "add --trust-code" in run("evaluate", "--config", "c.yaml", "--out", "a").err
    assert run("evaluate", "--config", "c.yaml", "--out", "a", "--trust-code").status == 0
    assert run(*words, "--out", "b").status == 0
    a, b = (Result.read(tmp_path / name).header["identity"] for name in "ab")
    assert a == b


def test_the_command_line_wins_over_a_config_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: digits\nseed: 1\nlimit: 20\nattacks: pgd(steps=2)\n")
    assert run("evaluate", "mine.py:good", "--config", "c.yaml", "--seed", "5", "--out", "out").status == 0
    assert Result.read(tmp_path / "out").header["seed"] == 5
    assert len(Result.read(tmp_path / "out").outcomes.y) == 20


def test_a_config_file_may_give_numbers_as_numbers(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: digits\neps: 0.5\nnorm: 2\nlimit: 20\nattacks: pgd(steps=2)\n")
    done = run("evaluate", "mine.py:good", "--config", "c.yaml", "--out", "out")
    assert (done.status, done.err) == (0, "")
    assert Result.read(tmp_path / "out").header["threat"] == {"norm": "L2", "eps": 0.5, "eps_text": "0.5"}


def test_the_machine_is_asked_for_cuda_only_where_there_is_one(run: Run, tmp_path: Path) -> None:
    assert run("evaluate", "mine.py:good", "--data", "digits", *FAST, "--out", "out").status == 0
    device = Result.read(tmp_path / "out").header["device"]
    assert device.startswith("cuda" if torch.cuda.is_available() else "cpu")


# The whole path


def test_a_run_leaves_weights_that_load_and_a_log(trained: Path) -> None:
    weights = [f"{name}.safetensors" for name in ("best", "last", "ema-best", "ema-last")]
    names = {*weights, "checkpoint.pt", "log.jsonl", "run.json", "summary.json"}
    assert {path.name for path in trained.iterdir()} == names
    record = json.loads((trained / "run.json").read_text())
    assert record["model"].startswith("digits_cnn(mean=[")
    assert record["data"]["n"] == 300
    assert [json.loads(line)["epoch"] for line in (trained / "log.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_an_evaluation_writes_the_promised_keys(evaluated: Path) -> None:
    document = json.loads((evaluated / "result.json").read_text(), parse_constant=pytest.fail)
    assert {"classes", "n", "clean", "attacks"} <= document.keys()
    assert len(document["classes"]) == len(document["n"]) == 10
    assert sum(document["n"]) == 60
    assert list(document["attacks"]) == ["pgd(steps=3)", "margin-pgd(steps=3)", "worst_case"]
    for table in (document["clean"], *document["attacks"].values()):
        assert {"correct", "accuracy", "by_class", "worst"} <= table.keys()
        assert {"class", "accuracy", "interval"} <= table["worst"].keys()
        assert table["accuracy"] == pytest.approx(sum(table["correct"]) / 60)
        assert table["by_class"] == pytest.approx(np.divide(table["correct"], document["n"]).tolist())
        assert table["worst"]["accuracy"] == min(table["by_class"])
        low, high = table["worst"]["interval"]
        assert 0 <= low <= table["worst"]["accuracy"] <= high <= 1


def test_an_evaluation_writes_the_outcome_of_every_image(evaluated: Path) -> None:
    with np.load(evaluated / "outcomes.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    names = ["pgd(steps=3)", "margin-pgd(steps=3)"]
    assert {"index", "y", "clean", "broken_by", *(f"prediction.{name}" for name in names)} <= arrays.keys()
    assert all(len(arrays[key]) == 60 for key in ("index", "y", "clean", "broken_by"))
    right = arrays["clean"] == arrays["y"]
    for name in names:
        # The first attack that broke an image is the first whose prediction is wrong.
        expected = right & (arrays[f"prediction.{name}"] != arrays["y"])
        assert ((arrays["broken_by"] == name) == expected).all()
        right &= ~expected
    assert ((arrays["broken_by"] == "") == right).all()
    assert ((arrays["broken_by"] == "clean") == (arrays["clean"] != arrays["y"])).all()


def test_a_limit_draws_the_same_share_of_every_class(run: Run, tmp_path: Path) -> None:
    words = ("evaluate", "mine.py:good", "--data", "digits", "--attacks", "pgd(steps=1)", "--limit", "50")
    for seed in "12":
        assert run(*words, "--seed", seed, "--out", seed).status == 0
    first, second = (Result.read(tmp_path / seed).outcomes for seed in "12")
    assert np.bincount(first.y).tolist() == [5] * 10
    assert set(first.index) != set(second.index), "another seed, another sample"


def test_a_run_names_its_own_data(run: Run, trained: Path, tmp_path: Path) -> None:
    done = run("evaluate", f"run:{trained}@last", *FAST, "--out", "out")
    assert done.status == 0
    assert Result.read(tmp_path / "out").header["data"]["name"] == "digits"


def weights_of(folder: Path, name: str = "last") -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in load_file(folder / f"{name}.safetensors").values()])


@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize("form", ["run:{}@{}", "digits_cnn@{}/{}.safetensors"])
def test_training_goes_on_with_a_trained_network(
    run: Run, trained: Path, tmp_path: Path, form: str, which: str
) -> None:
    tiny = ("--data", "digits", "--limit", "300", "--out", tmp_path / "on")
    words = ("train", "frl-rwrm", "--model", form.format(trained, which), *tiny)
    assert run(*words, "--recipe", "finetune-frl(epochs=1, steps=1, augment='none')").status == 0
    moved = (weights_of(tmp_path / "on") - weights_of(trained, which)).abs().max()
    assert 0 < moved < 0.02, "a rate of 0.001 moves weights by little"
    other = "last" if which == "best" else "best"
    assert (weights_of(tmp_path / "on") - weights_of(trained, other)).abs().max() > moved


def test_what_was_trained_on_from_a_run_loads_without_its_folder(run: Run, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "first")
    tiny = ("--data", "digits", "--limit", "300", "--recipe", "finetune-frl(epochs=1, steps=1, augment='none')")
    assert run("train", "at", "--model", f"run:{tmp_path / 'first'}", *tiny, "--out", tmp_path / "second").status == 0
    assert run("train", "at", "--model", f"run:{tmp_path / 'second'}", *tiny, "--out", tmp_path / "third").status == 0
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "second")
    assert run("evaluate", f"run:{tmp_path / 'third'}", *FAST).status == 0


@pytest.mark.parametrize("model", ["run:nowhere", "run:damaged", "run:", "mine.py:Net", "digits_cnn"])
def test_a_model_that_is_no_run_of_an_architecture_stays_what_it_is(run: Run, tmp_path: Path, model: str) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    assert resolve.start(model) == model


def test_a_run_of_a_file_of_ones_own_stays_a_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"model": "mine.py:Net"}))
    assert resolve.start(f"run:{tmp_path}@last") == f"run:{tmp_path}@last"


def test_a_method_that_goes_on_with_a_robust_network_says_so(run: Run, tmp_path: Path) -> None:
    done = run("train", "frl-rw", *TINY, "--out", tmp_path / "run")
    assert done.status == 2
    assert "frl-rw goes on with a robust network" in done.err
    assert not (tmp_path / "run").exists()


def test_best_and_last_are_different_weights(run: Run, trained: Path, tmp_path: Path) -> None:
    hashes = set()
    for which in ("best", "last"):
        assert run("evaluate", f"run:{trained}@{which}", *FAST, "--out", which).status == 0
        hashes.add(Result.read(tmp_path / which).header["model"]["sha256"])
    same = (trained / "best.safetensors").read_bytes() == (trained / "last.safetensors").read_bytes()
    assert len(hashes) == (1 if same else 2)


def test_evaluate_prints_the_verdict_the_weakest_class_and_what_next(run: Run, trained: Path) -> None:
    shown = run("evaluate", f"run:{trained}", *FAST, "--out", "out")
    assert shown.err == ""
    assert "Average robust accuracy" in shown.out
    assert "Worst class" in shown.out
    assert "classwise report out" in shown.out


def test_the_command_on_record_makes_the_same_result_again(run: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("limit: 30\nattacks: pgd(steps=3)\neps: 0.1\n")
    assert run("evaluate", f"run:{trained}", "--config", "c.yaml", "--batch_size", "9", "--out", "my out").status == 0
    before = tree(tmp_path / "my out")
    first = Result.read(tmp_path / "my out")
    words = shlex.split(first.header["command"])
    assert words[:3] == [
        "classwise",
        "evaluate",
        f"run:{os.path.relpath(trained)}",
    ]  # not whose machine it was
    assert "--config" not in words
    assert run(*words[1:]).status == 0  # the folder is named absolutely there, and relatively here
    assert tree(tmp_path / "my out") == before
    words[words.index("my out")] = "again"
    assert run(*words[1:]).status == 0
    again = Result.read(tmp_path / "again")
    assert again.header["model"]["sha256"] == first.header["model"]["sha256"]
    assert np.array_equal(again.outcomes.correct(), first.outcomes.correct())
    assert again.header["batch_size"] == 9


def test_report_writes_one_page_and_figures_and_tables_on_request(run: Run, evaluated: Path, tmp_path: Path) -> None:
    shown = run("report", evaluated, "--figures", "figures", "--markdown", "tables.md")
    assert shown.status == 0
    assert (evaluated / "report.html").read_text().lower().startswith("<!doctype html")
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".pdf", ".png", ".svg"}
    assert "| class" in (tmp_path / "tables.md").read_text()
    for path in ("report.html", "tables.md", "figures"):
        assert path in shown.out


def test_report_writes_latex_and_an_entry_of_robustbench_on_request(run: Run, evaluated: Path, tmp_path: Path) -> None:
    shown = run("report", evaluated, "--latex", "tables.tex", "--robustbench", "entry.json")
    assert shown.status == 0
    assert (tmp_path / "tables.tex").read_text().startswith("\\begin{table}")
    entry = json.loads((tmp_path / "entry.json").read_text())
    assert (entry["dataset"], entry["eps"], entry["unreliable"]) == ("digits", "0.15", True)
    assert "autoattack_acc" not in entry
    assert "tables.tex" in shown.out
    assert "entry.json" in shown.out


def test_report_reads_the_folder_once_whatever_it_writes(
    run: Run, evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, folders = Result.read, []

    def counted(folder: Path) -> Result:
        folders.append(folder)
        return read(folder)

    monkeypatch.setattr(Result, "read", counted)
    assert run("report", evaluated, "--markdown", "a.md", "--latex", "a.tex", "--robustbench", "a.json").status == 0
    assert folders == [evaluated]


def test_evaluate_until_the_worst_class_names_it_and_what_it_took(run: Run, trained: Path, tmp_path: Path) -> None:
    words = ("evaluate", f"run:{trained}", "--limit", "200", "--until", "worst-class", "--out", "found")
    done = run(*words, "--attacks", "pgd(steps=5),margin-pgd(steps=5, step_size=0.01)")
    assert (done.status, done.err) == (0, "")
    assert "With 95 % confidence" in done.out
    assert "Warning (short_steps): " in done.out
    document = json.loads((tmp_path / "found/worst-class.json").read_text())
    assert {name: attack["kind"] for name, attack in document["settings"].items()} == {
        "attack": "Ensemble",
        "cheap": "PGD",
    }
    values = document["findings"][0]["values"]
    assert values["worst"]
    assert values["share"] < 1
    assert document["attack"].startswith("Ensemble(attacks=(PGD(")
    assert "short_steps" in {flag["flag"] for flag in document["flags"]}
    assert not (tmp_path / "found/result.json").exists()
    assert_one_sentence(run(*words, "--attacks", "upper-bound"), "A plan is run over all images")


@pytest.mark.parametrize(
    "option", [("--fail-under", "worst=0.9"), ("--audit", "2"), ("--batch-size", "9"), ("--examples", "0")]
)
def test_evaluate_until_refuses_what_it_would_leave_undone(run: Run, trained: Path, option: tuple[str, str]) -> None:
    """A gate above all: with --until no bound is tested, and status 0 would open it."""
    done = run("evaluate", f"run:{trained}", "--until", "worst-class", *option)
    assert_one_sentence(done, f"takes no {option[0]}; leave one of them out")


def test_critical_eps_prints_and_writes_the_radius_that_breaks_each_class(
    run: Run, trained: Path, tmp_path: Path
) -> None:
    brief = ("--limit", "60", "--attack", "narrowing(fab_steps=5, halvings=2, steps=5)")
    done = run(
        "critical-eps",
        f"run:{trained}",
        *brief,
        "--eps-max",
        "0.3",
        "--radii",
        "0.1,0.2",
        "--out",
        "out",
    )
    assert done.status == 0, done.err
    assert "Half of the images of " in done.out
    assert "not certified" in done.out
    written = {"critical_eps.json", "critical_eps.svg", "result.json", "outcomes.npz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == written
    document = json.loads((tmp_path / "out" / "critical_eps.json").read_text())
    assert document["radii"] == [0.1, 0.2]
    assert document["overall"]["n"] == 60
    assert document["command"].startswith("classwise critical-eps run:")
    found = classwise.CriticalEps.read(tmp_path / "out")
    assert found.right([0.1])[:, 0].tolist() == [entry["right"][0] for entry in document["by_class"]]
    before = tree(tmp_path / "out")
    assert run(*shlex.split(document["command"])[1:]).status == 0
    again, after = json.loads((tmp_path / "out" / "critical_eps.json").read_text()), tree(tmp_path / "out")
    assert {**again, "model": document["model"]} == document  # whose name is another spelling of the same path
    assert {name: after[name] for name in after if name != "critical_eps.json"} == {
        name: before[name] for name in before if name != "critical_eps.json"
    }


def test_critical_eps_looks_four_times_as_far_as_usual_unless_told(run: Run, trained: Path, tmp_path: Path) -> None:
    brief = ("--limit", "20", "--attack", "narrowing(fab_steps=2, halvings=0, steps=2)")
    done = run("critical-eps", f"run:{trained}", *brief)
    assert done.status == 0, done.err
    usual = default_threat("digits").eps
    assert f"up to Linf {4 * usual:g} " in done.out
    assert tree(tmp_path).keys() == {"mine.py"}


def test_critical_eps_does_not_write_into_the_folder_of_something_else(
    run: Run, trained: Path, evaluated: Path, tmp_path: Path
) -> None:
    shutil.copytree(evaluated, tmp_path / "evaluation")
    shutil.copytree(trained, tmp_path / "run")
    before = tree(tmp_path)
    words = ("critical-eps", f"run:{trained}", "--limit", "20", "--out")
    assert_one_sentence(run(*words, "evaluation"), "choose another --out")
    assert_one_sentence(run(*words, "run"), "training run", "choose another --out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("least", "status", "said"), [("0", 0, "Gate passed."), ("0.99", 3, "Gate failed.")])
def test_the_gate_has_a_status_of_its_own_and_writes_what_it_found(
    run: Run, evaluated: Path, tmp_path: Path, least: str, status: int, said: str
) -> None:
    files = ("--junit", "gate.xml", "--gate-json", "gate.json", "--allow-flag", ",".join(sorted(FLAGS - HARMLESS)))
    for command in (("report", evaluated), ("evaluate", "mine.py:good", "--data", "digits", *FAST)):
        done = run(*command, "--fail-under", f"worst={least}", *files)
        assert (done.status, done.err) == (status, "")
        assert said in done.out
        assert json.loads((tmp_path / "gate.json").read_text())["passed"] is (status == 0)
        assert (tmp_path / "gate.xml").read_text().startswith("<?xml")


def test_analyse_answers_what_it_can_and_says_what_it_cannot(run: Run, evaluated: Path, tmp_path: Path) -> None:
    done = run("analyse", evaluated, "--json", "found.json", "--markdown", "found.md")
    assert (done.status, done.err) == (0, "")
    assert "H1 is " in done.out
    assert "Not answered: epochs: It takes the folder of a training run" in done.out
    document = json.loads((tmp_path / "found.json").read_text())
    assert {finding["question"] for finding in document["findings"]} >= {"numbers", "disparity", "flow", "gain"}
    assert "## numbers: evaluation" in (tmp_path / "found.md").read_text()


def test_analyse_reads_runs_and_networks_and_asks_only_what_it_is_told(
    run: Run, evaluated: Path, trained: Path
) -> None:
    words = ("analyse", evaluated, trained, "--question", "epochs, weight_norm", "--network", f"run:{trained}")
    done = run(*words)
    assert (done.status, done.err) == (0, "")
    assert "H10 is " in done.out
    assert "H8 is " in done.out
    assert "H1 is " not in done.out
    assert_one_sentence(run(*words[:-1], f"run:{trained}@last"), "has the weights", "none of these evaluations")
    assert_one_sentence(run("analyse", trained, "--question", "flow"), "'flow' has no answer here")


def test_compare_needs_models_that_were_evaluated_alike(run: Run, trained: Path, tmp_path: Path) -> None:
    for name, weights, attacks in (
        ("a", "", FAST),
        ("b", "@last", FAST),
        ("c", "@last", (*FAST[:2], "--attacks", "fgsm")),
    ):
        assert run("evaluate", f"run:{trained}{weights}", *attacks, "--out", name).status == 0
    written = ("--json", "compared.json", "--latex", "compared.tex", "--out", "page", "--figures", "figures")
    done = run("compare", "a", "b", "--sort", "average", *written)
    assert (done.status, done.err) == (0, "")
    assert (
        "classwise compare a b --view worst_case --sort average --out page" in Path("page/comparison.html").read_text()
    )
    assert "changes-1.pdf" in {path.name for path in (tmp_path / "figures").iterdir()}
    assert r"\label{tab:leaderboard}" in (tmp_path / "compared.tex").read_text()
    assert "b against a" in done.out
    assert "By average the best is" in done.out
    assert json.loads((tmp_path / "compared.json").read_text())["findings"][0]["values"]["baseline"]["name"] == "a"
    assert_one_sentence(run("compare", "a", "c"), "a and c differ in attacks: pgd(steps=3) and fgsm")
    assert_one_sentence(run("compare", "a", "a"), "at least two models")


def test_the_questions_are_listed_with_their_claims(run: Run) -> None:
    shown = run("list", "questions")
    assert shown.status == 0
    assert re.search(r"^gain +A10 +H4 ", shown.out, flags=re.MULTILINE)


def test_a_path_longer_than_the_terminal_is_not_broken(
    run: Run, evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert f"Wrote {evaluated / 'report.html'}\n" in run("report", evaluated).out


def test_without_out_nothing_is_written(run: Run, tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert run("evaluate", "mine.py:good", "--data", "digits", *FAST).status == 0
    assert tree(tmp_path) == before


def test_a_model_in_train_mode_is_evaluated_in_eval_mode(run: Run, tmp_path: Path) -> None:
    for name in ("training", "evaluating"):
        assert run("evaluate", f"mine.py:{name}", "--data", "digits", *FAST, "--out", name).status == 0
    one, other = (Result.read(tmp_path / name).outcomes for name in ("training", "evaluating"))
    assert (one.clean == other.clean).all()
    assert (one.correct() == other.correct()).all()


def test_averaged_weights_are_selected_saved_and_evaluated_by_name(run: Run, tmp_path: Path) -> None:
    done = run("train", "at", *TINY, "--wrappers", "awp(gamma=0.005),ema(decay=0.9)", "--out", "run")
    assert done.status == 0
    assert "ema: robust on held-out images: best, epoch" in done.out
    for which in ("best", "ema-best", "ema-last"):
        assert run("evaluate", f"run:run@{which}", *FAST, "--out", which).status == 0
    last, averaged = (load_file(tmp_path / f"run/{name}.safetensors") for name in ("last", "ema-last"))
    assert any(not torch.equal(value, averaged[name]) for name, value in last.items())
    assert_one_sentence(run("evaluate", "run:run@swa-best", *FAST), "no swa-best.safetensors", "ema-best.safetensors")


def test_a_student_learns_from_a_run(run: Run, trained: Path, tmp_path: Path) -> None:
    assert run("train", f"rslad(teacher='run:{trained}', share=0.5)", *TINY, "--out", "run").status == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["teacher"] == {
        "name": "run:$FOLDER/../../trained0/run",
        "sha256": weights_sha256(load_model(f"run:{trained}", num_classes=10, shape=(1, 8, 8))),
    }
    names = load_file(trained / "last.safetensors").keys()
    assert load_file(tmp_path / "run/last.safetensors").keys() == names, "the student alone"
    other = run("train", f"rslad(teacher='run:{trained}@last', share=0.5)", *TINY, "--out", "run")
    assert_one_sentence(other, "holds a run with method")


def test_a_teacher_whose_classes_have_other_names_is_refused(run: Run, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "teacher")
    record = json.loads((trained / "run.json").read_text())
    record["classes"][1:3] = record["classes"][2:0:-1]
    (tmp_path / "teacher/run.json").write_text(json.dumps(record))
    done = run("train", "rslad(teacher='run:teacher')", *TINY, "--out", "run")
    assert_one_sentence(done, "has a class '2' where the data have '1'")
    assert not (tmp_path / "run").exists()


def test_classes_are_named_and_superclasses_come_from_the_data() -> None:
    data = Images(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), torch.arange(3), ("cat", "car", "dog"), torch.arange(3))
    data = replace(data, groups={"animals": ("cat", "dog"), "vehicles": ("car",)})
    attack = PGD(ThreatModel("Linf", 0.1))
    assert resolve.method("s-at(classes=('dog', 0))", data, attack, 0).classes == (0, 2)
    assert resolve.method("cluster-reg", data, attack, 0).groups == ((0, 2), (1,))
    assert resolve.method("cluster-reg(groups=((0, 1),))", data, attack, 0).groups == ((0, 1),)


def test_synchronised_batchnorm_is_what_a_gpu_trains_with() -> None:
    class OnGpu:
        device = torch.device("cuda")

    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    converted = resolve.synchronised(model, OnGpu())  # type: ignore[arg-type]
    assert isinstance(converted[1], torch.nn.SyncBatchNorm)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}


@pytest.mark.parametrize(("wanted", "environment"), [((3, 2), {}), ((1, 1), {"WORLD_SIZE": "8"})])
def test_without_torchrun_as_many_processes_run_as_were_asked_for(
    wanted: tuple[int, int], environment: dict[str, str]
) -> None:
    assert resolve.processes(*wanted, environment) == wanted


@pytest.mark.parametrize("wanted", [(1, 1), (4, 2), (4, 1)])
def test_torchrun_says_how_many_processes_run(wanted: tuple[int, int]) -> None:
    assert resolve.processes(*wanted, TORCHRUN) == (4, 2)


@pytest.mark.parametrize(("wanted", "option"), [((3, 2), "--devices is 3"), ((4, 3), "--num-nodes is 3")])
def test_other_processes_than_those_of_torchrun_are_refused(wanted: tuple[int, int], option: str) -> None:
    with pytest.raises(InputError, match=f"torchrun has started 4 x 2 processes, but {option}"):
        resolve.processes(*wanted, TORCHRUN)


def test_one_process_runs_without_ddp_unless_asked() -> None:
    made = resolve.launched("cpu", 1, strategy="auto")
    assert made.world_size == 1
    assert type(made.strategy).__name__ == "SingleDeviceStrategy"


def test_an_architecture_that_normalises_is_left_as_it_is(run: Run, tmp_path: Path) -> None:
    words = [*TINY[2:], "--model", "digits_cnn(mean=0.25, std=0.5)", "--out", "run"]
    assert run("train", "standard", *words).status == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["model"] == "digits_cnn(mean=0.25, std=0.5)"
    assert load_file(tmp_path / "run/best.safetensors")["normalize.std"].flatten().tolist() == [0.5]


def test_a_recipe_without_normalisation_leaves_the_model_without(run: Run, tmp_path: Path) -> None:
    words = [word.replace("steps=2", "steps=2, normalize=False") for word in TINY]
    assert run("train", "standard", *words, "--out", "run").status == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["model"] == "digits_cnn"
    assert run("evaluate", "run:run", *FAST).status == 0


def test_training_goes_on_in_mixed_precision(run: Run, tmp_path: Path) -> None:
    assert run("train", "at", *TINY, "--precision", "bf16-mixed", "--out", "run").status == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["precision"] == "bf16-mixed"


def test_the_same_command_again_finishes_at_once(run: Run, trained: Path, evaluated: Path) -> None:
    before = tree(trained)
    assert run("train", "at", *TINY, "--out", trained).status == 0
    assert tree(trained) == before
    before = tree(evaluated)
    words = ("--limit", "60", "--attacks", "pgd(steps=3),margin-pgd(steps=3)", "--out", evaluated)
    assert run("evaluate", f"run:{trained}", *words).status == 0
    assert tree(evaluated) == before


# Interrupted


def interrupting(monkeypatch: pytest.MonkeyPatch, call: int) -> list[int]:
    """Make one call of PGD the moment at which somebody presses Ctrl-C; return how many images each call saw."""
    seen: list[int] = []
    attack = PGD.__call__

    def pressed(self: PGD, model: Any, x: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor:
        seen.append(len(x))
        if len(seen) == call:
            raise KeyboardInterrupt
        return attack(self, model, x, *args, **settings)

    monkeypatch.setattr(PGD, "__call__", pressed)
    return seen


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_interrupted_evaluation_goes_on_and_ends_the_same(
    run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr("classwise.evaluation.records._SAVE_EVERY", 0.0)
    words = ("evaluate", f"run:{trained}", "--limit", "60", "--batch-size", "4", "--attacks", "pgd(steps=2)")
    words += ("--examples", "0")  # which would be attacked once more
    with monkeypatch.context() as patch:
        attacked = interrupting(patch, 1000)
        assert run(*words, "--eps", "0.01", "--out", "whole").status == 0
    with monkeypatch.context() as patch:
        interrupting(patch, call)
        stopped = run(*words, "--eps", "0.01", "--out", "stopped")
    assert stopped.status == 130
    assert_clean_stderr(stopped)
    assert "run the same command again" in stopped.err
    assert not (tmp_path / "stopped/result.json").exists()
    with monkeypatch.context() as patch:
        again = interrupting(patch, 1000)
        assert run(*words, "--eps", "0.01", "--out", "stopped").status == 0
    assert again == attacked[call - 1 :], "finished batches were attacked again"
    with np.load("whole/outcomes.npz") as whole, np.load("stopped/outcomes.npz") as resumed:
        assert whole.files == resumed.files
        assert all((whole[name] == resumed[name]).all() for name in whole.files)
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == ["outcomes.npz", "result.json"]


@pytest.mark.parametrize("call", [1, 6, 14])
def test_an_interrupted_training_goes_on_and_ends_the_same(
    run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    with monkeypatch.context() as patch:
        interrupting(patch, call)
        stopped = run("train", "at", *TINY, "--out", "run")
    assert stopped.status == 130
    assert_clean_stderr(stopped)
    assert run("train", "at", *TINY, "--out", "run").status == 0
    for name in ("best", "last"):
        assert (tmp_path / f"run/{name}.safetensors").read_bytes() == (trained / f"{name}.safetensors").read_bytes()


@pytest.mark.parametrize("call", [2, 12])
def test_an_interrupted_fit_of_a_correction_goes_on_and_ends_the_same(
    run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    words = ("correct", f"run:{trained}", "--rule", "iv-offsets(rounds=1)", "--attacks", "pgd(steps=2)", "--folds", "2")
    assert run(*words, "--out", "whole").status == 0
    with monkeypatch.context() as patch:
        interrupting(patch, call)
        stopped = run(*words, "--out", "stopped")
    assert stopped.status == 130
    assert "run the same command again to go on" in stopped.err
    assert run(*words, "--out", "stopped").status == 0
    for name in ("curve.json", "correction.safetensors", "promise-corrected.npz"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


def test_a_real_ctrl_c_stops_a_real_process_with_one_sentence(trained: Path, tmp_path: Path) -> None:
    words = [console_script(), "train", "at", *TINY, "--out", str(tmp_path / "run")]
    words[words.index("digits(epochs=3, steps=2)")] = "digits(epochs=1000, steps=2)"
    # A shell that runs the tests in the background lets them, and so their children, ignore Ctrl-C.
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(words, env=environment(), preexec_fn=listen, **pipes)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.startswith("classwise: Interrupted")
    assert err.count("\n") == 1
    assert "Training 'at' on 300 images" in out
    torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)


# Corrections


FIT = ("--rule", "iv-offsets(rounds=2)", "--attacks", "pgd(steps=2)", "--max-loss", "100")


def test_a_run_is_corrected_on_images_it_held_out_and_then_is_a_model_like_any(
    run: Run, tmp_path: Path, trained: Path
) -> None:
    done = run("correct", f"run:{trained}", *FIT, "--out", "fixed")
    assert done.status == 0, done.err
    for words in ("final number", "classwise evaluate corrected:fixed", "illustration", "not adaptive", "held out"):
        assert words in done.out
    curve = json.loads((tmp_path / "fixed/curve.json").read_text())
    assert curve["index"] == json.loads((trained / "run.json").read_text())["held_out"]
    assert run("evaluate", "corrected:fixed", *FAST, "--out", "ev").status == 0
    result = Result.read(tmp_path / "ev")
    assert result.header["model"]["name"] == "corrected:fixed"
    assert "fitted_on_test" not in {flag["flag"] for flag in result.header["flags"]}
    assert run("report", "ev").status == 0
    assert f"was fitted on {len(curve['index'])} images" in (tmp_path / "ev/report.html").read_text()
    words = ["train", "at", *TINY, "--model", "corrected:fixed", "--out", "tuned"]
    assert run(*words).status == 0
    assert run("evaluate", "run:tuned", *FAST).status == 0
    again = run("correct", "corrected:fixed", *FIT, "--out", "twice")
    assert again.status == 0, again.err
    assert json.loads((tmp_path / "twice/curve.json").read_text())["index"] == curve["index"]
    assert_one_sentence(run("correct", f"run:{trained}", *FIT, "--out", "fixed"), "holds a corrected model already")


def test_a_model_by_others_is_corrected_on_a_sample_of_the_training_split(run: Run, tmp_path: Path) -> None:
    done = run(*CORRECT[:6], *FIT, "--out", "fixed")
    assert done.status == 0, done.err
    assert "may have been trained on them" in done.out
    record = json.loads((tmp_path / "fixed/corrected.json").read_text())
    assert (record["data"]["split"], record["data"]["n"]) == ("train", 40)


def test_images_that_a_correction_was_fitted_on_are_left_out_of_its_evaluation(run: Run, tmp_path: Path) -> None:
    done = run(*CORRECT[:6], *FIT, "--split", "test", "--fit-on-test", "--out", "fixed")
    assert "fitted on test images" in done.out
    done = run("evaluate", "corrected:fixed", "--limit", "60", *FAST[2:], "--out", "ev", "--trust-code")
    assert "the 40 that the correction was fitted on are left out" in done.out, done.err
    result = Result.read(tmp_path / "ev")
    seen = json.loads((tmp_path / "fixed/curve.json").read_text())["index"]
    assert not set(result.outcomes.index.tolist()) & set(seen)
    assert "fitted_on_test" not in {flag["flag"] for flag in result.header["flags"]}


def test_a_corrected_model_is_exported_and_deployed_by_one_bias(run: Run, tmp_path: Path) -> None:
    save_weights(load_model("digits_cnn", num_classes=10, shape=(1, 8, 8)), tmp_path / "net.safetensors")
    words = ("correct", "digits_cnn@net.safetensors", "--data", "digits", "--limit", "40", *FIT, "--folds", "0")
    assert run(*words, "--out", "fixed").status == 0
    for name, model in (("new.safetensors", "digits_cnn@new.safetensors"), ("new.pt2", "export:new.pt2")):
        done = run("export", "corrected:fixed", "--out", name)
        assert done.status == 0, done.err
        assert "part of the last linear layer" in done.out
        for text, out in ((model, name), ("corrected:fixed", "same")):
            attack = ("--attacks", "fgsm", "--limit", "40", "--data", "digits", "--out", f"ev-{out}", "--trust-code")
            assert run("evaluate", text, *attack).status == 0
        ours, theirs = (Result.read(tmp_path / f"ev-{out}").outcomes for out in ("same", name))
        shutil.rmtree(tmp_path / "ev-same")
        assert np.array_equal(ours.correct("clean"), theirs.correct("clean"))
    assert_one_sentence(run("export", "corrected:fixed", "--out", "new.pth"), "ends in none of .pt2, .onnx")


def test_nothing_is_left_of_images_that_were_all_fitted_on(run: Run) -> None:
    words = (*CORRECT[:4], "--limit", "9999", *FIT, "--split", "test", "--fit-on-test", "--folds", "0")
    assert run(*words, "--out", "fixed").status == 0
    assert_one_sentence(
        run("evaluate", "corrected:fixed", *FAST, "--trust-code"), "was fitted on every image of the split test"
    )


def test_validation_images_that_stand_for_the_test_images_are_test_images(run: Run, tmp_path: Path) -> None:
    for split in ("val", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(np.full((8, 8), 40 * number, np.uint8)).save(folder / f"{number}.png")
    words = ("correct", "digits_cnn", "--data", "folder", "--data-dir", "images", "--split", "val", "--eps", "0.1")
    assert run(*words, *FIT, "--out", "fixed").status == 0
    shutil.rmtree(tmp_path / "images/test")
    assert_one_sentence(run(*words, *FIT, "--out", "other"), "test images of folder", "--fit-on-test")


def test_a_run_of_other_data_or_without_held_out_images_is_not_corrected(
    run: Run, tmp_path: Path, trained: Path
) -> None:
    record = json.loads((trained / "run.json").read_text())
    for change, says in (
        ({"held_out": []}, "held out no images"),
        ({"data": []}, "data is no object"),
        ({"data": {**record["data"], "name": "mnist"}}, "was trained on other images"),
        ({"data": {**record["data"], "n": 896}}, "was trained on other images"),
    ):
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy/run.json").write_text(json.dumps({**record, **change}))
        assert_one_sentence(run("correct", "run:copy", "--data", "digits", *FIT, "--out", "fixed"), says)


# Bad input


def assert_clean_stderr(done: Finished) -> None:
    assert done.err.startswith("classwise: ")
    assert done.err.count("\n") == 1, done.err
    assert done.err.endswith("\n")
    assert "Traceback" not in done.err + done.out


def assert_one_sentence(done: Finished, *fragments: str) -> None:
    assert done.status == 2, done.err
    assert_clean_stderr(done)
    sentence = done.err.removeprefix("classwise: ").strip()
    assert not re.search(r"[.!?] [A-Z]", sentence), f"more than one sentence: {sentence}"
    assert len(sentence) < 400
    for fragment in fragments:
        assert fragment in sentence, sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_devices_that_do_not_exist_are_said_before_training(run: Run, tmp_path: Path) -> None:
    done = run("train", "at", *TINY, "--accelerator", "cuda", "--devices", "3", "--out", "run")
    assert_one_sentence(done, "Cannot use 3 x cuda")
    assert not (tmp_path / "run").exists()


EVALUATE = ("evaluate", "mine.py:good", "--data", "digits", "--limit", "40", "--out", "out")
TRAIN = ("train", "at", *TINY, "--out", "out")
CRITICAL = ("critical-eps", "mine.py:good", "--data", "digits", "--limit", "40", "--out", "out")
CORRECT = ("correct", "mine.py:good", "--data", "digits", "--limit", "40", "--attacks", "pgd(steps=2)", "--out", "out")

BAD = [
    # Unknown names offer the nearest.
    (("evalute", "x"), ["command 'evalute'", "did you mean 'evaluate'"]),
    (("train", "standart", *TRAIN[2:]), ["method 'standart'", "did you mean 'standard'"]),
    ((*TRAIN, "--model", "digit_cnn"), ["model 'digit_cnn'", "did you mean 'digits_cnn'"]),
    ((*TRAIN, "--data", "digts"), ["data 'digts'", "did you mean 'digits'"]),
    ((*TRAIN, "--recipe", "panng2021"), ["recipe 'panng2021'", "did you mean 'pang2021'"]),
    ((*EVALUATE, "--attacks", "pdg"), ["attack 'pdg'", "did you mean 'pgd'"]),
    ((*EVALUATE, "--attacks", "pgd,margn-pgd"), ["did you mean 'margin-pgd'"]),
    ((*EVALUATE, "--norm", "L3", "--eps", "1"), ["norm 'L3'", "Linf, L2 or L1"]),
    ((*EVALUATE, "--split", "valid"), ["no split 'valid'", "train, test"]),
    (("list", "attack"), ["attacks", "not attack"]),
    # Settings.
    ((*EVALUATE, "--attacks", ""), ["No attack was named"]),
    ((*EVALUATE, "--attacks", ","), ["No attack was named"]),
    ((*EVALUATE, "--attacks", "pgd(steps="), ["'pgd(steps='", "pgd(steps=100)"]),
    ((*EVALUATE, "--attacks", "pgd(steps)"), ["pgd(steps)", "name(key=value"]),
    ((*EVALUATE, "--attacks", "pgd(stepz=3)"), ["stepz"]),
    ((*EVALUATE, "--attacks", "pgd(steps='a')"), ["steps"]),
    ((*EVALUATE, "--attacks", "pgd(steps=2.5)"), ["steps"]),
    ((*EVALUATE, "--attacks", "pgd(steps=0)"), ["steps"]),
    ((*EVALUATE, "--attacks", "pgd(step_size='a')"), ["step_size"]),
    ((*EVALUATE, "--attacks", "temperature-pgd(inverse_temperatures=[])"), ["inverse temperature"]),
    ((*TRAIN, "--recipe", "digits(epocs=3)"), ["epocs"]),
    ((*TRAIN, "--recipe", "digits(epochs='a')"), ["epochs is 'a'"]),
    ((*TRAIN, "--recipe", "digits(epochs=0)"), ["epochs is 0"]),
    ((*TRAIN, "--recipe", "digits(schedule='linear')"), ["schedule is 'linear'", "cosine"]),
    ((*TRAIN, "--recipe", "digits(augment='crops')"), ["augmentation 'crops'", "did you mean 'crop'"]),
    ((*TRAIN, "--recipe", "digits(holdout=1)"), ["holdout is 1"]),
    (("train", "at(beta=6)", *TRAIN[2:]), ["beta"]),
    (("train", "rslad", *TRAIN[2:]), ["RSLAD learns from a teacher", "teacher='run:FOLDER'"]),
    (("train", "rslad(teacher='digits_cnn')", *TRAIN[2:]), ["'digits_cnn' has no weights", "ARCH@FILE"]),
    (("train", "rslad(teacher=3)", *TRAIN[2:]), ["teacher 3 has no weights"]),
    (("train", "rslad(teacher='run:nowhere')", *TRAIN[2:]), ["nowhere", "run.json"]),
    (("train", "rslad(teacher='mine.py:seven')", *TRAIN[2:]), ["7 logits", "10 classes"]),
    (("train", "rslad(teacher='mine.py:good', shar=1)", *TRAIN[2:]), ["shar"]),
    (("train", "at(teacher='mine.py:good')", *TRAIN[2:]), ["teacher"]),
    (("train", "s-at(classes=('3', 'thre'))", *TRAIN[2:]), ["class 'thre'", "known are 0, 1"]),
    (("train", "s-at", *TRAIN[2:]), ["say which"]),
    (("train", "cluster-reg", *TRAIN[2:]), ["the data set has none", "groups="]),
    ((*TRAIN, "--wrappers", "emma"), ["wrapper 'emma'", "did you mean 'ema'"]),
    ((*TRAIN, "--wrappers", "ema(deca=0.9)"), ["deca"]),
    ((*TRAIN, "--wrappers", "ema,ema"), ["named twice"]),
    ((*TRAIN, "--loggers", "tensorbord"), ["logger 'tensorbord'", "did you mean 'tensorboard'"]),
    ((*TRAIN, "--loggers", "tensorboard(colour=1)"), ["colour"]),
    ((*TRAIN, "--eps", "0"), ["radius to train at is 0"]),
    ((*TRAIN, "--eps", "-0.1"), ["-0.1"]),
    ((*TRAIN, "--limit", "5"), ["5 training images for 10 classes"]),
    ((*TRAIN, "--sync-batchnorm", "--accelerator", "cpu"), ["--sync-batchnorm needs GPUs"]),
    ((*TRAIN, "--strategy", "deepspeed"), ["strategy", "'ddp'", "deepspeed"]),
    ((*TRAIN, "--devices", "0"), ["--devices is 0, but must be from 1"]),
    ((*EVALUATE, "--eps", "abc"), ["'abc' is not a radius", "8/255"]),
    ((*EVALUATE, "--eps", "8"), ["8/255"]),
    ((*EVALUATE, "--eps", "-0.1"), ["-0.1"]),
    ((*EVALUATE, "--eps", "1/0"), ["'1/0' is not a radius"]),
    ((*EVALUATE, "--eps", "nan"), ["nan"]),
    ((*EVALUATE, "--norm", "L2"), ["--eps"]),
    ((*TRAIN, "--norm", "L2"), ["--eps"]),
    ((*EVALUATE, "--limit", "0"), ["limit is 0"]),
    ((*TRAIN, "--limit", "0"), ["limit is 0"]),
    ((*EVALUATE, "--limit", "-3"), ["limit is -3"]),
    ((*EVALUATE, "--seed", str(2**63)), ["--seed is", "0 to 2^63 - 1"]),
    ((*TRAIN, "--seed", "-1"), ["--seed is -1", "0 to 2^63 - 1"]),
    ((*EVALUATE, "--eps", "-8/255"), ["-8/255", "at least 0"]),
    ((*EVALUATE, "--eps", "8", "--norm", "L2"), ["Within the L2 radius 8 every image of 1x8x8", "8/255"]),
    ((*EVALUATE, "--lim", "3"), ["unrecognized", "--lim 3"]),
    ((*EVALUATE, "--attacks", "fsat"), ["attack 'fsat'", "did you mean 'fast'"]),
    ((*EVALUATE, "--attacks", "transfer(source='digits_cnn')"), ["source 'digits_cnn' has fresh weights"]),
    ((*EVALUATE, "--batch-size", "0"), ["batch size"]),
    ((*EVALUATE, "--batch-size", "-1"), ["batch size"]),
    ((*EVALUATE, "--devices", "0"), ["--devices is 0, but must be from 1"]),
    ((*EVALUATE, "--devices", "-2"), ["--devices is -2, but must be from 1"]),
    ((*EVALUATE, "--accelerator", "abacus"), ["abacus"]),
    # What jsonargparse refuses.
    ((), ["see `classwise --help`"]),
    (("train",), ["method", "required"]),
    (("list",), ["what", "required"]),
    ((*EVALUATE, "--limt", "3"), ["unrecognized arguments: --limt", "see `classwise evaluate --help`"]),
    ((*EVALUATE, "--seed", "abc"), ["seed: expected a whole number, not abc"]),
    ((*EVALUATE, "--limit", "1.5"), ["limit", "1.5"]),
    (("evaluate", "x", "--limit"), ["--limit", "expected one argument"]),
    ((*TRAIN, "--precision", "16-true"), ["precision", "32-true", "16-true"]),
    ((*EVALUATE, "--config", "nowhere.yaml"), ["nowhere.yaml"]),
    (("evaluate", "a", "b"), ["b"]),
    # Models.
    (("evaluate", "mine.py:probabilities", *EVALUATE[2:]), ["probabilities", "remove the softmax"]),
    (("evaluate", "mine.py:whole_numbers", *EVALUATE[2:]), ["torch.int64", "floating point"]),
    (("evaluate", "mine.py:nan", *EVALUATE[2:]), ["NaN"]),
    (("evaluate", "mine.py:flat", *EVALUATE[2:]), ["logits"]),
    (("evaluate", "mine.py:pairs", *EVALUATE[2:]), ["tuple", "logits"]),
    (("evaluate", "mine.py:large", *EVALUATE[2:]), ["on images (2, 1, 8, 8)"]),
    (("evaluate", "mine.py:seven", *EVALUATE[2:]), ["7 logits", "10 classes"]),
    (("evaluate", "mine.py:raises", *EVALUATE[2:]), ["the flux capacitor is empty"]),
    (("evaluate", "mine.py:quits", *EVALUATE[2:]), ["SystemExit"]),
    (("evaluate", "mine.py:nothing", *EVALUATE[2:]), ["NoneType", "nn.Module"]),
    (("evaluate", "mine.py:god", *EVALUATE[2:]), ["no factory 'god'", "good"]),
    (("evaluate", "mine.py", *EVALUATE[2:]), ["name of a factory"]),
    (("evaluate", "yours.py:good", *EVALUATE[2:]), ["no file yours.py"]),
    (("evaluate", "run:nowhere", *EVALUATE[2:]), ["nowhere", "run.json"]),
    (("evaluate", "run:nowhere"), ["nowhere", "run.json"]),
    (("evaluate", "mine.py:good", "--out", "out"), ["--data"]),
    (("evaluate", "digits_cnn@nowhere.safetensors", *EVALUATE[2:]), ["no weights file nowhere.safetensors"]),
    (("evaluate", "mine.py:good", "--data", "digits(size=9)", "--out", "out"), ["size"]),
    # Data and folders.
    ((*EVALUATE, "--data", "mnist"), ["mnist", "folder"]),
    ((*EVALUATE, "--data", "mnist", "--data-dir", "nowhere"), ["nowhere does not exist"]),
    ((*EVALUATE, "--data", "folder", "--data-dir", ".", "--eps", "8/255"), ["class"]),
    ((*EVALUATE, "--data", "arrays", "--data-dir", ".", "--eps", "0.1"), ["x_test"]),
    ((*EVALUATE, "--out", "mine.py"), ["mine.py"]),
    ((*EVALUATE, "--out", "mine.py/out"), ["Cannot write mine.py/out"]),
    ((*TRAIN, "--out", "mine.py/out"), ["Cannot write mine.py/out"]),
    (("demo", "--out", "mine.py/out"), ["Cannot write mine.py/out"]),
    # Critical eps.
    ((*CRITICAL, "--eps-max", "0"), ["largest radius is 0"]),
    ((*CRITICAL, "--eps-max", "-0.1"), ["-0.1"]),
    ((*CRITICAL, "--eps-max", "8"), ["8/255"]),
    ((*CRITICAL, "--eps-max", "0.3", "--norm", "L3"), ["norm 'L3'", "Linf, L2 or L1"]),
    ((*CRITICAL, "--norm", "L2"), ["--eps-max"]),
    ((*CRITICAL, "--eps-max", "0.1", "--radii", "0.05,0.2"), ["0.2 is not between 0", "0.1"]),
    ((*CRITICAL, "--radii", "0.05,x"), ["'x' is not a radius"]),
    ((*CRITICAL, "--attack", "pgd"), ["pgd", "needs narrowing"]),
    ((*CRITICAL, "--attack", "narowing"), ["did you mean 'narrowing'"]),
    ((*CRITICAL, "--limit", "0"), ["limit is 0"]),
    ((*CRITICAL, "--data", "arrays", "--data-dir", "."), ["--eps-max"]),
    ((*CRITICAL, "--out", "mine.py"), ["mine.py"]),
    (("critical-eps", "mine.py:seven", *CRITICAL[2:]), ["7 logits", "10 classes"]),
    (("critical-eps", "mine.py:good"), ["Name the data set with --data"]),
    # Corrections.
    ((*CORRECT, "--split", "test"), ["test images of digits", "held-out images", "--fit-on-test"]),
    ((*CORRECT, "--rule", "iv-ofset"), ["correction 'iv-ofset'", "did you mean 'iv-offset'"]),
    ((*CORRECT, "--rule", "iv-offset(step=0)"), ["step of iv-offset is 0"]),
    ((*CORRECT, "--max-loss", "-1"), ["between 0 and 100"]),
    ((*CORRECT, "--attacks", "fast"), ["fast"]),
    ((*CORRECT, "--batch-size", "0"), ["The batch size is 0"]),
    ((*CORRECT, "--folds", "1"), ["1 folds, but must have 2 to 100"]),
    ((*CORRECT, "--target", "weakst"), ["did you mean 'weakest'"]),
    ((*CORRECT, "--limit", "5"), ["5 images are fewer than the 10 classes"]),
    ((*CORRECT, "--out", "mine.py"), ["Cannot write mine.py"]),
    ((*CORRECT, "--out", "mine.py/out"), ["Cannot write mine.py/out"]),
    (("correct", "mine.py:seven", *CORRECT[2:]), ["7 logits", "10 classes"]),
    (("correct", "mine.py:nan", *CORRECT[2:]), ["NaN or infinite"]),
    (("correct", "mine.py:good"), ["Name the data set with --data"]),
    (("correct", "corrected:nowhere"), ["nowhere holds no corrected model"]),
    (("evaluate", "corrected:nowhere", *EVALUATE[2:]), ["nowhere holds no corrected model"]),
    (("report", "nowhere"), ["no folder nowhere"]),
    (("report", "."), ["result.json"]),
    ((*EVALUATE, "--fail-under", "worst=20"), ["worst=20 is in per cent", "write worst=0.2"]),
    ((*EVALUATE, "--fail-under", "class[cow]=0.2"), ["no class 'cow'"]),
    ((*EVALUATE, "--junit", "gate.xml"), ["give that too"]),
    (("analyse", "nowhere"), ["no folder nowhere"]),
    (("analyse",), ["runs", "required"]),
    (("compare", "nowhere", "elsewhere"), ["no folder nowhere"]),
]


@pytest.mark.parametrize(("words", "fragments"), BAD, ids=lambda value: " ".join(value)[-50:])
def test_bad_input_gets_one_clear_sentence_and_leaves_nothing_behind(
    run: Run, tmp_path: Path, words: tuple[str, ...], fragments: list[str]
) -> None:
    before = tree(tmp_path)
    assert_one_sentence(run(*words), *fragments)
    assert tree(tmp_path) == before


def arrays(folder: Path, **changes: Any) -> None:
    """Write images and labels for evaluation, sound but for the changes."""
    rng = np.random.default_rng(0)
    good = {"x": rng.integers(0, 255, (40, 8, 8), dtype=np.uint8), "y": np.arange(40) % 10}
    np.savez(folder / "data.npz", **(good | changes))


ARRAYS = ("evaluate", "mine.py:good", "--data", "arrays", "--data-dir", "data.npz", "--eps", "0.1", "--out", "out")
PIXELS = np.random.default_rng(0).random((40, 1, 8, 8)).astype(np.float32)

BAD_ARRAYS = [
    ({"x": (PIXELS - 0.5) / 0.25}, ["normalised"]),
    ({"x": PIXELS * 255}, ["0 … 255"]),
    ({"x": np.where(PIXELS > 0.99, np.nan, PIXELS)}, ["NaN"]),
    ({"x": PIXELS * 1.5}, ["[0, 1]"]),
    ({"x": PIXELS[:30]}, ["30 images"]),
    ({"x": np.zeros((40, 5, 8, 8), np.uint8)}, ["(40, 5, 8, 8)"]),
    ({"y": np.arange(40) % 10 - 1}, ["Label -1"]),
    ({"y": np.arange(40) % 11}, ["10 logits", "11 classes"]),
    ({"y": np.arange(40) % 10 / 1.0}, ["integers"]),
    ({"y": np.arange(40) % 10, "classes": np.array(["a", "b", "c"])}, ["Label 3", "3 classes"]),
    ({"x": np.zeros((0, 8, 8), np.uint8), "y": np.zeros(0, np.int64)}, ["no images"]),
]


@pytest.mark.parametrize(
    ("changes", "fragments"), BAD_ARRAYS, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_bad_arrays_get_one_clear_sentence(
    run: Run, tmp_path: Path, changes: dict[str, Any], fragments: list[str]
) -> None:
    arrays(tmp_path, **changes)
    before = tree(tmp_path)
    assert_one_sentence(run(*ARRAYS), *fragments)
    assert tree(tmp_path) == before


def test_a_model_that_fails_on_real_images_alone_is_blamed_on_the_model(run: Run) -> None:
    assert_one_sentence(run("evaluate", "mine.py:picky", *EVALUATE[2:]), "only grey images, please")


def test_own_arrays_need_a_radius(run: Run, tmp_path: Path) -> None:
    arrays(tmp_path)
    without = [word for word in ARRAYS if word not in ("--eps", "0.1")]
    assert_one_sentence(run(*without), "--eps 8/255")
    assert not (tmp_path / "out").exists()


def test_sound_arrays_are_evaluated(run: Run, tmp_path: Path) -> None:
    arrays(tmp_path, x=PIXELS)
    assert run(*ARRAYS, "--attacks", "pgd(steps=2)").status == 0
    assert "rounded" in Result.read(tmp_path / "out").header["data"]["note"]


def cifar10(folder: Path) -> None:
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    for name in names:
        content = {"data": np.zeros((10, 3072), np.uint8), "labels": list(range(10))}
        (batches / name).write_bytes(pickle.dumps(content))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    halve(batches / "test_batch")


def mnist(folder: Path) -> None:
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 4]))


def archive(folder: Path) -> None:
    arrays(folder)
    halve(folder / "data.npz")


def photographs(folder: Path) -> None:
    from PIL import Image

    for name in "ab":
        (folder / name).mkdir()
        Image.fromarray(PIXELS[0, 0], mode="F").convert("L").save(folder / name / "1.png")
    halve(folder / "b/1.png")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "name", "fragment"),
    [
        (cifar10, "cifar10", "cifar10 is damaged"),
        (mnist, "mnist", "mnist cannot be read"),
        (archive, "arrays", "data.npz"),
        (photographs, "folder", "1.png"),
    ],
)
def test_a_half_downloaded_data_set_is_named(
    run: Run, tmp_path: Path, make: Callable[[Path], None], name: str, fragment: str
) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    before = tree(tmp_path)
    done = run("evaluate", "mine.py:good", "--data", name, "--data-dir", "data", "--eps", "0.1", "--out", "out")
    assert_one_sentence(done, fragment)
    assert tree(tmp_path) == before


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_images_that_are_streamed_from_files_are_not_trained_on(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    for side, name in ((8, "a"), (9, "b")):
        (tmp_path / "data/train" / name).mkdir(parents=True)
        Image.new("L", (side, side)).save(tmp_path / "data/train" / name / "1.png")
    before = tree(tmp_path)
    words = ("--data", "folder", "--data-dir", "data", "--eps", "8/255", "--out", "out")
    assert_one_sentence(run("train", "at", *words), "training needs images in memory")
    assert tree(tmp_path) == before


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_weights_that_would_run_code_are_refused(run: Run, tmp_path: Path) -> None:
    torch.save({"state_dict": Payload()}, tmp_path / "weights.pt")
    before = tree(tmp_path)
    assert_one_sentence(
        run("evaluate", "digits_cnn@weights.pt", *EVALUATE[2:]), "weights.pt", "objects other than tensors"
    )
    assert tree(tmp_path) == before


def test_a_whole_model_in_a_pickle_is_refused(run: Run, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    assert_one_sentence(run("evaluate", "digits_cnn@model.pt", *EVALUATE[2:]), "model.pt", "state_dict()")


def test_weights_of_another_model_are_refused(run: Run, trained: Path) -> None:
    model = f"small_resnet@{trained / 'best.safetensors'}"
    assert_one_sentence(run("evaluate", model, *EVALUATE[2:]), "does not fit")


def test_a_run_of_other_data_is_refused(run: Run, trained: Path, tmp_path: Path) -> None:
    arrays(tmp_path, y=np.arange(40) % 3)
    done = run("evaluate", f"run:{trained}", *ARRAYS[2:])
    assert_one_sentence(done, "trained on 10 classes", "3")


@pytest.mark.parametrize("content", ["", "[]", '{"data": 3}', "{"])
def test_a_damaged_run_is_named(run: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(content)
    assert_one_sentence(run("evaluate", "run:run", *FAST), "run.json")


# Folders that hold something else


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (("--eps", "0.1"), "threat.eps = 0.15, and now threat.eps = 0.1"),
        (("--seed", "1"), "seed = 0, and now seed = 1"),
        (("--recipe", "digits(epochs=4, steps=2)"), "recipe.epochs = 3, and now recipe.epochs = 4"),
        (("--recipe", "digits(epochs=3, steps=2, normalize=False)"), "recipe.normalize = true"),
        (("--limit", "200"), "data.n = 300, and now data.n = 200"),
        (("--model", "small_resnet"), "model"),
        (("--precision", "bf16-mixed"), "precision"),
        (("--wrappers", "swa"), 'wrappers = "ema", and now wrappers = "swa"'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_with_another_setting_is_refused_by_name(
    run: Run, trained: Path, words: tuple[str, ...], setting: str
) -> None:
    before = tree(trained)
    assert_one_sentence(run("train", "at", *TINY, *words, "--out", trained), f"holds a run with {setting}")
    assert tree(trained) == before


def test_another_method_in_the_same_folder_is_refused(run: Run, trained: Path) -> None:
    assert_one_sentence(run("train", "standard", *TINY, "--out", trained), 'method = "at"', 'method = "standard"')


def test_a_folder_holds_a_run_or_an_evaluation_but_not_both(run: Run, trained: Path, evaluated: Path) -> None:
    before = tree(trained), tree(evaluated)
    assert_one_sentence(run("evaluate", f"run:{trained}", *FAST, "--out", trained), "holds a training run")
    assert_one_sentence(run("train", "at", *TINY, "--out", evaluated), "holds an evaluation")
    assert (tree(trained), tree(evaluated)) == before


@pytest.mark.parametrize("words", [("--seed", "1"), ("--attacks", "pgd"), ("--eps", "0.01"), ("--limit", "50")])
def test_the_result_of_another_evaluation_is_kept(
    run: Run, trained: Path, evaluated: Path, words: tuple[str, ...]
) -> None:
    before = tree(evaluated)
    same = ("--limit", "60", "--attacks", "pgd(steps=3),margin-pgd(steps=3)")
    assert_one_sentence(run("evaluate", f"run:{trained}", *same, *words, "--out", evaluated), "other settings")
    assert tree(evaluated) == before


def test_a_damaged_result_is_named(run: Run, tmp_path: Path, evaluated: Path) -> None:
    (tmp_path / "copy").mkdir()
    for name in ("result.json", "outcomes.npz"):
        (tmp_path / "copy" / name).write_bytes((evaluated / name).read_bytes())
    halve(tmp_path / "copy/result.json")
    assert_one_sentence(run("report", "copy"), "result.json is damaged")
    assert not (tmp_path / "copy/report.html").exists()


def test_divergence_ends_in_one_sentence(run: Run, tmp_path: Path) -> None:
    words = [word.replace("steps=2", "steps=2, lr=1e6, weight_decay=0.1") for word in TINY]
    assert_one_sentence(run("train", "standard", *words, "--out", "run"), "Training diverged in epoch", "batch")
    if (tmp_path / "run/checkpoint.pt").exists():
        weights = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["model"]
        assert all(value.isfinite().all() for value in weights.values())


# Faults of ours


def test_a_fault_of_ours_is_said_with_status_one_and_shown_with_debug(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("classwise.evaluation.evaluate", broken)
    done = run(*EVALUATE)
    assert done.status == 1
    assert_clean_stderr(done)
    assert "ZeroDivisionError: two)" in done.err
    assert "--debug" in done.err
    with pytest.raises(ZeroDivisionError):
        run(*EVALUATE, "--debug")


def test_debug_shows_where_bad_input_was_met(run: Run) -> None:
    with pytest.raises(classwise.InputError):
        run("--debug", *EVALUATE, "--eps", "abc")


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "import sys; from classwise.cli.main import main; sys.exit(main(['list', 'recipes']))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(60)


def test_a_command_leaves_the_group_of_processes_that_torchrun_waits_for(tmp_path: Path) -> None:
    """A process that stays in it never ended after training: `torchrun --nproc_per_node 2 -m classwise train`."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    assert main(["list", "attacks"]) == 0
    assert not torch.distributed.is_initialized()
