"""Fabric, made from what a person asked for: devices, processes, precision."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from classwise.errors import InputError

_MOST_DEVICES, _MOST_NODES = 16, 10_000


def synchronised(network: nn.Module, made: Fabric) -> nn.Module:
    """Let BatchNorm see the batches of all processes.

    Raises:
        InputError: there is no GPU, for which alone PyTorch has it.
    """
    if made.device.type != "cuda":
        raise InputError("--sync-batchnorm needs GPUs, as PyTorch has it for no other device; leave it out.")
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def processes(devices: int, num_nodes: int, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return processes on each machine, and machines: what torchrun has started, else what was asked for.

    Raises:
        InputError: another number was asked for than torchrun has started.
    """
    if not {"LOCAL_WORLD_SIZE", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"} <= environment.keys():
        return devices, num_nodes
    here, everywhere = int(environment["LOCAL_WORLD_SIZE"]), int(environment["WORLD_SIZE"])
    started = here, everywhere // here
    for option, wanted, found in zip(("devices", "num-nodes"), (devices, num_nodes), started, strict=True):
        if wanted not in (1, found):
            raise InputError(f"torchrun has started {here} x {started[1]} processes, but --{option} is {wanted}.")
    return started


def _refuse_too_many(devices: int, num_nodes: int) -> None:
    """Refuse more processes than can be meant, before they are started.

    Raises:
        InputError: there are none, or more than ``_MOST_DEVICES`` or four a core on a machine, or too many machines.
    """
    most = max(_MOST_DEVICES, 4 * (os.cpu_count() or 1))
    for option, number, limit in (("devices", devices, most), ("num-nodes", num_nodes, _MOST_NODES)):
        if not 1 <= number <= limit:
            raise InputError(f"--{option} is {number}, but must be from 1 to {limit:,}.")


def launched(
    accelerator: str,
    devices: int,
    num_nodes: int = 1,
    precision: str = "32-true",
    loggers: Sequence[Logger] = (),
    strategy: str = "auto",
) -> Fabric:
    """Make and launch Fabric; it recognises torchrun, SLURM and other launchers by their environment.

    Raises:
        InputError: the accelerator or the number of devices is not to be had.
    """
    _refuse_too_many(devices, num_nodes)
    devices, num_nodes = processes(devices, num_nodes)
    if accelerator == "auto":  # other accelerators than these two cannot sum in float64
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    settings: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes}
    if strategy == "auto" and devices * num_nodes > 1:
        strategy = "ddp"
    try:
        made = Fabric(**settings, strategy=strategy, precision=precision, loggers=list(loggers))  # type: ignore[arg-type]
    except (ValueError, RuntimeError, TypeError, MisconfigurationException) as error:
        reason = re.split(r"\.\s", str(error))[0].rstrip(".")
        raise InputError(f"Cannot use {devices} x {accelerator}: {reason}.") from error
    made.launch()
    return made
