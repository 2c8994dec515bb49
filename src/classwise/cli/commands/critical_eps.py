"""``classwise critical-eps``: the smallest radius that breaks each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from classwise.cli.parser import command_line


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
    command = command_line("critical-eps", measure_critical_eps, locals())
    from classwise import resolve
    from classwise.cli.show import lines, live, results
    from classwise.evaluation.critical_eps import critical_eps
    from classwise.metrics.critical_eps import CRITICAL_FILE
    from classwise.report.critical import save_figure

    name, asked = data or resolve.data_of_run(model), resolve.radii(radii)
    threat = resolve.widest(name, eps_max, norm)
    images = resolve.unseen(model, name, data_dir, split, limit, seed, download)
    settings: dict[str, Any] = {"norm": threat.norm, "eps_max": threat.eps, "attack": attack, "radii": asked}
    settings |= {"seed": seed, "batch_size": batch_size, "directory": out, "name": model, "command": command}
    settings |= {"device": resolve.workers(accelerator).device}
    network = resolve.model(model, images, seed)
    lines.taken(network, images)
    with live.narrowing(images, threat) as watch:
        critical = critical_eps(network, images, watch=watch, **settings)
    results.critical(critical, asked)
    if out is not None:
        lines.wrote([out / CRITICAL_FILE, save_figure(critical, out)])
