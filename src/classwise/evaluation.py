"""The engine: attacks over a data set, to the outcome of every image.

An image counts as broken only if a candidate lies in the threat set and is misclassified when it is run again, in
float32 and eval mode, outside the attack. An image's random numbers depend on the seed and its position in the data
set alone, so the order, the batch, the number of processes and a crash in between do not matter.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import classwise
from classwise import flags
from classwise.attacks.base import Attack, attacking, predict
from classwise.data.images import ImageSet, batches
from classwise.errors import InputError
from classwise.losses import margin
from classwise.metrics.result import Result
from classwise.models.checkpoint import weights_sha256
from classwise.noise import Noise
from classwise.records import Records
from classwise.threat import ThreatModel

_LOOK = 64  # images that the model is looked at with before anything is attacked


@dataclass(frozen=True)
class Snapshot:
    """What is known while an evaluation goes on.

    Attributes:
        view: "clean" or the attack just run.
        done: images finished with that view, of this process.
        total: images of this process.
        correct: images of each class still right in that view, (C,).
        seen: images of each class seen in that view, (C,).
    """

    view: str
    done: int
    total: int
    correct: Tensor
    seen: Tensor


def evaluate(
    model: nn.Module,
    data: ImageSet,
    attacks: Mapping[str, Attack],
    *,
    seed: int = 0,
    batch_size: int = 250,
    device: torch.device | str | None = None,
    directory: Path | str | None = None,
    fabric: Fabric | None = None,
    watch: Callable[[Snapshot], None] | None = None,
    name: str | None = None,
    command: str | None = None,
) -> Result:
    """Attack every image that the model gets right, with every attack.

    Args:
        model: takes images in [0, 1] and returns logits; left in the mode it came in.
        data: images with labels 0 … C − 1; the model must return C logits.
        attacks: by name, all with one threat model; see :func:`classwise.build_attacks`.
        seed: of the attacks' random numbers.
        batch_size: images attacked at once; does not change a verdict.
        device: where to compute; the model's own device if None.
        directory: where ``result.json`` and ``outcomes.npz`` are written; an interrupted evaluation with the same
            settings goes on from there, and a finished one is returned as it is.
        fabric: several processes, each of which takes its share of the images; one process if None.
        watch: called after each batch with what is known so far.
        name: the model's name in the result; its class if None.
        command: the command line that makes this result, for the record.

    Returns:
        Outcomes and their header, the same in every process.

    Raises:
        InputError: no attack or image, attacks with different threats, a model whose output is no matrix of
            finite logits for these classes, or a directory that holds something else.
    """
    job = _job(model, data, attacks, seed, batch_size, device, directory, fabric, watch, name)
    finished = _finished(job)
    if finished is not None:
        return finished
    start = time.perf_counter()
    records = Records.empty(tuple(attacks), len(data))
    seen = list(_run(job, records))
    outcomes = records.outcomes(data)
    seen += flags.after(outcomes, attacks, records.rejected.tolist())
    header = {
        **job.header,
        "batch_size": batch_size,
        "device": str(job.device),
        "command": command,
        "seconds": time.perf_counter() - start,
        "environment": environment(),
        "flags": [flag.record() for flag in flags.distinct(seen)],
        "logits": _logit_scale(records),
        "groups": {group: list(members) for group, members in data.groups.items()},
        "attacks": {
            attack: {"settings": repr(settings), "seconds": float(records.seconds[a])}
            for a, (attack, settings) in enumerate(attacks.items())
        },
    }
    result = Result(header=header, outcomes=outcomes)
    _write(job, result)
    return result


@dataclass(frozen=True)
class _Job:
    """One process's part of an evaluation: what is attacked with what, and where it is written."""

    model: nn.Module
    data: ImageSet
    attacks: Mapping[str, Attack]
    header: Mapping[str, Any]
    seed: int
    batch_size: int
    device: torch.device
    folder: Path | None
    fabric: Fabric | None
    watch: Callable[[Snapshot], None]

    @property
    def threat(self) -> ThreatModel:
        return next(iter(self.attacks.values())).threat

    @property
    def rank(self) -> int:
        return 0 if self.fabric is None else self.fabric.global_rank

    @property
    def ranks(self) -> int:
        return 1 if self.fabric is None else self.fabric.world_size

    @property
    def identity(self) -> str:
        return str(self.header["identity"])

    @property
    def partial(self) -> Path | None:
        return None if self.folder is None else self.folder / f"partial-{self.rank}-of-{self.ranks}.npz"


def _job(
    model: nn.Module,
    data: ImageSet,
    attacks: Mapping[str, Attack],
    seed: int,
    batch_size: int,
    device: torch.device | str | None,
    directory: Path | str | None,
    fabric: Fabric | None,
    watch: Callable[[Snapshot], None] | None,
    name: str | None,
) -> _Job:
    threats = {attack.threat for attack in attacks.values()}
    if len(threats) != 1:
        raise InputError("Name at least one attack, and give all attacks of an evaluation the same threat model.")
    if not len(data) or batch_size < 1:
        raise InputError("An evaluation needs at least one image, and a batch size of at least 1.")
    threat = threats.pop()
    where = torch.device(device or (fabric.device if fabric else _device(model)))
    header = {
        "classwise": classwise.__version__,
        "model": _about(model, name),
        "data": {k: getattr(data, k) for k in ("name", "split", "note")} | {"n": len(data), "sha256": data.sha256()},
        "threat": {"norm": threat.norm, "eps": threat.eps, "eps_text": threat.eps_text},
        "seed": seed,
    }
    identity = json.dumps([header, {key: repr(attack) for key, attack in attacks.items()}], sort_keys=True)
    header["identity"] = hashlib.sha256(identity.encode()).hexdigest()
    folder = None if directory is None else Path(directory)
    watch = watch or (lambda snapshot: None)
    return _Job(model.to(where), data, attacks, header, seed, batch_size, where, folder, fabric, watch)


def _run(job: _Job, records: Records) -> Iterator[flags.Flag]:
    """Fill the records with this process's images, then with everyone's."""
    if job.partial is not None:
        records.load(job.partial, job.identity)
    if job.model.training:
        yield flags.Flag("train_mode", "The model was in train mode; it was evaluated in eval mode and put back.")
    with attacking(job.model), exact_float32():
        sample = torch.linspace(0, len(job.data) - 1, min(_LOOK, len(job.data))).long()
        x, y = job.data.fetch(sample).to(job.device), job.data.y[sample].to(job.device)
        _refuse_wrong_images(job, x)
        yield from flags.look(job.model, x, y, job.data.classes)
        if job.partial is not None:
            records.save(job.partial, job.identity)  # a folder that cannot be written is noticed now, not hours later
        mine = torch.arange(job.rank, len(job.data), job.ranks)
        todo = mine[records.done[mine] == 0]
        for positions, x, y in batches(job.data, job.batch_size, job.device, positions=todo):
            _attack_batch(job, records, positions, x, y, mine)
            records.save_if_due(job.partial, job.identity)
    if job.fabric is not None and job.ranks > 1:
        records.add_up(partial(total, job.fabric))


def _refuse_wrong_images(job: _Job, x: Tensor) -> None:
    """Pass images through the model once, where whatever it raises is about its input."""
    try:
        with torch.no_grad():
            job.model(x)
    except Exception as error:
        size = "x".join(str(side) for side in job.data.shape)
        reason = str(error).partition("\n")[0]
        raise InputError(f"The model cannot take float32 images of {size}: {reason}") from error


def _attack_batch(job: _Job, records: Records, positions: Tensor, x: Tensor, y: Tensor, mine: Tensor) -> None:
    """Settle the verdicts on one batch: clean, then under each attack where the clean prediction is right."""
    logits = forward(job.model, x)
    clean = predict(logits, y)
    records.clean[positions] = clean.cpu()
    records.prediction[:, positions] = clean.cpu()
    records.margin[:, positions] = margin(logits, y).cpu()
    top = logits.topk(2, dim=1).values
    records.gap[positions] = (top[:, 0] - top[:, 1]).cpu()
    records.std[positions] = logits.std(1, correction=0).cpu()
    records.done[positions] = 1
    finished = mine[records.done[mine] == 1]
    job.watch(_snapshot(job, "clean", records.clean, finished, len(mine)))
    right = (clean == y).nonzero().squeeze(1)
    noise = Noise(job.seed, job.data.index[positions].to(x.device)[right])
    for a, (name, attack) in enumerate(job.attacks.items()):
        start = time.perf_counter()
        if len(right):
            x_adv = attack(job.model, x[right], y[right], noise=noise.fold(name))
            _verdict(job, records, a, positions[right.cpu()], x[right], y[right], x_adv)
        records.seconds[a] += time.perf_counter() - start
        job.watch(_snapshot(job, name, records.prediction[a], finished, len(mine)))


def _verdict(job: _Job, records: Records, a: int, positions: Tensor, x: Tensor, y: Tensor, x_adv: Tensor) -> None:
    """Run the candidates again and count those that keep the rules; the clean verdict stands for the others."""
    valid = job.threat.contains(x_adv, x)
    logits = forward(job.model, x_adv)
    predicted = predict(logits, y)
    where = positions[valid.cpu()]
    records.rejected[a] += int((~valid & (predicted != y)).sum())
    records.prediction[a, where] = predicted[valid].cpu()
    records.margin[a + 1, where] = margin(logits, y)[valid].cpu()
    records.distance[a, where] = job.threat.distance(x_adv, x)[valid].cpu()


def total(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the sum of a tensor over processes; the tensor itself stays as it is."""
    # Fabric reduces in place, and averages unless told otherwise.
    reduced: Any = fabric.all_reduce(value.to(fabric.device, copy=True), reduce_op="sum")
    return torch.as_tensor(reduced, device=value.device)


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits (N, K) in float32, without a graph."""
    with torch.no_grad():
        logits: Tensor = model(x)
    return logits.float()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Switch TensorFloat-32 off, whose ten bits of mantissa are too few for a verdict, and back to what it was."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def environment() -> dict[str, Any]:
    """Describe the machine and the versions that a number was made with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_verdicts": False,
    }


def _finished(job: _Job) -> Result | None:
    """Return the result that the folder holds already, if it is the one asked for.

    Raises:
        InputError: the folder holds the result of something else, or a training run.
    """
    if job.folder is None or not job.folder.exists():
        return None
    if not job.folder.is_dir():
        raise InputError(f"{job.folder} is a file; give --out a folder.")
    if (job.folder / "run.json").exists():
        raise InputError(f"{job.folder} holds a training run; choose another --out for its evaluation.")
    if not (job.folder / "result.json").exists():
        return None
    result = Result.read(job.folder)
    if result.header.get("identity") != job.identity:
        raise InputError(f"{job.folder} holds the result of other settings; choose another --out, or delete it.")
    return result


def _write(job: _Job, result: Result) -> None:
    if job.folder is not None and job.rank == 0:
        result.write(job.folder)
        for partial in job.folder.glob("partial-*.npz"):
            partial.unlink()
    if job.fabric is not None:
        job.fabric.barrier()


def _snapshot(job: _Job, view: str, predicted: Tensor, finished: Tensor, total: int) -> Snapshot:
    y, size = job.data.y[finished], len(job.data.classes)
    right = predicted[finished] == y
    return Snapshot(
        view, len(finished), total, torch.bincount(y[right], minlength=size), torch.bincount(y, minlength=size)
    )


def _about(model: nn.Module, name: str | None) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"name": name or type(model).__name__, "sha256": weights_sha256(model), "parameters": parameters}


def _logit_scale(records: Records) -> dict[str, float]:
    return {"median_top_two_gap": float(records.gap.median()), "median_std": float(records.std.median())}


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
