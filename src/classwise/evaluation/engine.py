"""The engine: attacks on the images of a data set, with a verdict on every candidate.

An image counts as broken only if a candidate lies in the threat set and is misclassified when it is run again, in
float32 and eval mode, outside the attack. An image's random numbers depend on the seed and its position in the data
set alone, so the order, the batch, the number of processes, memory that runs out and a crash do not matter.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from classwise import files
from classwise.attacks.base import Attack, input_gradient, predict
from classwise.attacks.plan import Stage
from classwise.data.images import ImageSet, batches
from classwise.errors import InputError
from classwise.evaluation.records import CleanVerdicts, Records, StageResult, ViewVerdicts
from classwise.losses import margin
from classwise.noise import Noise
from classwise.runtime.inference import forward
from classwise.runtime.memory import give_back, out_of_memory
from classwise.runtime.processes import total

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Path = tuple[str | int, ...]
_LONG = 0.5  # seconds of a batch beyond which giving freed memory back is no loss; after short ones it took up to 8 %
_WIDE = 32  # channels of a convolution, on average, from which the layout with channels last is faster


@dataclass(frozen=True)
class EvaluationProgress:
    """What is known while an evaluation goes on.

    Attributes:
        view: "clean", or the attack being run, with its stage where it has several.
        done: images finished in this stage, of this process.
        total: images of this stage, of this process.
        correct: images of each class still right in that view, of those seen, (C,).
        seen: images of each class whose clean verdict is known, (C,).
    """

    view: str
    done: int
    total: int
    correct: Tensor
    seen: Tensor


@dataclass
class Engine:
    """One process's part of an evaluation.

    Attributes:
        model: in eval mode, on the device; settles the verdicts.
        searched: the same function, as attacks pass images through it.
        data: all images, of every process.
        records: what this process has found out.
        seed: of the attacks' random numbers.
        batch_size: images attacked at once; halved when memory runs out.
        device: where to compute.
        fabric: several processes, of which each takes its share of the images.
        watch: called after each batch.
    """

    model: nn.Module
    searched: nn.Module
    data: ImageSet
    records: Records
    seed: int
    batch_size: int
    device: torch.device
    fabric: Fabric | None
    watch: Callable[[EvaluationProgress], None]

    @property
    def mine(self) -> Tensor:
        """Which images this process attacks, (N,) bool."""
        rank, ranks = (0, 1) if self.fabric is None else (self.fabric.global_rank, self.fabric.world_size)
        return torch.arange(len(self.data)) % ranks == rank

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over processes."""
        return value.clone() if self.fabric is None else total(self.fabric, value)

    def broadcast(self, words: list[str]) -> list[str]:
        """Return what the first process says, so that all go on alike where their hardware rounds differently."""
        agreed: list[str] = words if self.fabric is None else self.fabric.broadcast(words, src=0)
        return agreed

    def judge_clean(self) -> CleanVerdicts:
        """Settle the verdicts on the clean images; returns those of all processes."""
        clean, mine = self.records.clean, self.mine
        for positions, x, y in self._batches(mine & (clean.tried == 0)):
            self._in_parts(partial(self._judge_clean, clean), positions, x, y)
            self.records.save_if_due()
            self._show("clean", mine, clean.tried, clean.prediction)
        return self.records.add_up_clean(self.total)

    def _judge_clean(self, clean: CleanVerdicts, positions: Tensor, x: Tensor, y: Tensor) -> None:
        logits = forward(self.model, x)
        top = logits.topk(2, dim=1).values
        clean.prediction[positions] = predict(logits, y).cpu()
        clean.margin[positions] = margin(logits, y).cpu()
        clean.gap[positions] = (top[:, 0] - top[:, 1]).cpu()
        clean.std[positions] = logits.std(1, correction=0).cpu()
        clean.tried[positions] = 1

    def attack(
        self, turn: StageResult, stage: Stage, path: Path, which: Tensor, row: ViewVerdicts, label: str
    ) -> StageResult:
        """Attack the images of a mask that this turn has not attacked yet, and settle the verdicts.

        Args:
            turn: what it has done so far, of this process.
            stage: the attack.
            path: stream of its random numbers.
            which: images to attack, (N,) bool.
            row: verdicts before, of all processes.
            label: what is shown to who watches.

        Returns:
            The finished turn, of all processes.
        """
        mine = self.mine & which
        for positions, x, y in self._batches(mine & (turn.tried == 0)):
            start = perf_counter()
            self._in_parts(partial(self._attack, turn, stage, path), positions, x, y)
            spent = perf_counter() - start
            turn.seconds += spent
            if spent > _LONG:
                give_back()
            self.records.save_if_due()
            still = torch.where(turn.tried == 1, turn.prediction, row.prediction)
            self._show(label, mine, turn.tried, still)
        return turn.added_up(self.total)

    def _attack(self, turn: StageResult, stage: Stage, path: Path, positions: Tensor, x: Tensor, y: Tensor) -> None:
        x_adv = self.candidates(stage, path, positions, x, y)
        valid, logits = stage.attack.threat.contains(x_adv, x), forward(self.model, x_adv)
        predicted, clean = predict(logits, y), self.records.clean
        # For a candidate outside the set the clean verdict stands.
        turn.rejected += int((~valid & (predicted != y)).sum())
        ok = valid.cpu()
        turn.prediction[positions] = torch.where(ok, predicted.cpu(), clean.prediction[positions])
        turn.margin[positions] = torch.where(ok, margin(logits, y).cpu(), clean.margin[positions])
        distance = stage.attack.threat.distance(x_adv, x).cpu()
        turn.distance[positions] = torch.where(ok, distance, 0)
        turn.tried[positions] = 1

    def candidates(self, stage: Stage, path: Path, positions: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Attack images (n, C, H, W) at some positions of the data (n,); returns a candidate for each, not judged."""
        noise = Noise(self.seed, self.data.index[positions].to(x.device), path)
        return _with_room(stage.attack, self.batch_size)(self.searched, x, y, noise=noise)

    def _batches(self, which: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return batches(self.data, self.batch_size, self.device, positions=which.nonzero().squeeze(1))

    def _in_parts(self, settle: Callable[[Tensor, Tensor, Tensor], None], *batch: Tensor) -> None:
        """Settle a batch, in halves where memory runs out; verdicts do not depend on the batch."""
        parts = self._parts(batch)
        while parts:
            try:
                settle(*parts[0])
                parts.pop(0)
                continue
            except (RuntimeError, MemoryError) as error:
                size = len(parts[0][0])
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise InputError("Memory does not hold one image under attack; use a larger device.") from error
            # Outside the except clause, where the traceback no longer holds the tensors of the attempt.
            self.batch_size = -(-size // 2)
            parts = [half for part in parts for half in self._parts(part)]
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _parts(self, batch: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        return list(zip(*(torch.split(tensor, self.batch_size) for tensor in batch), strict=True))

    def _show(self, view: str, which: Tensor, tried: Tensor, predicted: Tensor) -> None:
        y, size, known = self.data.y, len(self.data.classes), self.records.clean.tried == 1
        right = known & (predicted == y)
        done, whole = int((which & (tried == 1)).sum()), int(which.sum())
        counts = (torch.bincount(y[mask], minlength=size) for mask in (right, known))
        self.watch(EvaluationProgress(view, done, whole, *counts))


class StageGain(NamedTuple):
    """What a turn achieved: images it broke, and images on which its candidate had a larger margin than any before."""

    broken: int
    closer: int


@dataclass
class ViewRun:
    """One view of an evaluation: the images that its attacks are run on, turn after turn.

    Attributes:
        engine: what runs the attacks.
        view: its name.
        row: verdicts so far, of all processes.
        stages: attack of each turn so far.
        turns: what each of them did, of all processes.
    """

    engine: Engine
    view: str
    row: ViewVerdicts
    stages: list[Stage] = field(default_factory=list)
    turns: list[StageResult] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """What each turn is called."""
        return [stage.name for stage in self.stages]

    @property
    def y(self) -> Tensor:
        """True classes, (N,)."""
        return self.engine.data.y

    @property
    def index(self) -> Tensor:
        """Position of each image in its data set, (N,)."""
        return self.engine.data.index

    @property
    def survivors(self) -> Tensor:
        """Which images nothing has broken, (N,) bool."""
        return self.row.prediction == self.y

    @property
    def margin(self) -> Tensor:
        """Largest wrong logit minus true logit on the best candidate so far, (N,)."""
        return self.row.margin

    def attack(self, stage: Stage, path: Path, which: Tensor) -> StageGain:
        """Attack the survivors of a mask; no turn is counted where there are none."""
        which = which & self.survivors
        if not which.any():
            return StageGain(0, 0)
        number = len(self.turns)
        own = self.engine.records.turn(self.view, number)
        label = self.view if stage.name == self.view else f"{self.view}: {stage.name}"
        turn = self.engine.attack(own, stage, path, which, self.row, label)
        broken = which & (turn.prediction != self.y)
        gain = StageGain(int(broken.sum()), int((which & self.row.tried & (turn.margin > self.row.margin)).sum()))
        self.row = self.row.after(turn, number, self.y)
        self.stages.append(stage)
        self.turns.append(turn)
        return gain


def _with_room(attack: Attack, rows: int) -> Attack:
    """Tell an attack that can fill a batch with several attempts at each image how many rows memory holds."""
    return replace(attack, rows=rows) if hasattr(attack, "rows") else attack  # type: ignore[type-var]


@contextmanager
def exclusive_folder(folder: pathlib.Path | None, fabric: Fabric | None) -> Iterator[None]:
    """Have a folder to oneself, or to all processes of one job; None is no folder.

    Raises:
        InputError: in every process, where the first one cannot have it; see :func:`classwise.files.locks.owned`.
    """
    with ExitStack() as stack:
        refusal = ""
        if folder is not None and (fabric is None or fabric.is_global_zero):
            try:
                stack.enter_context(files.owned(folder))
            except InputError as error:
                refusal = str(error)
        if fabric is not None and fabric.world_size > 1:
            refusal = fabric.broadcast(refusal)
        if refusal:
            raise InputError(refusal)
        yield


@contextmanager
def channels_last(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Lay the weights of convolutions out with channels last, which makes their passes faster, and put them back.

    On a CPU, passes of the MNIST network by others (32 and 64 channels) took 0.6 to 0.9 of the time, those of the
    CIFAR-10 network by others (8 and 16 channels) 1.03 to 1.13 of it; so narrow networks keep their layout, as do
    models that cannot work with this one, such as those that call ``view`` on a convolution's output. The values stay
    the same; the order of summation may differ.

    Args:
        model: in eval mode with gradients enabled; works on x as it is.
        x: some images that show whether it can.
    """
    before = [(parameter, parameter.data) for parameter in model.parameters() if parameter.dim() == 4]
    wide = sum(len(data) for _, data in before) >= _WIDE * len(before)
    try:
        for parameter, data in before if wide else ():
            parameter.data = data.contiguous(memory_format=torch.channels_last)
        if wide and not _works(model, x):
            for parameter, data in before:
                parameter.data = data
        yield
    finally:
        for parameter, data in before:
            parameter.data = data


def _works(model: nn.Module, x: Tensor) -> bool:
    """Tell whether images pass through the model and their gradient back."""
    x = x.detach().requires_grad_(True)
    try:
        input_gradient(model(x).sum(1), x)
    except (RuntimeError, InputError):
        return False
    return True
