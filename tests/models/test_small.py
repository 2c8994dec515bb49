import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from classwise.errors import InputError
from classwise.models import digits_cnn, load_model, small_cnn, small_resnet
from classwise.models.factory import from_file

SHARED = os.environ.get("CLASSWISE_SHARED")


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_small_cnn_has_the_shapes_of_trades_on_mnist():
    """Four 3x3 convolutions without padding and two poolings leave 28 -> 24 -> 12 -> 8 -> 4, so fc1 sees 64·4·4."""
    shapes = {name: tuple(value.shape) for name, value in small_cnn(10, (1, 28, 28)).named_parameters()}
    assert {name: shape for name, shape in shapes.items() if name.endswith("weight")} == {
        "feature_extractor.conv1.weight": (32, 1, 3, 3),
        "feature_extractor.conv2.weight": (32, 32, 3, 3),
        "feature_extractor.conv3.weight": (64, 32, 3, 3),
        "feature_extractor.conv4.weight": (64, 64, 3, 3),
        "classifier.fc1.weight": (200, 1024),
        "classifier.fc2.weight": (200, 200),
        "classifier.fc3.weight": (10, 200),
    }


def test_small_cnn_has_312202_weights():
    """(9·1+1)32 + (9·32+1)32 + (9·32+1)64 + (9·64+1)64 + 1025·200 + 201·200 + 201·10."""
    assert count(small_cnn(10, (1, 28, 28))) == 320 + 9248 + 18496 + 36928 + 205000 + 40200 + 2010


def test_small_cnn_starts_with_equal_logits():
    assert torch.equal(small_cnn(10, (1, 28, 28)).eval()(torch.rand(2, 1, 28, 28)), torch.zeros(2, 10))


def test_small_cnn_drops_half_the_units_while_training_only():
    model = small_cnn(10, (1, 28, 28))
    torch.nn.init.normal_(model.classifier.fc3.weight)
    x = torch.rand(2, 1, 28, 28)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    assert model.classifier.drop.p == 0.5


def test_small_cnn_refuses_8x8_images():
    with pytest.raises(InputError, match="at least 16x16, not 8x8; use digits_cnn"):
        small_cnn(10, (1, 8, 8))


@pytest.mark.real_data
@pytest.mark.skipif(SHARED is None, reason="CLASSWISE_SHARED names the folder with models/")
def test_small_cnn_with_the_weights_of_trades_gives_the_logits_of_the_other_implementation():
    folder = Path(SHARED) / "models" / "mnist_smallcnn_trades"
    theirs = from_file(folder / "load.py", "load_model")
    ours = load_model(f"small_cnn@{folder / 'weights.pt'}", num_classes=10, shape=(1, 28, 28))
    x = torch.rand(16, 1, 28, 28)
    assert torch.equal(ours(x), theirs(x))
    assert theirs(x).std() > 0.1


def test_digits_cnn_has_21546_weights():
    """(9·1+1)16 + (9·16+1)32 + (32·4·4+1)32 + 33·10."""
    assert count(digits_cnn(10, (1, 8, 8))) == 160 + 4640 + 16416 + 330


def test_digits_cnn_computes_what_its_docstring_says():
    model = digits_cnn(10, (1, 8, 8))
    x = torch.rand(3, 1, 8, 8)
    w = model.state_dict()
    hidden = F.relu(F.conv2d(x, w["conv1.weight"], w["conv1.bias"], padding=1))
    hidden = F.relu(F.conv2d(hidden, w["conv2.weight"], w["conv2.bias"], stride=2, padding=1)).flatten(1)
    expected = F.relu(hidden @ w["fc1.weight"].T + w["fc1.bias"]) @ w["fc2.weight"].T + w["fc2.bias"]
    torch.testing.assert_close(model(x), expected)


def test_digits_cnn_is_the_same_in_training_mode():
    model, x = digits_cnn(10, (1, 8, 8)), torch.rand(3, 1, 8, 8)
    assert torch.equal(model.train()(x), model.eval()(x))


def test_digits_cnn_learns_the_digits_in_seconds():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    model = load_model("digits_cnn", num_classes=10, shape=(1, 8, 8)).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(4):
        order = torch.randperm(1500, generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    assert (model(x[1500:]).argmax(1) == y[1500:]).float().mean() > 0.85


def test_small_resnet_has_174274_weights():
    """Convolutions 9·ab and 1·ab, BatchNorm 2 a channel: stem, three blocks of 24, 48, 96 channels, linear layer."""
    stem = 9 * 3 * 24 + 2 * 24
    blocks = sum(9 * a * b + 9 * b * b + 4 * b + (a * b + 2 * b) * (a != b) for a, b in [(24, 24), (24, 48), (48, 96)])
    assert count(small_resnet(10, (3, 32, 32))) == stem + blocks + 97 * 10 == 174274
