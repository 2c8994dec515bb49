"""Loggers: what a run logs is found there again by each package's own reader, and nothing leaves the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from classwise import registry
from classwise.cli.main import main
from classwise.errors import InputError
from classwise.training import loggers

TINY = ("--model", "digits_cnn", "--data", "digits", "--recipe", "digits(epochs=3, steps=2)", "--limit", "300")
CURVE = "train/clean/loss"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*loggers: str, method: str = "standard") -> list[float]:
    """Train for three epochs with loggers, and return the curve as log.jsonl has it."""
    assert main(["train", method, *TINY, "--out", "run", "--loggers", ", ".join(loggers)]) == 0
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    return [line["train"]["clean"]["loss"] for line in lines]


def test_tensorboard_holds_every_epoch_and_the_settings() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curve = train("tensorboard")
    (file,) = Path("run/tensorboard").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert [event.step for event in events.Scalars(CURVE)] == [1, 2, 3]
    assert [event.value for event in events.Scalars(CURVE)] == pytest.approx(curve)
    assert b"recipe/epochs" in events.summary_metadata["_hparams_/session_start_info"].plugin_data.content


@pytest.mark.filterwarnings("default")  # Lightning and MLflow warn about each other's older parts
def test_mlflow_holds_every_epoch_and_the_settings_of_a_finished_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_lightning.loggers")
    mlflow = pytest.importorskip("mlflow")
    curve = train("mlflow(experiment_name='mine')")
    client = mlflow.MlflowClient(tracking_uri="sqlite:///run/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    history = client.get_metric_history(found.info.run_id, CURVE)
    assert [entry.step for entry in history] == [1, 2, 3]
    assert [entry.value for entry in history] == pytest.approx(curve)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["recipe/epochs"] == "3"
    assert [path.name for path in Path().iterdir()] == ["run"]


@pytest.mark.filterwarnings("default")
def test_wandb_without_a_login_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning.loggers")
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()  # it remembers the environment in which it was first asked
    with pytest.raises(InputError, match=r"^Weights & Biases refuses the run .*run wandb login, or set WANDB_MODE="):
        loggers.build("wandb", tmp_path / "run")
    wandb.teardown()


@pytest.mark.filterwarnings("default")
def test_wandb_offline_holds_the_last_epoch_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_lightning.loggers")
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    curve = train("wandb(project='mine')")
    assert wandb.run.project == "mine"
    assert wandb.run.config["recipe"]["epochs"] == 3
    assert wandb.run.summary[CURVE] == pytest.approx(curve[-1])
    assert wandb.run.summary["trainer/global_step"] == 3
    assert [path.name for path in Path().iterdir()] == ["run"]
    wandb.finish()
    assert len(list(Path("run/wandb").glob("offline-run-*/*.wandb"))) == 1


def test_several_loggers_can_be_named_and_none() -> None:
    assert loggers.build("", Path()) == []
    assert len(loggers.build("tensorboard(name='one'), tensorboard(name='two')", Path())) == 2


@pytest.mark.parametrize("name", registry.names("logger"))
def test_a_logger_that_is_not_installed_is_named_with_its_extra_before_anything_is_written(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(registry, "build", missing)
    with pytest.raises(InputError, match=rf"{name} is not installed; run pip install 'classwise\[{name}\]'"):
        loggers.build(name, Path("run"))
    assert not Path("run").exists()
