"""``classwise train``: train a network with a defence."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


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
    from classwise import resolve
    from classwise.cli.show import lines, live, results
    from classwise.training import loggers as logging
    from classwise.training.loop import fit

    images = resolve.training_images(data, data_dir, limit, seed, download)
    plan = resolve.recipe(recipe, data)
    threat = resolve.threat(data, eps, norm)
    run, defence, network = resolve.training_job(method, model, images, plan, threat, seed, wrappers)
    fabric = resolve.launched(accelerator, devices, num_nodes, precision, logging.build(loggers, out), strategy)
    if sync_batchnorm:
        network = resolve.synchronised(network, fabric)
    if fabric.is_global_zero:
        lines.taken(network, images)
    with live.training(run, images, out, quiet=not fabric.is_global_zero) as watch:
        log = fit(fabric, network, defence, images, run, out, watch)
    for logger in fabric.loggers:
        logger.finalize("success")
    if fabric.is_global_zero:
        results.trained(log, out)
