"""One run of a study: its key changes with everything its numbers depend on, and it goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.trials_for_tests import QUICK, RECIPE, of_given, tiny, trial

from classwise import files
from classwise.errors import InputError
from classwise.metrics.result import Result
from classwise.studies import trials
from classwise.studies.spec import Entry, Given, Study
from classwise.studies.trials import Source, StudyContext, Trial, grid, perform
from classwise.threat import ThreatModel
from classwise.training.recipes import Recipe


def only(study: Study, where: StudyContext) -> Trial:
    (trial,) = grid(study, where)
    return trial


def stamps(folder: Path) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".pt", ".npz", ".safetensors")
    }


@pytest.fixture
def where(tmp_path: Path) -> StudyContext:
    return StudyContext(tmp_path / "out")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, StudyContext]:
    """Return a finished run; not to be written into."""
    where = StudyContext(tmp_path_factory.mktemp("done"))
    trial = only(tiny(Entry("at")), where)
    assert perform(trial, where) == "done"
    return trial, where


CHANGES: list[dict[str, Any]] = [
    {"method": "at2"},
    {"model": "small_cnn"},
    {"seed": 1},
    {"recipe": Recipe(epochs=3)},
    {"wrappers": "swa"},
    {"threat": ThreatModel("Linf", 0.2)},
    {"precision": "bf16-mixed"},
    {"data": "mnist"},
    {"train_sha256": "0"},
    {"start": Source("0", "digits_cnn@file")},
    {"teacher": Source("0", "digits_cnn@file")},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_setting_of_training_is_in_the_key(done: tuple[Trial, StudyContext], change: dict[str, Any]) -> None:
    trial, where = done
    other = replace(trial, **change)
    assert other.key != trial.key
    assert other.folder(where.out) != trial.folder(where.out)
    assert other.state(where.out) == "open"


@pytest.mark.parametrize(("nesterov", "recorded"), [(False, False), (True, True)])
def test_a_setting_that_recipes_got_later_is_in_the_key_only_where_it_does_something_new(nesterov, recorded) -> None:
    """Studies from before it would be trained anew else."""
    given = trial("at", recipe=Recipe(epochs=10, steps=4, nesterov=nesterov))
    assert ("nesterov" in given.settings["recipe"]) is recorded


def test_the_version_is_in_both_hashes(done: tuple[Trial, StudyContext], monkeypatch: pytest.MonkeyPatch) -> None:
    trial, where = done
    key, evaluation = trial.key, trial.evaluation_folder(where.out, "best").name
    monkeypatch.setattr("classwise.studies.trials.__version__", "99.0")
    newer = replace(trial)
    assert newer.key != key
    assert newer.evaluation_folder(where.out, "best").name != evaluation


def test_the_key_of_a_source_is_in_the_key(done: tuple[Trial, StudyContext]) -> None:
    trial, _ = done
    students = [replace(trial, teacher=Source(replace(trial, seed=seed), "best")) for seed in (0, 1)]
    others = [replace(trial, teacher=Source(trial, which)) for which in ("best", "last")]
    assert len({student.key for student in (*students, *others)}) == 3  # the first of each pair are one


def test_other_attacks_leave_the_training_alone(done: tuple[Trial, StudyContext]) -> None:
    trial, where = done
    other = only(tiny(Entry("at"), evaluate=replace(QUICK, attacks="pgd(steps=3)")), where)
    assert other.key == trial.key
    assert other.trained(where.out)
    assert not other.evaluated(where.out)


@pytest.mark.parametrize("change", [{"seed": 1}, {"limit": 10}, {"audit": 0.5}, {"attacks": "pgd(steps=3)"}])
def test_every_setting_of_an_evaluation_is_in_its_folder(where: StudyContext, change: dict[str, Any]) -> None:
    folders = {
        only(tiny(Entry("at"), evaluate=evaluation), where).evaluation_folder(where.out, "best")
        for evaluation in (QUICK, replace(QUICK, **change))
    }
    assert len(folders) == 2


def test_a_run_of_a_study_is_what_the_commands_would_make(done: tuple[Trial, StudyContext], tmp_path: Path) -> None:
    from classwise.cli.main import main

    trial, where = done
    run, result = tmp_path / "run", tmp_path / "result"
    words = ["--model", "digits_cnn", "--data", "digits", "--limit", "100", "--recipe", RECIPE, "--wrappers", "ema"]
    assert main(["train", "at", *words, "--out", str(run)]) == 0
    attack = ["--attacks", "pgd(steps=2)", "--limit", "20", "--out", str(result)]
    assert main(["evaluate", f"run:{run}@ema-last", *attack]) == 0
    ours = trial.folder(where.out)
    for name in ("best.safetensors", "ema-last.safetensors"):
        assert (ours / name).read_bytes() == (run / name).read_bytes()
    found = trial.results(where.out)["ema-last"].outcomes
    assert found.counts().tolist() == Result.read(result).outcomes.counts().tolist()


def test_what_is_done_is_not_done_again(done: tuple[Trial, StudyContext]) -> None:
    trial, where = done
    before = stamps(where.out)
    assert before
    assert (trial.state(where.out), perform(trial, where)) == ("done", "done")
    assert stamps(where.out) == before


def test_a_stopped_run_goes_on_to_the_same_weights(
    done: tuple[Trial, StudyContext], where: StudyContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, finished = done
    real = trials.fit

    def stopped(*args: Any) -> Any:
        def stop(seen: Any) -> None:
            if seen.epoch == 1:
                raise KeyboardInterrupt

        return real(*args, stop)

    monkeypatch.setattr(trials, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        perform(trial, where)
    assert (trial.state(where.out), trial.epochs(where.out)) == ("begun", 1)
    monkeypatch.setattr(trials, "fit", real)
    assert perform(trial, where) == "done"
    weights = [trial.folder(each.out) / "last.safetensors" for each in (where, finished)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_that_another_process_has_is_left_to_it(where: StudyContext) -> None:
    trial = only(tiny(Entry("at")), where)
    folder = trial.folder(where.out)
    trials._note(trial, folder)
    with files.held(folder / "running.lock") as free:
        assert free
        assert (perform(trial, where), trial.state(where.out)) == ("running", "running")
    assert not (folder / "run.json").exists()
    assert trial.state(where.out) == "begun"


def test_a_run_that_fails_says_why_and_is_tried_again(where: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, real = only(tiny(Entry("at")), where), trials.fit

    def diverging(*args: Any) -> Any:
        raise InputError("Training diverged.")

    monkeypatch.setattr(trials, "fit", diverging)
    assert perform(trial, where) == trial.state(where.out) == "failed"
    assert trial.failure(where.out) == "Training diverged."
    monkeypatch.setattr(trials, "fit", real)
    assert perform(trial, where) == "done"
    assert trial.failure(where.out) == ""


def test_a_folder_of_another_run_is_refused(where: StudyContext) -> None:
    trial = only(tiny(Entry("at")), where)
    trials._note(trial, trial.folder(where.out))
    path = trial.folder(where.out) / "trial.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": trial.key[:8] + "0" * 56}))
    with pytest.raises(InputError, match="holds another run"):
        trial.state(where.out)
    with pytest.raises(InputError, match="holds another run"):
        perform(trial, where)


def test_states_of_the_code_are_noted_once_each(where: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = only(tiny(Entry("at")), where)
    for state in ("a", "b", "a"):
        monkeypatch.setattr(trials, "code", lambda state=state: state)
        trials._note(trial, trial.folder(where.out))
    assert json.loads((trial.folder(where.out) / "trial.json").read_text())["code"] == ["a", "b"]


def test_a_state_of_the_code_that_finds_everything_done_is_not_noted(
    done: tuple[Trial, StudyContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, where = done
    before = (trial.folder(where.out) / "trial.json").read_bytes()
    monkeypatch.setattr(trials, "code", lambda: "newer")
    assert perform(trial, where) == "done"
    assert (trial.folder(where.out) / "trial.json").read_bytes() == before


def test_seeds_draw_other_training_images_and_share_the_test_images(where: StudyContext) -> None:
    found = grid(tiny(Entry("at"), seeds=(0, 1)), where)
    assert len({trial.train_sha256 for trial in found}) == 2
    assert len({trial.evaluation["test_sha256"] for trial in found}) == 1


def test_a_start_is_the_run_of_the_same_seed(where: StudyContext) -> None:
    found = grid(tiny(Entry("at"), Entry("rslad", start="at@last", teacher="at"), seeds=(0, 1)), where)
    students = [trial for trial in found if trial.name == "rslad"]
    assert [(trial.seed, trial.sources[0].seed) for trial in students] == [(0, 0), (1, 1)]
    assert students[0].start is not None
    assert students[0].start.model(where.out) == f"run:{found[0].folder(where.out)}@last"


def test_a_teacher_from_elsewhere_is_identified_by_its_weights(
    done: tuple[Trial, StudyContext], where: StudyContext
) -> None:
    trial, finished = done
    folder = trial.folder(finished.out)
    keys = [
        only(tiny(Entry("rslad", teacher=f"run:{folder}@{which}")), where).teacher for which in ("ema-last", "last")
    ]
    moved = shutil.copy(folder / "last.safetensors", where.out.parent / "copy.safetensors")
    copied = only(tiny(Entry("rslad", teacher=f"digits_cnn@{moved}")), where).teacher
    hashes = [source.of for source in (*keys, copied) if source is not None]
    assert hashes[0] != hashes[1] == hashes[2]


# Models that are given


@pytest.fixture
def saved(done: tuple[Trial, StudyContext]) -> str:
    """Return the model string of a trained network."""
    trial, where = done
    return f"run:{trial.folder(where.out)}"


def test_a_given_model_is_evaluated_as_the_command_would_and_not_trained(
    saved: str, where: StudyContext, tmp_path: Path
) -> None:
    from classwise.cli.main import main

    trial = only(of_given(Given("theirs", saved, eps="1/8")), where)
    assert (trial.state(where.out), trial.trained(where.out)) == ("open", True)
    assert (perform(trial, where), trial.state(where.out)) == ("done", "done")
    assert {path.name for path in trial.folder(where.out).iterdir()} == {
        "running.lock",
        "trial.json",
        trial.evaluation_folder(where.out, "given").name,
    }
    words = ["--data", "digits", "--eps", "1/8", "--attacks", "pgd(steps=2)", "--limit", "20"]
    assert main(["evaluate", saved, *words, "--out", str(tmp_path / "result")]) == 0
    ours, theirs = trial.results(where.out)["given"], Result.read(tmp_path / "result")
    assert ours.outcomes.counts().tolist() == theirs.outcomes.counts().tolist()
    assert ours.header["model"]["name"] == "theirs on digits, Linf 0.125"
    assert ours.header["model"]["sha256"] == theirs.header["model"]["sha256"]


def test_a_given_model_is_known_by_its_weights_and_not_by_its_place(
    saved: str, where: StudyContext, tmp_path: Path
) -> None:
    shutil.copytree(saved.removeprefix("run:"), tmp_path / "copy")
    texts = (saved, f"run:{tmp_path / 'copy'}", f"{saved}@ema-last")
    keys = [only(of_given(Given("theirs", text)), where).key for text in texts]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("change", [{"name": "x"}, {"data": "folder", "eps": 0.15}, {"eps": 0.2}], ids=str)
def test_name_data_and_threat_of_a_given_model_are_in_its_key(where: StudyContext, change: dict[str, Any]) -> None:
    trial = only(of_given(Given("theirs", "digits_cnn")), where)
    threat = ThreatModel("Linf", change.get("eps", 0.15))
    other = replace(trial, name=change.get("name", trial.name), data=change.get("data", trial.data), threat=threat)
    assert other.key != trial.key


def test_a_given_model_whose_file_changes_under_the_same_weights_is_no_longer_done(
    where: StudyContext, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    code = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear((x - MEAN).flatten(1))

def make():
    return Mine()
"""
    study = of_given(Given("mine", f"{path}:make", limit=20))
    path.write_text(code.replace("MEAN", "0.5"))
    assert perform(only(study, where), where) == "done"
    assert only(study, where).state(where.out) == "done"
    path.write_text(code.replace("MEAN", "0.45"))
    with pytest.raises(InputError, match="holds a run of other code: the weights of the model are the same"):
        only(study, where).state(where.out)


def test_a_given_model_may_have_images_of_its_own_number(where: StudyContext) -> None:
    found = grid(of_given(Given("few", "digits_cnn", limit=10), Given("all", "digits_cnn")), where)
    assert [trial.evaluation["images"] for trial in found] == [10, 20]
    assert len({trial.evaluation_folder(where.out, "given").name for trial in found}) == 2


def test_a_given_model_that_does_not_fit_the_data_is_refused_before_anything_starts(where: StudyContext) -> None:
    with pytest.raises(InputError, match="There is no file"):
        grid(of_given(Given("theirs", "nowhere.py:make")), where)
