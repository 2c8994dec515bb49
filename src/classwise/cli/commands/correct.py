"""``classwise correct``: fit a correction of the inference phase under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def correct_model(
    model: str,
    data: str | None = None,
    data_dir: Path | None = None,
    rule: str = "iv-offsets",
    target: str = "weakest",
    max_loss: float = 1.0,
    attacks: str = "nearest-pgd",
    eps: str | float | None = None,
    norm: str | int | None = None,
    split: str = "train",
    limit: int | None = None,
    batch_size: int | None = None,
    folds: int = 5,
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
        target: what the rule is fitted for, with settings like `floor(level=0.3)`; see `classwise list targets`.
        max_loss: points of robust average that it may cost.
        attacks: attacks and suites, run on the corrected model in every round.
        eps: radius of the attacks, such as 8/255; the data set's usual one if not given.
        norm: Linf, L2 or L1; with --eps.
        split: split to fit on; of the training split of a run only images that it held out.
        limit: fit on a stratified sample of this many images; if not given, 300 a class, or all that a run held out.
        batch_size: images attacked at once, what memory holds if not given.
        folds: parts of the images that the promise is made of, 2 to 100; 0 for no promise.
        seed: of the sample and of the attacks.
        out: folder for the corrected model, which corrected:FOLDER then names, and for its trade-off curve; the same
            command goes on from what an interrupted one left there.
        accelerator: cpu, cuda or auto.
        fit_on_test: fit on test images all the same; every output will say so.
        download: fetch the data set into --data-dir if it is missing.
    """
    from classwise import files, resolve
    from classwise.attacks import build
    from classwise.cli.show import lines, live, results
    from classwise.corrections.fit import repair
    from classwise.corrections.fitted import refuse_used

    refuse_used(out)
    name = data or resolve.data_of_run(model)
    images, which = resolve.held_out(model, name, data_dir, split, limit, seed, download)
    chosen = build(attacks, resolve.threat(name, eps, norm))
    network = resolve.model(model, images, seed)
    device = resolve.workers(accelerator).device
    lines.taken(network, images)
    settings: dict[str, Any] = {"target": target, "max_loss": max_loss, "folds": folds, "seed": seed}
    settings |= {"batch_size": batch_size, "device": device, "fit_on_test": fit_on_test, "folder": out}
    with files.owned(out):
        refuse_used(out)  # what another process has done meanwhile
        with live.correcting(images, which, rule, chosen) as watch:
            correction = repair(network, images, rule, chosen, watch=watch, **settings)
        correction.write(out, model, which)
    results.corrected(correction, out)
