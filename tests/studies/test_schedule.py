"""All runs of a study: their order, several at once, what a failure holds up, and how long it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.trials_for_tests import of_given, tiny, trial

from classwise.errors import InputError
from classwise.studies import estimates, schedule
from classwise.studies.estimates import arch, estimate, total
from classwise.studies.schedule import run_all
from classwise.studies.spec import Entry, Given
from classwise.studies.trials import State, StudyContext, Trial, grid, log


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of runs in the order in which they are done; those called bad fail."""
    order: list[str] = []

    def perform(each: Trial, where: StudyContext) -> State:
        order.append(each.name)
        return "failed" if each.name == "bad" else "running" if each.name == "elsewhere" else "done"

    monkeypatch.setattr(schedule, "perform", perform)
    return order


def test_a_run_waits_for_what_it_starts_and_learns_from(performed: list[str], tmp_path: Path) -> None:
    base, other = trial("base"), trial("other")
    student = trial("student", start=base, teacher=other)
    assert set(run_all([base, student, other], StudyContext(tmp_path)).values()) == {"done"}
    assert performed == ["base", "other", "student"]


@pytest.mark.parametrize("name", ["bad", "elsewhere"])
def test_what_is_not_done_holds_up_only_what_needs_it(performed: list[str], tmp_path: Path, name: str) -> None:
    first, free = trial(name), trial("free")
    second = trial("second", start=first)
    third = trial("third", teacher=second)
    told: list[str] = []
    states = run_all(
        [first, second, third, free], StudyContext(tmp_path), tell=lambda each, state: told.append(each.name)
    )
    assert performed == told == [name, "free"]
    assert [states[each] for each in (second, third, free)] == ["open", "open", "done"]


def test_no_process_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--jobs is 0"):
        run_all([], StudyContext(tmp_path), 0)


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    study = tiny(Entry("at"), Entry("rslad", teacher="at"), seeds=(0, 1))
    folders = [StudyContext(tmp_path / name) for name in ("one", "two")]
    trials = grid(study, folders[0])
    for where, jobs in zip(folders, (1, 2), strict=True):
        assert set(run_all(trials, where, jobs).values()) == {"done"}
    for each in trials:
        if not each.sources:  # a student's folder names its teacher's, which differs here
            weights = [(each.folder(where.out) / "last.safetensors").read_bytes() for where in folders]
            assert weights[0] == weights[1]
        counts = [each.results(where.out)["best"].outcomes.counts().tolist() for where in folders]
        assert counts[0] == counts[1]


class Broken(Executor):
    """What a pool is once one of its processes was killed."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **settings: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(BrokenProcessPool("A process was terminated abruptly"))
        return future


def test_a_process_that_dies_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_pool", lambda jobs: Broken())
    with pytest.raises(InputError, match="A process of the study died"):
        run_all([trial("any")], StudyContext(tmp_path), 2)


# Time


@pytest.fixture
def logged(tmp_path: Path) -> Callable[..., None]:
    """Return a function that writes the log of a run beside the study's folder."""

    def write(name: str, method: str, seconds: list[float], **changes: Any) -> None:
        folder = tmp_path / name
        folder.mkdir()
        record = {"data": {"name": "digits", "n": 100}, "model": "digits_cnn(mean=[0.1])", "recipe": {"steps": 9}}
        (folder / "run.json").write_text(json.dumps({**record, "method": method, **changes}))
        (folder / "log.jsonl").write_text("".join(json.dumps({"seconds": each}) + "\n" for each in seconds))

    return write


def test_time_goes_by_images_epochs_and_passes(logged: Callable[..., None], tmp_path: Path) -> None:
    """Epochs of 1 and 3 s on 100 images and 9 + 1 passes: 2 ms each; 10 epochs of 200 images and 5 passes take 20 s."""
    logged("a", "at", [1.0, 3.0])
    each = trial("x")
    found = estimate([each], StudyContext(tmp_path / "study"))[each]
    assert found.training == pytest.approx(20.0)
    assert found.evaluation is None
    assert found.basis == "1 logs of this method"


def test_logs_of_the_same_method_go_before_others(logged: Callable[..., None], tmp_path: Path) -> None:
    logged("a", "at", [2.0])
    logged("b", "trades(beta=1)", [8.0])
    logged("c", "at", [99.0], model="small_cnn")
    logged("d", "at", [99.0], data={"name": "mnist", "n": 100})
    logged("e", "at", [])
    where = StudyContext(tmp_path / "study")
    found = {name: trial(name, method=name) for name in ("at", "trades(beta=6)", "mart")}
    times = estimate(list(found.values()), where)
    assert [times[each].training for each in found.values()] == pytest.approx([20.0, 80.0, 50.0])
    assert times[found["mart"]].basis == "2 logs of other methods"


def test_without_a_log_a_moment_of_training_is_measured_once_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = estimates.measured_pace, []

    def counted(each: Trial, where: StudyContext) -> float:
        calls.append(each.model)
        return real(each, where)

    monkeypatch.setattr(estimates, "measured_pace", counted)
    where = StudyContext(tmp_path / "study")
    trials = grid(tiny(Entry("at"), Entry("rslad", teacher="at")), where)
    found = estimate(trials, where)
    assert calls == ["digits_cnn"]
    assert {each.basis for each in found.values()} == {"a short timing of at"}
    assert 0 < found[trials[0]].training == pytest.approx(found[trials[1]].training)
    assert not (tmp_path / "study").exists()


def test_what_is_done_takes_no_time_and_tells_what_evaluations_take(tmp_path: Path) -> None:
    where = StudyContext(tmp_path / "study")
    trials = grid(tiny(Entry("at"), Entry("trades")), where)
    run_all(trials[:1], where)
    seconds = sum(result.header["seconds"] for result in trials[0].results(where.out).values())
    lines = log(trials[0].folder(where.out))
    found = estimate(trials, where)
    assert (found[trials[0]].training, found[trials[0]].evaluation) == (0.0, 0.0)
    assert found[trials[1]].evaluation == pytest.approx(seconds)
    assert found[trials[1]].training == pytest.approx(sum(line["seconds"] for line in lines))
    assert total(found.values())[2] == 0


def test_a_given_model_takes_no_time_to_train_and_what_others_of_it_took_to_evaluate(tmp_path: Path) -> None:
    where = StudyContext(tmp_path / "study")
    models = (Given("a", "digits_cnn"), Given("b", "digits_cnn", eps=0.1), Given("c", "digits_cnn(mean=0.5, std=1)"))
    trials = grid(of_given(*models), where)
    run_all(trials[:1], where)
    seconds = trials[0].results(where.out)["given"].header["seconds"]
    found = estimate(trials, where)
    assert [each.training for each in found.values()] == [0.0, 0.0, 0.0]
    assert [each.evaluation for each in found.values()] == [0.0, pytest.approx(seconds), None]
    assert {each.basis for each in found.values()} == {"given"}


def test_the_architecture_is_what_comes_before_settings_and_file() -> None:
    assert [arch(text) for text in ("a", "a(b=1)", "a@c", "a(b=1)@c")] == ["a"] * 4
    assert replace(trial("x")).key == trial("x").key
