"""Last layers other than a linear one, inside the model, so that an attack sees them.

An architecture takes one as a setting: ``small_resnet(head='cosine(scale=10)')``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classwise.errors import InputError
from classwise.registry import parse, unknown


class CosineHead(nn.Module):
    """Logits s·cos θ between features and class weights, both of length 1, without bias.

    Hypersphere embedding, Pang et al., NeurIPS 2020. The released code (ShawnXYang/AT_HE) leaves s out of the model;
    here it is inside, since attacks on bare cosines, which differ by 2 at most, are weak.

    Args:
        features: width of the input.
        num_classes: number of logits.
        scale: s, above 0; a buffer, so it travels with the weights.
        bare: return cos θ alone, for study: such a model looks more robust than it is.

    Raises:
        InputError: the scale is not a finite number above 0, or bare is neither True nor False.

    Example:
        >>> head = CosineHead(2, 2, scale=4.0)
        >>> _ = head.weight.data.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
        >>> head(torch.tensor([[3.0, 0.0]]))
        tensor([[4., 0.]], grad_fn=<MulBackward0>)
    """

    scale: Tensor

    def __init__(self, features: int, num_classes: int, scale: float = 10.0, bare: bool = False) -> None:
        super().__init__()
        if type(scale) not in (int, float) or not 0 < scale < math.inf:
            raise InputError(f"The scale of a cosine head is {scale!r}, but must be a finite number above 0.")
        if not isinstance(bare, bool):
            raise InputError(f"The setting bare of a cosine head is {bare!r}, but must be True or False.")
        self.bare = bare
        self.weight = nn.Parameter(torch.empty(num_classes, features))
        # As nn.Linear starts. Only directions matter to z, but the step that turns them falls with their square length.
        nn.init.uniform_(self.weight, -(features**-0.5), features**-0.5)
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, F) to logits (N, K) in [−s, s]."""
        cosines = F.linear(F.normalize(features), F.normalize(self.weight))
        return cosines if self.bare else self.scale * cosines


HEADS = {"cosine": CosineHead}


def put_head(model: nn.Module, text: str, scale: float | None = None) -> None:
    """Put the head that ``text`` names, such as "cosine(scale=10)", in the place of the model's last linear layer.

    Args:
        model: changed in place; the new layer has fresh weights and the name of the old one.
        text: name of a head, with settings.
        scale: scale of a head whose text says none.

    Raises:
        InputError: there is no such head, it does not take the settings, or the model has no linear layer.
    """
    name, settings = parse(text)
    if name not in HEADS:
        raise InputError(unknown("head", name, HEADS))
    linear = _linear_layers(model)
    if not linear:
        raise InputError(f"The head {text!r} takes the place of a model's last linear layer, and this model has none.")
    path, last = linear[-1]
    chosen = settings if scale is None else {"scale": scale, **settings}
    try:
        head = HEADS[name](last.in_features, last.out_features, **chosen)
    except TypeError as error:
        raise InputError(f"The head {text!r} cannot be built: {error}.") from error
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, head.to(last.weight.device))


def linear_head(model: nn.Module, x: Tensor) -> nn.Linear | None:
    """Return the linear layer whose output the logits are, None if there is none.

    Args:
        model: takes [0, 1], returns logits.
        x: a few images (N, C, H, W), which show whether its last linear layer is that layer.
    """
    outputs: list[Tensor] = []
    layers = _linear_layers(model)
    if not layers:
        return None
    last = layers[-1][1]
    with last.register_forward_hook(lambda layer, inputs, output: outputs.append(output)), torch.no_grad():
        logits = model(x)
    return last if len(outputs) == 1 and torch.equal(outputs[0], logits) else None


def cosine_head(model: nn.Module) -> CosineHead | None:
    """Return the cosine head of a model, None if it has none."""
    return next((layer for layer in model.modules() if isinstance(layer, CosineHead)), None)


def _linear_layers(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
