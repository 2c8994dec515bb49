from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from classwise.analysis.network import block_test, last_layer, linearised
from classwise.errors import InputError
from classwise.models import load_model

SHAPE = (1, 2, 3)


class Functional(nn.Module):
    """The same activations called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.dropout(torch.relu(self.first(x.flatten(1))), training=self.training))


def layers(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), *between, nn.Linear(5, 4))


@pytest.mark.parametrize(
    "model",
    [
        layers(),
        layers(nn.ReLU(inplace=True)),
        layers(nn.BatchNorm1d(5), nn.LeakyReLU(), nn.Dropout()),
        layers(nn.GELU()),
        Functional(),
    ],
)
def test_the_linear_map_behind_a_network_is_the_product_of_its_weights(model: nn.Module) -> None:
    first, second = (layer.weight.detach().double() for layer in model.modules() if isinstance(layer, nn.Linear))
    model.train()
    np.testing.assert_allclose(linearised(model, SHAPE), second @ first, rtol=1e-5, atol=1e-7)
    assert model.training


def test_the_networks_of_the_library_have_one() -> None:
    model = load_model("digits_cnn", num_classes=4, shape=(1, 8, 8))
    rows = linearised(model, (1, 8, 8))
    assert rows.shape == (4, 64)
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() > 0


def test_a_network_that_forgets_the_image_is_refused() -> None:
    class Blind(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 3)

    with pytest.raises(InputError, match="linear map behind this network cannot be found"):
        linearised(Blind(), SHAPE)


def test_the_last_layer_is_the_last_and_rows_of_a_cosine_head_have_length_1() -> None:
    model = layers(nn.ReLU())
    np.testing.assert_array_equal(last_layer(model), model[-1].weight.detach())
    cosine = load_model("digits_cnn(head='cosine(scale=10)')", num_classes=4, shape=(1, 8, 8))
    np.testing.assert_allclose(np.linalg.norm(last_layer(cosine), axis=1), 1, rtol=1e-6)
    with pytest.raises(InputError, match="no linear layer"):
        last_layer(nn.Flatten())


def test_rows_alike_within_groups_are_noticed_and_random_ones_are_not() -> None:
    random, labels = np.random.default_rng(0), np.repeat([0, 1], 5)
    centres = random.normal(size=(2, 20))
    difference, p = block_test(centres[labels] + 0.3 * random.normal(size=(10, 20)), labels, permutations=999)
    assert difference > 0.5
    assert p < 0.02
    assert block_test(random.normal(size=(10, 20)), labels, permutations=999)[1] > 0.05


def test_the_difference_of_blocks_by_hand() -> None:
    """Rows e₁, e₁, e₂, −e₂: within 1 and −1, mean 0; between 0."""
    rows = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, -1.0]])
    assert block_test(rows, np.array([0, 0, 1, 1]))[0] == pytest.approx(0)
    assert block_test(rows[:3], np.array([0, 0, 1]))[0] == pytest.approx(1)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_one_group_or_groups_of_one_have_no_blocks(labels: list[int]) -> None:
    difference, p = block_test(np.eye(3), np.array(labels))
    assert np.isnan(difference)
    assert p == 1
