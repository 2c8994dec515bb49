import pytest
import torch
from torch.nn import functional as F

from classwise.models import wrn_28_10, wrn_34_10
from classwise.models.wide_resnet import WideResNet, _WideBlock


@pytest.mark.parametrize(("build", "published"), [(wrn_28_10, 36_479_194), (wrn_34_10, 46_160_474)])
def test_it_has_the_published_number_of_weights_on_cifar_10(build, published):
    with torch.device("meta"):
        model = build(10, (3, 32, 32))
    assert sum(parameter.numel() for parameter in model.parameters()) == published


def test_a_block_that_changes_width_takes_its_shortcut_from_the_activated_input():
    block = _WideBlock(3, 5, stride=2).eval()
    block.bn1.running_mean.fill_(0.3)
    x, w = torch.rand(2, 3, 8, 8), block.state_dict()
    scale = 1 / (1 + 1e-5) ** 0.5
    active = F.relu((x - 0.3) * scale)
    hidden = F.relu(F.conv2d(active, w["conv1.weight"], stride=2, padding=1) * scale)
    shortcut = F.conv2d(active, w["convShortcut.weight"], stride=2)
    torch.testing.assert_close(block(x), F.conv2d(hidden, w["conv2.weight"], padding=1) + shortcut)


def test_a_block_of_one_width_adds_the_input_itself():
    block = _WideBlock(4, 4, stride=1).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_convolutions_start_at_the_variance_of_trades():
    """Normal of variance 2 / (kernel area · channels out)."""
    weight = WideResNet(10, (3, 32, 32), depth=10, widen=4).block2.layer[0].conv1.weight
    assert weight.var().item() == pytest.approx(2 / (9 * 128), rel=0.02)


def test_its_names_are_those_of_the_public_checkpoints():
    names = set(WideResNet(10, (3, 32, 32), depth=16, widen=1).state_dict())
    expected = {"conv1.weight", "block1.layer.1.conv2.weight", "block2.layer.0.convShortcut.weight", "fc.bias"}
    assert expected | {"bn1.weight"} <= names
