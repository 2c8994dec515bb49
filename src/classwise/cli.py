"""The command line: ``classwise train``, ``evaluate``, ``report`` and the others of ``COMMANDS``.

Options come from the typed signatures below. PyTorch is imported only once a command runs, so help is instant; this
module names no type of a heavy package even for the type checker, since jsonargparse imports what annotations name,
and no command has the name of a public function of the package, since jsonargparse would import that too.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser

from classwise import __version__, output, supervised
from classwise.errors import InputError
from classwise.registry import unknown
from classwise.texts import plain, portable

Listed = Literal[
    "attacks",
    "suites",
    "plans",
    "losses",
    "methods",
    "wrappers",
    "corrections",
    "models",
    "data",
    "recipes",
    "loggers",
    "questions",
]
# Positional arguments that take several words, with the help of each; jsonargparse wants a list in brackets.
_SEVERAL = {"runs": "folders that `classwise evaluate --out` or `classwise train --out` wrote."}
_GATE_CLOSED = 3
_TRUST = "--trust-code"
_DECIMAL = r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?|[+-]?\.\d+([eE][+-]?\d+)?"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MOST_JOBS = 1000
_LONGEST = 2000  # characters of a sentence that says what was wrong
# Commands that go on where they were stopped, if they have a folder.
_RESUMED = ("demo", "train", "evaluate", "critical-eps", "homing", "study")
# Options of evaluate that the race to the worst class has no use for.
_NOT_UNTIL = ("audit", "batch_size", "fixed_shape", "search_precision", "examples")
_GATE = ("fail_under", "allow_flag", "junit", "gate_json")
# Options that may be given several times; what is given is joined by commas.
_REPEATED = ("--fail_under", "--allow_flag")
# How jsonargparse's messages become the end of one plain sentence.
_PLAIN = (
    (r'Parser key "(\w+)":', r"\1:"),
    (r"Expected a typing\.Literal\[(.*)\]", r"expected one of \1"),
    (r"Does not validate .* Subtypes: \[(.*)\] Errors: .* Given value: ", r"expected \1, not "),
    (r"Expected a (<class '\w+'>)", r"expected \1"),
    (r", <class 'NoneType'>", ""),
    (r"<class 'int'>", "a whole number"),
    (r"<class 'float'>", "a number"),
    (r"<class '(\w+)'>", r"\1"),
    (r"\. Got value:", ", not"),
    (r"required: [\w-]+\.", "required: "),
)


def run_demo(out: Path = Path("classwise-demo"), seed: int = 0) -> None:
    """Train, attack and report on embedded handwritten digits: the whole path in under two minutes.

    Args:
        out: folder for the training run, the evaluation and the report.
        seed: of training and attacks.
    """
    from classwise import terminal

    terminal.say("A small network learns to read 8x8 digits under attack, then every test digit is attacked.")
    train_model("at", model="digits_cnn", data="digits", wrappers="", seed=seed, out=out / "run")
    evaluate_model(f"run:{out / 'run'}", data="digits", seed=seed, out=out / "evaluation")
    page = make_report(out / "evaluation")
    terminal.next_steps(page, out)


def train_model(
    method: str,
    model: str = "preact_resnet18",
    data: str = "digits",
    data_dir: Path | None = None,
    recipe: str | None = None,
    wrappers: str = "ema",
    eps: str | float | None = None,
    norm: str | int | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: Path = Path("runs/train"),
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: Literal["auto", "ddp"] = "auto",
    sync_batchnorm: bool = False,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    loggers: str = "",
    download: bool = False,
) -> None:
    """Train a network with a defence; an interrupted run goes on where it stopped.

    Args:
        method: training method, see `classwise list methods`.
        model: architecture, see `classwise list models`; run:FOLDER or ARCH@FILE to go on with a trained network.
        data: data set, see `classwise list data`.
        data_dir: folder that holds it.
        recipe: training recipe, with changes like `digits(epochs=5)`; see `classwise list recipes`.
        wrappers: what goes around the method, such as `awp(gamma=0.005),ema`, or ""; see `classwise list wrappers`.
        eps: radius of the attack, such as 8/255; the data set's usual one if not given.
        norm: Linf, L2 or L1; with --eps.
        limit: train on a stratified sample of this many images.
        seed: of weights, order, augmentation and attacks.
        out: folder of the run.
        accelerator: cpu, cuda or auto.
        devices: processes on each machine; under torchrun those that it has started.
        num_nodes: machines.
        strategy: auto, or ddp also for one process.
        sync_batchnorm: let BatchNorm see the batches of all processes; GPUs only.
        precision: arithmetic of the training steps.
        loggers: where to log besides, such as `tensorboard,wandb(project="mine")`; see `classwise list loggers`.
        download: fetch the data set into --data-dir if it is missing.
    """
    from classwise import arguments, terminal
    from classwise import loggers as logging
    from classwise.train import fit

    images = arguments.training_images(data, data_dir, limit, seed, download)
    plan = arguments.recipe(recipe, data)
    threat = arguments.threat(data, eps, norm)
    run, defence, network = arguments.training(method, model, images, plan, threat, seed, wrappers)
    fabric = arguments.fabric(accelerator, devices, num_nodes, precision, logging.build(loggers, out), strategy)
    if sync_batchnorm:
        network = arguments.synchronised(network, fabric)
    if fabric.is_global_zero:
        terminal.taken(network, images)
    with terminal.training(run, images, out, quiet=not fabric.is_global_zero) as watch:
        log = fit(fabric, network, defence, images, run, out, watch)
    for logger in fabric.loggers:
        logger.finalize("success")
    if fabric.is_global_zero:
        terminal.trained(log, out)


def evaluate_model(
    model: str,
    data: str | None = None,
    data_dir: Path | None = None,
    attacks: str = "fast",
    audit: float = 1.0,
    eps: str | float | None = None,
    norm: str | int | None = None,
    split: str = "test",
    limit: int | None = None,
    until: Literal["worst-class"] | None = None,
    batch_size: int | None = None,
    fixed_shape: int | None = None,
    search_precision: Literal["float32", "bfloat16"] = "float32",
    examples: int = 6,
    seed: int = 0,
    out: Path | None = None,
    fail_under: str | None = None,
    allow_flag: str = "",
    junit: Path | None = None,
    gate_json: Path | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    download: bool = False,
) -> None:
    """Attack every image a model gets right, and count what is left in each class.

    Args:
        model: weights of an architecture, run:DIR, corrected:DIR, FILE.py:FACTORY, timm:NAME, export:FILE and others.
        data: data set, see `classwise list data`; that of the run for a run:FOLDER.
        data_dir: folder that holds it.
        attacks: attacks, suites and plans, separated by commas, with settings like `pgd(steps=100)`.
        audit: of plans such as `fast`: per cent of the images that full AutoAttack might still break and that a random
            sample must exclude; 0 for no audit.
        eps: radius of the attacks, such as 8/255; the data set's usual one if not given.
        norm: Linf, L2 or L1; with --eps.
        split: split of the data set.
        limit: attack a stratified sample of this many images.
        until: attack with few images until one class is the worst with 95 % confidence, and write worst-class.json.
        batch_size: images attacked at once, what memory holds if not given; does not change a verdict.
        fixed_shape: images in every single pass, for verdicts that are equal to the last bit on any batch size.
        search_precision: what attacks compute in, float32 or bfloat16; verdicts are float32 either way.
        examples: broken images of the weakest class to store with --out, for the report; 0 for none.
        seed: of the sample and of the attacks.
        out: folder for result.json and outcomes.npz; nothing is written if not given.
        fail_under: exit with status 3 unless lower bounds reach these (`worst=0.2,average=0.4`) and no flag is serious.
        allow_flag: flags that do not fail the gate, such as `zero_gradient,short_steps`; may be given several times.
        junit: JUnit-XML file for what --fail-under found.
        gate_json: JSON file for the same.
        accelerator: cpu, cuda or auto.
        devices: processes on this machine.
        download: fetch the data set into --data-dir if it is missing.
    """
    command = _command_line("evaluate", locals())
    _refuse_beside_until(locals())
    from classwise import arguments, evaluation, terminal

    name = data or arguments.data_of_run(model)
    images = arguments.images(name, data_dir, split, limit, seed, download)
    chosen = arguments.attacks(attacks, arguments.threat(name, eps, norm), images, seed)
    gate = _asked(locals(), images.classes)
    network = arguments.model(model, images, seed, fixed_shape)
    fabric = arguments.fabric(accelerator, devices)
    terminal.out_of_reach(gate.asked if fabric.is_global_zero else (), images)
    if until is not None:
        _find_worst(network, fabric, images, attacks, arguments.threat(name, eps, norm), seed, out)
        return
    settings: dict[str, Any] = {"seed": seed, "audit": audit, "batch_size": batch_size, "fixed_shape": fixed_shape}
    settings |= {"search_precision": search_precision, "examples": examples, "directory": out}
    settings |= {"fabric": fabric, "name": model, "command": command}
    with terminal.evaluating(network, images, chosen, quiet=not fabric.is_global_zero) as watch:
        result = evaluation.evaluate(network, images, chosen, watch=watch, **settings)
    if fabric.is_global_zero:
        terminal.evaluated(result, out)
        gate.test(result)


def _refuse_beside_until(given: Mapping[str, Any]) -> None:
    """Refuse what the race to the worst class, if it is asked for, would leave undone."""
    defaults = inspect.signature(evaluate_model).parameters
    for name in (*_NOT_UNTIL, *_GATE) if given["until"] is not None else ():
        if given[name] != defaults[name].default:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"--until worst-class looks at few images and takes no {option}; leave one of them out.")


def _find_worst(network: Any, fabric: Any, images: Any, attacks: str, threat: Any, seed: int, out: Path | None) -> None:
    """Race to the worst class, say which it is, and write worst-class.json."""
    from classwise import arguments, files, terminal
    from classwise.analysis.worst_class import until_worst, worst_class

    if fabric.world_size > 1:
        raise InputError("--until worst-class takes one process; leave --devices out.")
    network = network.to(fabric.device)
    strong = arguments.single(attacks, threat, images, seed)
    if out is not None:
        files.refuse_unwritable(out / "worst-class.json")
    terminal.taken(network, images)
    terminal.say(f"Looking for the worst class of {len(images):,} images of {images.name} at {threat}")
    cheap = arguments.single("pgd(steps=10, start='clean')", threat, images, seed)
    race, seen = until_worst(network, images, cheap, strong, seed=seed, watch=terminal.round_of)
    finding = worst_class(race, images.classes, images.name)
    noticed = [flag.record() for flag in seen]
    terminal.found([finding], [])
    terminal.warned(noticed)
    if out is not None:
        about = {"classwise": __version__, "attack": repr(strong), "cheap": repr(cheap), "seed": seed}
        files.write_json(out / "worst-class.json", {**about, "findings": [finding.as_dict()], "flags": noticed})
        terminal.wrote([out / "worst-class.json"])


def measure_critical_eps(
    model: str,
    data: str | None = None,
    data_dir: Path | None = None,
    norm: str | int | None = None,
    eps_max: str | float | None = None,
    radii: str = "",
    attack: str = "narrowing",
    split: str = "test",
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    accelerator: str = "auto",
    download: bool = False,
) -> None:
    """Find the smallest radius that breaks each image, and say within which half of each class is broken.

    An upper bound by attacks, never a certified radius.

    Args:
        model: any model string, as for `classwise evaluate`.
        data: data set, see `classwise list data`; that of the run for a run:FOLDER.
        data_dir: folder that holds it.
        norm: Linf, L2 or L1; with --eps-max.
        eps_max: the largest radius that is looked at; four times the data set's usual one if not given.
        radii: at which the images still right are counted, such as `2/255,4/255`; eighths of the largest if not given.
        attack: the search, with settings like `narrowing(fab_steps=50)`.
        split: split of the data set.
        limit: look at a stratified sample of this many images.
        batch_size: images attacked at once, what memory holds if not given.
        seed: of the sample and of the attacks.
        out: folder for critical_eps.json, the chart and the evaluation; nothing is written if not given.
        accelerator: cpu, cuda or auto.
        download: fetch the data set into --data-dir if it is missing.
    """
    command = _command_line("critical-eps", locals())
    from classwise import arguments, terminal
    from classwise.critical import critical_eps
    from classwise.metrics.critical_eps import CRITICAL_FILE
    from classwise.report.critical import save_figure

    name, asked = data or arguments.data_of_run(model), arguments.radii(radii)
    threat = arguments.widest(name, eps_max, norm)
    images = arguments.images(name, data_dir, split, limit, seed, download)
    settings: dict[str, Any] = {"norm": threat.norm, "eps_max": threat.eps, "attack": attack, "radii": asked}
    settings |= {"seed": seed, "batch_size": batch_size, "directory": out, "name": model, "command": command}
    settings |= {"device": arguments.fabric(accelerator, 1).device}
    network = arguments.model(model, images, seed)
    terminal.taken(network, images)
    with terminal.narrowing(images, threat) as watch:
        found = critical_eps(network, images, watch=watch, **settings)
    terminal.critical(found, asked)
    if out is not None:
        terminal.wrote([out / CRITICAL_FILE, save_figure(found, out)])


def correct_model(
    model: str,
    data: str | None = None,
    data_dir: Path | None = None,
    rule: str = "iv-offsets",
    max_loss: float = 1.0,
    attacks: str = "nearest-pgd",
    eps: str | float | None = None,
    norm: str | int | None = None,
    split: str = "train",
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    out: Path = Path("runs/corrected"),
    accelerator: str = "auto",
    fit_on_test: bool = False,
    download: bool = False,
) -> None:
    """Fit a decision rule for the weakest class of a finished model on held-out images, under attack.

    Args:
        model: any model string, as for `classwise evaluate`.
        data: data set, see `classwise list data`; that of the run for a run:FOLDER.
        data_dir: folder that holds it.
        rule: decision rule, with settings like `iv-offsets(step=0.02)`; see `classwise list corrections`.
        max_loss: points of robust average that the weakest class may cost.
        attacks: attacks and suites, run on the corrected model in every round.
        eps: radius of the attacks, such as 8/255; the data set's usual one if not given.
        norm: Linf, L2 or L1; with --eps.
        split: split to fit on; of the training split of a run only images that it held out.
        limit: fit on a stratified sample of this many images; 1,000 if not given, all that a run held out.
        batch_size: images attacked at once, what memory holds if not given.
        seed: of the sample and of the attacks.
        out: folder for the corrected model, which corrected:FOLDER then names, and for its trade-off curve.
        accelerator: cpu, cuda or auto.
        fit_on_test: fit on test images all the same; every output will say so.
        download: fetch the data set into --data-dir if it is missing.
    """
    from classwise import arguments, files, terminal
    from classwise.attacks import build
    from classwise.repair import refuse_used, repair

    refuse_used(out)
    name = data or arguments.data_of_run(model)
    images, which = arguments.held_out(model, name, data_dir, split, limit, seed, download)
    chosen = build(attacks, arguments.threat(name, eps, norm))
    network = arguments.model(model, images, seed)
    device = arguments.fabric(accelerator, 1).device
    terminal.taken(network, images)
    settings: dict[str, Any] = {"max_loss": max_loss, "seed": seed, "batch_size": batch_size, "device": device}
    with files.owned(out):
        refuse_used(out)  # what another process has done meanwhile
        with terminal.correcting(images, which, rule, chosen) as watch:
            found = repair(network, images, rule, chosen, fit_on_test=fit_on_test, watch=watch, **settings)
        found.write(out, model, which)
    terminal.corrected(found, out)


def make_report(
    folder: Path,
    figures: Path | None = None,
    markdown: Path | None = None,
    latex: Path | None = None,
    robustbench: Path | None = None,
    fail_under: str | None = None,
    allow_flag: str = "",
    junit: Path | None = None,
    gate_json: Path | None = None,
) -> Path:
    """Turn the folder of an evaluation into one self-contained report.html.

    Args:
        folder: what `classwise evaluate --out` wrote.
        figures: folder for the charts as PDF, PNG and SVG.
        markdown: file for the tables in Markdown.
        latex: file for the tables in LaTeX (package booktabs).
        robustbench: JSON file in the format of RobustBench's model_info, with the counts of each class.
        fail_under: exit with status 3 unless lower bounds reach these (`worst=0.2,average=0.4`) and no flag is serious.
        allow_flag: flags that do not fail the gate, such as `zero_gradient,short_steps`; may be given several times.
        junit: JUnit-XML file for what --fail-under found.
        gate_json: JSON file for the same.
    """
    from classwise import files, terminal
    from classwise.interop import robustbench as leaderboard
    from classwise.metrics.result import Result
    from classwise.report import latex_tables, markdown_tables, save_figures, write_page

    result = Result.read(folder)
    gate = _asked(locals(), result.outcomes.classes)
    page = write_page(folder, result=result)
    written = [page]
    if figures is not None:
        written += save_figures(result, figures)
    for path, tables in ((markdown, markdown_tables), (latex, latex_tables)):
        if path is not None:
            files.write_text(path, tables(result))
            written.append(path)
    if robustbench is not None:
        written.append(leaderboard.write(result, robustbench))
    terminal.wrote(written)
    gate.test(result)
    return page


class _GateClosed(Exception):
    """A result fails the gate; the message says what besides went wrong, if anything."""


@dataclass(frozen=True)
class _Gate:
    """What a command asks of a result, and where it writes what it found."""

    asked: tuple[Any, ...] = ()
    allow: frozenset[str] = frozenset()
    junit: Path | None = None
    json: Path | None = None

    def test(self, result: Any) -> None:
        """Write and say whether a result meets the conditions, if there are any.

        Raises:
            _GateClosed: it does not.
            InputError: it does, but a file could not be written.
        """
        if not self.asked:
            return
        from classwise import terminal
        from classwise.report import gate

        found = gate.gate(result, self.asked, allow=self.allow)
        unwritten = self._write(found)
        terminal.gate(found)
        if not found.passed:
            raise _GateClosed(unwritten)
        if unwritten:
            raise InputError(f"The gate passed, but {unwritten[0].lower()}{unwritten[1:]}")

    def _write(self, found: Any) -> str:
        """Write the files, each whether or not the other can be written; return what went wrong."""
        from classwise import files

        failed = list[str]()
        for path, write, content in (
            (self.junit, files.write_text, found.junit()),
            (self.json, files.write_json, found.as_dict()),
        ):
            try:
                if path is not None:
                    write(path, content)
            except InputError as error:
                failed.append(str(error))
        return " ".join(failed)


def _asked(given: Mapping[str, Any], classes: Sequence[str]) -> _Gate:
    """Read the options of the gate, before anything is attacked."""
    from classwise import files
    from classwise.report import gate

    fail_under, *others = (given[name] for name in _GATE)
    allow, junit, json = others
    if fail_under is None:
        if any(others):
            raise InputError("--allow-flag, --junit and --gate-json belong to --fail-under; give that too.")
        return _Gate()
    if junit is not None and junit == json:
        raise InputError(f"--junit and --gate-json both name {junit}; give each a file of its own.")
    for path in (junit, json):
        if path is not None:
            files.refuse_unwritable(path)
    return _Gate(gate.conditions(fail_under, classes), gate.waived(allow) if allow else frozenset(), junit, json)


def analyse_runs(
    runs: list[Path],
    question: str = "",
    network: str = "",
    json: Path | None = None,
    markdown: Path | None = None,
    latex: Path | None = None,
) -> None:
    """Ask what the outcomes of evaluations and the logs of training runs say, and which claims they support.

    Evaluations of one model on the same images are taken together.

    Args:
        runs: folders of evaluations and training runs.
        question: questions, separated by commas, see `classwise list questions`; all that can be answered if not given.
        network: the models that were evaluated, separated by commas, for questions about their weights.
        json: file for findings, numbers and tables.
        markdown: file for the same as a text to read.
        latex: file for the tables in LaTeX (package booktabs).
    """
    from classwise import analysis, registry, terminal

    evidence = analysis.read(runs)
    weights = {}
    if network:
        from classwise import arguments

        weights = arguments.last_layers(registry.split(network), evidence)
    asked = [name.strip() for name in question.split(",") if name.strip()]
    findings, unanswered = analysis.answer(evidence, asked, weights)
    terminal.found(findings, unanswered)
    _save_findings(findings, json, markdown, latex)


def compare_runs(
    runs: list[Path],
    view: str = "worst_case",
    sort: str = "worst",
    out: Path | None = None,
    figures: Path | None = None,
    json: Path | None = None,
    markdown: Path | None = None,
    latex: Path | None = None,
) -> None:
    """Compare models on the same images: a leaderboard, and class by class who gains and who pays.

    The first folder is the baseline.

    Args:
        runs: folders of evaluations, at least two.
        view: an attack that every model met, clean, or worst_case.
        sort: metric of the leaderboard: average, worst, worst_q10, gap, std, std_corrected, nsd, gini.
        out: folder for comparison.html, one self-contained page.
        figures: folder for the charts as PDF, PNG and SVG.
        json: file for the comparison, its numbers and tables.
        markdown: file for the same as a text to read.
        latex: file for the tables in LaTeX (package booktabs).
    """
    from classwise import analysis, terminal
    from classwise.analysis.comparison import compare

    subjects = analysis.read(runs).subjects
    findings = compare(subjects, view, sort)
    terminal.found(findings, [])
    _save_findings(findings, json, markdown, latex)
    if out is not None:
        from classwise.analysis.comparison_page import write_comparison

        command = shlex.join(
            ["classwise", "compare", *map(str, runs), "--view", view, "--sort", sort, "--out", str(out)]
        )
        terminal.wrote([write_comparison(subjects, findings, out, portable(command))])
    if figures is not None:
        from classwise.analysis.comparison_figures import save_figures

        terminal.wrote(save_figures(subjects, findings, figures))


def study_homing(
    method: str = "at",
    model: str = "digits_cnn",
    data: str = "digits",
    data_dir: Path | None = None,
    recipe: str | None = None,
    attacks: str = "fast",
    eps: str | float | None = None,
    norm: str | int | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    out: Path = Path("runs/homing"),
    accelerator: str = "auto",
    download: bool = False,
) -> None:
    """Train with and without each class: are images safe where the class they were sent to is missing?

    Claim H7, with controls. As many trainings as there are classes, and three.

    Args:
        method: training method, see `classwise list methods`.
        model: architecture, see `classwise list models`.
        data: data set, see `classwise list data`.
        data_dir: folder that holds it.
        recipe: training recipe, with changes like `digits(epochs=5)`.
        attacks: what an image must survive to be safe.
        eps: radius of all attacks, such as 8/255; the data set's usual one if not given.
        norm: Linf, L2 or L1; with --eps.
        limit: train on a stratified sample of this many images.
        test_limit: look at a stratified sample of this many test images.
        seed: of weights, order and attacks; the control of another seed takes the next one.
        out: folder of the study; the same command goes on where it stopped.
        accelerator: cpu, cuda or auto.
        download: fetch the data set into --data-dir if it is missing.
    """
    from functools import partial

    from classwise import arguments, files, terminal
    from classwise.homing import Study
    from classwise.train import fit

    train = arguments.training_images(data, data_dir, limit, seed, download)
    test = arguments.training_images(data, data_dir, test_limit, seed, download, "test")
    threat, plan = arguments.threat(data, eps, norm), arguments.recipe(recipe, data)
    run = arguments.training(method, model, train, plan, threat, seed).run
    again = arguments.attacks(attacks, threat, test, seed)
    trainer = partial(fit, arguments.fabric(accelerator, 1))
    finding = Study(train, test, run, again, out, trainer, terminal.say).result()
    files.write_json(out / "homing.json", {"classwise": __version__, "findings": [finding.as_dict()]})
    terminal.found([finding], [])
    terminal.wrote([out / "homing.json"])


def _save_findings(findings: Sequence[Any], json: Path | None, markdown: Path | None, latex: Path | None) -> None:
    from classwise import files, terminal
    from classwise.analysis import finding

    if json is not None:
        files.write_json(json, {"classwise": __version__, "findings": [each.as_dict() for each in findings]})
    if markdown is not None:
        files.write_text(markdown, finding.markdown(findings))
    if latex is not None:
        files.write_text(latex, finding.latex(findings))
    terminal.wrote([path for path in (json, markdown, latex) if path is not None])


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
    command = _command_line("study", locals())
    from classwise import arguments, campaign, homings, terminal
    from classwise import study as studies
    from classwise.models.foreign import refuse_code, trusted
    from classwise.trials import Where, grid

    _refuse_odd_places(jobs, cluster, cpus, gpus)
    found = studies.read(file)
    if shrink:
        found, absent = found.standing_in(data_dir)
        terminal.stand_ins(absent, studies.STAND_IN)
        found = found.shrunk(len(arguments.images(found.data, data_dir, "test", None, 0).classes))
    for text in studies.models_of(found):  # after --shrink, which puts others in their place
        refuse_code(text, str(file))
    where = Where(out or Path("runs") / found.name, data_dir, accelerator, command, trusted())
    trials = grid(found, where)
    if plan:
        more = [each.trainings for each in homings.asked(found, trials)]
        return terminal.plan(campaign.estimates(trials, where), where.out, jobs, more)
    if status:
        return terminal.states(trials, where.out)
    if tables:
        return _conclude(found, trials, where, homing=False)
    elsewhere = _cluster(cluster, cpus, gpus)
    terminal.say(f"{found.name}: {len(trials)} runs into {where.out}")
    with terminal.counting(trials, where.out) as tell:
        states = campaign.run_all(trials, where, jobs, tell, elsewhere)
    _conclude(found, trials, where, homing=found.homing is not None)
    return terminal.refuse_unfinished(states, where.out)


def _conclude(study: Any, trials: Sequence[Any], where: Any, homing: bool) -> None:
    """Write and print what a study says: tables, answers, with ``homing`` that of its trainings too, reports, page."""
    from classwise import homings, overview, standings, terminal, verdicts

    rows = standings.rows(study, trials, where.out)
    answers = verdicts.ask(study.analyse, trials, where)
    if homing:
        standings.write(study, trials, rows, where.out, verdicts.text(answers))  # to look at: the trainings take hours
        answers += homings.answers(study, trials, where, terminal.say)
    written = standings.write(study, trials, rows, where.out, verdicts.text(answers))
    overview.write_reports(trials, where.out)
    page = overview.write(study, trials, rows, where.out)
    terminal.standings(standings.sheets(study, rows), [*written, *verdicts.write(answers, where.out), page])


def _refuse_odd_places(jobs: int, address: str, cpus: int, gpus: float) -> None:
    """Refuse numbers of processes that cannot be, and resources for each run where there is no cluster."""
    if not 1 <= jobs <= _MOST_JOBS:
        raise InputError(f"--jobs is {jobs}, but must be from 1 to {_MOST_JOBS:,}.")
    if not address and (cpus, gpus) != (1, 0.0):
        raise InputError("--cpus and --gpus are what a cluster sets aside for each run; add --cluster, or use --jobs.")


def _cluster(address: str, cpus: int, gpus: float) -> Any:
    """Return the cluster that does the runs of a study, None where this machine does."""
    from classwise.cluster import Cluster, Resources

    return Cluster(address, Resources(cpus, gpus)) if address else None


def list_names(what: Listed) -> None:
    """Show what settings and options can name, each with one line and its source.

    Args:
        what: attacks, suites, plans, losses, methods, wrappers, corrections, models, data, recipes, loggers or
            questions.
    """
    from classwise import analysis, registry, terminal

    if what == "questions":
        terminal.questions(analysis.QUESTIONS)
        return

    kinds: dict[Listed, registry.Kind] = {
        "attacks": "attack",
        "suites": "suite",
        "plans": "plan",
        "losses": "loss",
        "methods": "method",
        "wrappers": "wrapper",
        "corrections": "correction",
        "models": "model",
        "data": "data",
        "recipes": "recipe",
        "loggers": "logger",
    }
    terminal.entries(registry.entries(kinds[what]))


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": run_demo,
    "train": train_model,
    "evaluate": evaluate_model,
    "critical-eps": measure_critical_eps,
    "correct": correct_model,
    "report": make_report,
    "analyse": analyse_runs,
    "compare": compare_runs,
    "homing": study_homing,
    "study": run_study,
    "list": list_names,
}


_LEFT = "The model, or code that it runs, ended the program"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    0, 2 for bad input, 3 for a result below --fail-under, 130 for Ctrl-C, 1 for a fault of ours or lost output. What
    becomes of the output does not change the others.
    """
    # Threads that spin while they wait made small networks ten times slower on a busy machine; read when PyTorch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and any(_underscored(word).startswith("--fail_under") for word in words):
        status = supervised.reported(lambda: _ended(words))
        return _fail(f"{_LEFT}; remove that call.", 2, False) if status is None else status
    return _ended(words)


def _ended(words: Sequence[str]) -> int:
    """Run a command line, and return its exit status whatever becomes of its output."""
    with output.unbroken() as out:
        status = _run(words)
        out.flush()
        lost = output.reason(out.lost)
        return _fail(f"Cannot write to standard output: {lost}.", 1, False) if lost and not status else status


def _run(words: Sequence[str]) -> int:
    debug = "--debug" in words
    arguments = [_underscored(word) for word in words if word not in ("--debug", _TRUST)]
    command = next((word for word in arguments if not word.startswith("-")), "")
    settings: dict[str, Any] = {}
    try:
        if any("\0" in word for word in words):
            raise InputError("An argument holds a NUL character, which no name or path can hold; leave it out.")
        if command and command not in COMMANDS:
            raise InputError(unknown("command", command, COMMANDS))
        _refuse_unbounded(arguments)
        settings = vars(parser().parse_args(_joined(_gathered(arguments)))[command])
    except SystemExit as done:  # after --help, --version and --print-config
        return int(done.code or 0)
    except InputError as error:
        return _fail(str(error), 2, debug)
    except (ValueError, RecursionError) as error:  # of YAML, which reads the options
        return _fail(f"The options cannot be read ({error}); write plain texts and numbers.", 2, debug)
    try:
        if not 0 <= settings.get("seed", 0) < 2**63:
            raise InputError(f"--seed is {settings['seed']}, but must be a whole number from 0 to 2^63 - 1.")
        _refuse_odd_numbers(settings, arguments)
        with _consent(settings, words):
            COMMANDS[command](**{name: value for name, value in settings.items() if name != "config"})
    except _GateClosed as closed:
        return _fail(str(closed), _GATE_CLOSED, False) if str(closed) else _GATE_CLOSED
    except SystemExit as done:  # of foreign code: whatever it says, the command has not come to its end
        return _fail(f"{_LEFT} ({done!r}); remove that call.", 2, debug)
    except InputError as error:
        return _fail(str(error), 2, debug)
    except OSError as error:  # a path that cannot be: too long, through a file, in a circle, without permission
        if error.filename is None and error.errno not in _FULL:
            return _fault(error, debug)
        where = f" {error.filename}" if error.filename is not None else ""
        return _fail(f"Cannot use{where or ' a file'}: {error.strerror}; give another path.", 2, debug)
    except KeyboardInterrupt:
        kept = command in _RESUMED and settings.get("out") is not None and not settings.get("until")
        remedy = "run the same command again to go on from the last saved state" if kept else "nothing was kept"
        return _fail(f"Interrupted; {remedy}.", 130, debug)
    except Exception as error:
        return _fault(error, debug)
    finally:
        _leave_group()
    return 0


def _fault(error: Exception, debug: bool) -> int:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return _fail(f"This should not happen ({reason}); run again with --debug and report what it prints.", 1, debug)


def _refuse_unbounded(words: Sequence[str]) -> None:
    """Look at files of options before they are read whole."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        if option == "--config" and (equals or following):
            from classwise.schemas import refuse_unbounded_yaml

            refuse_unbounded_yaml(Path(value if equals else following))


def _refuse_odd_numbers(settings: Mapping[str, Any], words: Sequence[str]) -> None:
    """Refuse numbers that YAML, which reads the options, takes for others than they seem, as 010 for 8.

    Raises:
        InputError: a number is not written in plain decimals.
    """
    given = dict(zip(words, [*words, ""][1:], strict=True)) | dict(word.split("=", 1) for word in words if "=" in word)
    for name, value in settings.items():
        text = given.get(f"--{name}", "")
        if type(value) in (int, float) and text and not re.fullmatch(_DECIMAL, text, flags=re.ASCII):
            raise InputError(f"--{name.replace('_', '-')} is {text}; write a number in plain decimals, such as 10.")


def _leave_group() -> None:
    """Leave the group of processes, whose threads keep a process that torchrun started from ending."""
    distributed = sys.modules.get("torch.distributed")  # loaded by commands that compute
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _consent(settings: Mapping[str, Any], words: Sequence[str]) -> AbstractContextManager[None]:
    """Let code run that files name, if --trust-code says so; what stands on the command line itself is consented to.

    Raises:
        InputError: a file of --config names code, and there is no --trust-code.
    """
    if _TRUST in words:
        from classwise.models.foreign import trusting

        return trusting(True)
    for name, value in settings.items() if settings.get("config") else ():
        named = isinstance(value, str) and not any(value in word for word in words)
        if named and re.search(r"\.py\b|export:", str(value)):
            raise InputError(
                f"The file of --config names code that would run ({name}: {value}); if you trust it, add {_TRUST}."
            )
    return nullcontext()


class _Parser(ArgumentParser):
    """Shows options with dashes, which ``main`` turns into the underscores of Python names."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what was wrong in one sentence, in place of the usage and several lines."""
        said = " ".join(message.split()).rstrip(".")
        lacking = re.search(r"required: ([\w-]+)\.", said)  # what a command lacks, the parser above it notices
        prog = f"{self.prog} {lacking[1]}" if lacking else self.prog.replace(" [options]", "")
        for pattern, words in _PLAIN:
            said = re.sub(pattern, words, said)
        raise InputError(f"{said}; see `{prog} --help`.") from ex

    def format_help(self, *formatter: Any) -> str:
        said = str(super().format_help(*formatter)).replace(" [options] ", " ", 1)
        for pattern, words in ((r"<class '(\w+)'>", r"\1"), (r"Union\[([^][]*)\]", r"\1"), (r", null", " or null")):
            said = re.sub(pattern, words, said)
        return re.sub(r"--[a-z_]+", lambda option: option[0].replace("_", "-"), said)


def parser() -> ArgumentParser:
    """Build the command line from the signatures of the commands."""
    top = _Parser(
        prog="classwise",
        allow_abbrev=False,
        version=__version__,
        description="Class-wise adversarial robustness: find the weakest class, attack it, explain it, repair it.",
        epilog="--debug anywhere shows the traceback of an error. --trust-code lets run what folders and files name: "
        "Python files and exported programs of whoever wrote them, who can do with your machine what you can.",
    )
    commands = top.add_subcommands(required=True, title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = _Parser(
            prog=f"classwise {name}", allow_abbrev=False, description=(command.__doc__ or "").partition("\n\n")[0]
        )
        sub.add_argument("--config", action="config", help="YAML file with options; --print-config writes one.")
        # jsonargparse wants a value after an option of type bool; a switch has none.
        switches = [name for name, parameter in inspect.signature(command).parameters.items() if _switch(parameter)]
        several = [words for words in _SEVERAL if words in inspect.signature(command).parameters]
        for words in several:
            sub.add_argument(words, type=Path, nargs="+", help=_SEVERAL[words])
        sub.add_function_arguments(command, as_positional=True, skip={*switches, *several})
        for switch in switches:
            sub.add_argument(f"--{switch}", action="store_true", help=_help_of(command, switch))
        commands.add_subcommand(name, sub, help=(command.__doc__ or "").partition("\n")[0])
    return top


def _gathered(words: Sequence[str]) -> list[str]:
    """Join by commas what options of ``_REPEATED`` are given each time, of which argparse would keep the last alone."""
    kept, given, left = list[str](), dict[str, list[str]](), list(words)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        if option not in _REPEATED or not (equals or (left and not left[0].startswith("--"))):
            kept.append(word)
            continue
        given.setdefault(option, []).append(value if equals else left.pop(0))
    return kept + [f"{option}={','.join(values)}" for option, values in given.items()]


def _joined(words: Sequence[str]) -> list[str]:
    """Join an option and a value such as -8/255, which argparse would take for an option; it knows plain numbers."""
    joined: list[str] = []
    for word in words:
        if re.fullmatch(r"-[\d.]+/[\d.]+", word) and joined and joined[-1].startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _underscored(word: str) -> str:
    option, equals, value = word.partition("=")
    return option.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def _command_line(name: str, settings: Mapping[str, Any]) -> str:
    """Return the command line that gives these settings; what is at its default is left out."""
    words = ["classwise", name]
    for option, parameter in inspect.signature(COMMANDS[name]).parameters.items():
        value = settings[option]
        if parameter.default is parameter.empty:
            words.append(str(value))
        elif value != parameter.default:
            words += [f"--{option.replace('_', '-')}", *([] if _switch(parameter) else [str(value)])]
    from classwise.models.foreign import trusted

    return portable(shlex.join([*words, *([_TRUST] if trusted() else [])]))


def _switch(parameter: inspect.Parameter) -> bool:
    """Tell whether an option is a switch, which is off unless it is named."""
    return parameter.default is False


def _help_of(command: Callable[..., Any], option: str) -> str:
    found = re.search(rf"^ +{option}: (.+)$", command.__doc__ or "", flags=re.MULTILINE)
    return found[1] if found else ""


def _fail(message: str, status: int, debug: bool) -> int:
    if debug and sys.exc_info()[1] is not None:
        raise
    said = plain(" ".join(message.split("\n")))
    sys.stderr.write(f"classwise: {said if len(said) <= _LONGEST else f'{said[:_LONGEST]} …'}\n")
    return status
