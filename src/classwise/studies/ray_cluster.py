"""The runs of a study on the machines of a Ray cluster: one task a run, and again elsewhere if its machine is lost.

A task does what ``--jobs`` does in a process, in the same folders, so these must lie where every machine sees them
under the same name. Ray decides where there is room and notices what is lost; where a run goes on follows from its
files, and that nobody works on it twice from its lock.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import chdir
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from classwise import files
from classwise.errors import InputError
from classwise.provenance import code
from classwise.studies.trials import FAILURE_FILE, State, StudyContext, Trial

_RETRIES = 3  # of a run whose process or machine is lost
# A file server takes a lock from a lost machine when its lease ends, with NFS after 90 seconds.
_LEASE_SECONDS = 120.0
_ANSWER_SECONDS = 10.0
Perform = Callable[[Trial, StudyContext], State]


@dataclass(frozen=True)
class Resources:
    """What Ray sets aside for each run.

    Attributes:
        cpus: cores, and threads of PyTorch.
        gpus: GPUs; half a one lets two runs share it.

    Raises:
        InputError: less than a core, or less than no GPU.
    """

    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if not (1 <= self.cpus < 2**16 and 0 <= self.gpus < 2**16):
            raise InputError(f"A run cannot have {self.cpus} cores and {self.gpus:g} GPUs; give it at least one core.")


class Cluster(Executor):
    """Hands runs to a Ray cluster, which does as many side by side as it has room for.

    Args:
        address: "auto" for the cluster that this machine belongs to, HOST:PORT, or ray://HOST:PORT from outside.
        resources: of each run.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str, resources: Resources) -> None:
        self._ray, self._resources = _connected(address), resources
        options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_retries": _RETRIES}
        self._task = self._ray.remote(**options)(_perform_there)

    def submit(self, function: Perform, /, *args: Any, **settings: Any) -> Future[State]:  # type: ignore[override]
        """Do a run, or go on with it, on some machine."""
        trial, where = args
        where = replace(where, accelerator=_accelerator(where.accelerator, self._resources.gpus))
        done: Future[State] = Future()
        there = self._task.remote(function, trial, where, Path.cwd(), code(), self._resources.cpus)
        there.future().add_done_callback(partial(self._settle, done, trial, where))
        return done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, which ends what is still going on of this study."""
        self._ray.shutdown()

    def _settle(self, done: Future[State], trial: Trial, where: StudyContext, there: Future[State]) -> None:
        try:
            done.set_result(self._ended(trial, where, there))
        except Exception as error:  # this is called by Ray, which would swallow it
            done.set_exception(error)

    def _ended(self, trial: Trial, where: StudyContext, there: Future[State]) -> State:
        """Return how a task ended; one that was lost too often counts as a run that failed."""
        errors = self._ray.exceptions
        try:
            return there.result()
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            reason = (
                f"its process or machine was lost {1 + _RETRIES} times ({type(error).__name__}), perhaps for want of "
                "memory; run the same command to go on, with more --cpus for each run"
            )
            files.write_json(trial.folder(where.out) / FAILURE_FILE, {"error": reason})
            return "failed"


def _perform_there(
    function: Perform, trial: Trial, where: StudyContext, folder: Path, expected: str, cpus: int
) -> State:
    """Do a run on the machine that Ray has chosen, in the folder in which the command was given.

    A run that is locked may be one whose machine was lost, so it is asked for until the lease of its lock has ended.
    """
    if code() != expected:
        raise InputError(f"{os.uname().nodename} has another state of classwise; install the same one on all machines.")
    torch.set_num_threads(cpus)
    with chdir(folder):
        deadline = time.monotonic() + _LEASE_SECONDS
        while (state := function(trial, where)) == "running" and time.monotonic() < deadline:
            time.sleep(1.0)
    return state


def _accelerator(asked: str, gpus: float) -> str:
    """Return what a run may use: a GPU only where Ray has set one aside for it."""
    return asked if asked != "auto" else "cuda" if gpus else "cpu"


def _connected(address: str) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to anyone; read when Ray is imported
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError("Ray is not installed; run pip install 'classwise[cluster]'.") from error
    try:
        _answering(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"There is no Ray cluster at {address}; start one with ray start --head ({reason})."
        ) from error
    return ray


def _answering(address: str) -> None:
    """Knock at HOST:PORT: Ray itself would wait for minutes where nobody answers.

    Raises:
        OSError: nobody does.
        ValueError: the port is no number.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
