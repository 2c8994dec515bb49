"""``classwise evaluate``: attack a model, or race to its worst class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from classwise.cli.commands.gate import GATE_OPTIONS, asked_gate
from classwise.cli.parser import command_line
from classwise.errors import InputError
from classwise.provenance import __version__

# Options of evaluate that the race to the worst class has no use for.
_NOT_UNTIL = ("audit", "batch_size", "fixed_shape", "search_precision", "examples")


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
    command = command_line("evaluate", evaluate_model, locals())
    _refuse_beside_until(locals())
    from classwise import resolve
    from classwise.cli.show import live, results
    from classwise.evaluation import evaluate

    name = data or resolve.data_of_run(model)
    images = resolve.unseen(model, name, data_dir, split, limit, seed, download)
    chosen = resolve.named_attacks(attacks, resolve.threat(name, eps, norm), images, seed)
    gate = asked_gate(locals(), images.classes)
    network, workers = resolve.model(model, images, seed, fixed_shape), resolve.workers(accelerator, devices)
    results.warn_unreachable(gate.asked if workers.first else (), images)
    if until is not None:
        _find_worst(network, workers, images, attacks, resolve.threat(name, eps, norm), seed, out)
        return
    settings: dict[str, Any] = {"seed": seed, "audit": audit, "batch_size": batch_size, "fixed_shape": fixed_shape}
    settings |= {"examples": examples, "directory": out, "name": model, "command": command, **workers._asdict()}
    with live.evaluating(network, images, chosen, quiet=not workers.first) as watch:
        result = evaluate(network, images, chosen, watch=watch, search_precision=search_precision, **settings)
    if workers.first:
        results.evaluated(result, out)
        gate.test(result)


def _refuse_beside_until(options: Mapping[str, Any]) -> None:
    """Refuse what the race to the worst class, if it is asked for, would leave undone."""
    defaults = inspect.signature(evaluate_model).parameters
    for name in (*_NOT_UNTIL, *GATE_OPTIONS) if options["until"] is not None else ():
        if options[name] != defaults[name].default:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"--until worst-class looks at few images and takes no {option}; leave one of them out.")


def _find_worst(
    network: Any, workers: Any, images: Any, attacks: str, threat: Any, seed: int, out: Path | None
) -> None:
    """Race to the worst class, say which it is, and write worst-class.json."""
    from classwise import files, resolve
    from classwise.analysis.worst_class import until_worst, worst_class
    from classwise.attacks.base import described
    from classwise.cli.show import lines, results

    if workers.size > 1:
        raise InputError("--until worst-class takes one process; leave --devices out.")
    network = network.to(workers.device)
    strong = resolve.single(attacks, threat, images, seed)
    if out is not None:
        files.refuse_unwritable(out / "worst-class.json")
    lines.taken(network, images)
    lines.say(f"Looking for the worst class of {len(images):,} images of {images.name} at {threat}")
    cheap = resolve.single("pgd(steps=10, start='clean')", threat, images, seed)
    race, flags = until_worst(network, images, cheap, strong, seed=seed, watch=results.race_round)
    finding = worst_class(race, images.classes, images.name)
    noticed = [flag.record() for flag in flags]
    results.found([finding], [])
    lines.warned(noticed)
    if out is not None:
        about = {
            "classwise": __version__,
            "attack": repr(strong),
            "cheap": repr(cheap),
            "settings": {"attack": described(strong), "cheap": described(cheap)},
            "seed": seed,
        }
        files.write_json(out / "worst-class.json", {**about, "findings": [finding.as_dict()], "flags": noticed})
        lines.wrote([out / "worst-class.json"])
