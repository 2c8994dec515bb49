"""The command line: ``classwise demo | train | evaluate | report | study | list``.

Options come from the typed signatures below. PyTorch is imported only once a command runs, so help is instant; this
module names no type of a heavy package even for the type checker, since jsonargparse imports what annotations name,
and no command has the name of a public function of the package, since jsonargparse would import that too.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser

from classwise import __version__
from classwise.errors import InputError
from classwise.registry import unknown

Listed = Literal["attacks", "suites", "plans", "losses", "methods", "wrappers", "models", "data", "recipes", "loggers"]
_SWITCHES = ("download", "sync_batchnorm", "plan", "status", "shrink")
# How jsonargparse's messages become the end of one plain sentence.
_PLAIN = (
    (r'Parser key "(\w+)":', r"\1:"),
    (r"Expected a typing\.Literal\[(.*)\]", r"expected one of \1"),
    (r"Expected a <class '(\w+)'>", r"expected \1"),
    (r"Does not validate .* Given value: ", "it cannot be "),
    (r"\. Got value:", ", not"),
    (r"required: \w+\.", "required: "),
)


def run_demo(out: Path = Path("classwise-demo"), seed: int = 0) -> None:
    """Train, attack and report on embedded handwritten digits: the whole path in under two minutes.

    Args:
        out: folder for the training run, the evaluation and the report.
        seed: of training and attacks.
    """
    from classwise import terminal

    terminal.say("A small network learns to read 8x8 digits under attack, then every test digit is attacked.")
    train_model("at", model="digits_cnn", data="digits", seed=seed, out=out / "run")
    evaluate_model(f"run:{out / 'run'}", data="digits", seed=seed, out=out / "evaluation")
    page = make_report(out / "evaluation")
    terminal.next_steps(page, out)


def train_model(
    method: str,
    model: str = "preact_resnet18",
    data: str = "digits",
    data_dir: Path | None = None,
    recipe: str | None = None,
    wrappers: str = "",
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
        wrappers: what goes around the method, such as `awp(gamma=0.005),ema`; see `classwise list wrappers`.
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
    batch_size: int | None = None,
    fixed_shape: int | None = None,
    search_precision: Literal["float32", "bfloat16"] = "float32",
    seed: int = 0,
    out: Path | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    download: bool = False,
) -> None:
    """Attack every image a model gets right, and count what is left in each class.

    Args:
        model: architecture with weights, run:FOLDER, file.py:factory, timm:NAME, torchvision:NAME, export:FILE.pt2.
        data: data set, see `classwise list data`; that of the run for a run:FOLDER.
        data_dir: folder that holds it.
        attacks: attacks, suites and plans, separated by commas, with settings like `pgd(steps=100)`.
        audit: of `fast` and other plans: the share of images, in per cent, that full AutoAttack might still break and
            that a random sample must exclude; 0 for no audit.
        eps: radius of the attacks, such as 8/255; the data set's usual one if not given.
        norm: Linf, L2 or L1; with --eps.
        split: split of the data set.
        limit: attack a stratified sample of this many images.
        batch_size: images attacked at once, what memory holds if not given; does not change a verdict.
        fixed_shape: images in every single pass, for verdicts that are equal to the last bit on any batch size.
        search_precision: what attacks compute in, float32 or bfloat16; verdicts are float32 either way.
        seed: of the sample and of the attacks.
        out: folder for result.json and outcomes.npz; nothing is written if not given.
        accelerator: cpu, cuda or auto.
        devices: processes on this machine.
        download: fetch the data set into --data-dir if it is missing.
    """
    command = _command_line("evaluate", locals())
    from classwise import arguments, evaluation, terminal

    name = data or arguments.data_of_run(model)
    images = arguments.images(name, data_dir, split, limit, seed, download)
    chosen = arguments.attacks(attacks, arguments.threat(name, eps, norm), images, seed)
    network = arguments.model(model, images, seed)
    fabric = arguments.fabric(accelerator, devices)
    with terminal.evaluating(images, chosen, quiet=not fabric.is_global_zero) as watch:
        result = evaluation.evaluate(
            network,
            images,
            chosen,
            seed=seed,
            audit=audit,
            batch_size=batch_size,
            fixed_shape=fixed_shape,
            search_precision=search_precision,
            directory=out,
            fabric=fabric,
            watch=watch,
            name=model,
            command=command,
        )
    if fabric.is_global_zero:
        terminal.evaluated(result, out)


def make_report(
    folder: Path,
    figures: Path | None = None,
    markdown: Path | None = None,
    latex: Path | None = None,
    robustbench: Path | None = None,
) -> Path:
    """Turn the folder of an evaluation into one self-contained report.html.

    Args:
        folder: what `classwise evaluate --out` wrote.
        figures: folder for the charts as PDF, PNG and SVG.
        markdown: file for the tables in Markdown.
        latex: file for the tables in LaTeX (package booktabs).
        robustbench: JSON file in the format of RobustBench's model_info, with the counts of each class.
    """
    from classwise import files, terminal
    from classwise.interop import robustbench as leaderboard
    from classwise.metrics.result import Result
    from classwise.report import latex_tables, markdown_tables, save_figures, write_page

    result = Result.read(folder)
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
    return page


def run_study(
    file: Path,
    out: Path | None = None,
    data_dir: Path | None = None,
    jobs: int = 1,
    accelerator: str = "auto",
    plan: bool = False,
    status: bool = False,
    shrink: bool = False,
) -> None:
    """Train and evaluate every method of a study with every seed, and end in one table; what is done is skipped.

    Args:
        file: TOML file that says what is trained on what and how it is evaluated, see docs/studies.md.
        out: folder of the study; runs/NAME if not given.
        data_dir: folder that holds the data set.
        jobs: runs side by side, each in a process of its own with one thread.
        accelerator: cpu, cuda or auto.
        plan: list every run with the time it is expected to take, and start nothing.
        status: list what is done, running, failed and open, and start nothing.
        shrink: the same grid in seconds: one seed, few images, two epochs, a tiny network, weak attacks.
    """
    command = _command_line("study", locals())
    from classwise import arguments, campaign, standings, terminal
    from classwise import study as studies
    from classwise.trials import Where, grid

    found = studies.read(file)
    if shrink:
        found = found.shrunk(len(arguments.images(found.data, data_dir, "test", None, 0).classes))
    where = Where(out or Path("runs") / found.name, data_dir, accelerator, command)
    trials = grid(found, where)
    if plan:
        return terminal.plan(campaign.estimates(trials, where), where.out, jobs)
    if status:
        return terminal.states(trials, where.out)
    terminal.say(f"{found.name}: {len(trials)} runs into {where.out}")
    with terminal.counting(len(trials), where.out) as tell:
        states = campaign.run_all(trials, where, jobs, tell)
    rows = standings.rows(found, trials, where.out)
    terminal.standings(standings.sheet(found, rows), standings.write(found, trials, rows, where.out))
    return terminal.refuse_unfinished(states, where.out)


def list_names(what: Listed) -> None:
    """Show what settings and options can name, each with one line and its source.

    Args:
        what: attacks, suites, plans, losses, methods, wrappers, models, data, recipes or loggers.
    """
    from classwise import registry, terminal

    kinds: dict[Listed, registry.Kind] = {
        "attacks": "attack",
        "suites": "suite",
        "plans": "plan",
        "losses": "loss",
        "methods": "method",
        "wrappers": "wrapper",
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
    "report": make_report,
    "study": run_study,
    "list": list_names,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0, 2 for bad input, 130 for Ctrl-C, 1 for a fault of ours."""
    # Threads that spin while they wait made small networks ten times slower on a busy machine; read when PyTorch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    arguments = [_underscored(word) for word in words if word != "--debug"]
    try:
        command = next((word for word in arguments if not word.startswith("-")), "")
        if command and command not in COMMANDS:
            raise InputError(unknown("command", command, COMMANDS))
        settings = vars(parser().parse_args(arguments)[command])
        COMMANDS[command](**{name: value for name, value in settings.items() if name != "config"})
    except SystemExit as done:  # after --help, --version and --print-config
        return int(done.code or 0)
    except InputError as error:
        return _fail(str(error), 2, debug)
    except KeyboardInterrupt:
        return _fail("Interrupted; run the same command again to go on from the last saved state.", 130, debug)
    except BrokenPipeError:
        return 0
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return _fail(f"This should not happen ({reason}); run again with --debug and report what it prints.", 1, debug)
    return 0


class _Parser(ArgumentParser):
    """Shows options with dashes, which ``main`` turns into the underscores of Python names."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what was wrong in one sentence, in place of the usage and several lines."""
        said = " ".join(message.split()).rstrip(".")
        for pattern, plain in _PLAIN:
            said = re.sub(pattern, plain, said)
        raise InputError(f"{said}; see `{self.prog.replace(' [options]', '')} --help`.") from ex

    def format_help(self, *formatter: Any) -> str:
        return re.sub(r"--[a-z_]+", lambda option: option[0].replace("_", "-"), str(super().format_help(*formatter)))


def parser() -> ArgumentParser:
    """Build the command line from the signatures of the commands."""
    top = _Parser(
        prog="classwise",
        version=__version__,
        description="Class-wise adversarial robustness: find the weakest class, attack it, explain it, repair it.",
        epilog="--debug anywhere shows the traceback of an error.",
    )
    commands = top.add_subcommands(required=True, title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = _Parser(prog=f"classwise {name}", description=(command.__doc__ or "").partition("\n\n")[0])
        sub.add_argument("--config", action="config", help="YAML file with options; --print-config writes one.")
        # jsonargparse wants a value after an option of type bool; a switch has none.
        switches = [switch for switch in _SWITCHES if switch in inspect.signature(command).parameters]
        sub.add_function_arguments(command, as_positional=True, skip={*switches})
        for switch in switches:
            sub.add_argument(f"--{switch}", action="store_true", help=_help_of(command, switch))
        commands.add_subcommand(name, sub, help=(command.__doc__ or "").partition("\n")[0])
    return top


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
            words += [f"--{option.replace('_', '-')}", *([] if option in _SWITCHES else [str(value)])]
    return shlex.join(words)


def _help_of(command: Callable[..., Any], option: str) -> str:
    found = re.search(rf"^ +{option}: (.+)$", command.__doc__ or "", flags=re.MULTILINE)
    return found[1] if found else ""


def _fail(message: str, status: int, debug: bool) -> int:
    if debug and sys.exc_info()[1] is not None:
        raise
    sys.stderr.write(f"classwise: {' '.join(message.splitlines())}\n")
    return status
