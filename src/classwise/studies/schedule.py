"""All runs of a study: in which order and how many at once, and how long that will take."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from classwise.errors import InputError
from classwise.studies.trials import State, StudyContext, Trial, perform


def run_all(
    trials: Sequence[Trial],
    where: StudyContext,
    jobs: int = 1,
    tell: Callable[[Trial, State], None] | None = None,
    elsewhere: Executor | None = None,
) -> dict[Trial, State]:
    """Do every run that is not done, each after those it needs; what fails holds up only what needs it.

    Args:
        trials: each after those it needs, as :func:`classwise.studies.trials.grid` gives them.
        where: folders and device.
        jobs: how many side by side, each in a process of its own with one thread; 1 for one after another, here.
        tell: called when a run has come to its end.
        elsewhere: who does the runs in place of ``jobs`` processes, with its own idea of how many side by side.

    Returns:
        "done", "failed", "running" where another process has the run, or "open" where one that it needs is not done.

    Raises:
        InputError: jobs is below 1, or a process died.
    """
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}, but must be at least 1.")
    states: dict[Trial, State] = {}
    going: dict[Future[State], Trial] = {}
    left, most = list(trials), len(trials) if elsewhere else jobs
    with elsewhere or _pool(jobs) as pool:
        while left or going:
            for trial in _ready(left, states, most - len(going)):
                left.remove(trial)
                going[pool.submit(perform, trial, where)] = trial
            if not going:
                break
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                trial = going.pop(future)
                states[trial] = _ended(future)
                if tell is not None:
                    tell(trial, states[trial])
    return {trial: states.get(trial, "open") for trial in trials}


def _ready(left: Iterable[Trial], states: Mapping[Trial, State], places: int) -> list[Trial]:
    """Return the next runs for which there is a place, and all that they need is done."""
    ready = (trial for trial in left if all(states.get(source) == "done" for source in trial.sources))
    return [trial for trial, _ in zip(ready, range(places), strict=False)]


def _ended(future: Future[State]) -> State:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "A process of the study died, perhaps for want of memory; run the same command to go on, with fewer --jobs."
        ) from error


def _pool(jobs: int) -> Executor:
    if jobs == 1:
        return _Here()
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))


class _Here(Executor):
    """Does what it is given at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **settings: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **settings))
        return future
