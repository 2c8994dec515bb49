"""The training loop: one epoch after another, each a pure function of what the checkpoint before it holds.

The order of the images, their augmentation and every attack's noise are functions of (seed, image, epoch), and the
learning rate is a function of the epoch, so a run that is stopped and resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from classwise import files, wrappers
from classwise.attacks.pgd import PGD
from classwise.data.images import Images
from classwise.data.splits import draw_by_class, stratified_split
from classwise.errors import InputError
from classwise.evaluation.engine import exclusive_folder
from classwise.evaluation.preflight import check_passes
from classwise.files.texts import portable_record
from classwise.losses import cross_entropy
from classwise.methods.base import (
    Epoch,
    Measured,
    Method,
    Pass,
    Step,
    under_attack,
)
from classwise.metrics.stats import ClassStats
from classwise.metrics.training import RUN_FILE
from classwise.models.teacher import Teacher
from classwise.noise import Noise
from classwise.runtime.inference import judging
from classwise.runtime.memory import freed_memory_kept
from classwise.runtime.processes import total
from classwise.training.checks import refuse_gaps, refuse_lacks, refuse_other_network
from classwise.training.divergence import DivergenceMonitor
from classwise.training.log import class_state, held_out_entry, log_line, tail_accuracy
from classwise.training.recipes import Recipe
from classwise.training.run import (
    Run,
    describe,
    refuse_other_method,
    refuse_other_uses,
)
from classwise.training.state import State, conclude, finish_epoch
from classwise.training.step import COMPARED, TrainStep
from classwise.wrappers import Averaged, RunPosition

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class TrainingProgress:
    """What is known in the middle of an epoch: the sums so far of this process, and the last finished epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    train: Pass
    last: Mapping[str, Any] | None


@freed_memory_kept()
def fit(
    fabric: Fabric,
    model: nn.Module,
    method: Method,
    train: Images,
    run: Run,
    directory: Path | str,
    watch: Callable[[TrainingProgress], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a network, or go on where an interrupted run with the same settings stopped.

    The folder holds ``run.json`` (settings), ``log.jsonl`` (a line an epoch), ``checkpoint.pt``, the weights
    ``best.safetensors`` and ``last.safetensors``, for each average of weights NAME also ``NAME-best.safetensors`` and
    ``NAME-last.safetensors``, for distillation ``teacher.json`` (what the teacher achieves on the held-out images), and
    at the end ``summary.json``. How the best epoch is chosen is said in
    :mod:`classwise.training.selection`; its score is average plus worst robust accuracy on held-out training images,
    with more than 20 classes average plus mean of the worst tenth. Until an epoch can be judged its weights are in
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
    refuse_gaps(train, positions, held_out)
    refuse_lacks(method, run, held_out)
    refuse_other_method(run, method, train)
    taken = check_passes(model, train.fetch(positions[:2]).to(_device(model)))
    refuse_other_network(run, model, train, train.fetch(positions[:2]).to(_device(model)))
    # Convolutions with channels last: 1.5 times as many images a second for small_resnet on one CPU core.
    model.to(memory_format=torch.channels_last)
    precision = fabric.strategy.precision.precision
    record = describe(run, method, train, held_out, model, fabric.world_size, precision)
    if taken:  # only then, so that the record of any other run stays what it was
        record["logits_taken"] = taken
    job = _Job(fabric, model, method, train.subset(positions), train.subset(held_out), run, watch)
    with exclusive_folder(folder, fabric):
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
        averages = {name: job.validate(average.model) for name, average in state.averages.items() if average.exists}
        method.end_epoch(Epoch(epoch, sums, held, job.measure() if method.measures else None))
        seconds = time.perf_counter() - start
        line = log_line(epoch, run, sums, held, averages, seconds, fabric.device)
        line |= {"note": state.step.note} if state.step.note else {}
        finish_epoch(state, folder, fabric, record, {**line, "class_state": class_state(method)})
    if fabric.is_global_zero:
        conclude(state, folder, run.recipe.epochs)
    fabric.barrier()
    return state.log


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
        watch: Callable[[TrainingProgress], None] | None,
    ) -> None:
        self.fabric, self.run, self.watch = fabric, run, watch
        self.images = images.to(fabric.device)
        self.valid = valid.to(fabric.device) if len(valid) else None
        step = TrainStep(model, method, run.seed, run.wrapped.perturbation, partial(_mean, fabric))
        optimizer = _optimizer(step, run.recipe)
        self.wrapped, self.optimizer = fabric.setup(step, optimizer)
        averages = {name: Averaged.of(rule, model) for name, rule in run.wrapped.averages.items()}
        few = self.images.fetch(torch.arange(min(COMPARED, len(self.images)))).to(fabric.device)
        self.state = State(step, optimizer, averages, few)

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
        finite = DivergenceMonitor(epoch, classes, partial(total, fabric), fabric.device)
        self.wrapped.train()
        with _seeded_dropout(fabric, self.run.seed, epoch):
            for number, (batch, index) in enumerate(self._batches(epoch)):
                self._step(epoch, number, batch, index, sums, finite)
                if self.watch is not None:
                    self.watch(TrainingProgress(epoch, self.run.recipe.epochs, number + 1, self.steps, sums, last))
        # A last step too long would otherwise be noticed only once it has replaced the last good checkpoint.
        # A method's buffers are left out: there NaN stands for a class that was never seen.
        model = self.state.step.model
        weights = [value for value in model.state_dict().values() if value.is_floating_point()]
        finite.note(self.steps - 1, weights, None, self.images.y)
        finite.check()
        _agree(fabric, model)
        return Pass(*(_over_ranks(fabric, stats) for stats in sums))

    def _step(
        self, epoch: int, number: int, batch: Tensor, index: Tensor, sums: Pass, finite: DivergenceMonitor
    ) -> None:
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
        moment = RunPosition(epoch, number + 1, self.steps, self.run.recipe.epochs)
        for average in self.state.averages.values():
            average.follow(self.state.step.model, moment, "step")

    def average(self, epoch: int, held: Pass | None) -> None:
        """Let the averages follow that do so after an epoch, whose held-out sums some of them ask for."""
        model, log = self.state.step.model, self.state.log
        # A run that holds nothing out has no tail in any epoch.
        tails = () if held is None else (*(line["tail"] for line in log), tail_accuracy(held))
        moment = RunPosition(epoch, self.steps, self.steps, self.run.recipe.epochs, tails)
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
                measured = measure(called, x, y, Noise(self.run.seed, valid.index[batch]).fold(purpose))
                sums.clean.update(measured.logits, y, cross_entropy(measured.logits, y))
                sums.robust.update(measured.logits_adv, y, measured.loss)
        return Pass(*(_over_ranks(fabric, stats) for stats in sums))


def _measure_teacher(job: _Job, teacher: Teacher, folder: Path) -> None:
    """Write down what the teacher achieves on the held-out images by class: a student inherits its weaknesses."""
    record = {**teacher.record(), **held_out_entry(job.validate(teacher.network.to(job.fabric.device)))}
    if job.fabric.is_global_zero:
        files.write_json(folder / "teacher.json", record)


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
