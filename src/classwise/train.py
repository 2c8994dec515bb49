"""The training loop: one epoch after another, each a pure function of what the checkpoint before it holds.

The order of the images, their augmentation and every attack's noise are functions of (seed, image, epoch), and the
learning rate is a function of the epoch, so a run that is stopped and resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import classwise
from classwise import files
from classwise.attacks.base import attacking, predict
from classwise.attacks.pgd import PGD
from classwise.data.augment import Augment, augmentation
from classwise.data.images import Images
from classwise.data.splits import stratified_split
from classwise.engine import exact_float32, forward, total
from classwise.errors import InputError
from classwise.evaluation import environment
from classwise.losses import cross_entropy
from classwise.methods.base import Epoch, Method, Pass, Step
from classwise.metrics import summaries
from classwise.metrics.stats import ClassStats
from classwise.models.checkpoint import save_weights
from classwise.noise import Noise
from classwise.recipes import Recipe
from classwise.threat import ThreatModel

CHECKPOINT_VERSION = 1
_MANY_CLASSES = 20  # above this, selection uses the mean of the worst tenth instead of the worst class


@dataclass(frozen=True)
class Run:
    """What identifies a training run: resuming it with anything else is refused.

    Attributes:
        model: loader text of the network, such as "preact_resnet18".
        method: name of the training method, settings included.
        recipe: how it is trained.
        threat: what the training attack and the selection attack may do.
        seed: of order, augmentation, attacks and dropout.

    Raises:
        InputError: no such augmentation, or a training attack that cannot be.
    """

    model: str
    method: str
    recipe: Recipe
    threat: ThreatModel
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.augment, self.attack  # refused here, before anything is written

    @property
    def augment(self) -> Augment:
        """What is done to the images of a batch before they are trained on."""
        return augmentation(self.recipe.augment)

    @property
    def attack(self) -> PGD:
        """The attack that the method is built with; a method may change its loss and its start."""
        recipe, step_size = self.recipe, self.recipe.step_size
        length = self.threat.eps / 4 if step_size is None else step_size
        return PGD(self.threat, steps=recipe.steps, step_size=length, mode=recipe.attack_mode)


@dataclass(frozen=True)
class Snapshot:
    """What is known in the middle of an epoch: the sums so far of this process, and the last finished epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    train: Pass
    last: Mapping[str, Any] | None


class TrainStep(nn.Module):
    """Model and method as one module, because that is what Fabric must wrap.

    A training attack differentiates the model in its input. Doing so through Fabric's wrapper of the model raises in
    mixed precision; inside a wrapped module that contains it, the bare model is at hand.
    """

    def __init__(self, model: nn.Module, method: Method, seed: int) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.seed = seed

    def forward(self, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Step:
        """Return the method's step on a batch; images (N, C, H, W), labels and positions (N,)."""
        step: Step = self.method(self.model, x, y, Noise(self.seed, index).fold("attack", epoch))
        return step


def fit(
    fabric: Fabric,
    model: nn.Module,
    method: Method,
    train: Images,
    run: Run,
    directory: Path | str,
    watch: Callable[[Snapshot], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network, or go on where an interrupted run with the same settings stopped.

    The folder holds ``run.json`` (settings), ``log.jsonl`` (a line an epoch), ``checkpoint.pt``, and the weights
    ``best.safetensors`` and ``last.safetensors``. The best epoch is the one with the highest sum of average and
    worst robust accuracy on held-out training images, among the second half of the epochs; with more than 20
    classes the mean of the worst tenth takes the place of the worst.

    Args:
        fabric: launched; says on what and with how many processes.
        model: takes [0, 1], returns logits; trained in place.
        method: the loss of a batch and its class state.
        train: training images; a stratified share of them is held out.
        run: settings, for the record and for resumption.
        directory: the run's folder.
        watch: called after every step with what is known so far.

    Returns:
        The log, one record an epoch.

    Raises:
        InputError: the folder holds something else, the batch does not divide over the processes, or training
            diverged.
    """
    folder = Path(directory)
    positions, held_out = _split(train, run)
    record = _describe(run, method.attack, train, held_out, fabric)
    _refuse_other_uses(folder, record)
    step = TrainStep(model, method, run.seed)
    state = _State(step, _optimizer(step, run.recipe))
    wrapped, optimizer = fabric.setup(step, state.optimizer)
    # Only now are the weights where they will be trained, and the optimiser's state goes where they are.
    state.restore(folder / "checkpoint.pt", record)
    if fabric.is_global_zero:
        files.write_json(folder / "run.json", record)
    images = train.subset(positions).to(fabric.device)
    valid = train.subset(held_out).to(fabric.device) if len(held_out) else None
    for epoch in range(state.epoch, run.recipe.epochs):
        start = time.perf_counter()
        sums = _train_epoch(fabric, wrapped, optimizer, images, run, epoch, state.last, watch)
        held = None if valid is None else _validate(fabric, step.model, valid, run)
        method.end_epoch(Epoch(epoch, sums, held))
        _finish(state, folder, fabric, record, _log_line(epoch, run, sums, held, time.perf_counter() - start))
    if fabric.is_global_zero:
        save_weights(step.model, folder / "last.safetensors")
    fabric.barrier()
    return state.log


@dataclass
class _State:
    """Everything that changes from epoch to epoch."""

    step: TrainStep
    optimizer: torch.optim.Optimizer
    log: list[dict[str, Any]] = field(default_factory=list)
    best: float = float("-inf")

    @property
    def epoch(self) -> int:
        return len(self.log)

    @property
    def last(self) -> dict[str, Any] | None:
        return self.log[-1] if self.log else None

    def content(self, record: Mapping[str, Any]) -> bytes:
        content = io.BytesIO()
        torch.save(
            {
                "version": CHECKPOINT_VERSION,
                "settings": json.dumps(record, sort_keys=True),
                "model": self.step.model.state_dict(),
                "method": self.step.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "log": json.dumps(self.log),
                "best": self.best,
            },
            content,
        )
        return content.getvalue()

    def restore(self, path: Path, record: Mapping[str, Any]) -> None:
        """Take up the checkpoint at ``path``, if there is one."""
        if not path.exists():
            return
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            settings = dict(json.loads(stored["settings"]))
        except Exception as error:
            raise InputError(f"{path} is damaged; delete it to train from the start.") from error
        _same_settings(path, settings, record)
        self.step.model.load_state_dict(stored["model"])
        self.step.method.load_state_dict(stored["method"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.log, self.best = json.loads(stored["log"]), stored["best"]


def _train_epoch(
    fabric: Fabric,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    run: Run,
    epoch: int,
    last: Mapping[str, Any] | None,
    watch: Callable[[Snapshot], None] | None,
) -> Pass:
    recipe = run.recipe
    size = min(recipe.batch_size, len(images))
    steps = len(images) // size
    sums = Pass(*(ClassStats.zeros(len(images.classes), fabric.device) for _ in range(2)))
    wrapped.train()
    with _seeded_dropout(fabric, run.seed, epoch):
        for number, batch in enumerate(_order(images, run.seed, epoch)[: steps * size].view(steps, size)):
            mine = batch[fabric.global_rank :: fabric.world_size]
            index, y = images.index[mine], images.y[mine]
            x = run.augment(images.fetch(mine), Noise(run.seed, index).fold("augment", epoch))
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(epoch + number / steps)
            step: Step = wrapped(x, y, index, epoch)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(step.loss)
            gradients = [weight.grad for weight in wrapped.parameters() if weight.grad is not None]
            if not _finite(fabric, [step.loss.detach(), *gradients]):
                raise _diverged(epoch, number, _broken(step, y, images.classes))
            optimizer.step()
            _count(sums, step, y)
            if watch is not None:
                watch(Snapshot(epoch, recipe.epochs, number + 1, steps, sums, last))
    # A last step too long would otherwise be noticed only once it has replaced the last good checkpoint.
    # A method's buffers are left out: there NaN stands for a class that was never seen.
    weights = {name: value for name, value in wrapped.state_dict().items() if name.startswith("model.")}
    if not _finite(fabric, [value for value in weights.values() if value.is_floating_point()]):
        raise _diverged(epoch, steps - 1)
    return Pass(*(_over_ranks(fabric, stats) for stats in sums))


def _validate(fabric: Fabric, model: nn.Module, valid: Images, run: Run) -> Pass:
    """Measure clean and PGD-10 accuracy on the held-out images, in float32 and eval mode."""
    attack = PGD(run.threat, steps=10, step_size=run.threat.eps / 4, keep="success")
    sums = Pass(*(ClassStats.zeros(len(valid.classes), fabric.device) for _ in range(2)))
    mine = torch.arange(fabric.global_rank, len(valid), fabric.world_size, device=fabric.device)
    with attacking(model), exact_float32():
        for batch in torch.split(mine, run.recipe.batch_size):
            x, y = valid.fetch(batch), valid.y[batch]
            logits = forward(model, x)
            right = predict(logits, y) == y
            # An image that is wrong already is its own adversarial image: robust never exceeds clean.
            noise, x_adv = Noise(run.seed, valid.index[batch]).fold("validate").select(right), x.clone()
            x_adv[right] = attack(model, x[right], y[right], noise=noise)
            for stats, seen in zip(sums, (logits, forward(model, x_adv)), strict=True):
                stats.update(seen, y, cross_entropy(seen, y))
    return Pass(*(_over_ranks(fabric, stats) for stats in sums))


def _finish(state: _State, folder: Path, fabric: Fabric, record: Mapping[str, Any], line: dict[str, Any]) -> None:
    """Log the epoch, keep its weights if they are the best so far, and save the checkpoint last of all."""
    state.log.append(line)
    fabric.log_dict({f"{k}/{m}": v for k in ("train", "valid") for m, v in _scalars(line.get(k))}, step=line["epoch"])
    score, epochs = line.get("score"), record["recipe"]["epochs"]
    is_best = score is not None and 2 * line["epoch"] > epochs and score > state.best
    if is_best:
        state.best = float(line["score"])
    # Without held-out images nothing can be chosen, and the last epoch stands for the best.
    if fabric.is_global_zero:
        if is_best or (score is None and line["epoch"] == epochs):
            save_weights(state.step.model, folder / "best.safetensors")
        files.write_text(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in state.log))
        files.write_bytes(folder / "checkpoint.pt", state.content(record))
    fabric.barrier()


def _log_line(epoch: int, run: Run, train: Pass, valid: Pass | None, seconds: float) -> dict[str, Any]:
    line: dict[str, Any] = {
        "epoch": epoch + 1,
        "lr": run.recipe.rate(epoch),
        "train": _measured(train),
        "valid": None if valid is None else _measured(valid),
        "seconds": seconds,
        "images_per_second": max(float(stats.n.sum()) for stats in train) / seconds,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }
    if valid is not None:
        robust = valid.robust.accuracy.cpu().numpy()
        tail = summaries.worst(robust) if len(robust) <= _MANY_CLASSES else summaries.worst_q(robust, 0.1)
        line["score"] = float(valid.robust.average) + float(tail)
    return line


def _measured(sums: Pass) -> dict[str, Any]:
    """Turn sums into a log entry; what was not measured is left out, and what is undefined is None."""
    return {
        name: {
            "n": stats.n.long().tolist(),
            "correct": stats.correct.long().tolist(),
            "accuracy": float(stats.average),
            "worst": float(stats.worst),
            "loss": _json(float(stats.loss.sum() / stats.n.sum())),
            "loss_by_class": [_json(value) for value in stats.mean_loss.tolist()],
            "confusion": stats.confusion.long().tolist(),
        }
        for name, stats in sums._asdict().items()
        if stats.n.sum() > 0
    }


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _scalars(measured: Mapping[str, Any] | None) -> Iterator[tuple[str, float]]:
    for name, entry in (measured or {}).items():
        for metric in ("accuracy", "worst", "loss"):
            if entry[metric] is not None:
                yield f"{name}/{metric}", entry[metric]


def _count(sums: Pass, step: Step, y: Tensor) -> None:
    for stats, logits in ((sums.clean, step.logits), (sums.robust, step.logits_adv)):
        if logits is not None:
            detached = logits.detach().float()
            stats.update(detached, y, cross_entropy(detached, y))


def _over_ranks(fabric: Fabric, stats: ClassStats) -> ClassStats:
    return ClassStats(*(total(fabric, value) for value in stats.tensors()))


def _order(images: Images, seed: int, epoch: int) -> Tensor:
    """Return the positions in the order of this epoch, (N,); every process finds the same."""
    draw = Noise(seed, images.index).fold("order", epoch).integers(1 << 62, ())
    return draw.argsort(stable=True)


@contextmanager
def _seeded_dropout(fabric: Fabric, seed: int, epoch: int) -> Iterator[None]:
    """Seed the generators that dropout layers draw from for one epoch, and put them back afterwards."""
    noise = Noise(seed, torch.tensor([fabric.global_rank])).fold("dropout", epoch)
    drawn = int(noise.integers(1 << 62, ()))
    # Named, since the default forks the generators of every GPU of the machine in every process.
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(drawn)
        if devices:
            torch.cuda.manual_seed(drawn)
        yield


def _finite(fabric: Fabric, values: list[Tensor]) -> bool:
    """Tell whether the values of every process are finite, alike in each, so that all stop or none."""
    largest = torch.nn.utils.get_total_norm(values, norm_type=math.inf)
    return bool(total(fabric, largest).isfinite())


def _broken(step: Step, y: Tensor, classes: tuple[str, ...]) -> str:
    """Name the classes of the images whose logits are not finite, if there are any."""
    logits = step.logits if step.logits_adv is None else step.logits_adv
    bad = [] if logits is None else sorted(set(y[~logits.isfinite().all(1)].tolist()))
    return f" on images of {', '.join(classes[c] for c in bad[:3])}" if bad else ""


def _diverged(epoch: int, batch: int, where: str = "") -> InputError:
    kept = f"the checkpoint of epoch {epoch} is kept, and " if epoch else ""
    return InputError(
        f"Training diverged in epoch {epoch + 1}, batch {batch + 1}{where}: loss, gradient or weights are no longer "
        f"finite; {kept}a lower learning rate in another --out may help."
    )


def _optimizer(step: TrainStep, recipe: Recipe) -> torch.optim.SGD:
    decay = recipe.weight_decay
    return torch.optim.SGD(step.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=decay)


def _split(train: Images, run: Run) -> tuple[Tensor, Tensor]:
    """Return the positions that are trained on and those held out, each sorted."""
    if run.recipe.holdout == 0:
        return torch.arange(len(train)), torch.arange(0)
    return stratified_split(train.y, share=run.recipe.holdout, seed=run.seed)


def _describe(run: Run, attack: PGD, train: Images, held_out: Tensor, fabric: Fabric) -> dict[str, Any]:
    """Return what run.json holds; everything but the environment must agree for a run to be resumed."""
    size = min(run.recipe.batch_size, len(train) - len(held_out))
    if size % fabric.world_size:
        raise InputError(f"A batch of {size} does not divide over {fabric.world_size} processes; change one.")
    return {
        "checkpoint_version": CHECKPOINT_VERSION,
        "classwise": classwise.__version__,
        # Causes before their effects: the first difference is the one that is named when a run is refused.
        "seed": run.seed,
        "data": {
            "name": train.name,
            "split": train.split,
            "n": len(train),
            "sha256": train.sha256(),
            "note": train.note,
        },
        "classes": list(train.classes),
        "shape": list(train.shape),
        "recipe": asdict(run.recipe),
        "threat": asdict(run.threat),
        "attack": repr(attack),
        "method": run.method,
        "model": run.model,
        "held_out": train.index[held_out].tolist(),
        "processes": fabric.world_size,
        "precision": fabric.strategy.precision.precision,
        "environment": environment(),
    }


def _refuse_other_uses(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a folder that holds an evaluation, or a run with other settings."""
    if (folder / "result.json").exists() or any(folder.glob("partial-*.npz")):
        raise InputError(f"{folder} holds an evaluation; choose another --out for the training run.")
    path = folder / "run.json"
    if path.exists():
        try:
            stored = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged; choose another --out.") from error
        _same_settings(path, stored, record)


def _same_settings(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to mix runs, naming the first setting that differs."""
    wanted = json.loads(json.dumps(wanted))
    for name in wanted:
        if name != "environment" and stored.get(name) != wanted[name]:
            old, new = _difference(name, stored.get(name), wanted[name])
            raise InputError(
                f"{path.parent} holds a run with {old}, and now {new} is asked for; choose another --out, or the same "
                "settings to resume it."
            )


def _difference(name: str, old: Any, new: Any) -> tuple[str, str]:
    if isinstance(old, dict) and isinstance(new, dict):
        key = next((k for k in new if old.get(k) != new[k]), None)
        if key is not None:
            return _difference(f"{name}.{key}", old.get(key), new[key])
    return f"{name} = {_short(old)}", f"{name} = {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
