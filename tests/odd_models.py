"""Models that make trouble by how they are written, all of the function that :func:`votes` computes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classwise.data import Images

CLASSES = 3


def votes(x: Tensor) -> Tensor:
    """Return the logits of images (N, 1, 3, 2): row c votes for class c."""
    return 10 * x[:, 0].mean(2)


def images(each: int = 30) -> Images:
    """Return images whose margin is evenly spread over 0 … 0.2: within eps = 0.05 half of them break."""
    y = torch.arange(CLASSES).repeat_interleave(each)
    x = torch.full((len(y), 1, CLASSES, 2), 100, dtype=torch.uint8)
    x[torch.arange(len(y)), 0, y] += torch.linspace(1, 51, each).to(torch.uint8)[:, None].repeat(CLASSES, 1)
    return Images(x, y, tuple(f"class {c}" for c in range(CLASSES)), torch.arange(len(y)))


class Odd(nn.Module):
    """A model whose forward is a function of itself and of the images; it counts its calls and has one weight of 1."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function, self.calls = function, 0
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.function(self, x)


class WithLogits:
    """What some packages return: an object that has the logits among other things."""

    def __init__(self, logits: Tensor) -> None:
        self.loss, self.logits = None, logits


class NoModes(Odd):
    """Its train() and eval() return nothing."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)

    def eval(self) -> None:  # type: ignore[override]
        super().eval()


def after(calls: int, then: Callable[[Tensor], Any]) -> Odd:
    """Return a model that does something else after so many calls."""
    return Odd(lambda model, x: then(model.weight * x) if model.calls > calls else votes(model.weight * x))


def _in_place(model: Odd, x: Tensor) -> Tensor:
    return votes(x.sub_(0.1).div_(0.9) * 0.9 * model.weight + 0.1)


def _by_data(model: Odd, x: Tensor) -> Tensor:
    x.data.sub_(0.1)
    return votes(model.weight * x + 0.1)


def _by_view(model: Odd, x: Tensor) -> Tensor:
    x.detach().view(-1).sub_(0.1)
    return votes(model.weight * x + 0.1)


def _by_numpy(model: Odd, x: Tensor) -> Tensor:
    x.detach().numpy()[...] -= 0.1
    return votes(model.weight * x + 0.1)


def _gradients_off(model: Odd, x: Tensor) -> Tensor:
    logits = votes(model.weight * x)
    torch.set_grad_enabled(False)
    return logits


def _imports(model: Odd, x: Tensor) -> Tensor:
    import colorsys

    return votes(model.weight * x) + 0 * colorsys.ONE_THIRD


def _exits(model: Odd, x: Tensor) -> Tensor:
    sys.exit(0)


def _raises(model: Odd, x: Tensor) -> Tensor:
    raise GeneratorExit("as it likes")


def _no_single(model: Odd, x: Tensor) -> Tensor:
    if len(x) == 1:
        raise ValueError("one image is too few")
    return votes(model.weight * x)


WRITES: dict[str, Odd] = {
    "subtracts and divides in place": Odd(_in_place),
    "begins with an in-place ReLU": Odd(lambda model, x: votes(model.weight * F.relu(x, inplace=True))),
    "writes through data": Odd(_by_data),
    "writes through a view": Odd(_by_view),
    "writes through NumPy": Odd(_by_numpy),
}
"""Models that write to their input."""

WORKS: dict[str, Any] = {
    "function": votes,
    "lambda": lambda x: votes(x),
    "dict": Odd(lambda model, x: {"logits": votes(model.weight * x), "features": x}),
    "ModelOutput": Odd(lambda model, x: WithLogits(votes(model.weight * x))),
    "tuple": Odd(lambda model, x: (x, votes(model.weight * x))),
    "list": Odd(lambda model, x: [votes(model.weight * x), None]),
    "trailing sides": Odd(lambda model, x: votes(model.weight * x)[:, :, None, None]),
    "transposed": Odd(lambda model, x: votes(model.weight * x).t().contiguous().t()),
    "float64": Odd(lambda model, x: votes(model.weight * x.double())),
    "imports inside": Odd(_imports),
    "modes that return nothing": NoModes(lambda model, x: votes(model.weight * x)),
    "gradients left off": Odd(_gradients_off),
    **WRITES,
}
"""Models of which every figure must be that of the plain one."""

REFUSED: dict[str, tuple[Any, str]] = {
    "dict without logits": (Odd(lambda model, x: {"out": votes(x)}), "returns a dict on images"),
    "tuple of two": (Odd(lambda model, x: (votes(x), votes(x))), "returns a tuple on images .*cannot be told"),
    "None": (Odd(lambda model, x: None), "returns None on images"),
    "NumPy": (Odd(lambda model, x: votes(x).detach().numpy()), "returns a ndarray on images"),
    "one number an image": (Odd(lambda model, x: votes(x)[:, 0]), r"returns the shape \(\d+,\) on images"),
    "squeezed": (Odd(lambda model, x: votes(x).squeeze()), r"the shape \(3,\) on images \(1, 1, 3, 2\)"),
    "integers": (Odd(lambda model, x: votes(x).long()), "returns torch.int64"),
    "complex": (Odd(lambda model, x: votes(x).to(torch.complex64)), "returns torch.complex64"),
    "sparse": (Odd(lambda model, x: votes(x).to_sparse()), "a tensor without plain values"),
    "meta": (Odd(lambda model, x: votes(x).to("meta")), "a tensor without plain values"),
    "fixed batch": (Odd(lambda model, x: votes(x.view(32, 1, 3, 2))), "In the forward pass of Odd, .*fixed_shape"),
    "no single image": (Odd(_no_single), r"on images \(1, 1, 3, 2\) .*one image is too few; .*fixed_shape"),
    "sys.exit": (Odd(_exits), "In the forward pass of Odd, .*SystemExit"),
    "BaseException": (Odd(_raises), "In the forward pass of Odd, .*GeneratorExit: as it likes"),
    "class": (Odd, "is the class Odd"),
    "text": ("resnet", "is a str"),
}
"""Models that cannot be taken, and the sentence that says why."""
