"""Weights as the field stores them: under which key, behind which prefix, with which normalisation in front.

Layouts read: TRADES and its kin (a ``sub_block1`` that is never used), MadryLab/robustness (``module.model.``, the same
again under ``module.attacker.model.``, ``new_mean`` and ``new_std``), Lightning (``model.``, ``net.``), a normalising
layer in front (``0.mean``, ``0.std``, ``1.*``), DataParallel, torch.compile, and averages (EMA, SWA) beside plain
weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from classwise.errors import InputError
from classwise.models.foreign import foreign_code
from classwise.models.pickled import read_pickle, refuse_without_values

State = Mapping[str, Tensor]

# Where public checkpoints keep the state dict beside optimizer and epoch, the likelier first.
NESTINGS = ("state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights", "params", "state")
# What DataParallel and torch.compile put before every name.
WRAPPERS = ("module.", "_orig_mod.")

_USUAL = re.compile(r"((module|_orig_mod|model|net|network|backbone|classifier|[01])\.)*$")
"""Prefixes of the model itself; behind any other, such as ``student.``, stands one of several networks."""
_AVERAGE = re.compile(r"(^|[._])(ema|swa|wa|avg|average|averaged|shadow|teacher|polyak)\d*([._]|$)", re.IGNORECASE)
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|callback|loops|hyper_parameters|rng|^amp$|^opt$", re.IGNORECASE)
_UNUSED = (
    (re.compile(r"(^|\.)sub_block1\."), "sub_block1, which the Wide ResNet of TRADES never uses"),
    (re.compile(r"(^|\.)n_averaged$"), "n_averaged, the count of an average"),
    (re.compile(r"^(criterion|loss_fn)\."), "the weights of the training loss"),
)
"""Names that are known to play no part in the logits; any other that is left over is refused."""
_MEANS, _STDS = ("mean", "new_mean", "_mean", "mu", "means"), ("std", "new_std", "_std", "stds", "sigma", "sds")
_DEPTH = 4  # of mappings in mappings


@dataclass(frozen=True)
class Stored:
    """What a weights file holds.

    Attributes:
        source: the file, for messages.
        sets: where in the file, such as "state_dict" or "" at the top -> names and tensors.
        wanted: the set asked for, None for the one that stands for the model.
    """

    source: str
    sets: Mapping[str, State]
    wanted: str | None = None


@dataclass(frozen=True)
class Fitted:
    """Weights under the names of a model.

    Attributes:
        state: names and tensors; names that the model does not have are those that nothing accounts for.
        note: what was done to the file, in words; empty if it was read as it is.
    """

    state: State
    note: str


def read_stored(text: Path | str) -> Stored:
    """Read a weights file, ``FILE`` or ``FILE#KEY`` for one of several sets of weights in it, on the CPU.

    Raises:
        InputError: no such file, not complete, other objects than tensors inside, or no weights in it.
    """
    path, wanted = _file_and_key(str(text))
    if not path.is_file():
        raise InputError(f"There is no weights file {path}; give the path of a .safetensors, .pt or .pth file.")
    if path.suffix == ".safetensors" or _starts_as_safetensors(path):
        with foreign_code(f"{path} cannot be read as safetensors", "check that the file is complete"):
            return Stored(str(path), {"": safetensors.torch.load_file(path)}, wanted)
    sets = dict(_sets(read_pickle(path)))
    if not sets:
        raise InputError(
            f"{path} holds no state dict; expected are names and tensors, at the top or under one of "
            f"{', '.join(NESTINGS[:4])}: save state_dict() of the model."
        )
    for state in sets.values():
        for name, value in state.items():
            refuse_without_values(path, name, value)
    return Stored(str(path), sets, wanted)


def main_set(stored: Stored) -> State:
    """Return the weights that a file stands for, without the prefixes of DataParallel and torch.compile.

    Raises:
        InputError: several sets may be meant, or the one asked for is not there.
    """
    return unprefixed(stored.sets[_main(stored)])[0]


def normaliser(stored: Stored, channels: int) -> tuple[list[float], list[float]] | None:
    """Return mean and std (C,) of the normalising layer in a file, None if there is none.

    Raises:
        InputError: there are several that differ, or they are no statistics of pixels in [0, 1].
    """
    pairs = [pair for state in stored.sets.values() for pair in _statistics(state, channels).values()]
    if not pairs:
        return None
    if any(pair != pairs[0] for pair in pairs):
        raise InputError(
            f"{stored.source} holds several normalisations that differ; give a file.py:factory that says which is used."
        )
    mean, std = pairs[0]
    if not (all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std)):
        raise InputError(
            f"{stored.source} normalises by mean {_listed(mean)} and std {_listed(std)}, which are none of pixels in "
            "[0, 1]; give a file.py:factory that scales as the model was trained."
        )
    return mean, std


def fitted(
    stored: Stored, own: State, optional: Iterable[str], channels: int | None, layer: str | None = None
) -> Fitted:
    """Find a model's weights in a file and name them as the model does.

    Args:
        stored: the file.
        own: names and tensors of the model.
        optional: names that a file may lack.
        channels: of the images, where a normalising layer in the file is taken; None where it is left over.
        layer: name of the model's normalising layer, which then gets its statistics; None if it lies elsewhere.

    Raises:
        InputError: several sets of weights may be meant, or the one asked for is not there.
    """
    may_lack = set(optional)
    required = [name for name in own if name not in may_lack]
    variants = _variants(stored, required)
    if not variants:
        where = _main(stored)
        return Fitted(_nearest(stored.sets[where], required), "")
    place, remarks = _chosen(stored, variants)
    state = stored.sets[place.where]
    remarks += [f"prefix {place.prefix} taken off"] * bool(place.prefix)
    taken = {name: state[place.prefix + name] for name in own if place.prefix + name in state}
    used = {place.prefix + name for name in taken}
    rest, dropped = _accounted(
        {name: value for name, value in state.items() if name not in used}, place, stored, variants
    )
    remarks += dropped
    statistics = None if channels is None else _normaliser_in(rest, channels)
    if statistics is not None:
        rest = {name: value for name, value in rest.items() if name not in statistics.names}
        taken |= statistics.renamed(layer) if layer is not None else {}
        remarks.append(f"normalised by the file's mean {_listed(statistics.mean)} and std {_listed(statistics.std)}")
    unknown = {name.removeprefix(place.prefix): value for name, value in rest.items()}
    return Fitted({**unknown, **taken}, "; ".join([*remarks, *_cast(taken, own)]))


def unprefixed(state: State) -> tuple[State, str]:
    """Take off the wrappers that all names share; return the rest and what was taken off."""
    taken = ""
    while state and (prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in state)), "")):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        taken += prefix
    return state, taken


@dataclass(frozen=True)
class _Place:
    """Where in a file all weights of a model lie: in which set, behind which prefix."""

    where: str
    prefix: str

    @property
    def key(self) -> str:
        """What a user writes to have it."""
        return f"{self.where}.{self.prefix}".strip(".")

    @property
    def average(self) -> bool:
        """Whether it is named as an average of weights is."""
        return _AVERAGE.search(self.key) is not None

    @property
    def rank(self) -> tuple[bool, bool, int, int]:
        """Plain weights before averages, the model itself before other networks, likelier keys, shorter prefixes."""
        usual = _USUAL.match(self.prefix) is not None
        return self.average, not usual, _likelihood(self.where), len(self.prefix)


@dataclass(frozen=True)
class _Statistics:
    """Mean and std (C,) of a normalising layer, and the names that they and their copies have in the file."""

    mean: list[float]
    std: list[float]
    names: frozenset[str]

    def renamed(self, layer: str) -> State:
        column = (len(self.mean), 1, 1)
        return {
            f"{layer}.mean": torch.tensor(self.mean).view(column),
            f"{layer}.std": torch.tensor(self.std).view(column),
        }


def _file_and_key(text: str) -> tuple[Path, str | None]:
    path = Path(text)
    if "#" not in text or path.exists():
        return path, None
    file, _, key = text.rpartition("#")
    return Path(file), key


def _starts_as_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _sets(content: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Yield the mappings of names to tensors in a checkpoint, with the keys that lead there; optimizers are no weights.

    A mapping that holds numbers beside tensors, such as an accuracy, counts as well.
    """
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    entries = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value.detach() for key, value in entries.items() if isinstance(value, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in entries.items():
        if not _NO_WEIGHTS.search(key):
            yield from _sets(value, f"{where}.{key}".strip("."), depth + 1)


def _asks_for(wanted: str, *keys: str) -> bool:
    """Tell whether somebody who writes ``wanted`` means something that lies under one of the keys."""
    return any(key == wanted or key.startswith(f"{wanted}.") for key in keys)


def _likelihood(where: str) -> int:
    """Return the place of a set in the order of NESTINGS; a set at the top is behind, one of another name last."""
    first = where.partition(".")[0]
    return NESTINGS.index(first) if first in NESTINGS else len(NESTINGS) + bool(where)


def _main(stored: Stored) -> str:
    """Return where the weights lie that a file stands for, without knowing the model."""
    if stored.wanted is not None:
        asked = [where for where in stored.sets if _asks_for(stored.wanted, where)]
        if not asked:
            raise InputError(_not_there(stored, stored.sets))
        return asked[0]
    plain = [where for where in stored.sets if not _AVERAGE.search(where)] or list(stored.sets)
    return min(plain, key=lambda where: (_likelihood(where), -len(stored.sets[where])))


def _variants(stored: Stored, required: Sequence[str]) -> list[_Place]:
    """Return every place where all required names are."""
    if not required:
        return []
    sample = required[0]
    return [
        _Place(where, prefix)
        for where, state in stored.sets.items()
        for prefix in dict.fromkeys(name[: -len(sample)] for name in state if name.endswith(sample))
        if (not prefix or prefix.endswith(".")) and all(prefix + name in state for name in required)
    ]


def _chosen(stored: Stored, places: list[_Place]) -> tuple[_Place, list[str]]:
    """Choose one of several places, and say so where another would give another model."""
    if stored.wanted is not None:
        asked = [place for place in places if _asks_for(stored.wanted, place.key, place.where, place.prefix.strip("."))]
        if not asked:
            raise InputError(_not_there(stored, [place.key for place in places]))
        return min(asked, key=lambda place: place.rank), [f"{stored.wanted} taken, as asked"]
    first = min(places, key=lambda place: place.rank)
    others = [place for place in places if place != first and not _alike(stored, first, place)]
    if not others:
        return first, [f"{first.key}, an average, taken"] * first.average
    if first.rank[1]:
        raise InputError(
            f"{stored.source} holds several networks of this architecture ({_keys(places)}); say which by "
            f"ARCH@FILE#KEY, as in #{first.key}."
        )
    return first, [
        f"{first.key or 'the names at the top'} taken; {_keys(others)} "
        f"{'is' if len(others) == 1 else 'are'} there too ({'averages' if others[0].average else 'other weights'}; "
        f"#{others[0].key} behind the file takes {'it' if len(others) == 1 else 'the first'})"
    ]


def _alike(stored: Stored, one: _Place, other: _Place) -> bool:
    """Tell whether two places hold the same values, as far as both have them."""
    a, b = stored.sets[one.where], stored.sets[other.where]
    names = [name.removeprefix(one.prefix) for name in a if name.startswith(one.prefix)]
    return all(torch.equal(a[one.prefix + name], b[other.prefix + name]) for name in names if other.prefix + name in b)


def _accounted(left: State, place: _Place, stored: Stored, places: Sequence[_Place]) -> tuple[State, list[str]]:
    """Take out what is known to play no part: other copies of the model, and names that are never used."""
    others = [other for other in places if other.where == place.where and other.prefix and other != place]
    rest = {name: value for name, value in left.items() if not name.startswith(tuple(other.prefix for other in others))}
    remarks = [f"the same again under {other.prefix} left out" for other in others if _alike(stored, place, other)]
    for pattern, words in _UNUSED:
        if any(pattern.search(name) for name in rest):
            remarks.append(f"{words}, left out")
            rest = {name: value for name, value in rest.items() if not pattern.search(name)}
    return rest, remarks


def _normaliser_in(rest: State, channels: int) -> _Statistics | None:
    statistics = _statistics(rest, channels)
    if not statistics:
        return None
    mean, std = next(iter(statistics.values()))
    return _Statistics(mean, std, frozenset(name for pair in statistics for name in pair))


def _statistics(state: State, channels: int) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    """Return the pairs of names that are mean and std of a normalising layer, with their values by channel."""
    pairs = {}
    for name, value in state.items():
        parent, _, leaf = name.rpartition(".")
        if leaf not in _MEANS or value.numel() not in (1, channels):
            continue
        for other in (f"{parent}.{std}".strip(".") for std in _STDS):
            if other in state and state[other].numel() in (1, channels):
                pairs[name, other] = _columns(value, channels), _columns(state[other], channels)
                break
    return pairs


def _columns(value: Tensor, channels: int) -> list[float]:
    column: list[float] = value.detach().float().flatten().expand(channels).tolist()
    return column


def _nearest(state: State, required: Sequence[str]) -> State:
    """Name a set's tensors so that most agree with the model's, for a message that says what is missing."""
    plain, _ = unprefixed(state)
    starts = {name[: -len(own)] for own in required for name in plain if name.endswith(f".{own}")}
    best = max(["", *sorted(starts)], key=lambda start: sum(start + own in plain for own in required))
    return {name.removeprefix(best): value for name, value in plain.items()}


def _cast(taken: State, own: State) -> list[str]:
    """Say which precision the file has, if it is not the model's."""
    kinds = {
        (str(value.dtype).removeprefix("torch."), str(own[name].dtype).removeprefix("torch."))
        for name, value in taken.items()
        if name in own and own[name].is_floating_point() and value.dtype != own[name].dtype
    }
    return [f"cast from {there} to {here}" for there, here in sorted(kinds)]


def _not_there(stored: Stored, keys: Iterable[str]) -> str:
    known = ", ".join(sorted(key for key in keys if key)) or "none that has a name"
    return f"{stored.source} has no weights {stored.wanted!r} for this model; those there are: {known}."


def _keys(places: Sequence[_Place]) -> str:
    return ", ".join(place.key or "the names at the top" for place in places)


def _listed(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
