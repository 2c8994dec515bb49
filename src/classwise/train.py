"""The training loop: one epoch after another, each a pure function of what the checkpoint before it holds.

The order of the images, their augmentation and every attack's noise are functions of (seed, image, epoch), and the
learning rate is a function of the epoch, so a run that is stopped and resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from classwise import files, selection, wrappers
from classwise.attacks.pgd import PGD
from classwise.classifier import as_classifier
from classwise.data.images import Images
from classwise.data.splits import draw_by_class, stratified_split
from classwise.divergence import Watch
from classwise.engine import alone, total
from classwise.epoch_log import class_state, held_out_entry, log_line, scalars, tail_accuracy
from classwise.errors import InputError
from classwise.judging import judging
from classwise.losses import cross_entropy
from classwise.memory import freed_memory_kept
from classwise.methods.base import (
    Epoch,
    Measured,
    Method,
    Pass,
    Step,
    refuse_hidden_attacks,
    under_attack,
    weakened,
)
from classwise.metrics.stats import ClassStats
from classwise.metrics.training import LOG_FILE, RUN_FILE, SUMMARY_FILE
from classwise.models.checkpoint import save_weights
from classwise.models.fingerprint import fingerprint, refuse_changed
from classwise.models.foreign import foreign_code
from classwise.models.load import named_like
from classwise.models.pickled import read_tensors
from classwise.models.rewriting import Difference, Forwards, checked, faster, rewritten, unobserved
from classwise.models.teacher import Teacher
from classwise.noise import Noise
from classwise.preflight import check_passes
from classwise.recipes import Recipe
from classwise.runs import (
    CHECKPOINT_VERSION,
    Run,
    describe,
    refuse_other_method,
    refuse_other_settings,
    refuse_other_uses,
)
from classwise.texts import portable_record
from classwise.wrappers import AWP, Averaged, Moment

_SAME = 1e-3  # of the largest logit: beyond rounding, and below what another function does
_COMPARED = 16  # images of a batch that faster passes are compared on


@dataclass(frozen=True)
class Snapshot:
    """What is known in the middle of an epoch: the sums so far of this process, and the last finished epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    train: Pass
    last: Mapping[str, Any] | None


@dataclass
class _Compared:
    """What comparisons of faster passes with the network have come to in an epoch, after so many steps of it."""

    epoch: int = -1
    forwards: Forwards = field(default_factory=dict)
    difference: Difference | None = None
    steps: int = 0


class TrainStep(nn.Module):
    """Model and method as one module, because that is what Fabric must wrap.

    A training attack differentiates the model in its input. Doing so through Fabric's wrapper of the model raises in
    mixed precision; inside a wrapped module that contains it, the bare model is at hand.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        seed: int,
        perturbation: AWP | None = None,
        mean: Callable[[Tensor], Tensor] = torch.clone,
    ) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.seed = seed
        self.perturbation = perturbation
        self.mean = mean
        self._faster = faster(model)
        self._compared = _Compared()

    def forward(self, x: Tensor, y: Tensor, index: Tensor, epoch: int, reach: float) -> Step:
        """Return the method's step on a batch.

        Args:
            x: images (N, C, H, W).
            y: labels (N,).
            index: positions of the images in the data set (N,).
            epoch: epochs finished before this one.
            reach: share of radius and step that attacks have, 0 … 1.
        """
        noise = Noise(self.seed, index).fold("attack", epoch)
        with weakened(self.method, reach), rewritten(self._rewriting(x, noise, epoch)):
            model = as_classifier(self.model)
            if self.perturbation is not None and epoch >= self.perturbation.start:
                return self.perturbation.step(self.method, model, x, y, noise, self.mean)
            step: Step = self.method(model, x, y, noise)
        return step

    @property
    def note(self) -> str | None:
        """What the log says of an epoch in which layers were not rewritten, since it would have made a difference."""
        difference = self._compared.difference
        if difference is None or not difference.beyond_rounding:
            return None
        return f"Computed faster, the network is another function ({difference}); attacks used it as it is."

    def _rewriting(self, x: Tensor, noise: Noise, epoch: int) -> Forwards:
        """Return the faster passes while they are those of the network, as far as comparisons in this epoch say.

        They are compared in its steps 1, 2, 4, 8 and so on, since statistics that have not moved yet may hide a
        difference. Each epoch begins anew, so that a run that is resumed takes the steps of one that was not.
        """
        if epoch != self._compared.epoch:
            self._compared = _Compared(epoch, self._faster)
        state = self._compared
        state.steps += 1
        if state.forwards and state.steps & (state.steps - 1) == 0:
            some, threat = x[:_COMPARED], self.method.attack.threat
            direction = noise.select(torch.arange(len(some))).fold("compared").normal(x.shape[1:], x.device)
            border = threat.project(some + threat.eps * threat.ascend(direction, some), some)
            with judging(self.model, x.device) as called:
                state.forwards, state.difference = checked(called, state.forwards, (some, border))
        return unobserved(self.model, state.forwards)


@freed_memory_kept()
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

    The folder holds ``run.json`` (settings), ``log.jsonl`` (a line an epoch), ``checkpoint.pt``, the weights
    ``best.safetensors`` and ``last.safetensors``, for each average of weights NAME also ``NAME-best.safetensors`` and
    ``NAME-last.safetensors``, for distillation ``teacher.json`` (what the teacher achieves on the held-out images), and
    at the end ``summary.json``. How the best epoch is chosen is said in
    :mod:`classwise.selection`; its score is average plus worst robust accuracy on held-out training images, with more
    than 20 classes average plus mean of the worst tenth. Until an epoch can be judged its weights are in
    ``candidates``.

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
        InputError: the run does not describe the model or the method, the folder holds something else, a class lacks
            images, the batch does not divide over the processes, the method lacks a trained start or held-out images,
            or training diverged.
    """
    folder = Path(directory)
    positions, held_out = _split(train, run)
    _refuse_gaps(train, positions, held_out)
    _refuse_lacks(method, run, held_out)
    refuse_other_method(run, method, train)
    taken = check_passes(model, train.fetch(positions[:2]).to(_device(model)))
    _refuse_other_network(run, model, train, train.fetch(positions[:2]).to(_device(model)))
    # Convolutions with channels last: 1.5 times as many images a second for small_resnet on one CPU core.
    model.to(memory_format=torch.channels_last)
    precision = fabric.strategy.precision.precision
    record = describe(run, method, train, held_out, model, fabric.world_size, precision)
    if taken:  # only then, so that the record of any other run stays what it was
        record["logits_taken"] = taken
    job = _Job(fabric, model, method, train.subset(positions), train.subset(held_out), run, watch)
    with alone(folder, fabric):
        return _trained(job, folder, record)


def _trained(job: _Job, folder: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Go on from what the folder holds to the last epoch, and return the log."""
    refuse_other_uses(folder, record)
    fabric, run, state = job.fabric, job.run, job.state
    model, method = state.step.model, state.step.method
    # Only now are the weights where they will be trained, and the optimiser's state goes where they are.
    state.restore(folder / "checkpoint.pt", record)
    if fabric.is_global_zero:
        files.write_json(folder / RUN_FILE, record)
    for logger in fabric.loggers:
        logger.log_hyperparams(portable_record(asdict(run), folder))
    if method.teacher is not None and state.epoch == 0:
        _measure_teacher(job, method.teacher, folder)
    if state.epoch == 0 and method.measures:
        method.start_from(job.measure())
    for epoch in range(state.epoch, run.recipe.epochs):
        start = time.perf_counter()
        sums = job.train(epoch, state.last)
        held = job.validate(model)
        job.average(epoch, held)
        averages = {name: job.validate(each.model) for name, each in state.averages.items() if each.exists}
        method.end_epoch(Epoch(epoch, sums, held, job.measure() if method.measures else None))
        seconds = time.perf_counter() - start
        line = log_line(epoch, run, sums, held, averages, seconds, fabric.device)
        line |= {"note": state.step.note} if state.step.note else {}
        _finish(state, folder, fabric, record, {**line, "class_state": class_state(method)})
    if fabric.is_global_zero:
        _conclude(state, folder, run.recipe.epochs)
    fabric.barrier()
    return state.log


@dataclass
class _State:
    """Everything that changes from epoch to epoch."""

    step: TrainStep
    optimizer: torch.optim.Optimizer
    averages: dict[str, Averaged]
    x: Tensor
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        return len(self.log)

    @property
    def last(self) -> dict[str, Any] | None:
        return self.log[-1] if self.log else None

    @property
    def models(self) -> dict[str, nn.Module]:
        """Models that exist by now, by name: "plain" and averages."""
        return {"plain": self.step.model, **{name: each.model for name, each in self.averages.items() if each.exists}}

    @property
    def function(self) -> dict[str, Any]:
        """What the network computes with the weights that it has now, and its teacher, on a few training images."""
        with judging(self.step.model, self.x.device) as called:
            found = fingerprint(called, self.x)
        return {"the network": found and found.record, **self.taught}

    @cached_property
    def taught(self) -> dict[str, Any]:
        """What the teacher computes, which stays the same from epoch to epoch; empty without one."""
        teacher = self.step.method.teacher
        found = None if teacher is None else fingerprint(teacher, self.x)
        return {} if found is None else {"the teacher": found.record}

    def content(self, record: Mapping[str, Any]) -> bytes:
        content = io.BytesIO()
        torch.save(
            {
                "version": CHECKPOINT_VERSION,
                "settings": json.dumps(record, sort_keys=True),
                "model": self.step.model.state_dict(),
                "method": self.step.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "averages": {name: each.state_dict() for name, each in self.averages.items()},
                "log": json.dumps(self.log),
                "function": json.dumps(self.function),
            },
            content,
        )
        return content.getvalue()

    def restore(self, path: Path, record: Mapping[str, Any]) -> None:
        """Take up the checkpoint at ``path``, if there is one."""
        if not path.exists():
            return
        try:
            stored = read_tensors(path)
            settings = dict(json.loads(stored["settings"]))
        except Exception as error:
            raise InputError(f"{path} is damaged; delete it to train from the start.") from error
        refuse_other_settings(path, settings, record)
        sound = partial(foreign_code, f"{path} is damaged", "delete it to train from the start")
        with sound():
            self.step.model.load_state_dict(stored["model"])
        refuse_changed(json.loads(stored.get("function", "{}")), self.function, f"{path.parent} holds a run")
        with sound():
            self.step.method.load_state_dict(stored["method"])
            self.optimizer.load_state_dict(stored["optimizer"])
            _refuse_other_shapes(self.optimizer)
            for name, each in self.averages.items():
                each.load_state_dict(stored["averages"][name])
            self.log = json.loads(stored["log"])


def _refuse_other_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Refuse momentum and the like that do not fit their weights, which only a step would notice.

    Raises:
        ValueError: some are of another shape, or no numbers.
    """
    for weights, state in optimizer.state.items():
        for name, value in state.items():
            fits = value.shape in ((), weights.shape) if isinstance(value, Tensor) else not isinstance(value, str)
            if not fits:
                raise ValueError(f"{name} does not fit weights of the shape {tuple(weights.shape)}")


class _Job:
    """What stays the same from epoch to epoch: data, settings, and where the modules that change are."""

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        method: Method,
        images: Images,
        valid: Images,
        run: Run,
        watch: Callable[[Snapshot], None] | None,
    ) -> None:
        self.fabric, self.run, self.watch = fabric, run, watch
        self.images = images.to(fabric.device)
        self.valid = valid.to(fabric.device) if len(valid) else None
        step = TrainStep(model, method, run.seed, run.wrapped.perturbation, partial(_mean, fabric))
        optimizer = _optimizer(step, run.recipe)
        self.wrapped, self.optimizer = fabric.setup(step, optimizer)
        averages = {name: Averaged.of(rule, model) for name, rule in run.wrapped.averages.items()}
        few = self.images.fetch(torch.arange(min(_COMPARED, len(self.images)))).to(fabric.device)
        self.state = _State(step, optimizer, averages, few)

    @cached_property
    def size(self) -> int:
        """Images in a batch, over all processes."""
        return min(self.run.recipe.batch_size, len(self.images))

    @cached_property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.images) // self.size

    def train(self, epoch: int, last: Mapping[str, Any] | None) -> Pass:
        """Train for an epoch, and return the sums over all processes."""
        fabric, classes = self.fabric, self.images.classes
        sums = Pass(*(ClassStats.zeros(len(classes), fabric.device) for _ in range(2)))
        finite = Watch(epoch, classes, partial(total, fabric), fabric.device)
        self.wrapped.train()
        with _seeded_dropout(fabric, self.run.seed, epoch):
            for number, (batch, index) in enumerate(self._batches(epoch)):
                self._step(epoch, number, batch, index, sums, finite)
                if self.watch is not None:
                    self.watch(Snapshot(epoch, self.run.recipe.epochs, number + 1, self.steps, sums, last))
        # A last step too long would otherwise be noticed only once it has replaced the last good checkpoint.
        # A method's buffers are left out: there NaN stands for a class that was never seen.
        model = self.state.step.model
        weights = [value for value in model.state_dict().values() if value.is_floating_point()]
        finite.note(self.steps - 1, weights, None, self.images.y)
        finite.look()
        _agree(fabric, model)
        return Pass(*(_over_ranks(fabric, stats) for stats in sums))

    def _step(self, epoch: int, number: int, batch: Tensor, index: Tensor, sums: Pass, finite: Watch) -> None:
        """Take one step of the optimiser, and let the averages follow."""
        y, optimizer = self.images.y[batch], self.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self.run.recipe.rate(epoch + number / self.steps)
        # That of the step's end: no step attacks with a radius of 0.
        reach = self.run.recipe.reach(epoch + (number + 1) / self.steps)
        step: Step = self.wrapped(self._augmented(batch, index, epoch), y, index, epoch, reach)
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(step.loss)
        gradients = [weight.grad for weight in self.wrapped.parameters() if weight.grad is not None]
        logits = step.logits if step.logits_adv is None else step.logits_adv
        finite.note(number, [step.loss.detach(), *gradients], logits, y)
        optimizer.step()
        _count(sums, step, y)
        moment = Moment(epoch, number + 1, self.steps, self.run.recipe.epochs)
        for average in self.state.averages.values():
            average.follow(self.state.step.model, moment, "step")

    def average(self, epoch: int, held: Pass | None) -> None:
        """Let the averages follow that do so after an epoch, whose held-out sums some of them ask for."""
        model, log = self.state.step.model, self.state.log
        # A run that holds nothing out has no tail in any epoch.
        tails = () if held is None else (*(line["tail"] for line in log), tail_accuracy(held))
        moment = Moment(epoch, self.steps, self.steps, self.run.recipe.epochs, tails)
        for average in self.state.averages.values():
            average.follow(model, moment, "epoch")
            if average.exists and average.rule.statistics == "estimated":
                mine = (batch[self._mine] for batch in self._shuffled(epoch))
                batches = (self._augmented(batch, self.images.index[batch], epoch) for batch in mine)
                wrappers.estimate_statistics(average.model, batches, partial(total, self.fabric))

    @property
    def _mine(self) -> slice:
        """This process's part of a batch."""
        return slice(self.fabric.global_rank, None, self.fabric.world_size)

    def _shuffled(self, epoch: int) -> Tensor:
        """Return the positions of every batch of an epoch in which each image is seen at most once, (steps, size)."""
        return _order(self.images, self.run.seed, epoch)[: self.steps * self.size].view(self.steps, self.size)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's part of every batch: positions, and the number that each image's noise depends on.

        That is the image's own, or, where a method draws with replacement, the draw's: an image that is drawn twice
        is augmented and attacked anew. Probabilities are asked for before every batch, as they may change with each.
        """
        images, method = self.images, self.state.step.method
        for number, batch in enumerate(self._shuffled(epoch)):
            probs = method.class_probs()
            if probs is None:
                yield batch[self._mine], images.index[batch[self._mine]]
            else:
                draws = torch.arange(self.size, device=batch.device) + number * self.size
                noise = Noise(self.run.seed, draws).fold("draw", epoch)
                yield draw_by_class(images.y, probs, noise)[self._mine], draws[self._mine]

    def _augmented(self, batch: Tensor, index: Tensor, epoch: int) -> Tensor:
        noise = Noise(self.run.seed, index).fold("augment", epoch)
        return self.run.augment(self.images.fetch(batch), noise)

    def validate(self, model: nn.Module) -> Pass | None:
        """Measure a model on the held-out images under PGD-10, if there are any."""
        attack = PGD(self.run.threat, steps=10, step_size=self.run.threat.eps / 4, keep="success")
        return None if self.valid is None else self._over_held_out(partial(under_attack, attack), model, "validate")

    def measure(self) -> Pass:
        """Measure the trained model on the held-out images as its method wants it."""
        return self._over_held_out(self.state.step.method.measure, self.state.step.model, "measure")

    def _over_held_out(self, measure: Callable[..., Measured], model: nn.Module, purpose: str) -> Pass:
        """Sum over the held-out images, in float32 and eval mode."""
        fabric, valid = self.fabric, self.valid
        assert valid is not None, "refused before training"
        sums = Pass(*(ClassStats.zeros(len(valid.classes), fabric.device) for _ in range(2)))
        mine = torch.arange(fabric.global_rank, len(valid), fabric.world_size, device=fabric.device)
        with judging(model, fabric.device) as called:
            for batch in torch.split(mine, self.run.recipe.batch_size):
                x, y = valid.fetch(batch), valid.y[batch]
                found = measure(called, x, y, Noise(self.run.seed, valid.index[batch]).fold(purpose))
                sums.clean.update(found.logits, y, cross_entropy(found.logits, y))
                sums.robust.update(found.logits_adv, y, found.loss)
        return Pass(*(_over_ranks(fabric, stats) for stats in sums))


def _finish(state: _State, folder: Path, fabric: Fabric, record: Mapping[str, Any], line: dict[str, Any]) -> None:
    """Log the epoch, keep the weights that may be the best, and save the checkpoint; then drop what it has no use for.

    A stop between any two writes leaves a checkpoint from which the same files are written again.
    """
    state.log.append(line)
    fabric.log_dict(dict(scalars(line)), step=line["epoch"])
    epochs = record["recipe"]["epochs"]
    if fabric.is_global_zero:
        for name, model in state.models.items():
            _keep_best(folder, name, model, selection.score_column(state.log, name), epochs)
        files.write_text(folder / LOG_FILE, "".join(json.dumps(entry) + "\n" for entry in state.log))
        files.write_bytes(folder / "checkpoint.pt", state.content(portable_record(record, folder)))
        _drop_candidates(state, folder, epochs)
    fabric.barrier()


def _measure_teacher(job: _Job, teacher: Teacher, folder: Path) -> None:
    """Write down what the teacher achieves on the held-out images by class: a student inherits its weaknesses."""
    found = {**teacher.record(), **held_out_entry(job.validate(teacher.network.to(job.fabric.device)))}
    if job.fabric.is_global_zero:
        files.write_json(folder / "teacher.json", found)


def _keep_best(folder: Path, name: str, model: nn.Module, scores: selection.Scores, epochs: int) -> None:
    """Keep the weights of this epoch while it may still become the best, and those of the best once it is known."""
    epoch, best = len(scores), selection.best(scores, epochs)
    if epoch == best or epoch in selection.open_epochs(scores, epochs):
        save_weights(model, _candidate(folder, name, epoch))
    if best is not None and best != selection.best(scores[:-1], epochs):
        path = _candidate(folder, name, best)
        try:
            weights = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{path} is missing; delete {folder / 'checkpoint.pt'} to train from the start."
            ) from error
        files.write_bytes(folder / _weights_file(name, "best"), weights)


def _drop_candidates(state: _State, folder: Path, epochs: int) -> None:
    """Delete the weights of epochs that have been judged."""
    kept = {
        _candidate(folder, name, epoch)
        for name in state.models
        for epoch in selection.open_epochs(selection.score_column(state.log, name), epochs)
    }
    for path in (folder / "candidates").glob("*"):
        if path not in kept:
            path.unlink()
    if not kept and (folder / "candidates").exists():
        (folder / "candidates").rmdir()


def _conclude(state: _State, folder: Path, epochs: int) -> None:
    """Write the last weights and what was achieved."""
    _drop_candidates(state, folder, epochs)
    for name, model in state.models.items():
        save_weights(model, folder / _weights_file(name, "last"))
    files.write_json(folder / SUMMARY_FILE, selection.summary(state.log, epochs))


def _candidate(folder: Path, name: str, epoch: int) -> Path:
    return folder / "candidates" / _weights_file(name, f"epoch-{epoch}")


def _weights_file(name: str, what: str) -> str:
    return f"{what}.safetensors" if name == "plain" else f"{name}-{what}.safetensors"


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


def _mean(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the mean of a tensor over processes."""
    return value if fabric.world_size == 1 else total(fabric, value) / fabric.world_size


def _agree(fabric: Fabric, model: nn.Module) -> None:
    """Give every process the mean BatchNorm statistics: DDP hands out those of the first process before each step."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(_mean(fabric, buffer))


def _optimizer(step: TrainStep, recipe: Recipe) -> torch.optim.SGD:
    named = {key: getattr(recipe, key) for key in ("lr", "momentum", "nesterov", "weight_decay")}
    return torch.optim.SGD(step.parameters(), **named)


def _device(model: nn.Module) -> torch.device:
    """Return where a model is.

    Raises:
        InputError: it has no weights to train.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad] if isinstance(model, nn.Module) else []
    if not weights:
        raise InputError("The model has no weights to train; give a torch.nn.Module with parameters.")
    return weights[0].device


def _split(train: Images, run: Run) -> tuple[Tensor, Tensor]:
    """Return the positions that are trained on and those held out, each sorted."""
    if run.recipe.holdout == 0:
        return torch.arange(len(train)), torch.arange(0)
    return stratified_split(train.y, share=run.recipe.holdout, seed=run.seed)


def _refuse_gaps(train: Images, positions: Tensor, held_out: Tensor) -> None:
    """Refuse data in which a class cannot be learned, or not be measured on the held-out images."""
    size = len(train.classes)
    if len(train) < size:
        raise InputError(f"There are {len(train)} training images for {size} classes; each class needs one at least.")
    for what, part in (("training", positions), ("held-out", held_out)):
        counts = torch.bincount(train.y[part], minlength=size)
        if len(part) and not counts.all():
            name = train.classes[int((counts == 0).nonzero()[0])]
            remedy = "give the class more, or the recipe holdout=0" if part is held_out else "leave the class out"
            raise InputError(f"Class {name!r} has no {what} images; {remedy}.")


def _refuse_other_network(run: Run, model: nn.Module, train: Images, x: Tensor) -> None:
    """Refuse a record that names a registered architecture, with settings, that computes something else than the model.

    Raises:
        InputError: other weights than the architecture has, or other logits with the same weights.
    """
    try:
        named = named_like(run.model, model, len(train.classes), train.shape)
    except InputError as error:
        raise InputError(f"The run names {run.model!r}, and fit was given another network: {error}") from error
    if named is None:
        return
    with judging(model, x.device) as given, judging(named.to(x.device), x.device) as wanted, torch.no_grad():
        found, expected = given(x).float(), wanted(x).float()
    if found.shape != expected.shape or float((found - expected).abs().max()) > _SAME * float(expected.abs().max()):
        raise InputError(
            f"The run names {run.model!r}, and the network that fit was given computes other logits with its weights; "
            "give fit the named network, or give the run another name of it."
        )


def _refuse_lacks(method: Method, run: Run, held_out: Tensor) -> None:
    """Refuse a method or an average without what it needs: held-out images, or a trained network to start from."""
    refuse_hidden_attacks(method)
    if run.recipe.eps_warmup:
        with weakened(method, 0.5):
            pass  # refused here, before anything is written
    asking = {run.method: method.validates} | {name: rule.validates for name, rule in run.wrapped.averages.items()}
    for name, asks in asking.items():
        if asks and not len(held_out):
            raise InputError(f"{name} needs held-out images, and the recipe has holdout=0; give it a share above 0.")
    if method.fine_tunes and not re.search("[@:]", run.model):
        raise InputError(
            f"{run.method} goes on with a robust network, and {run.model!r} has fresh weights; give one that was "
            "trained, as in --model run:DIR or ARCH@FILE."
        )
