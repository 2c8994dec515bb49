"""What the analyses of a study say: who is compared with whom, under which name, and what becomes of open questions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.metrics.strategies import header, make
from tests.trials_for_tests import of_given, tiny, trial

from classwise.errors import InputError
from classwise.metrics.result import Result
from classwise.studies import answers
from classwise.studies.answers import Answers, ask
from classwise.studies.spec import Entry, Given
from classwise.studies.trials import GIVEN, StudyContext, Trial, grid, perform
from classwise.threat import ThreatModel


def evaluated(out: Path, each: Trial, right: tuple[int, int], sha: str) -> Trial:
    """Write an evaluation of forty images of each of two classes for every kind of weights, and return the run."""
    y = np.repeat([0, 1], 40)
    prediction = np.concatenate([np.where(np.arange(40) < count, c, 1 - c) for c, count in enumerate(right)])
    made = make(y, y, num_classes=2, pgd=prediction)
    for weights in each.weights:
        document: dict[str, Any] = header(made)
        document["model"] = {**document["model"], "sha256": f"{sha}-{weights}"}
        Result(document, made).write(each.evaluation_folder(out, weights))
    (each.folder(out) / "trial.json").write_text(json.dumps({"name": each.name, "key": each.key, "code": ["a"]}))
    return each


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    """Return two methods with two seeds, two kinds of weights each, and a model that is given."""
    found = [
        evaluated(tmp_path, trial(name, seed=seed, weights=("best", "last")), (36, 20 + seed), f"{name}-{seed}")
        for name in ("at", "trades")
        for seed in (0, 1)
    ]
    theirs = trial("theirs", recipe=None, model="net.py:make", weights=(GIVEN,))
    return [*found, evaluated(tmp_path, theirs, (40, 4), "theirs")]


def test_kinds_of_weights_and_given_models_are_asked_apart(trials: list[Trial], tmp_path: Path) -> None:
    found = ask(["disparity"], trials, StudyContext(tmp_path))
    assert [each.about for each in found] == [
        "digits_cnn, best weights, digits, Linf 0.1",
        "digits_cnn, last weights, digits, Linf 0.1",
        "given models, digits, Linf 0.1",
    ]
    assert [finding.subject for finding in found[0].findings if finding.claim == "H1"] == [
        f"{name} on digits_cnn, seed {seed}" for name in ("at", "trades") for seed in (0, 1)
    ]
    assert {finding.subject for finding in found[2].findings} == {"theirs on digits, Linf 0.1"}


def test_other_threats_and_architectures_are_asked_apart(trials: list[Trial], tmp_path: Path) -> None:
    others = [
        evaluated(tmp_path, replace(trials[0], threat=ThreatModel("Linf", 0.2)), (36, 20), "x"),
        evaluated(tmp_path, replace(trials[0], model="small_cnn"), (36, 20), "y"),
    ]
    found = ask(["numbers"], [*trials[:1], *others], StudyContext(tmp_path))
    assert [len(each.findings) for each in found] == [1] * 6


def test_seeds_of_a_method_are_those_of_its_name_in_the_study(trials: list[Trial], tmp_path: Path) -> None:
    (best, *_) = ask(["seeds"], trials, StudyContext(tmp_path))
    assert best.findings[0].values.keys() == {"at", "trades"}
    assert best.findings[0].values["at"]["worst"].tolist() == [0.5, 0.525]


def test_a_question_without_an_answer_is_named_and_holds_nothing_up(trials: list[Trial], tmp_path: Path) -> None:
    found = ask(["temperature", "seeds", "numbers"], trials, StudyContext(tmp_path))[2]
    assert [finding.question for finding in found.findings] == ["numbers"]
    assert [reason.partition(" has no answer")[0] for reason in found.unanswered] == [
        "The question 'temperature'",
        "The question 'seeds'",
    ]


def test_without_weights_every_other_question_is_answered_and_what_is_missing_is_said(
    trials: list[Trial], tmp_path: Path
) -> None:
    """A study is committed without its weights; its tables are made again from what is there."""
    best, *_ = ask(["disparity", "weight_norm"], trials, StudyContext(tmp_path))
    assert {finding.question for finding in best.findings} == {"disparity"}
    for each in trials[:4]:
        (said,) = (reason for reason in best.unanswered if reason.startswith(f"weight_norm: {each.title}: "))
        assert "run.json" in said


def test_without_the_data_no_network_is_looked_for(
    trials: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise InputError("Give the folder that holds the data: --data-dir DIR.")

    monkeypatch.setattr("classwise.resolve.images", absent)
    found, *_ = ask(["disparity", "weight_norm"], trials, StudyContext(tmp_path))
    assert {finding.question for finding in found.findings} == {"disparity"}
    assert found.unanswered[0] == "weight_norm: Give the folder that holds the data: --data-dir DIR."


def test_what_is_not_evaluated_is_left_out(trials: list[Trial], tmp_path: Path) -> None:
    assert ask(["numbers"], [trial("open")], StudyContext(tmp_path)) == []
    found = ask(["numbers"], [trial("open"), *trials[:1]], StudyContext(tmp_path))
    assert [len(each.findings) for each in found] == [1, 1]


def test_without_a_question_nothing_is_read(tmp_path: Path) -> None:
    assert ask([], [trial("at")], StudyContext(tmp_path / "nowhere")) == []
    assert answers.write([], tmp_path) == []
    assert answers.text([]) == ""


def test_the_text_counts_verdicts_and_has_every_sentence(trials: list[Trial], tmp_path: Path) -> None:
    """36 of 40 images right in one class, 20 and 21 in the other for two seeds: classes differ (H1) in both."""
    found = ask(["disparity", "temperature"], trials[:2], StudyContext(tmp_path))
    said = answers.text(found[:1])
    lines = said.splitlines()
    assert lines[1] == "## digits_cnn, best weights, digits, Linf 0.1"
    assert lines[3].startswith("| claim | supported |")
    assert lines[5].startswith("| H1 | 2 |")
    assert [line for line in lines if line.startswith("- at on digits_cnn, seed 0: H1 is supported")]
    assert [line for line in lines if line.startswith("- Not answered: The question 'temperature'")]


def test_the_files_hold_every_finding_in_full(trials: list[Trial], tmp_path: Path) -> None:
    found = ask(["disparity"], trials, StudyContext(tmp_path))
    paths = answers.write(found, tmp_path)
    assert [path.name for path in paths] == ["analyses.json", "analyses.md"]
    record = json.loads(paths[0].read_text(), parse_constant=pytest.fail)
    assert [len(each["findings"]) for each in record["answers"]] == [8, 8, 2]
    assert record["answers"][0]["findings"][0]["claim"] == "H1"
    assert "# given models, digits, Linf 0.1" in paths[1].read_text()


def test_networks_and_logs_are_found_by_themselves(tmp_path: Path) -> None:
    """A7 needs the last layer, A1 the log; the given network has a last layer too, and no log."""
    study = tiny(Entry("at"), given=(Given("fresh", "digits_cnn"),), seeds=(0,))
    where = StudyContext(tmp_path)
    trials = grid(study, where)
    assert [perform(each, where) for each in trials] == ["done", "done"]
    best, last, given = ask(["epochs", "weight_norm"], trials, where)
    assert [finding.question for finding in best.findings] == ["epochs", "weight_norm"]
    assert [finding.question for finding in last.findings] == ["weight_norm"], "the log is that of the run, told once"
    assert {finding.subject for finding in (*best.findings, *last.findings)} == {"at on digits_cnn, seed 0"}
    assert [finding.claim for finding in given.findings] == ["H8"]
    assert len(given.unanswered) == 1


def test_a_network_without_a_linear_last_layer_is_named(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())\n")
    where = StudyContext(tmp_path / "out")
    trials = grid(of_given(Given("odd", f"{net}:make")), where)
    assert perform(trials[0], where) == "done"
    (found,) = ask(["weight_norm"], trials, where)
    assert isinstance(found, Answers)
    assert found.findings == ()
    assert found.unanswered[0].startswith("weight_norm: odd on digits, Linf 0.15: ")
