"""From what a user types to a model: see :func:`load_model` for the forms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classwise import registry
from classwise.errors import InputError
from classwise.files import schemas
from classwise.files.texts import located
from classwise.models.checkpoint import fill, read_weights, take
from classwise.models.corrected import load_corrected
from classwise.models.exported import exported
from classwise.models.factory import from_file
from classwise.models.fixed_shape import FixedShape
from classwise.models.foreign import refuse_code, trusting
from classwise.models.heads import put_head
from classwise.models.normalize import Normalize
from classwise.models.stored import State, Stored, main_set, normaliser, read_stored
from classwise.models.zoo import timm_model, torchvision_model
from classwise.runtime.classifier import Classifier

Shape = tuple[int, int, int]
_CHECKED = 2  # grey images that a model is tried with

_LONGEST = 20_000  # characters
_DEEPEST = 8  # records that name one another
RUN_FOLDER = r"(.+?)(?:@((?:\w+-)?(?:best|last)))?"
"""What follows ``run:``: a folder, and which of its weights."""


def load_model(
    text: str,
    *,
    num_classes: int | None = None,
    shape: Shape | None = None,
    seed: int = 0,
    trust_code: bool = False,
    fixed_shape: int | None = None,
) -> nn.Module:
    """Return the model that ``text`` names, on the CPU and in eval mode; it takes [0, 1] and returns logits.

    ====================================  ==========================================================================
    ``ARCH``                              fresh weights; settings may follow, as in ``small_cnn(dropout=0.2)``
    ``ARCH(head='cosine(scale=10)')``     the same with another last layer, see :mod:`classwise.models.heads`
    ``ARCH@FILE``                         weights from .safetensors, .pt or .pth, see :mod:`classwise.models.stored`
    ``ARCH@FILE#KEY``                     those under KEY, such as ``ema``, where the file holds several
    ``run:FOLDER``, ``run:FOLDER@last``   best (or last) weights of a training run; of its average by ``@ema-best``
    ``corrected:FOLDER``                  any of these forms with a decision rule that ``classwise correct`` fitted
    ``file.py:factory``                   what a function or class in a Python file makes; **runs the file**
    ``timm:NAME``, ``torchvision:NAME``   pretrained, with its normalisation; ``@FILE`` takes weights from there
    ``export:FILE.pt2``                   a program written by ``torch.export.save``
    ====================================  ==========================================================================

    Args:
        text: one of the forms above.
        num_classes: number of classes of the data; the model must have as many logits.
        shape: (C, H, W) of the images; if given, two grey images are sent through the model to check its output.
        seed: of fresh weights; the caller's random state stays untouched.
        trust_code: let run what the record of a ``run:`` or ``corrected:`` folder names: a Python file or an exported
            program, whose code does whatever its author wants. Only for folders of people you trust.
        fixed_shape: images of each pass of that check, where the model takes no other number.

    Raises:
        InputError: the model cannot be had, or does not fit ``num_classes`` and ``shape``.

    Example:
        >>> load_model("digits_cnn", num_classes=10, shape=(1, 8, 8))(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """
    with _own_randomness(seed), trusting(trust_code):
        model = _load(text.strip(), _Data(num_classes, shape)).cpu()
        model.eval()  # whatever a model of others returns
        if shape is not None:
            called = Classifier(model, f"model {text!r}", num_classes)
            with torch.no_grad():
                FixedShape(called, _CHECKED if fixed_shape is None else fixed_shape)(
                    torch.full((_CHECKED, *shape), 0.5, device="cpu")
                )
    return model


def named_like(text: str, model: nn.Module, num_classes: int, shape: Shape) -> nn.Module | None:
    """Return the network that ``text`` names, with the weights of a model that is said to be it.

    Args:
        text: as for :func:`load_model`.
        model: its weights are copied.
        num_classes: number of classes.
        shape: (C, H, W) of the images.

    Returns:
        the network on the CPU in eval mode; None where the text names no registered architecture.

    Raises:
        InputError: the weights do not fit the architecture.
    """
    if re.split("[@(]", text, maxsplit=1)[0].strip() not in registry.names("model"):
        return None
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with _own_randomness(0):
        named = _architecture(text.strip(), _Data(num_classes, shape), state).eval()
    fill(named, state, "the network that is given")
    return named


@dataclass(frozen=True)
class _Data:
    """What is known of the data: number of classes and (C, H, W)."""

    num_classes: int | None
    shape: Shape | None
    above: tuple[Path, ...] = ()  # folders whose records have led here

    def inside(self, folder: Path, num_classes: int | None = None, shape: Shape | None = None) -> _Data:
        """Return what is known of a model that the record of a folder names.

        Raises:
            InputError: records go round in a circle, or on and on.
        """
        above = (*self.above, folder.resolve())
        if len(set(above)) < len(above):
            raise InputError(f"{folder} names itself as its model, by way of {len(self.above)} records; mend one.")
        if len(above) > _DEEPEST:
            raise InputError(f"{folder} is the {len(above)}th record that names another; give the last of them.")
        return _Data(num_classes or self.num_classes, shape or self.shape, above)


def _load(text: str, data: _Data, state: State | None = None) -> nn.Module:
    """Tell the forms apart and build; with ``state``, no other weights are fetched, and the caller fills it in."""
    if len(text) > _LONGEST:
        raise InputError(f"A model string has at most {_LONGEST:,} characters, not {len(text):,}.")
    kind, _, rest = text.partition(":")
    if kind == "run":
        return _run(rest, data, state)
    if kind == "corrected":
        within = data.inside(_path(rest))
        return load_corrected(_path(rest), lambda text, inner: _load(text, within, inner), state)
    if kind == "export":
        return exported(_path(rest))
    if kind in ("timm", "torchvision"):
        return _zoo(kind, rest, data, state)
    if match := re.fullmatch(r"(.+\.py)(?::(.*))?", text):
        return from_file(_path(match[1]), match[2] or "")
    return _architecture(text, data, state)


def _architecture(text: str, data: _Data, state: State | None) -> nn.Module:
    """Build ``ARCH`` or ``ARCH@FILE``; it normalises as its weights do, unless its settings say otherwise."""
    arch, _, file = text.partition("@")
    _refuse_bare_path(text)
    name, settings = registry.parse(arch)
    name = registry.entry("model", name).name
    if data.num_classes is None or data.shape is None:
        raise InputError(f"Model {name!r} needs the number of classes and the image shape; name the data set too.")
    fetched = read_stored(_path(file)) if file and state is None else None
    stored = fetched or Stored("the weights", {"": state or {}})
    normalizer = normaliser(stored, data.shape[0])
    statistics = {} if normalizer is None else dict(zip(("mean", "std"), normalizer, strict=True))
    # A default device of the caller's would draw the weights from another generator than the seeded one.
    with torch.device("cpu"):
        head = settings.pop("head", None)
        model = registry.build("model", name, data.num_classes, data.shape, **{**statistics, **settings})
        assert isinstance(model, nn.Module)
        if head is not None:
            put_head(model, str(head), _stored_scale(main_set(stored)))
    if fetched is not None:
        take(model, fetched, data.shape[0])
    return model


def _stored_scale(weights: State) -> float | None:
    """Return the scale of the cosine head that weights were saved from, None if they were not."""
    return next((float(value) for name, value in weights.items() if name.endswith(".scale") and value.ndim == 0), None)


def _refuse_bare_path(text: str) -> None:
    """Tell somebody who gave only a file or folder, in the place of an architecture, what else to say."""
    arch = text.partition("@")[0]
    if arch in registry.names("model"):
        return
    if (_path(text) / "run.json").is_file():
        raise InputError(f"{text} is the folder of a run; write run:{text}.")
    if Path(arch).suffix in (".pt", ".pth", ".safetensors", ".ckpt", ".tar", ".bin", ".th"):
        raise InputError(f"Weights alone do not say what they belong to; write ARCH@{text}, as in small_cnn@{text}.")
    if Path(arch).suffix == ".pt2":
        raise InputError(f"{text} looks like an exported program; write export:{text}.")


def _zoo(kind: str, rest: str, data: _Data, state: State | None) -> nn.Module:
    """Build a model of torchvision or timm, pretrained unless its weights come from a file or ``state``."""
    name, _, file = rest.partition("@")
    make = timm_model if kind == "timm" else torchvision_model
    model = make(name, pretrained=not file and state is None, num_classes=data.num_classes)
    if file and state is None:
        stored, channels = read_stored(_path(file)), len(model.get_submodule("normalize").state_dict()["mean"])
        # Files that this package saved hold the normalisation too, and so may others; those of torchvision do not.
        if normalizer := normaliser(stored, channels):
            model.normalize = Normalize(*normalizer, channels)
        take(model.get_submodule("model"), stored, channels)
    return model


def _run(rest: str, data: _Data, state: State | None) -> nn.Module:
    """Build the model of a run folder, and load its best or last weights."""
    match = re.fullmatch(RUN_FOLDER, rest)
    if match is None:
        raise InputError("run: needs a folder; write run:FOLDER or run:FOLDER@last.")
    folder, which = _path(match[1]), match[2] or "best"
    record = _record(folder)
    trained = data.inside(folder, len(record["classes"]), tuple(record["shape"]))
    _same_data(folder, trained, data)
    if state is not None:
        return _load(record["model"], trained, state)
    file = folder / f"{which}.safetensors"
    if not file.is_file():
        available = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))) or "none"
        raise InputError(
            f"Run {folder} has no {file.name} (weights there: {available}); name others, or finish the training."
        )
    weights = read_weights(file)
    model = _load(record["model"], trained, weights)
    fill(model, weights, str(file))
    return model


def record_file(folder: Path) -> Path:
    """Return the file in which a run says what it is.

    Raises:
        InputError: the folder is none of a run.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise InputError(f"{folder} is no folder of a run: it has no run.json; give FOLDER or FOLDER@last.")
    return path


def _record(folder: Path) -> dict[str, Any]:
    """Read what a run wrote about its model: text, class names, shape; refuse a model whose code it must not run."""
    path = record_file(folder)
    record = schemas.read(path, schemas.RUN, "train again, or restore the file")
    model = located(str(record["model"]), folder)
    refuse_code(model, str(path))
    return {**record, "model": model}


def _same_data(folder: Path, trained: _Data, data: _Data) -> None:
    if data.num_classes not in (None, trained.num_classes):
        raise InputError(
            f"Run {folder} was trained on {trained.num_classes} classes, the data have {data.num_classes}; "
            "use the data set of the run."
        )
    if data.shape not in (None, trained.shape):
        raise InputError(
            f"Run {folder} was trained on {_by(trained.shape)} images, the data are {_by(data.shape)}; "
            "use the data set of the run."
        )


def _path(text: str) -> Path:
    # A shell expands ~ only at the start of a word, which here is a prefix such as run:.
    return Path(text).expanduser()


def _by(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape or ()))


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed the CPU generator inside, and put the caller's state back after; devices are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
