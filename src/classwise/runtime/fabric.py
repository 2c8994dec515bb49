"""Fabric, made from what a person asked for: devices, processes, precision."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from classwise.errors import InputError

if TYPE_CHECKING:  # seconds of imports, which one process without training does not need
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.logger import Logger

_MOST_DEVICES, _MOST_NODES = 16, 10_000
# What torchrun, SLURM, LSF, MPI and Fabric itself tell a process that it is one of several by.
_LAUNCHERS = frozenset(
    ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE")
)


class Workers(NamedTuple):
    """The processes that share an evaluation, as this one of them sees them.

    Attributes:
        device: where this one computes.
        fabric: what connects them; None where there is only this one.
    """

    device: torch.device
    fabric: Fabric | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.fabric is None or self.fabric.is_global_zero

    @property
    def size(self) -> int:
        """How many there are."""
        return 1 if self.fabric is None else self.fabric.world_size


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
    for option, wanted, count in zip(("devices", "num-nodes"), (devices, num_nodes), started, strict=True):
        if wanted not in (1, count):
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


def workers(accelerator: str, devices: int = 1, environment: Mapping[str, str] = os.environ) -> Workers:
    """Start the processes of an evaluation; one alone needs no Fabric, whose import takes seconds.

    Raises:
        InputError: the accelerator or the number of devices is not to be had.
    """
    if devices == 1 and not environment.keys() & _LAUNCHERS:
        cuda = accelerator in ("auto", "cuda") and torch.cuda.is_available()
        if cuda or accelerator in ("auto", "cpu"):
            return Workers(torch.device("cuda:0" if cuda else "cpu"))
    fabric = launched(accelerator, devices)
    return Workers(fabric.device, fabric)


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
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

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
