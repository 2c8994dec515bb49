"""Runs on a Ray cluster: its machines do what one does, and what a lost one had begun goes on on another."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.trials_for_tests import RECIPE, tiny, trial

from classwise.cli.main import main
from classwise.errors import InputError
from classwise.provenance import code
from classwise.studies import ray_cluster, schedule, trials
from classwise.studies.ray_cluster import Cluster, Resources
from classwise.studies.schedule import run_all
from classwise.studies.spec import Entry
from classwise.studies.trials import State, StudyContext, Trial, grid

ROOT = Path(__file__).parents[2]
EPOCHS = 20
PATIENCE = 200  # seconds


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for something, but not for ever: a test that hangs says nothing."""
    end = time.monotonic() + PATIENCE
    while not happened() and time.monotonic() < end:
        time.sleep(0.01)


def noted(each: Trial, where: StudyContext) -> State:
    """Do a run once both have begun, and note which process begins and ends it."""
    note = where.out / f"{each.name}.txt"
    with note.open("a") as file:
        file.write(f"begun by {os.getpid()}\n")
    wait_until(lambda: len(list(where.out.glob("*.txt"))) == 2)
    state = trials.perform(each, where)
    with note.open("a") as file:
        file.write(f"{state} by {os.getpid()}\n")
    return state


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a cluster of a head that does nothing and two machines, which are processes here, of one core each."""
    utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed, or not for this Python")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one into the home directory
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 starves on a machine that is busy with other things
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
    made = utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, wait=False)
        yield made
    finally:
        session = made.head_node.get_session_dir_path()
        made.shutdown()
        shutil.rmtree(session, ignore_errors=True)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_run_on_a_machine_that_is_lost_goes_on_on_another(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs, one on each machine; when both have begun, one machine is killed. The other finishes both."""
    study = tiny(Entry("at"), Entry("trades"), recipe=RECIPE.replace("epochs=2", f"epochs={EPOCHS}"))
    (tmp_path / "there").mkdir()
    there, here = StudyContext(tmp_path / "there"), StudyContext(tmp_path / "here")
    both = grid(study, there)
    monkeypatch.setattr(schedule, "perform", noted)

    def kill() -> None:
        wait_until(lambda: all(each.epochs(there.out) for each in both))
        machines.remove_node(next(iter(machines.worker_nodes)), allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    states = run_all(both, there, elsewhere=Cluster(machines.address, Resources()))
    killer.join()
    assert set(states.values()) == {"done"}
    notes = sorted(((there.out / f"{each.name}.txt").read_text().splitlines() for each in both), key=len)
    assert [[line.split()[0] for line in each] for each in notes] == [["begun", "done"], ["begun", "begun", "done"]]
    monkeypatch.setattr(schedule, "perform", trials.perform)
    run_all(both, here)
    for each in both:
        assert [line["epoch"] for line in trials.log(each.folder(there.out))] == list(range(1, EPOCHS + 1))
        weights = [(each.folder(where.out) / "last.safetensors").read_bytes() for where in (there, here)]
        assert weights[0] == weights[1]


def test_a_lock_is_waited_for_as_long_as_that_of_a_lost_machine_may_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[State] = ["running", "running", "done"]
    slept: list[float] = []
    monkeypatch.setattr(ray_cluster.time, "sleep", slept.append)
    settings = (trial("any"), StudyContext(tmp_path), tmp_path, code(), 1)
    assert ray_cluster._perform_there(lambda each, where: states.pop(0), *settings) == "done"
    assert len(slept) == 2
    monkeypatch.setattr(ray_cluster, "_LEASE_SECONDS", 0.0)
    assert ray_cluster._perform_there(lambda each, where: "running", *settings) == "running"


def test_a_machine_with_another_state_of_the_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another state of classwise"):
        ray_cluster._perform_there(trials.perform, trial("any"), StudyContext(tmp_path), tmp_path, "0" * 8, 1)


class Lost(Exception):
    """What Ray says of a worker that is gone."""


class Raised(Lost):
    """What Ray says of an error in a task."""

    cause = InputError("No room.")


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Put in the place of Ray a list of what tasks are handed and how they end."""
    ends: list[Any] = []

    def remote(*handed: Any) -> Any:
        future: Future[State] = Future()
        end = ends.pop(0)
        future.set_exception(end) if isinstance(end, Exception) else future.set_result(end)
        ends.append(handed)
        return SimpleNamespace(future=lambda: future)

    ray = SimpleNamespace(
        remote=lambda **options: lambda function: SimpleNamespace(remote=remote),
        exceptions=SimpleNamespace(RayError=Lost, RayTaskError=Raised),
        shutdown=lambda: None,
    )
    monkeypatch.setattr(ray_cluster, "_connected", lambda address: ray)
    return ends


def test_a_run_that_is_lost_time_and_again_has_failed_and_holds_up_only_what_needs_it(
    connected: list[Any], tmp_path: Path
) -> None:
    base, free = trial("base"), trial("free")
    student = trial("student", teacher=base)
    connected += [Lost(), "done"]
    states = run_all([base, free, student], StudyContext(tmp_path), elsewhere=Cluster("auto", Resources()))
    assert [states[each] for each in (base, free, student)] == ["failed", "done", "open"]
    assert "lost 4 times (Lost)" in base.failure(tmp_path)


def test_an_error_in_a_task_is_that_error(connected: list[Any], tmp_path: Path) -> None:
    connected.append(Raised())
    with pytest.raises(InputError, match=r"^No room\.$"):
        run_all([trial("any")], StudyContext(tmp_path), elsewhere=Cluster("auto", Resources()))


@pytest.mark.parametrize(
    ("asked", "gpus", "used"), [("auto", 0, "cpu"), ("auto", 0.5, "cuda"), ("cpu", 1, "cpu"), ("cuda", 0, "cuda")]
)
def test_a_gpu_is_used_where_one_is_set_aside(
    connected: list[Any], tmp_path: Path, asked: str, gpus: float, used: str
) -> None:
    connected.append("done")
    where = StudyContext(tmp_path, accelerator=asked)
    run_all([trial("any")], where, elsewhere=Cluster("auto", Resources(gpus=gpus)))
    assert connected[0][2] == replace(where, accelerator=used)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cpus", "2"], "add --cluster"),
        (["--cluster", "auto", "--cpus", "0"], "at least one core"),
        (["--cluster", "auto", "--gpus", "-1"], "at least one core"),
    ],
)
def test_resources_that_cannot_be_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study = str(ROOT / "studies/fair-digits.toml")
    assert main(["study", study, "--shrink", "--out", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:head"])
def test_an_address_without_a_cluster_is_one_sentence(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed, or not for this Python")
    with pytest.raises(InputError, match=f"There is no Ray cluster at {address}; start one"):
        Cluster(address, Resources())


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'classwise\[cluster\]'"):
        Cluster("auto", Resources())
