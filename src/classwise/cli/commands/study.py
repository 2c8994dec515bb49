"""``classwise study``: train and evaluate a grid of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classwise.cli.parser import command_line
from classwise.errors import InputError

_MOST_JOBS = 1000


def run_study(
    file: Path,
    out: Path | None = None,
    data_dir: Path | None = None,
    jobs: int = 1,
    cluster: str = "",
    cpus: int = 1,
    gpus: float = 0.0,
    accelerator: str = "auto",
    plan: bool = False,
    status: bool = False,
    tables: bool = False,
    shrink: bool = False,
) -> None:
    """Train and evaluate every method of a study with every seed, and end in one table; what is done is skipped.

    Args:
        file: TOML file that says what is trained on what and how it is evaluated, see docs/studies.md.
        out: folder of the study; runs/NAME if not given.
        data_dir: folder that holds the data set.
        jobs: runs side by side, each in a process of its own with one thread.
        cluster: do the runs on a Ray cluster: auto for that of this machine, HOST:PORT, or ray://HOST:PORT.
        cpus: cores for each run, with --cluster.
        gpus: GPUs for each run, with --cluster; 0.5 lets two share one.
        accelerator: cpu, cuda or auto.
        plan: list every run with the time it is expected to take, and start nothing.
        status: list what is done, running, failed and open, and start nothing.
        tables: make tables and page of what is finished so far, and start nothing; others may be at work.
        shrink: the same grid in seconds: one seed, few images, two epochs, a tiny network, weak attacks.
    """
    command = command_line("study", run_study, locals())
    from classwise import resolve
    from classwise.cli.show import lines
    from classwise.cli.show import study as show
    from classwise.models.foreign import refuse_code, trusted
    from classwise.studies import estimates, parse, schedule
    from classwise.studies import homing as homing_studies
    from classwise.studies import shrink as shrink_study
    from classwise.studies import spec as studies
    from classwise.studies.trials import StudyContext, grid

    _refuse_odd_places(jobs, cluster, cpus, gpus)
    study = parse.read(file)
    if shrink:
        study, absent = shrink_study.standing_in(study, data_dir)
        show.stand_ins(absent, shrink_study.STAND_IN)
        study = shrink_study.shrunk(study, len(resolve.images(study.data, data_dir, "test", None, 0).classes))
    for text in studies.models_of(study):  # after --shrink, which puts others in their place
        refuse_code(text, str(file))
    where = StudyContext(out or Path("runs") / study.name, data_dir, accelerator, command, trusted())
    trials = grid(study, where)
    if plan:
        more = [homing.trainings for homing in homing_studies.asked(study, trials)]
        return show.plan(estimates.estimate(trials, where), where.out, jobs, more)
    if status:
        return show.states(trials, where.out)
    if tables:
        return _conclude(study, trials, where, homing=False)
    elsewhere = _cluster(cluster, cpus, gpus)
    lines.say(f"{study.name}: {len(trials)} runs into {where.out}")
    with show.counting(trials, where.out) as tell:
        states = schedule.run_all(trials, where, jobs, tell, elsewhere)
    _conclude(study, trials, where, homing=study.homing is not None)
    return show.refuse_unfinished(states, where.out)


def _conclude(study: Any, trials: Sequence[Any], where: Any, homing: bool) -> None:
    """Write and print what a study says: tables, answers, with ``homing`` that of its trainings too, reports, page."""
    from classwise.cli.show import lines
    from classwise.cli.show import study as show
    from classwise.studies import answers as study_answers
    from classwise.studies import homing as homing_studies
    from classwise.studies import page as study_page
    from classwise.studies import table

    rows = table.rows(study, trials, where.out)
    answers = study_answers.ask(study.analyse, trials, where)
    if homing:
        table.write(study, trials, rows, where.out, study_answers.text(answers))  # to look at: the trainings take hours
        answers += homing_studies.answers(study, trials, where, lines.say)
    written = table.write(study, trials, rows, where.out, study_answers.text(answers))
    study_page.write_reports(trials, where.out)
    page = study_page.write(study, trials, rows, where.out)
    show.standings(table.sheets(study, rows), [*written, *study_answers.write(answers, where.out), page])


def _refuse_odd_places(jobs: int, address: str, cpus: int, gpus: float) -> None:
    """Refuse numbers of processes that cannot be, and resources for each run where there is no cluster."""
    if not 1 <= jobs <= _MOST_JOBS:
        raise InputError(f"--jobs is {jobs}, but must be from 1 to {_MOST_JOBS:,}.")
    if not address and (cpus, gpus) != (1, 0.0):
        raise InputError("--cpus and --gpus are what a cluster sets aside for each run; add --cluster, or use --jobs.")


def _cluster(address: str, cpus: int, gpus: float) -> Any:
    """Return the cluster that does the runs of a study, None where this machine does."""
    from classwise.studies.ray_cluster import Cluster, Resources

    return Cluster(address, Resources(cpus, gpus)) if address else None
